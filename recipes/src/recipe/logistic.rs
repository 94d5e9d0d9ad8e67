//! The logistic function, in the forms that losses of preferences have.

/// `σ(x)`.
pub(super) fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

/// `σ'(x)`.
pub(super) fn sigmoid_slope(x: f64) -> f64 {
    sigmoid(x) * sigmoid(-x)
}

/// `log σ(x)`, without an overflow on either side.
pub(super) fn log_sigmoid(x: f64) -> f64 {
    x.min(0.0) - (-x.abs()).exp().ln_1p()
}

/// `-(1 - ε) log σ(m) - ε log σ(-m)` and its derivative: the loss of a margin, if a share ε of the pairs may be mislabelled.
pub(super) fn smoothed(margin: f64, smoothing: f64) -> (f64, f64) {
    let loss = -(1.0 - smoothing) * log_sigmoid(margin) - smoothing * log_sigmoid(-margin);
    (loss, -(1.0 - smoothing) * sigmoid(-margin) + smoothing * sigmoid(margin))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn large_margins_do_not_overflow() {
        assert!((log_sigmoid(-1000.0) + 1000.0).abs() < 1e-9 && log_sigmoid(1000.0).abs() < 1e-9);
        assert!((log_sigmoid(0.3) - sigmoid(0.3).ln()).abs() < 1e-12);
        let (loss, slope) = smoothed(-1000.0, 0.1);
        assert!((loss - 900.0).abs() < 1e-9 && (slope + 0.9).abs() < 1e-9);
    }
}

//! Whether measuring is repaid by the run.

use burnish_kernels::ProductTrial;

use super::measure::TunedClass;

/// What is assumed of a backend before anything is measured.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Effort {
    /// The share of a step's time that better candidates might save.
    gain: f64,
    /// Seconds to compile a candidate's kernels.
    compile: f64,
}

/// Seconds that a candidate is measured.
const MEASURED: f64 = 0.08;
/// Seconds to check a candidate, per float operation of a class: operands and results pass through the host.
const CHECKED: f64 = 1e-13;

impl Effort {
    /// That of a backend. No Apple chip has been measured, so the defaults there are the least certain; on CUDA, a library computes the
    /// large products, and kernels compile for seconds.
    pub fn of(backend: &str) -> Self {
        match backend {
            "metal" => Self { gain: 0.1, compile: 0.3 },
            "cuda" => Self { gain: 0.02, compile: 6.0 },
            _ => Self { gain: 0.05, compile: 0.3 },
        }
    }

    /// The seconds that it takes to tune classes.
    pub fn seconds(self, trials: &[Box<dyn ProductTrial>]) -> f64 {
        let of = |trial: &dyn ProductTrial| {
            let flops = 2.0 * trial.extents().iter().map(|extent| *extent as f64).product::<f64>();
            trial.candidates().len() as f64 * (self.compile + MEASURED + CHECKED * flops)
        };
        trials.iter().map(|trial| of(&**trial)).sum()
    }

    /// The seconds that a run may save.
    pub fn gain(self, steps: usize, step_seconds: f64) -> f64 {
        steps as f64 * step_seconds * self.gain
    }
}

/// Seconds of a step's products by default, and as chosen.
pub(super) fn of_step(classes: &[TunedClass]) -> [f64; 2] {
    let mut sums = [0.0; 2];
    for class in classes {
        let Some(chosen) = class.chosen_seconds() else { continue };
        let default = class.default_seconds().unwrap_or(chosen);
        sums[0] += class.runs as f64 * default;
        sums[1] += class.runs as f64 * chosen;
    }
    sums
}

#[cfg(test)]
mod tests {
    use super::super::measure::measure;
    use super::super::measure::tests::Planted;
    use super::*;

    #[test]
    fn a_long_run_repays_what_a_short_one_does_not() {
        let planted = || Box::new(Planted::new(&[("default", Some(2e-3)), ("fast", Some(1e-3))])) as Box<dyn ProductTrial>;
        let effort = Effort::of("metal");
        let seconds = effort.seconds(&[planted(), planted()]);
        assert!((1.5..2.0).contains(&seconds), "{seconds}");
        assert!(effort.gain(10, 0.5) < seconds && effort.gain(1000, 0.5) > seconds);
        // Kernels that compile for seconds need longer runs.
        assert!(Effort::of("cuda").seconds(&[planted()]) > 10.0 * seconds / 2.0);
    }

    #[test]
    fn products_of_a_step_are_counted_as_often_as_they_run() {
        let class = measure(&mut Planted::new(&[("default", Some(2.0)), ("fast", Some(1.0))]));
        let [default, chosen] = of_step(&[class.clone(), class]);
        assert!((default - 28.0).abs() < 0.2 && (chosen - 14.0).abs() < 0.2, "{default} {chosen}");
    }
}

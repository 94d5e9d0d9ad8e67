//! The share of a step that its matrix products would take alone.

use serde::Serialize;

use super::entry::{Kernel, Pass};
use super::kernels::KernelRow;
use super::sizes::{ModelFlops, Sizes};

/// The time that the products of a step would take at the measured rates.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Efficiency {
    /// FLOPs of the model.
    pub model_flops: ModelFlops,
    /// Time of these at the backend's matrix rate for their shapes.
    pub matmul_ms: f64,
    /// That time divided by the step's.
    pub step_efficiency: f64,
    /// All FLOPs divided by the step's time, TFLOP/s.
    pub model_tflops: f64,
}

/// Compares a step with its products. The rate of a shape is the better one of the backend's two: the operation's and that of
/// burn's own product. Attention, which has no plain product of its sizes, counts at the mean rate of the layers.
///
/// `None` when the rows of [`Kernel::Linear`] are not all there.
pub fn efficiency(sizes: &Sizes, rows: &[KernelRow], step_ms: f64) -> Option<Efficiency> {
    let linear: Vec<&KernelRow> = rows.iter().filter(|row| row.entry.kernel == Kernel::Linear).collect();
    let flops = sizes.model_flops();
    // Two rows a shape, and the head's two at the end.
    let (layers, head) = linear.split_at_checked(2 * sizes.linears.len())?;
    let mut layers_ms = 0.0;
    for (shape, both) in sizes.linears.iter().zip(layers.chunks_exact(2)) {
        layers_ms += (sizes.layers * shape.names.len()) as f64 * pair_ms(both)?;
    }
    let head_ms = pair_ms(head)? * sizes.tokens() as f64 / sizes.head_rows() as f64;
    let matmul_ms = layers_ms * (1.0 + flops.attention / flops.linears) + head_ms;
    Some(Efficiency {
        model_flops: flops,
        matmul_ms,
        step_efficiency: matmul_ms / step_ms,
        model_tflops: flops.total() / (step_ms / 1e3) / 1e12,
    })
}

/// Forward and backward of a shape, at the better rate each.
fn pair_ms(rows: &[&KernelRow]) -> Option<f64> {
    match rows {
        [forward, backward] if forward.entry.pass == Pass::Forward && backward.entry.pass == Pass::Backward => {
            Some(best_ms(forward)? + best_ms(backward)?)
        }
        _ => None,
    }
}

fn best_ms(row: &KernelRow) -> Option<f64> {
    let ours = row.timing?.ms;
    Some(row.burn.map_or(ours, |burn| burn.timing.ms.min(ours)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::entry::entries;
    use crate::kernels::Rival;
    use crate::shape::Shape;
    use crate::stopwatch::Timing;

    /// Rows of a device that multiplies at a rate, its own kernels at half of it.
    fn rows(sizes: &Sizes, flops_per_ms: f64) -> Vec<KernelRow> {
        let timing = |ms| Timing { first_ms: ms, ms, range_ms: [ms; 2], samples: 1, launches: 1 };
        entries(Kernel::Linear, sizes, 2)
            .into_iter()
            .map(|entry| {
                let ms = entry.work.flops / flops_per_ms;
                let burn = Some(Rival { timing: timing(ms), tflops: None, speedup: None });
                KernelRow {
                    entry,
                    timing: Some(timing(2.0 * ms)),
                    error: None,
                    gb_per_second: None,
                    copy_share: None,
                    equal_copy_share: None,
                    tflops: None,
                    burn,
                    burn_error: None,
                }
            })
            .collect()
    }

    #[test]
    fn a_step_of_nothing_but_products_is_wholly_efficient() {
        for (tokens, model) in [(256, "llama-3.2-1b"), (4096, "llama-3.1-8b")] {
            let sizes = Sizes::new(&Shape::open(model).unwrap().config, 1, tokens, 16);
            let step_ms = sizes.model_flops().total() / 1e9;
            let found = efficiency(&sizes, &rows(&sizes, 1e9), step_ms).unwrap();
            assert!((found.step_efficiency - 1.0).abs() < 1e-9, "{found:?}");
            assert!((found.model_tflops - 1.0).abs() < 1e-9);
            let slower = efficiency(&sizes, &rows(&sizes, 1e9), 4.0 * step_ms).unwrap();
            assert!((slower.step_efficiency - 0.25).abs() < 1e-9);
        }
    }

    #[test]
    fn without_every_shape_there_is_none() {
        let sizes = Sizes::new(&Shape::open("llama-3.2-1b").unwrap().config, 1, 64, 16);
        let mut rows = rows(&sizes, 1e9);
        rows[3].timing = None;
        assert_eq!(efficiency(&sizes, &rows, 1.0), None);
        assert_eq!(efficiency(&sizes, &rows[..4], 1.0), None);
    }
}

//! Compares what a device computed with the reference, and says in what way it is wrong.

use burn::tensor::DType;
use burnish_engine::kernel_run::FILL;
use burnish_engine::{Computed, KernelCase, Layer, Operation};
use burnish_kernels::tolerance::Tolerance;
use burnish_models::FloatType;

/// The rows of the tolerance table for a case.
#[derive(Debug, Clone, Copy)]
pub(super) struct Rows {
    results: DType,
    gradients: DType,
    /// Whether products of products were rounded in between: then twice the tolerance is allowed, in units of the tensor's size.
    is_rounded_between: bool,
}

impl Rows {
    /// For a case in a dtype. `is_coarse`: products of f32 are those of TensorFloat-32, which is as coarse as f16.
    pub(super) fn of(case: &KernelCase, dtype: FloatType, is_coarse: bool) -> Self {
        let Operation::Layer(layer) = &case.operation else {
            return Self { results: DType::F32, gradients: DType::F32, is_rounded_between: false };
        };
        if matches!(layer, Layer::SampleTokens(_)) {
            // Whole numbers.
            return Self { results: DType::F32, gradients: DType::F32, is_rounded_between: false };
        }
        let multiplies = !matches!(
            layer,
            Layer::RmsNorm
                | Layer::AddRmsNorm
                | Layer::ForkRmsNorm
                | Layer::LayerNorm
                | Layer::Rotary { .. }
                | Layer::Glu(_)
                | Layer::Dropout(_)
                | Layer::SelectRows
                | Layer::PackedRows(_)
                | Layer::Append { .. }
                | Layer::AppendRotated { .. }
                | Layer::Prefix(_)
        );
        let results = if multiplies && is_coarse && dtype == FloatType::F32 { DType::F16 } else { dtype.into() };
        // The logits are rounded to the dtype, and the gradient has their error.
        let is_loss = matches!(layer, Layer::CrossEntropy { .. } | Layer::PackedCrossEntropy { .. });
        let gradients = if is_loss && results != DType::F32 { DType::BF16 } else { results };
        // `x Aᵀ` and `dy B` are rounded to the dtype, and multiplied again.
        let is_adapter = matches!(layer, Layer::LoraLinear { .. } | Layer::PackedLoraLinear { .. });
        Self { results, gradients, is_rounded_between: is_adapter && results != DType::F32 }
    }

    fn tolerance(self, row: DType, expected: &[f32]) -> Tolerance {
        let Tolerance { relative, absolute } = Tolerance::of(row);
        if !self.is_rounded_between {
            return Tolerance { relative, absolute };
        }
        // Sums of large terms that nearly cancel have the errors of the terms.
        let size = root_mean_square(expected).max(1.0);
        Tolerance { relative: 2.0 * relative, absolute: 2.0 * absolute * size }
    }
}

/// How a case came out.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Comparison {
    /// Tensors that were compared.
    pub compared: usize,
    /// The largest distance from the reference, as a share of what is allowed.
    pub worst: f64,
    /// What is wrong, one sentence for each tensor.
    pub faults: Vec<String>,
}

/// Compares every result and every gradient.
pub(super) fn compare(case: &KernelCase, found: &Computed, expected: &Computed, rows: Rows) -> Comparison {
    let mut comparison = Comparison::default();
    let parts = [
        ("forward", &found.inference, &expected.inference, rows.results),
        ("forward in training", &found.training, &expected.training, rows.results),
        ("gradient of", &found.gradients, &expected.gradients, rows.gradients),
    ];
    for (part, found, expected, row) in parts {
        if found.len() != expected.len() {
            comparison.faults.push(format!("{part}: expected {} tensors, got {}", expected.len(), found.len()));
            continue;
        }
        for (index, (found, expected)) in found.iter().zip(expected).enumerate() {
            if expected.is_empty() && found.is_empty() {
                continue;
            }
            let part = match case.inputs.get(index) {
                Some(input) if part == "gradient of" => format!("backward, gradient of {}", input.name),
                _ => part.to_owned(),
            };
            comparison.compared += 1;
            match distance(case, found, expected, rows.tolerance(row, expected)) {
                Ok(worst) => comparison.worst = comparison.worst.max(worst),
                Err(fault) => comparison.faults.push(format!("{part}: {fault}")),
            }
        }
    }
    comparison
}

fn root_mean_square(values: &[f32]) -> f64 {
    (values.iter().map(|value| f64::from(*value).powi(2)).sum::<f64>() / values.len().max(1) as f64).sqrt()
}

/// The largest distance as a share of what is allowed, or what is wrong.
fn distance(case: &KernelCase, found: &[f32], expected: &[f32], tolerance: Tolerance) -> Result<f64, String> {
    if found.len() != expected.len() {
        return Err(format!("expected {} values, got {}", expected.len(), found.len()));
    }
    let mut worst = (0.0, 0);
    let mut wrong = Vec::new();
    for (index, (&found, &expected)) in found.iter().zip(expected).enumerate() {
        let (found, expected) = (f64::from(found), f64::from(expected));
        let share = (found - expected).abs() / (tolerance.absolute + tolerance.relative * expected.abs());
        // A distance that is NaN is worse than any.
        if share.is_nan() || share > worst.0 {
            worst = (share, index);
        }
        if share.is_nan() || share > 1.0 {
            wrong.push(index);
        }
    }
    if wrong.is_empty() {
        return Ok(worst.0);
    }
    let all = |is: &dyn Fn(f32) -> bool| wrong.iter().all(|index| is(found[*index]));
    let unchanged = case.inputs.iter().any(|input| input.values == found);
    let untouched = if all(&|value| value == 0.0) {
        Some("zeros")
    } else if all(&|value| value.to_bits() == FILL.to_bits() || value == 0.0) {
        Some("what was in memory before")
    } else if unchanged {
        Some("an input, unchanged")
    } else {
        None
    };
    let share = format!("{} of {} values", wrong.len(), found.len());
    if let Some(untouched) = untouched {
        return Err(format!("{share} are {untouched}: a kernel did not run"));
    }
    if all(&|value| !value.is_finite()) {
        return Err(format!("{share} are NaN or infinite"));
    }
    let index = worst.1;
    Err(format!("{share} are wrong; at {index} expected {}, got {}", expected[index], found[index]))
}

#[cfg(test)]
mod tests {
    use burn::backend::Flex;
    use burn::tensor::Tensor;
    use burnish_engine::{Matrix, numbers};
    use burnish_kernels::{self as ops, Dropout};

    use super::super::cases::{Sizes, layers};
    use super::super::reference;
    use super::*;

    fn case() -> KernelCase {
        let input = Matrix { name: "x", dims: [2, 8], values: numbers(16, 1, 1.0), is_f32: false, has_gradient: true };
        let operation = Operation::Layer(Layer::RmsNorm);
        KernelCase { name: "rms_norm".into(), operation, inputs: vec![input], indices: Vec::new(), seed: 1 }
    }

    fn fault(found: Vec<f32>) -> String {
        let expected = Computed { inference: vec![numbers(16, 2, 1.0)], ..Computed::default() };
        let found = Computed { inference: vec![found], ..Computed::default() };
        let rows = Rows::of(&case(), FloatType::F32, false);
        compare(&case(), &found, &expected, rows).faults.join("; ")
    }

    #[test]
    fn a_kernel_that_did_not_run_is_told_from_one_that_is_wrong() {
        let right = numbers(16, 2, 1.0);
        assert_eq!(fault(right.clone()), "");
        assert!(fault(vec![0.0; 16]).ends_with("16 of 16 values are zeros: a kernel did not run"));
        let half = [vec![FILL; 8], right[8..].to_vec()].concat();
        assert!(fault(half).ends_with("8 of 16 values are what was in memory before: a kernel did not run"));
        assert!(fault(numbers(16, 1, 1.0)).contains("are an input, unchanged: a kernel did not run"));
        assert!(fault(vec![f32::NAN; 16]).ends_with("16 of 16 values are NaN or infinite"));
        let off = right.iter().map(|value| value * 1.001).collect();
        let said = fault(off);
        assert!(said.starts_with("forward: ") && said.contains("values are wrong; at "), "{said}");
        assert!(fault(Vec::new()).contains("expected 16 values, got 0"));
    }

    #[test]
    fn a_gradient_names_its_input() {
        let expected = Computed { gradients: vec![vec![1.0; 16]], ..Computed::default() };
        let found = Computed { gradients: vec![vec![2.0; 16]], ..Computed::default() };
        let rows = Rows::of(&case(), FloatType::F16, false);
        let faults = compare(&case(), &found, &expected, rows).faults;
        assert_eq!(faults, ["backward, gradient of x: 16 of 16 values are wrong; at 0 expected 1, got 2"]);
    }

    /// What a right device computes: the factors' gradients, with the roundings that they pass through.
    fn rounded(case: &KernelCase, dtype: FloatType, expected: &Computed) -> Computed {
        let Operation::Layer(Layer::LoraLinear { scale, dropout }) = &case.operation else { panic!("{}", case.name) };
        let round = |values: Vec<f32>| dtype.convert("x", values).unwrap().iter::<f32>().collect::<Vec<_>>();
        let [rows, inputs] = case.inputs[0].dims;
        let [outputs, rank] = case.inputs[3].dims;
        let kept = dropout.map_or(vec![1.0; rows * inputs], |dropout| factors(dropout, [rows, inputs]));
        let seen = round(case.inputs[0].values.iter().zip(kept).map(|(x, factor)| x * factor).collect());
        let upstream = case.upstream(0, rows * outputs);
        let product = |count: usize, of: &dyn Fn(usize) -> (f32, f32)| -> f32 {
            (0..count).map(of).map(|(a, b)| f64::from(a) * f64::from(b)).sum::<f64>() as f32
        };
        let scaled = round(
            (0..rows * rank)
                .map(|at| {
                    let (row, unit) = (at / rank, at % rank);
                    let sum =
                        product(outputs, &|out| (upstream[row * outputs + out], case.inputs[3].values[out * rank + unit]));
                    sum * *scale as f32
                })
                .collect(),
        );
        let lora_a = (0..rank * inputs)
            .map(|at| product(rows, &|row| (scaled[row * rank + at / inputs], seen[row * inputs + at % inputs])))
            .collect();
        let mut gradients = expected.gradients.clone();
        gradients[2] = lora_a;
        Computed { gradients, ..expected.clone() }
    }

    /// What dropout multiplies elements by.
    fn factors(dropout: Dropout, dims: [usize; 2]) -> Vec<f32> {
        let ones = Tensor::<Flex, 2>::ones(dims, &Default::default());
        ops::dropout_from(ones, dropout).into_data().iter::<f32>().collect()
    }

    #[test]
    fn roundings_between_products_are_allowed_but_no_wrong_gradient() {
        let sizes = Sizes { rows: 70, features: 128, outputs: 136 };
        let adapters = layers(sizes).into_iter().filter(|case| case.name.starts_with("lora_linear"));
        for case in adapters {
            let expected = reference::compute(&case);
            for dtype in [FloatType::F16, FloatType::BF16] {
                let rows = Rows::of(&case, dtype, false);
                let right = rounded(&case, dtype, &expected);
                let found = compare(&case, &right, &expected, rows);
                assert!(found.faults.is_empty() && found.worst > 0.1, "{} in {dtype}: {found:?}", case.name);
                let mut wrong = right;
                wrong.gradients[2][..16].iter_mut().for_each(|value| *value *= 0.9);
                let faults = compare(&case, &wrong, &expected, rows).faults;
                assert!(
                    faults.len() == 1 && faults[0].contains("gradient of lora_a"),
                    "{} in {dtype}: {faults:?}",
                    case.name
                );
            }
        }
    }
}

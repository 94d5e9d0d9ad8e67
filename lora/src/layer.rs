//! The adapter of one linear layer.

use burn::module::Param;
use burn::tensor::{DType, Tensor, TensorData};
use burnish_kernels::{FusedBackend, exact_buffers};
use burnish_models::dora::Magnitude;
use burnish_models::operand::Operand;
use burnish_models::weight::{MatrixWeight, parameter_id, unpadded};
use burnish_models::{Checkpoint, FloatType, Linear, LowRank};

use crate::config::LoraConfig;
use crate::decompose::Matrix;
use crate::error::{LoraError, Result};
use crate::init::{Init, residual};

/// The factors of an adapter on the host, `A` and `B`.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Factors {
    pub(crate) values: [Vec<f32>; 2],
    /// `[rank, in]` and `[out, rank]`.
    pub(crate) shapes: [[usize; 2]; 2],
}

impl Factors {
    /// `A` above `other`'s, and `B` beside the negated one of `other`: the product is the difference of the two products.
    ///
    /// # Source
    /// `subtract_mutated_init` of PEFT 0.21.
    pub(crate) fn minus(&self, other: &Self) -> Self {
        let ([[rank, inputs], [outputs, _]], [[others, _], _]) = (self.shapes, other.shapes);
        let lora_a = [self.values[0].as_slice(), &other.values[0]].concat();
        let rows = self.values[1].chunks_exact(rank).zip(other.values[1].chunks_exact(others));
        let lora_b = rows.flat_map(|(row, other)| row.iter().copied().chain(other.iter().map(|value| -value))).collect();
        Self { values: [lora_a, lora_b], shapes: [[rank + others, inputs], [outputs, rank + others]] }
    }

    /// The two that [`Factors::minus`] joined, of which the first has that rank.
    pub(crate) fn split(&self, rank: usize) -> [Self; 2] {
        let [[both, inputs], [outputs, _]] = self.shapes;
        let (lora_a, other_a) = self.values[0].split_at(rank * inputs);
        let columns = |range: std::ops::Range<usize>, sign: f32| {
            self.values[1].chunks_exact(both).flat_map(|row| row[range.clone()].iter().map(|value| sign * value)).collect()
        };
        let (lora_b, other_b) = (columns(0..rank, 1.0), columns(rank..both, -1.0));
        let shapes = |rank: usize| [[rank, inputs], [outputs, rank]];
        [
            Self { values: [lora_a.to_vec(), lora_b], shapes: shapes(rank) },
            Self { values: [other_a.to_vec(), other_b], shapes: shapes(both - rank) },
        ]
    }

    fn matrices(&self) -> [Matrix; 2] {
        [0, 1].map(|index| {
            let [rows, columns] = self.shapes[index];
            Matrix::of_f32(rows, columns, &self.values[index])
        })
    }

    pub(crate) fn tensors<B: FusedBackend>(self, device: &B::Device) -> [Tensor<B, 2>; 2] {
        let [a, b] = self.values;
        [(a, self.shapes[0]), (b, self.shapes[1])]
            .map(|(values, shape)| unpadded(TensorData::new(values, shape), shape, device, DType::F32))
    }
}

/// An adapter of the layer `name`. The ids of its parameters depend on the name alone.
///
/// The product of `initial` is taken out of the layer's weight. A DoRA adapter without a `magnitude` begins with the one that
/// leaves the layer's result as it is.
///
/// # Errors
/// [`LoraError::Config`] if the weight can't be changed.
pub(crate) fn low_rank<B: FusedBackend>(
    name: &str,
    linear: &mut Linear<B>,
    factors: Factors,
    initial: Option<Factors>,
    magnitude: Option<Vec<f32>>,
    config: &LoraConfig,
    device: &B::Device,
) -> Result<LowRank<B>> {
    let scale = config.scale_of(name);
    if let Some(initial) = &initial {
        take_out(name, linear, initial, scale, config.init, device)?;
    }
    let [lora_a, lora_b] = factors.tensors(device);
    let magnitude = config.dora.then(|| {
        let magnitude = magnitude.map(|values| {
            let count = values.len();
            Tensor::from_data(TensorData::new(values, [count]), (device, DType::F32))
        });
        Magnitude::new(name, &linear.weight.operand(), [&lora_a, &lora_b], scale, magnitude)
    });
    let param = |part: &str, tensor: Tensor<B, 2>| {
        Param::initialized(parameter_id(&format!("{name}.{part}.weight")), tensor.require_grad())
    };
    Ok(LowRank {
        lora_a: param("lora_A", lora_a),
        lora_b: param("lora_B", lora_b),
        scale,
        dropout: config.dropout,
        magnitude,
        initial: initial.map(|initial| initial.tensors(device)),
        reference: None,
    })
}

/// The initial factors of a layer of an adapter that was stored without them.
pub(crate) fn initial(stored: &LoraConfig, name: &str, weight: &Matrix, rank: usize) -> Factors {
    let [rows, columns] = [weight.rows, weight.columns];
    let values = match stored.init.factors(weight, rank, stored.scale_of(name), 0) {
        Some([lora_a, lora_b]) => [lora_a.to_f32(), lora_b.to_f32()],
        None => [vec![0.0; rank * columns], vec![0.0; rows * rank]],
    };
    Factors { values, shapes: [[rank, columns], [rows, rank]] }
}

/// The weight of a layer on the host, to be decomposed.
///
/// # Errors
/// [`LoraError::Config`] if it is packed: its product with the residual's rounding would not be the base any longer.
pub(crate) fn dense<B: FusedBackend>(name: &str, linear: &Linear<B>, init: Init) -> Result<Vec<f32>> {
    match &linear.weight {
        MatrixWeight::Frozen(weight @ Operand::Dense(_)) => Ok(weight.to_f32()),
        MatrixWeight::Frozen(packed @ Operand::Packed(_)) => Err(LoraError::Config {
            reason: format!(
                "init: \"{init}\" changes the base weights, which must not be quantised, and {name} is {}; use another init \
                 or quantization = \"none\"",
                packed.kind()
            ),
        }),
        MatrixWeight::Trainable(_) => {
            Err(LoraError::Config { reason: format!("init: \"{init}\" needs frozen base weights, and {name} is trained") })
        }
    }
}

/// What quantisation took from the weight of a layer; `None` if it took nothing: the layer is dense, or packed in its own file.
///
/// # Errors
/// [`LoraError::Config`] without a base, or if its weight can't be read.
pub(crate) fn quantisation_error<B: FusedBackend>(
    name: &str,
    linear: &Linear<B>,
    base: Option<&dyn Checkpoint>,
) -> Result<Option<Vec<f32>>> {
    let MatrixWeight::Frozen(packed @ Operand::Packed(_)) = &linear.weight else { return Ok(None) };
    let Some(base) = base else {
        return Err(LoraError::Config { reason: "init: \"loftq\" needs the checkpoint of the model".into() });
    };
    let mut weight = base.read_f32(&format!("{name}.weight"))?;
    for (weight, packed) in weight.iter_mut().zip(packed.to_f32()) {
        *weight -= packed;
    }
    Ok(weight.iter().any(|value| *value != 0.0).then_some(weight))
}

/// Makes the weight `W - scale · B A`, rounded to its own type.
fn take_out<B: FusedBackend>(
    name: &str,
    linear: &mut Linear<B>,
    initial: &Factors,
    scale: f64,
    init: Init,
    device: &B::Device,
) -> Result<()> {
    let weight = dense(name, linear, init)?;
    let shape = linear.dims();
    let float = FloatType::ALL.into_iter().find(|float| float.name() == linear.weight.operand().kind());
    let [lora_a, lora_b] = initial.matrices();
    let data = float.unwrap_or_default().convert(&format!("{name}.weight"), residual(&weight, &lora_a, &lora_b, scale))?;
    let dtype = data.dtype;
    // In the pool, weights beside activations would keep pages from being reused.
    let tensor = exact_buffers::<B, _>(device, || unpadded(data, shape, device, dtype));
    linear.weight = MatrixWeight::Frozen(Operand::Dense(tensor));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn joined_factors_have_the_difference_of_the_products_and_split_into_the_two() {
        let factors = |rank: usize, from: f32| Factors {
            values: [rank * 3, 4 * rank].map(|count| (0..count).map(|index| from + index as f32).collect()),
            shapes: [[rank, 3], [4, rank]],
        };
        let (one, two) = (factors(2, 0.5), factors(1, -3.0));
        let both = one.minus(&two);
        assert_eq!(both.shapes, [[3, 3], [4, 3]]);
        assert_eq!(both.split(2), [one.clone(), two.clone()]);
        let product = |factors: &Factors| {
            let [lora_a, lora_b] = factors.matrices();
            lora_b.times(&lora_a).values
        };
        let difference = product(&one).into_iter().zip(product(&two)).map(|(one, two)| one - two);
        assert_eq!(product(&both), difference.collect::<Vec<_>>());
    }
}

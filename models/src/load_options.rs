//! How weights are kept on the device.

use crate::float_type::FloatType;
use crate::quantization::Quantization;

/// How weights are kept on the device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LoadOptions {
    /// The type that the model computes in. Weights that are not packed are kept in it too.
    pub dtype: FloatType,
    /// Whether they are trained; then they must be f32, and none is packed.
    pub trainable: bool,
    /// How the matrices of linear layers are stored.
    pub quantization: Quantization,
    /// Whether embedding and head are packed too, in eight bits ([`Quantization::Int8`]), where the file has floats.
    pub quantize_embedding: bool,
}

impl LoadOptions {
    /// Weights that are not trained, as floats.
    pub fn frozen(dtype: FloatType) -> Self {
        Self { dtype, ..Self::default() }
    }

    /// Weights that are trained, in f32.
    pub fn trainable() -> Self {
        Self { trainable: true, ..Self::default() }
    }

    /// The options with another storage of matrices.
    #[must_use]
    pub fn quantized(self, quantization: Quantization) -> Self {
        Self { quantization, ..self }
    }

    /// How embedding and head are stored.
    pub fn of_embedding(self) -> Quantization {
        match (self.quantize_embedding, self.quantization) {
            (true, _) => Quantization::Int8,
            (false, Quantization::None) => Quantization::None,
            (false, _) => Quantization::Auto,
        }
    }
}

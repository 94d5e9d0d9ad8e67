//! The flags of commands that load weights: how these are stored.

use anyhow::{Result, anyhow};
use burnish_models::{FloatType, LoadOptions, Quantization};

use crate::config::QuantizationKind;

/// How the weights of a model are stored.
#[derive(Debug, clap::Args)]
pub struct QuantizationArgs {
    /// Storage of matrices: auto (as in the file), none, nf4 (4.5 bits per weight), int4 or int8
    #[arg(long, value_name = "KIND", default_value = "auto", value_parser = QuantizationKind::NAMES.to_vec(), hide_possible_values = true, help_heading = "Model")]
    quantization: String,
    /// Quantise the scales of nf4 too (4.13 bits per weight)
    #[arg(long, help_heading = "Model")]
    double_quant: bool,
    /// Quantise embedding and head too, in 8 bits
    #[arg(long, help_heading = "Model")]
    pub quantize_embedding: bool,
    #[arg(long, hide = true, num_args = 0, default_missing_value = "nf4", conflicts_with = "quantization")]
    load_in_4bit: Option<String>,
    #[arg(long, hide = true, num_args = 0, default_missing_value = "int8", conflicts_with_all = ["quantization", "load_in_4bit"])]
    load_in_8bit: Option<String>,
}

impl QuantizationArgs {
    /// How the matrices of linear layers are stored.
    ///
    /// # Errors
    /// If the kind is unknown.
    pub fn storage(&self) -> Result<Quantization> {
        let name = self.load_in_4bit.as_ref().or(self.load_in_8bit.as_ref()).unwrap_or(&self.quantization);
        let kind: QuantizationKind = name.parse().map_err(|reason: String| anyhow!("--quantization: {reason}"))?;
        Ok(kind.storage(self.double_quant))
    }

    /// How a frozen model is loaded that computes in this type.
    ///
    /// # Errors
    /// Those of [`QuantizationArgs::storage`].
    pub fn options(&self, dtype: FloatType) -> Result<LoadOptions> {
        let options = LoadOptions::frozen(dtype).quantized(self.storage()?);
        Ok(LoadOptions { quantize_embedding: self.quantize_embedding, ..options })
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        weights: QuantizationArgs,
    }

    #[test]
    fn weights_are_stored_as_the_flags_say() {
        let parsed = |arguments: &[&str]| Line::try_parse_from([&["burnish"], arguments].concat());
        for (arguments, storage) in [
            (&[][..], Quantization::Auto),
            (&["--quantization", "int4"], Quantization::Int4),
            (&["--load-in-4bit"], Quantization::Nf4 { double: false }),
            (&["--load-in-4bit", "--double-quant"], Quantization::Nf4 { double: true }),
            (&["--load-in-8bit"], Quantization::Int8),
        ] {
            assert_eq!(parsed(arguments).unwrap().weights.storage().unwrap(), storage, "{arguments:?}");
        }
        let options = parsed(&["--quantize-embedding"]).unwrap().weights.options(FloatType::BF16).unwrap();
        assert!(options.quantize_embedding && options.dtype == FloatType::BF16 && !options.trainable);
        assert!(parsed(&["--load-in-4bit", "--load-in-8bit"]).is_err());
        assert!(parsed(&["--load-in-4bit", "--quantization", "int4"]).is_err());
        assert!(parsed(&["--quantization", "fp4"]).unwrap_err().to_string().contains("int8"));
    }
}

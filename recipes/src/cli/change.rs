//! What merging an adapter into quantised weights does to them.

use anyhow::Result;
use burnish_engine::with_hint;
use burnish_lora::{MergedCheckpoint, WeightChange};

/// A note on the adapter's change against the quantisation steps of the base; `None` if the base has floats. `written` is the type
/// that the sum is written in, `rounds` whether it has few bits again.
///
/// # Errors
/// If a tensor can't be read, or few bits are to be written without `requantize`.
pub(super) fn note(merged: &MergedCheckpoint<'_>, written: &str, rounds: bool, requantize: bool) -> Result<Option<String>> {
    let Some(change) = merged.change()? else { return Ok(None) };
    let WeightChange { matrices, .. } = change;
    let size = format!(
        "the adapter changes the weights of {matrices} quantised matrices by {:.3} of a quantisation step (root mean square)",
        change.steps()
    );
    match (rounds, requantize) {
        (false, _) => Ok(Some(format!("{size}; the sum is written in {written}, without quantising it again"))),
        (true, true) => {
            Ok(Some(format!("{size}; rounding the sum to {written} again loses what is below half a step of it")))
        }
        (true, false) => Err(with_hint(
            format!("{size}: rounding the sum to {written} again would lose part of it"),
            "--quant f16 keeps it; --requantize writes it all the same",
        )),
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use burnish_kernels::packed::{GgmlType, GgufBlocks, Packed};
    use burnish_models::Checkpoint;
    use burnish_models::checkpoint::SafetensorsFolder;

    use super::*;
    use crate::hint::hint;

    /// A checkpoint whose matrices are in blocks of Q4_0, if `packed`.
    struct Base {
        floats: SafetensorsFolder,
        packed: bool,
    }

    impl Checkpoint for Base {
        fn names(&self) -> Vec<String> {
            self.floats.names()
        }

        fn shape(&self, name: &str) -> Option<Vec<usize>> {
            self.floats.shape(name)
        }

        fn read_f32(&self, name: &str) -> burnish_models::Result<Vec<f32>> {
            Ok(match self.read_packed(name)? {
                Some(packed) => packed.dequantize(),
                None => self.floats.read_f32(name)?,
            })
        }

        fn read_packed(&self, name: &str) -> burnish_models::Result<Option<Packed>> {
            let Some(Ok(dims)) = self.shape(name).filter(|_| self.packed).map(<[usize; 2]>::try_from) else {
                return Ok(None);
            };
            let values = self.floats.read_f32(name)?;
            Ok(GgufBlocks::quantize(name, &values, dims, GgmlType::Q4_0).ok().map(Packed::Gguf))
        }
    }

    #[test]
    fn merging_into_quantised_weights_says_how_much_it_changes() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/parity/llama");
        let base = |packed| Base { floats: SafetensorsFolder::open(&folder).unwrap(), packed };
        let (floats, blocks) = (base(false), base(true));
        let of = |base, written: &str, rounds, requantize| {
            let merged = MergedCheckpoint::open(base, &folder.join("adapter")).unwrap();
            note(&merged, written, rounds, requantize)
        };
        assert_eq!(of(&floats, "q8_0", true, false).unwrap(), None);
        let said = of(&blocks, "bf16", false, false).unwrap().unwrap();
        assert!(said.contains("of a quantisation step") && said.contains("written in bf16, without"), "{said}");
        let error = of(&blocks, "q8_0", true, false).unwrap_err();
        assert!(error.to_string().contains("would lose part of it"), "{error}");
        assert!(hint(&error).unwrap().contains("--requantize"));
        assert!(of(&blocks, "q8_0", true, true).unwrap().unwrap().contains("loses what is below half a step"));
    }
}

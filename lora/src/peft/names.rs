//! The names of the files of a PEFT folder, and of the tensors in them.

use std::path::{Path, PathBuf};

/// The file of the configuration.
pub(crate) const CONFIG: &str = "adapter_config.json";
/// The file of the tensors.
pub(crate) const WEIGHTS: &str = "adapter_model.safetensors";
/// The file of the tensors that PEFT wrote before it used safetensors, and that `save_pretrained` still writes where it is told to.
const PYTORCH_WEIGHTS: &str = "adapter_model.bin";
/// The files of a PEFT folder, as it is written.
pub const ADAPTER_FILES: [&str; 2] = [CONFIG, WEIGHTS];
/// PEFT puts this before the names of the base model's modules.
pub(crate) const PREFIX: &str = "base_model.model.";
/// The ends of the names of the two factors of a layer.
pub(crate) const FACTORS: [&str; 2] = [".lora_A.weight", ".lora_B.weight"];
/// The ends of the names of the magnitude of a DoRA layer: as PEFT writes it, and as some programs do.
pub(crate) const MAGNITUDES: [&str; 2] = [".lora_magnitude_vector", ".lora_magnitude_vector.weight"];

/// The files of a PEFT folder that are read. Its tensors are in safetensors, or else in what `torch.save` wrote.
pub(crate) fn adapter_files(folder: &Path) -> [PathBuf; 2] {
    let other = folder.join(PYTORCH_WEIGHTS);
    let own = folder.join(WEIGHTS);
    [folder.join(CONFIG), if !own.exists() && other.exists() { other } else { own }]
}

/// The name of a tensor in the model that the adapter was trained on.
pub(crate) fn module_name(tensor: &str) -> String {
    tensor.strip_prefix(PREFIX).unwrap_or(tensor).replace(".default.", ".")
}

/// What the tensors of an adapted parameter are named after. Of several adapted parameters of one module, PEFT wraps the first one first,
/// so that the others are around it.
///
/// # Source
/// `BaseTuner._inject_parameters` of PEFT 0.21.
pub(super) fn wrapped(module: &str, index: usize, count: usize) -> String {
    format!("{module}{}", ".base_layer".repeat(count - 1 - index))
}

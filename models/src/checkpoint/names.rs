//! The names of the files that hold a model's weights.

use std::path::Path;

/// A format of weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Format {
    /// Of Hugging Face.
    Safetensors,
    /// Written by `torch.save`.
    Pytorch,
}

/// The files of a format.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Names {
    /// The file of a checkpoint that is not sharded.
    pub single: &'static str,
    /// The file that lists the shards.
    pub index: &'static str,
}

pub(crate) const SAFETENSORS: Names = Names { single: "model.safetensors", index: "model.safetensors.index.json" };
const PYTORCH: Names = Names { single: "pytorch_model.bin", index: "pytorch_model.bin.index.json" };

/// In the order in which transformers looks for them.
pub(crate) const ALL: [Names; 2] = [SAFETENSORS, PYTORCH];

/// The endings of single files, without the dot.
const ENDINGS: [(&str, Format); 4] =
    [("safetensors", Format::Safetensors), ("bin", Format::Pytorch), ("pt", Format::Pytorch), ("pth", Format::Pytorch)];

impl Format {
    /// The format of a file of that name; `None` if it is not one of weights.
    pub(crate) fn of(path: &Path) -> Option<Self> {
        let ending = path.extension()?;
        ENDINGS.iter().find(|(known, _)| ending.eq_ignore_ascii_case(known)).map(|(_, format)| *format)
    }
}

/// What is wrong with a folder that has none of these files.
pub(crate) fn none_found() -> String {
    let names: Vec<&str> = ALL.iter().flat_map(|names| [names.single, names.index]).collect();
    format!("expected one of {}, found none of them", names.join(", "))
}

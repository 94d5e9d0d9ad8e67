//! The readers.
//!
//! A reader is one entry of [`TARGETS`]: the name that its file has, the files to begin with, words of its format, and what is read.

mod adapters;
mod columns;
mod settings;
mod text;
mod weights;

use std::path::Path;

/// A reader.
pub struct Target {
    /// Its name on the command line.
    pub name: &'static str,
    /// The name of the file that it reads, which may matter.
    pub file: &'static str,
    /// The files beside that.
    pub beside: &'static [(&'static str, &'static [u8])],
    /// The files that damage begins with.
    pub seeds: fn() -> Vec<Vec<u8>>,
    /// Words of the format.
    pub words: &'static [&'static str],
    /// Bytes that it may allocate for any file: tables that it computes, caches, regular expressions, and parsed values. A value of JSON,
    /// TOML or YAML takes about a hundred bytes, and an entry of a header even more, where the file has a few: four times the file would
    /// be too little for small files. Readers refuse files whose values would take more.
    pub fixed: usize,
    /// Reads the file, and returns what came of it: an error's text, or what there is.
    pub read: fn(&Path) -> String,
}

const KIB: usize = 1 << 10;
const MIB: usize = 1 << 20;

/// All readers.
pub const TARGETS: &[Target] = &[
    weights::SAFETENSORS,
    weights::GGUF,
    weights::PYTORCH,
    weights::INDEX,
    weights::PACKED,
    weights::FLOAT8,
    weights::IMPORTANCE,
    adapters::PEFT,
    adapters::PEFT_CONFIG,
    adapters::MLX,
    adapters::GGUF_LORA,
    text::TOKENIZER,
    text::SENTENCE_PIECE,
    text::TEMPLATE,
    text::TEMPLATE_FOLDER,
    text::JSON_LINES,
    text::JSON_LIST,
    text::CSV,
    text::ZSTD,
    columns::PARQUET,
    columns::ARROW,
    settings::MODEL,
    settings::RUN_TOML,
    settings::RUN_YAML,
];

/// The outcome of a result.
fn outcome<T, E: std::fmt::Display>(result: Result<T, E>, fine: impl FnOnce(T) -> String) -> String {
    match result {
        Ok(value) => fine(value),
        Err(error) => error.to_string(),
    }
}

/// The files with these bytes.
fn files(list: &[&[u8]]) -> Vec<Vec<u8>> {
    list.iter().map(|bytes| bytes.to_vec()).collect()
}

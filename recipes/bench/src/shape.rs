//! The model whose sizes are measured.

use std::path::Path;

use anyhow::{Context, Result};
use burnish_models::{ModelConfig, Pretrained};

/// Shapes that the program knows by name, to measure with; their weights are random.
const PRESETS: &[(&str, &str)] = &[
    ("llama-3.2-1b", include_str!("../assets/llama-3.2-1b.json")),
    ("llama-3.1-8b", include_str!("../assets/llama-3.1-8b.json")),
];

/// The widths at which the emulator counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Widths {
    /// Small ones, which take seconds.
    Shrunk,
    /// The model's own, which take many minutes. burn's own operations are left out, as they would take hours.
    Full,
}

/// A model's sizes under a name.
#[derive(Debug, Clone)]
pub struct Shape {
    /// For tables and file names.
    pub name: String,
    /// The sizes.
    pub config: ModelConfig,
}

impl Shape {
    /// The shapes that the program knows by name.
    pub const NAMES: [&str; 2] = [PRESETS[0].0, PRESETS[1].0];

    /// Finds a shape: one of the presets, a `config.json` or a folder with one, a `.gguf` file, or a hub id.
    ///
    /// # Errors
    /// When there is no such model, or its configuration is wrong.
    pub fn open(model: &str) -> Result<Self> {
        let (name, path) = (name_of(model), Path::new(model));
        if let Some((_, json)) = PRESETS.iter().find(|(preset, _)| *preset == model) {
            return Ok(Self { name, config: parse(json).with_context(|| model.to_owned())? });
        }
        let is_json = path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("json"));
        let file = if path.is_dir() { path.join("config.json") } else { path.to_owned() };
        if path.is_dir() || is_json {
            let text = std::fs::read_to_string(&file).with_context(|| file.display().to_string())?;
            return Ok(Self { name, config: parse(&text).with_context(|| file.display().to_string())? });
        }
        Ok(Self { name, config: Pretrained::open(model)?.config })
    }

    /// The shape of so many layers that is counted.
    #[must_use]
    pub fn counted(&self, widths: Widths, layers: usize) -> Self {
        match widths {
            Widths::Shrunk => self.shrunk(layers),
            Widths::Full => {
                let config = ModelConfig { num_hidden_layers: layers, ..self.config.clone() };
                Self { name: self.name.clone(), config }
            }
        }
    }

    /// The shape with widths so small that an emulator gets through it: one key-value head with its group of queries,
    /// the proportions of the rest kept. Widths stay multiples of 64, so that tiles fill.
    #[must_use]
    pub fn shrunk(&self, layers: usize) -> Self {
        let full = &self.config;
        let heads = full.num_attention_heads / full.num_key_value_heads;
        let hidden = (heads * full.head_dim).next_multiple_of(64).max(128);
        let inner = full.intermediate_size * hidden / full.hidden_size;
        let config = ModelConfig {
            hidden_size: hidden,
            intermediate_size: inner.next_multiple_of(64).max(64),
            num_hidden_layers: layers,
            num_attention_heads: heads,
            num_key_value_heads: 1,
            vocab_size: full.vocab_size.min(1024),
            ..full.clone()
        };
        Self { name: format!("{}, shrunk", self.name), config }
    }
}

fn parse(json: &str) -> Result<ModelConfig> {
    Ok(ModelConfig::from_json(&serde_json::from_str(json)?)?)
}

/// The last part of a path, a file's extension left out, in characters that every file system takes.
fn name_of(model: &str) -> String {
    let path = Path::new(model);
    let is_config = path.file_name().is_some_and(|name| name == "config.json");
    let named = if is_config { path.parent().unwrap_or(path) } else { path };
    let last = named.file_name().map_or(model.into(), |name| name.to_string_lossy());
    let short = [".json", ".gguf"].iter().find_map(|extension| last.strip_suffix(extension)).unwrap_or(&last);
    short.chars().map(|c| if c.is_ascii_alphanumeric() || "-._".contains(c) { c } else { '-' }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn presets_have_the_published_sizes() {
        let one = Shape::open("llama-3.2-1b").unwrap().config;
        assert_eq!(one.parameter_count(), 1_235_814_400);
        let eight = Shape::open("llama-3.1-8b").unwrap().config;
        assert_eq!(eight.parameter_count(), 8_030_261_248);
        assert!(one.tie_word_embeddings && !eight.tie_word_embeddings && one.rotary[0].scaling.is_some());
    }

    #[test]
    fn names_fit_into_file_names() {
        for (model, name) in [
            ("llama-3.2-1b", "llama-3.2-1b"),
            ("/models/Tiny Llama/config.json", "Tiny-Llama"),
            ("shapes/mine.json", "mine"),
            ("org/model", "model"),
            ("a/b.Q4_1.gguf", "b.Q4_1"),
        ] {
            assert_eq!(name_of(model), name);
        }
    }

    #[test]
    fn a_folder_and_a_file_give_the_same_shape() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("config.json"), PRESETS[0].1).unwrap();
        let by_folder = Shape::open(folder.path().to_str().unwrap()).unwrap();
        let by_file = Shape::open(folder.path().join("config.json").to_str().unwrap()).unwrap();
        assert_eq!((&by_folder.config, &by_folder.name), (&by_file.config, &by_file.name));
    }

    #[test]
    fn a_shrunk_shape_keeps_group_and_head() {
        let shrunk = Shape::open("llama-3.1-8b").unwrap().shrunk(2).config;
        assert_eq!((shrunk.num_attention_heads, shrunk.num_key_value_heads, shrunk.head_dim), (4, 1, 128));
        assert_eq!((shrunk.hidden_size, shrunk.intermediate_size, shrunk.num_hidden_layers), (512, 1792, 2));
    }
}

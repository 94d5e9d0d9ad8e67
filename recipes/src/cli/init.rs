//! `burnish init`.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Result;
use burnish_models::atomic;
use serde_json::Map;

use crate::config::{Needs, commented_toml, commented_toml_of, load_with};
use crate::report::{OutputStyle, print};
use burnish_engine::with_hint;

/// Arguments of `init`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// File to write; `-` prints it
    #[arg(default_value = "burnish.toml")]
    file: PathBuf,
    /// Translate a file of Unsloth, mlx-lm, axolotl, LLaMA-Factory or TRL
    #[arg(long, value_name = "FILE")]
    from: Option<PathBuf>,
    /// Recipe of the translated file, if it does not say: sft, dpo, orpo, kto, simpo or cpo
    #[arg(long, value_name = "RECIPE", value_parser = crate::config::Recipe::NAMES, hide_possible_values = true, requires = "from")]
    recipe: Option<String>,
    /// Replace an existing file
    #[arg(long)]
    overwrite: bool,
}

impl Args {
    pub(super) fn run(self, style: OutputStyle) -> Result<ExitCode> {
        let text = match &self.from {
            Some(theirs) => translated(theirs, self.recipe.as_deref(), style)?,
            None => commented_toml(),
        };
        if self.file.as_os_str() == "-" {
            print(&text);
            return Ok(ExitCode::SUCCESS);
        }
        if self.file.exists() && !self.overwrite {
            return Err(with_hint(format!("{} already exists", self.file.display()), "--overwrite replaces it"));
        }
        atomic::write_bytes(&self.file, text.as_bytes())?;
        let set = if self.from.is_some() { "" } else { " set `model` and `data` in it, then" };
        let line = format!("wrote {0};{set} run: burnish train -c {0}", self.file.display());
        style.result(line, &serde_json::json!({ "path": self.file.to_string_lossy() }));
        Ok(ExitCode::SUCCESS)
    }
}

/// Another program's file as ours, with what was done to its keys as remarks.
fn translated(theirs: &Path, recipe: Option<&str>, style: OutputStyle) -> Result<String> {
    let flags = recipe.map(|recipe| ("recipe".to_owned(), recipe.into())).into_iter().collect::<Map<_, _>>();
    let loaded = load_with(Some(theirs), flags, &[], Needs::Nothing)?;
    for note in &loaded.notes {
        style.say(note);
    }
    let name = theirs.file_name().unwrap_or(theirs.as_os_str()).to_string_lossy();
    let title = format!("\nTranslated from {name}:");
    let remarks: Vec<String> = std::iter::once(title).chain(loaded.notes.iter().map(|note| format!("  {note}"))).collect();
    for (missing, key) in [(loaded.config.model.is_empty(), "model"), (loaded.config.data.is_empty(), "data")] {
        if missing && !(key == "model" && loaded.config.model_config.is_some()) {
            style.say(format!("{name} names no `{key}`: set it in the file that is written"));
        }
    }
    Ok(commented_toml_of(&loaded.config, &remarks))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::load;

    #[test]
    fn a_translated_file_trains_the_same() {
        let folder = tempfile::tempdir().unwrap();
        let (theirs, ours) = (folder.path().join("theirs.yaml"), folder.path().join("ours.toml"));
        let quiet = OutputStyle { quiet: true, ..OutputStyle::default() };
        for text in [
            "model: m\ndata: d\ntrain: true\niters: 600\ngrad_accumulation_steps: 4\nlora_parameters: {rank: 8, scale: 20.0, dropout: 0.1}\n",
            "base_model: m\ndatasets: [{path: d}]\nadapter: qlora\nlora_r: 8\nlora_alpha: 16\nsequence_len: 128\n",
            "model_name_or_path: m\nstage: dpo\npref_loss: simpo\npref_ftx: 0.5\ndataset: d\ntemplate: qwen\n",
            "model_name_or_path: m\ndataset_name: d\nuse_peft: true\nassistant_only_loss: true\n",
            "model: m\ndata: {dataset: d}\ntraining: {max_steps: 4}\nlora: {lora_r: 8}\n",
        ] {
            std::fs::write(&theirs, text).unwrap();
            std::fs::write(&ours, translated(&theirs, None, quiet).unwrap()).unwrap();
            let [theirs, ours] = [&theirs, &ours].map(|file| load(Some(file), Map::new()).unwrap());
            assert_eq!(theirs.config, ours.config, "{text}");
            assert_eq!(ours.notes.iter().filter(|note| note.contains("is read as")).count(), 0, "{:?}", ours.notes);
        }
    }
}

//! `README.md` of exported folders: what the weights are, and how they were trained.
//!
//! Source: the model cards of `huggingface_hub`, whose first lines are YAML.

use std::fmt::Write;
use std::fs;
use std::path::Path;

use burnish_lora::LoraConfig;
use burnish_models::Pretrained;

use crate::counted_file::write_text;
use crate::error::Result;

/// The file's name.
pub const MODEL_CARD: &str = "README.md";
/// The tag by which an export recognises its own cards.
const TAG: &str = "- burnish";
/// The heading above what is known of the training.
const TRAINING: &str = "## Training";

/// What a card says.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ModelCard {
    /// The base model: a path, or a hub id, with or without `@revision`.
    pub base: String,
    /// The library that opens the folder, in the words of the hub: `transformers`, `peft` or `mlx`; `mlx-adapter` for an adapter alone.
    pub library: &'static str,
    /// The adapter, alone or merged.
    pub adapter: Option<LoraConfig>,
    /// What is known of the training, as rows of a table.
    pub training: Vec<(String, String)>,
}

impl ModelCard {
    /// A card of what belongs to `model`, with the adapter that was merged into it. If that folder has a card of its own, what it says
    /// of the training is taken over.
    pub fn of(model: &Pretrained, library: &'static str, adapter: Option<(&LoraConfig, &Path)>) -> Self {
        let training = adapter.map(|(_, folder)| read_training(folder)).unwrap_or_default();
        let adapter = adapter.map(|(config, _)| config.clone());
        Self { base: model.source.clone(), library, adapter, training }
    }

    /// Writes the card into a folder, and returns the number of bytes.
    ///
    /// # Errors
    /// If the file can't be written.
    pub fn write(&self, folder: &Path) -> Result<u64> {
        write_text(&folder.join(MODEL_CARD), &self.text())
    }

    /// The text of the card.
    pub fn text(&self) -> String {
        let is_local = Path::new(&self.base).exists();
        // A path of this machine says nothing elsewhere.
        let name =
            if is_local { self.base.trim_end_matches('/').rsplit('/').next().unwrap_or_default() } else { &self.base };
        let is_alone = self.library == "peft" || self.library == "mlx-adapter";
        let library = self.library.trim_end_matches("-adapter");
        let mut text = format!("---\nlibrary_name: {library}\npipeline_tag: text-generation\n");
        if !is_local && !name.is_empty() {
            // The hub knows no revisions here. Writing to a string can't fail.
            writeln!(text, "base_model: {}", name.split('@').next().unwrap_or(name)).ok();
        }
        let tags = [library, if self.adapter.is_some() { "lora" } else { "" }];
        let tags: Vec<String> = tags.iter().filter(|tag| !tag.is_empty()).map(|tag| format!("- {tag}\n")).collect();
        writeln!(text, "tags:\n{TAG}\n{}---\n", tags.concat()).ok();
        let title = match (&self.adapter, is_alone) {
            (Some(_), true) => format!("A LoRA adapter of {name}"),
            (Some(_), false) => format!("{name} with a LoRA adapter merged in"),
            (None, _) => name.to_owned(),
        };
        writeln!(text, "# {title}\n\nWritten by Burnish {}.", env!("CARGO_PKG_VERSION")).ok();
        if let Some(config) = &self.adapter {
            text.push_str("\n## Adapter\n\n");
            text.push_str(&table(&adapter_rows(config)));
        }
        if !self.training.is_empty() {
            write!(text, "\n{TRAINING}\n\n{}", table(&self.training)).ok();
        }
        text
    }
}

fn adapter_rows(config: &LoraConfig) -> Vec<(String, String)> {
    let mut rows = vec![
        ("rank".to_owned(), config.rank.to_string()),
        ("alpha".to_owned(), config.alpha.to_string()),
        ("dropout".to_owned(), config.dropout.to_string()),
        ("target modules".to_owned(), config.target_modules.list().join(", ")),
    ];
    if !config.target_parameters.is_empty() {
        rows.push(("target parameters".to_owned(), config.target_parameters.join(", ")));
    }
    for (name, is_on) in [("rsLoRA", config.rslora), ("DoRA", config.dora)] {
        if is_on {
            rows.push((name.to_owned(), "yes".to_owned()));
        }
    }
    if !config.modules_to_save.is_empty() {
        rows.push(("trained as a whole".to_owned(), config.modules_to_save.join(", ")));
    }
    rows
}

fn table(rows: &[(String, String)]) -> String {
    let cell = |text: &str| text.replace('|', "\\|").replace('\n', " ");
    let lines = rows.iter().map(|(key, value)| format!("| {} | {} |\n", cell(key), cell(value)));
    format!("| | |\n|---|---|\n{}", lines.collect::<String>())
}

/// What the card of a folder says about the training; empty if this program did not write the card.
fn read_training(folder: &Path) -> Vec<(String, String)> {
    let Ok(text) = fs::read_to_string(folder.join(MODEL_CARD)) else { return Vec::new() };
    if !is_own_card(&text) {
        return Vec::new();
    }
    let Some((_, section)) = text.split_once(&format!("\n{TRAINING}\n")) else { return Vec::new() };
    let section = section.split_once("\n## ").map_or(section, |(section, _)| section);
    let row = |line: &str| {
        let (key, value) = line.strip_prefix("| ")?.strip_suffix(" |")?.split_once(" | ")?;
        let cell = |text: &str| text.replace("\\|", "|");
        (!key.trim().is_empty()).then(|| (cell(key), cell(value)))
    };
    section.lines().filter_map(row).collect()
}

/// Whether an export wrote the card of this text.
pub(crate) fn is_own_card(text: &str) -> bool {
    let front = text.strip_prefix("---\n").and_then(|rest| rest.split_once("\n---"));
    front.is_some_and(|(front, _)| front.lines().any(|line| line == TAG))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn card() -> ModelCard {
        let training = vec![("data".to_owned(), "a|b.jsonl: 3 rows".to_owned()), ("loss".to_owned(), "0.5".to_owned())];
        ModelCard { base: "owner/name".into(), library: "peft", adapter: Some(LoraConfig::default()), training }
    }

    #[test]
    fn a_card_names_the_base_the_adapter_and_the_training() {
        let expected = format!(
            "---\nlibrary_name: peft\npipeline_tag: text-generation\nbase_model: owner/name\ntags:\n- burnish\n- peft\n- lora\n---\n\n\
             # A LoRA adapter of owner/name\n\nWritten by Burnish {}.\n\n## Adapter\n\n| | |\n|---|---|\n| rank | 16 |\n| alpha | 16 \
             |\n| dropout | 0 |\n| target modules | all-linear |\n\n## Training\n\n| | |\n|---|---|\n| data | a\\|b.jsonl: 3 rows |\n| \
             loss | 0.5 |\n",
            env!("CARGO_PKG_VERSION")
        );
        assert_eq!(card().text(), expected);
        let revision = ModelCard { base: "owner/name@main".into(), ..card() }.text();
        assert!(
            revision.contains("\nbase_model: owner/name\n") && revision.contains("adapter of owner/name@main\n"),
            "{revision}"
        );
    }

    #[test]
    fn what_is_known_of_the_training_goes_into_the_card_of_the_merged_model() {
        let folder = tempfile::tempdir().unwrap();
        card().write(folder.path()).unwrap();
        assert_eq!(read_training(folder.path()), card().training);
        fs::write(folder.path().join(MODEL_CARD), "# Mine\n\n## Training\n| a | b |\n").unwrap();
        assert!(read_training(folder.path()).is_empty());
    }

    #[test]
    fn a_path_of_this_machine_is_not_written() {
        let base = env!("CARGO_MANIFEST_DIR").to_owned();
        let text = ModelCard { base: base.clone(), library: "mlx", ..ModelCard::default() }.text();
        assert!(!text.contains(&base) && text.contains("# export\n") && !text.contains("base_model"), "{text}");
        assert!(is_own_card(&text) && !is_own_card("- burnish") && !is_own_card("---\ntags:\n- lora\n---\n"));
    }
}

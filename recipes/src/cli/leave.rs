//! The commands that write the result of a run for other programs.

use burnish_models::{Checkpoint, Pretrained};

/// The result of a run, and the model that it belongs to.
pub(super) struct Leave {
    model: String,
    /// Whether 8 bits of the merged model would lose part of the adapter's change.
    is_packed: bool,
}

impl Leave {
    /// Of a run that starts from `model`.
    pub(super) fn of(model: &Pretrained) -> Self {
        let weights = &model.checkpoint;
        let is_packed = weights.names().iter().any(|name| weights.packed_kind(name).is_some());
        Self { model: model.source.clone(), is_packed }
    }

    /// The commands, one for each format, each after the program that opens what it writes. `output` is the run's result in `run`.
    pub(super) fn lines(&self, run: &str, output: &str, is_adapter: bool) -> Vec<String> {
        let source = if is_adapter {
            format!("--model {} --adapter {}", quoted(&self.model), quoted(output))
        } else {
            format!("--model {}", quoted(output))
        };
        let run = run.trim_end_matches('/');
        let q8_0 = if self.is_packed { ("f16", "") } else { ("q8_0", " --quant q8_0") };
        let all = [
            ("Ollama, llama.cpp", false, format!("--format gguf{} --output", q8_0.1), format!("{run}-{}.gguf", q8_0.0)),
            ("the same, adapter alone", true, "--format gguf-lora --output".into(), format!("{run}-lora.gguf")),
            ("transformers, vLLM", false, "--format hf --output".into(), format!("{run}-merged")),
            ("mlx-lm, LM Studio", false, "--format mlx --quant int4 --output".into(), format!("{run}-mlx")),
            ("mlx-lm, adapter alone", true, "--format mlx-adapter --output".into(), format!("{run}-mlx-adapter")),
        ];
        let fitting = all.into_iter().filter(|(_, of_adapter, ..)| is_adapter || !of_adapter);
        // A full model is a folder for transformers already.
        let fitting = fitting.filter(|(program, ..)| is_adapter || !program.starts_with("transformers"));
        // Four bits of packed weights would lose part of the change, and export refuses that.
        let fitting = fitting.map(|(program, _, format, target)| {
            let format = if self.is_packed { format.replace(" --quant int4", "") } else { format };
            format!("  {program:<25}burnish export {source} {format} {}", quoted(&target))
        });
        fitting.collect()
    }
}

/// A word as a shell takes it.
fn quoted(word: &str) -> String {
    let is_plain = |character: char| character.is_ascii_alphanumeric() || "-_./:@%+,=~".contains(character);
    if !word.is_empty() && word.chars().all(is_plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_format_has_a_command() {
        let leave = |is_packed| Leave { model: "owner/my model".into(), is_packed };
        let lines = leave(false).lines("runs/a/", "runs/a/adapter", true);
        assert_eq!(lines.len(), 5);
        let first = "burnish export --model 'owner/my model' --adapter runs/a/adapter --format gguf --quant q8_0 --output runs/a-q8_0.gguf";
        assert!(lines[0].ends_with(first), "{}", lines[0]);
        assert!(lines[4].ends_with("--format mlx-adapter --output runs/a-mlx-adapter"), "{}", lines[4]);
        let packed = leave(true).lines("runs/a", "runs/a/adapter", true).join("\n");
        assert!(!packed.contains("--quant") && packed.contains("runs/a-f16.gguf"), "{packed}");
        let full = leave(false).lines("runs/a", "runs/a/model", false).join("\n");
        assert!(!full.contains("adapter") && full.contains("--format mlx ") && !full.contains("--format hf"), "{full}");
        assert_eq!(quoted("it's"), r"'it'\''s'");
    }
}

//! The commands that write the result of a run for other programs.

use burnish_export::MlxFit;
use burnish_lora::LoraConfig;
use burnish_models::{Checkpoint, Pretrained};

/// The result of a run, and the model that it belongs to.
pub(super) struct Leave {
    model: String,
    /// Whether 8 bits of the merged model would lose part of the adapter's change.
    is_packed: bool,
    /// What mlx-lm opens.
    mlx: MlxFit,
}

impl Leave {
    /// Of a run that starts from `model`.
    pub(super) fn of(model: &Pretrained) -> Self {
        let weights = &model.checkpoint;
        let is_packed = weights.names().iter().any(|name| weights.packed_kind(name).is_some());
        Self { model: model.source.clone(), is_packed, mlx: MlxFit::of(&model.config) }
    }

    /// The commands, one for each format that can hold the result, each after the program that opens what it writes. `output` is the
    /// run's result in `run`, `adapter` its configuration if it is an adapter.
    pub(super) fn lines(&self, run: &str, output: &str, adapter: Option<&LoraConfig>) -> Vec<String> {
        let source = if adapter.is_some() {
            format!("--model {} --adapter {}", quoted(&self.model), quoted(output))
        } else {
            format!("--model {}", quoted(output))
        };
        let run = run.trim_end_matches('/');
        let q8_0 = if self.is_packed { ("f16", "") } else { ("q8_0", " --quant q8_0") };
        // What the two formats of an adapter alone refuse.
        let in_gguf = adapter.is_some_and(|lora| !lora.dora && lora.modules_to_save.is_empty());
        let in_mlx = adapter.is_some_and(|lora| lora.modules_to_save.is_empty() && !has_several_ranks(lora));
        // Where mlx-lm divides matrices, layers of an adapter have other names there.
        let in_mlx = in_mlx && self.mlx == MlxFit::All;
        let all = [
            ("Ollama, llama.cpp", true, format!("--format gguf{} --output", q8_0.1), format!("{run}-{}.gguf", q8_0.0)),
            ("the same, adapter alone", in_gguf, "--format gguf-lora --output".into(), format!("{run}-lora.gguf")),
            // A full model is such a folder already.
            ("transformers, vLLM", adapter.is_some(), "--format hf --output".into(), format!("{run}-merged")),
            (
                "mlx-lm, LM Studio",
                self.mlx != MlxFit::Nothing,
                "--format mlx --quant int4 --output".into(),
                format!("{run}-mlx"),
            ),
            ("mlx-lm, adapter alone", in_mlx, "--format mlx-adapter --output".into(), format!("{run}-mlx-adapter")),
        ];
        let fitting = all.into_iter().filter(|(_, fits, ..)| *fits);
        // Four bits of packed weights would lose part of the change, and export refuses that.
        let fitting = fitting.map(|(program, _, format, target)| {
            let keeps_floats = self.is_packed || self.mlx != MlxFit::All;
            let format = if keeps_floats { format.replace(" --quant int4", "") } else { format };
            format!("  {program:<25}burnish export {source} {format} {}", quoted(&target))
        });
        fitting.collect()
    }
}

/// Whether layers may have ranks that differ.
fn has_several_ranks(lora: &LoraConfig) -> bool {
    lora.rank_pattern.iter().any(|pattern| pattern.value != lora.rank)
}

/// A word as a shell takes it.
pub(super) fn quoted(word: &str) -> String {
    let is_plain = |character: char| character.is_ascii_alphanumeric() || "-_./:@%+,=~".contains(character);
    if !word.is_empty() && word.chars().all(is_plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

#[cfg(test)]
mod tests {
    use burnish_lora::Pattern;

    use super::*;

    #[test]
    fn every_format_has_a_command() {
        let leave = |is_packed| Leave { model: "owner/my model".into(), is_packed, mlx: MlxFit::All };
        let lora = LoraConfig::default();
        let lines = leave(false).lines("runs/a/", "runs/a/adapter", Some(&lora));
        assert_eq!(lines.len(), 5);
        let first = "burnish export --model 'owner/my model' --adapter runs/a/adapter --format gguf --quant q8_0 --output runs/a-q8_0.gguf";
        assert!(lines[0].ends_with(first), "{}", lines[0]);
        assert!(lines[4].ends_with("--format mlx-adapter --output runs/a-mlx-adapter"), "{}", lines[4]);
        let packed = leave(true).lines("runs/a", "runs/a/adapter", Some(&lora)).join("\n");
        assert!(!packed.contains("--quant") && packed.contains("runs/a-f16.gguf"), "{packed}");
        let full = leave(false).lines("runs/a", "runs/a/model", None).join("\n");
        assert!(!full.contains("adapter") && full.contains("--format mlx ") && !full.contains("--format hf"), "{full}");
        assert_eq!(quoted("it's"), r"'it'\''s'");
    }

    #[test]
    fn no_command_is_one_that_export_refuses() {
        let leave = |mlx| Leave { model: "m".into(), is_packed: false, mlx };
        let with = |mlx| leave(mlx).lines("run", "run/adapter", Some(&LoraConfig::default())).join("\n");
        let floats = with(MlxFit::Floats("mlp.experts.{}.gate_proj"));
        assert!(floats.contains("--format mlx --output") && !floats.contains("int4"), "{floats}");
        assert!(!floats.contains("mlx-adapter") && !with(MlxFit::Nothing).contains("mlx"));
        let same = Pattern::new("q_proj", 16).unwrap();
        let other = Pattern::new("k_proj", 8).unwrap();
        let lora = LoraConfig { rank_pattern: vec![same], ..LoraConfig::default() };
        for (lora, in_gguf, in_mlx) in [
            (LoraConfig { dora: true, ..lora.clone() }, false, true),
            (LoraConfig { modules_to_save: vec!["lm_head".into()], ..lora.clone() }, false, false),
            (LoraConfig { rank_pattern: vec![other], ..lora.clone() }, true, false),
            (lora, true, true),
        ] {
            let lines = leave(MlxFit::All).lines("run", "run/adapter", Some(&lora)).join("\n");
            assert_eq!(lines.contains("--format gguf-lora"), in_gguf, "{lines}");
            assert_eq!(lines.contains("--format mlx-adapter"), in_mlx, "{lines}");
            assert!(
                lines.contains("--format gguf ") && lines.contains("--format mlx ") && lines.contains("--format hf "),
                "{lines}"
            );
        }
    }
}

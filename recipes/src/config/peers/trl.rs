//! TRL: `trl sft --config sft.yaml`, and the same of `dpo` and `kto`. The keys that it shares with others are in `transformers.rs`.

use serde_json::{Map, Value, json};

use super::{NO_EVALUATION, NO_OTHER_SET, OWN_ROWS, PADDING, Peer};
use crate::config::choice::Recipe;
use crate::config::entry::Entry;
use crate::config::meaning::Meaning::{self, Harmless, Only, Refused, Same, Translated};

const KEYS: &[(&str, Meaning)] = &[
    ("dataset_name", Same("data")),
    ("use_peft", Translated),
    ("test_split_size", Same("val_split")),
    ("dataset_train_split", Only(&["train"], NO_OTHER_SET)),
    ("dataset_test_split", Only(&["test", "valid", "validation"], NO_OTHER_SET)),
    ("dataset_config", Refused(NO_OTHER_SET)),
    ("dataset_streaming", Harmless(OWN_ROWS)),
    ("dataset_kwargs", Refused("rows are always prepared from the file; remove it")),
    ("model_init_kwargs", Refused("set `dtype` and `quantization` themselves, and remove it")),
    ("chat_template_path", Refused("put the template into the checkpoint's tokenizer_config.json, and remove it")),
    ("is_encoder_decoder", Refused("only causal language models are trained; remove it")),
];

const SETTINGS: &[(Meaning, &[&str])] = &[
    (Harmless(PADDING), &["padding_value"]),
    (Harmless(NO_EVALUATION), &["generate_during_eval"]),
    (Harmless("the reference is the same model without its adapters"), &["precompute_ref_batch_size"]),
    (Harmless("it belongs to sync_ref_model, which is refused"), &["ref_model_mixup_alpha", "ref_model_sync_steps"]),
    (Harmless("it belongs to f_divergence_type, which is reverse_kl"), &["f_alpha_divergence_coef"]),
    (Harmless("it belongs to a loss that is refused"), &["discopop_tau"]),
];

pub(in crate::config) const PEER: Peer = Peer {
    name: "TRL",
    keys: KEYS,
    settings: SETTINGS,
    signs: &["dataset_name", "use_peft", "dataset_config", "dataset_train_split", "dataset_test_split", "model_init_kwargs"],
    defaults,
    traps,
};

/// From its `SFTConfig`, `DPOConfig`, `KTOConfig`, `CPOConfig`, `ORPOConfig` and `ModelConfig`, transformers' `TrainingArguments` and
/// PEFT's modules of Llama-like families. Without `use_peft` it trains every weight.
fn defaults(given: &Map<String, Value>) -> Value {
    let recipe = given.get("recipe").and_then(Value::as_str).unwrap_or("sft");
    let is_sft = recipe == "sft";
    let mut defaults = json!({
        "fine_tune_type": "full", "rank": 16, "alpha": 32.0, "dropout": if is_sft { 0.05 } else { 0.0 },
        "target_modules": ["q_proj", "v_proj"], "batch_size": 8, "epochs": 3, "learning_rate": if is_sft { 2e-5 } else { 1e-6 },
        "lr_scheduler": "linear", "warmup": 0.0, "weight_decay": 0.0, "max_seq_length": 1024,
        "grad_checkpoint": true,
    });
    // Its trainer of KTO keeps the order of the rows.
    if recipe == "kto" {
        defaults["shuffle"] = false.into();
    }
    defaults
}

fn traps(given: &Map<String, Value>) -> Vec<String> {
    let mut traps = Vec::new();
    if let Some(length) = given.get("max_seq_length") {
        traps.push(format!(
            "TRL's `max_length` truncates rows at its default of 1024 tokens, burnish's at 2048; here it is {length}"
        ));
    }
    if given.get("fine_tune_type").is_some_and(|kind| kind == "full") {
        traps.push("without `use_peft: true` TRL trains every weight, and so does this run".to_owned());
    }
    traps
}

/// Reads what depends on several keys: which tokens are learned, dropout, and `alpha`, which in TRL's CPO is a part of its loss.
///
/// # Errors
/// The key, and why it is not supported.
pub(in crate::config) fn rewrite(
    entries: &mut Vec<Entry>,
    recipe: Option<Recipe>,
    notes: &mut Vec<String>,
) -> Result<(), (&'static str, String)> {
    let given = |name: &str| entries.iter().find(|entry| entry.name == name).map(|entry| entry.value.clone());
    if let Some(alpha) = given("alpha").filter(|alpha| *alpha != 0 && *alpha != 0.0) {
        return Err((
            "alpha",
            format!("= {alpha} is AlphaPO's in TRL, which is not supported; the adapters' is `lora_alpha`"),
        ));
    }
    let recipe = recipe.unwrap_or(Recipe::Sft);
    let only = ["completion_only_loss", "assistant_only_loss"];
    if recipe == Recipe::Sft {
        let asked: Vec<Value> = only.iter().filter_map(|name| given(name)).filter(|value| !value.is_null()).collect();
        let masks = asked.iter().any(|value| *value == true);
        let data = given("dataset_name").and_then(|data| data.as_str().map(str::to_owned)).unwrap_or_default();
        // Without a word in the file, TRL masks the prompts of rows with prompt and completion, and nothing of chats.
        let (masks, why) = match (asked.is_empty(), has_completions(&data)) {
            (false, _) => (masks, ""),
            (true, Some(found)) if found => (true, ", as TRL does with rows that have `prompt` and `completion`"),
            (true, Some(_)) => {
                (false, ", as TRL does with rows of this kind; `assistant_only_loss: true` learns the answers only")
            }
            (true, None) => {
                let said = "TRL learns whole chats unless `assistant_only_loss` is true; which rows `data` has is not known yet, so \
                            `mask_prompt = true`, which learns the answers only: set it to choose";
                notes.push(said.to_owned());
                (true, "")
            }
        };
        if !(asked.is_empty() && why.is_empty()) {
            notes.push(format!(
                "`mask_prompt = {masks}`{}",
                if why.is_empty() { " (completion_only_loss, assistant_only_loss)" } else { why }
            ));
        }
        entries.retain(|entry| !only.contains(&entry.name.as_str()));
        if !entries.iter().any(|entry| entry.name == "mask_prompt") {
            entries.push(Entry::new("mask_prompt", masks.into()));
        }
    }
    if given_true(entries, "disable_dropout").unwrap_or(recipe != Recipe::Sft) {
        let dropout = entries.iter().find(|entry| entry.name == "lora_dropout");
        if dropout.and_then(|entry| entry.value.as_f64()).is_some_and(|share| share > 0.0) {
            notes.push(
                "`dropout = 0.0`, because `disable_dropout` is true in TRL's configurations of preferences".to_owned(),
            );
        }
        entries.retain(|entry| entry.name != "lora_dropout");
        entries.push(Entry::new("dropout", json!(0.0)));
    }
    entries.retain(|entry| !["disable_dropout", "alpha"].contains(&entry.name.as_str()));
    Ok(())
}

fn given_true(entries: &[Entry], name: &str) -> Option<bool> {
    entries.iter().find(|entry| entry.name == name)?.value.as_bool()
}

/// Whether the first row of a local file has a prompt and a completion; `None` if there is no such file.
fn has_completions(data: &str) -> Option<bool> {
    use std::io::BufRead;
    let path = std::path::Path::new(data);
    let path = if path.is_dir() { path.join("train.jsonl") } else { path.to_owned() };
    let mut line = String::new();
    std::io::BufReader::new(std::fs::File::open(path).ok()?).read_line(&mut line).ok()?;
    let row: Value = serde_json::from_str(line.trim()).ok()?;
    Some(row.get("prompt").is_some() && row.get("completion").is_some())
}

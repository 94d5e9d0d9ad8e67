//! The programs whose files are understood: for each a table of its keys, and its defaults.

pub(super) mod axolotl;
pub(super) mod llama_factory;
pub(super) mod mlx_lm;
pub(super) mod transformers;
pub(super) mod trl;
pub(super) mod unsloth;

use serde_json::{Map, Value};

use super::meaning::Meaning;

/// A program whose files are understood.
pub(super) struct Peer {
    pub name: &'static str,
    pub keys: &'static [(&'static str, Meaning)],
    /// Keys that share a meaning.
    pub settings: &'static [(Meaning, &'static [&'static str])],
    /// Keys by which its files are recognised.
    pub signs: &'static [&'static str],
    /// Its defaults under our names, where they differ from ours and affect the result.
    pub defaults: fn(&Map<String, Value>) -> Value,
    /// What its users may not expect of a run with these values of ours.
    pub traps: fn(&Map<String, Value>) -> Vec<String>,
}

impl Peer {
    /// Every key with its meaning.
    pub fn meanings(&self) -> impl Iterator<Item = (&'static str, Meaning)> {
        let of_setting =
            |(meaning, names): &'static (Meaning, &'static [&'static str])| names.iter().map(|name| (*name, *meaning));
        self.keys.iter().copied().chain(self.settings.iter().flat_map(of_setting))
    }
}

fn no_traps(_: &Map<String, Value>) -> Vec<String> {
    Vec::new()
}

/// Defaults of a program that quantises the scales of nf4 too.
fn with_double_quant(given: &Map<String, Value>, mut defaults: Value) -> Value {
    if given.get("quantization").is_some_and(|kind| kind == "nf4") {
        defaults["double_quant"] = true.into();
    }
    defaults
}

// Reasons and advice that several programs share.
const CHECKPOINTING: &str = "there is one way to checkpoint, on the device; see grad_checkpoint";
const ONE_ATTENTION: &str = "each backend has its own attention";
const ONE_DEVICE: &str = "training runs on one device; see backend";
const OWN_KERNELS: &str = "each backend has its own kernels";
const OWN_EVENTS: &str = "the event files are in `tensorboard` in output_dir";
const OWN_LOG: &str = "metrics are written to metrics.jsonl in output_dir";
const TRACKIO_LATER: &str = "a run of trackio stays on this machine; `trackio sync` uploads it";
const OWN_ROWS: &str = "rows are tokenised on all cores and kept for the next run";
const OWN_TEMPLATE: &str = "the checkpoint's own chat template is used";
const NO_EVALUATION: &str =
    "use `burnish eval`; validation rows come from val_split, or from valid.jsonl in the `data` folder";
const NO_EXPORT: &str = "the run writes an adapter; use `burnish export` or `burnish merge` for other formats";
const NO_GENERATION: &str = "use `burnish generate` for inference";
const NO_PRUNING: &str = "checkpoints are always complete and can be resumed";
const NO_REMOTE_CODE: &str = "code in a checkpoint is never run";
const NO_UPLOAD: &str = "a run uploads nothing; `burnish push` does when it has ended, with the token in HF_TOKEN";
const COMPUTE_DTYPE: &str = "the model computes in `dtype`";
const ONLY_NF4: &str = "the only table of four-bit floats is nf4; remove it";
const STEPS: &str = "use save_every and steps_per_eval, which count optimizer steps";
const TEXT_ONLY: &str = "only text models are supported";

const NO_LOFTQ: &str = "set init = \"loftq\" and quantization = \"nf4\", which take one iteration, and remove it";
const NO_RATES: &str = "only lora_plus_ratio sets a second learning rate; remove it";
const NO_OTHER_MODULES: &str = "either adapters or all weights are trained; see fine_tune_type";
const NO_PATTERN: &str = "all layers have the same rank and alpha; remove it";
const NO_SCHEDULE_PART: &str = "this version has only lr_scheduler, learning_rate and warmup; remove it";
const NO_OPTIMIZER: &str = "this version has only adamw and adamw8bit; remove it";
const NO_LAYERS: &str = "use num_layers, which counts blocks from the last";
const NO_LOSS: &str = "the loss is the cross-entropy of the answer's tokens; remove it";
const NO_NEFTUNE: &str = "this version has no noise on embeddings; remove it";
const NO_NEW_TOKENS: &str = "the vocabulary of the checkpoint can't be changed; remove it";
const NO_REVISION: &str = "only the main revision is loaded; download another one and set `model` to its folder";
const NO_LOSS_PART: &str = "see loss_type for the losses; remove it";
const NO_ADAPTER_KIND: &str = "the adapters are LoRA, rsLoRA or DoRA, with the starts that `init` lists; remove it";
const NO_GENERATED: &str = "no recipe learns from answers that the model generates meanwhile; remove it";
const NO_OPTIMIZER_PART: &str = "it belongs to an optimizer that is refused";
const NO_OTHER_SET: &str =
    "set `data` to a file with these rows, or to a hub id with the splits train and valid, and remove it";
const NO_QAT: &str = "weights are quantised before training, not during it; remove it";
const PADDING: &str = "see padding_free";
const NO_REWARDS: &str = "no recipe has a reward model; remove it";
const NO_REFERENCE: &str = "the reference is the model at the start of the run, with its adapter; remove it";
const NO_SMOOTHING: &str = "set label_smoothing, with loss_type = \"robust\" for dpo, and remove it";

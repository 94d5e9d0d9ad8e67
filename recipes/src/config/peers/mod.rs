//! The programs whose files are understood: for each a table of its keys, and what it takes for keys left out.

pub(super) mod axolotl;
mod llama_factory;
pub(super) mod mlx_lm;
mod transformers;
mod unsloth;

use serde_json::{Map, Value};

use super::alias::Meaning;

/// A program whose files are understood.
pub(super) struct Peer {
    pub name: &'static str,
    pub keys: &'static [(&'static str, Meaning)],
    /// Keys by which its files are known.
    pub signs: &'static [&'static str],
    /// What it takes for keys that its file leaves out, under our names, where the result depends on it.
    pub defaults: fn(&Map<String, Value>) -> Value,
}

/// All of them; of two that a file may belong to, the earlier is taken.
pub(super) const PEERS: [&Peer; 5] =
    [&mlx_lm::PEER, &unsloth::PEER, &axolotl::PEER, &llama_factory::PEER, &transformers::PEER];

impl Peer {
    /// Whose file has these keys, as far as they tell.
    pub fn of<'a>(names: impl Iterator<Item = &'a str> + Clone) -> Option<&'static Self> {
        let signs = |peer: &Self| names.clone().filter(|name| peer.signs.contains(name)).count();
        let mut found = None;
        for peer in PEERS {
            if signs(peer) > found.map_or(0, signs) {
                found = Some(peer);
            }
        }
        found
    }
}

// Why keys that several programs have do nothing, or what to do about them.
const CHECKPOINTING: &str =
    "activations are kept; the result is the same, and a lower batch_size or max_seq_length saves memory";
const ONE_ATTENTION: &str = "each backend has its own attention";
const ONE_DEVICE: &str = "one device trains; see backend";
const OWN_KERNELS: &str = "each backend has its own kernels";
const OWN_LOG: &str = "each step is a line of metrics.jsonl in output_dir";
const OWN_ROWS: &str = "rows are prepared in memory, each time";
const OWN_TEMPLATE: &str = "the checkpoint's own chat template is used";
const NO_EVALUATION: &str =
    "`burnish eval` evaluates; validation rows come from valid.jsonl in the folder that `data` names";
const NO_GENERATION: &str = "`burnish generate` answers prompts";
const NO_PRUNING: &str = "a checkpoint is whole and can be resumed";
const NO_REMOTE_CODE: &str = "code of a checkpoint is never run";
const NO_UPLOAD: &str = "nothing is uploaded; HF_TOKEN opens gated models";
const NOT_QUANTISED: &str = "the model is not quantised";
const NO_SPLIT: &str = "all rows are trained on; validation rows come from valid.jsonl in the folder that `data` names";
const STEPS: &str = "checkpoints and validations are counted in optimizer steps: save_every, steps_per_eval";
const TEXT_ONLY: &str = "the models here read text alone";

const NO_4BIT: &str = "quantised bases are not part of this version; leave it out to train on the full weights";
const NO_DORA: &str = "only LoRA and rsLoRA are part of this version; leave it out";
const NO_INIT: &str = "adapters start as PEFT's default does: A random, B zero; leave it out";
const NO_LORA_PLUS: &str = "one learning rate is for all adapters; leave it out";
const NO_OTHER_MODULES: &str = "adapters or all weights are trained, nothing between; see fine_tune_type";
const NO_PATTERN: &str = "one rank and one alpha are for all layers; leave it out";
const NO_SCHEDULE_PART: &str = "it is not part of this version; say lr_scheduler, learning_rate and warmup alone";
const NO_OPTIMIZER: &str = "adamw is the optimizer of this version; leave it out";
const NO_LAYERS: &str = "num_layers takes the last so many blocks";
const NO_LOSS: &str = "the loss is the cross-entropy of the learned tokens; leave it out";
const NO_NEFTUNE: &str = "noise on embeddings is not part of this version; leave it out";
const NO_NEW_TOKENS: &str = "the vocabulary stays the checkpoint's; leave it out";
const NO_REVISION: &str = "the main revision is loaded; download another into a folder and name that as `model`";
const SFT_ONLY: &str = "supervised fine-tuning is what `burnish train` does; leave it out";

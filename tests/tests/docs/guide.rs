//! What Unsloth's guide for Apple silicon has, and `docs/the-guide.md` must answer.

use super::page::Page;

/// Its commands, settings, messages and variables.
const ITEMS: [&str; 48] = [
    "pip install unsloth",
    "from unsloth import FastLanguageModel",
    "from_pretrained",
    "model_name",
    "max_seq_length",
    "load_in_4bit",
    "dtype=torch.bfloat16",
    "r=16",
    "r=8",
    "target_modules",
    "lora_alpha",
    "bitsandbytes",
    "padding-free",
    "FSDP",
    "DeepSpeed",
    "adamw_8bit",
    "vLLM",
    "flash attention",
    "vision models",
    "GGUF export",
    "fused",
    "paged",
    "bfloat16",
    "RTX 3090",
    "75%",
    "use_gradient_checkpointing",
    "per_device_train_batch_size",
    "gradient_accumulation_steps",
    "adamw_torch",
    "fp16",
    "bf16",
    "No module named 'triton'",
    "bitsandbytes not found",
    "MPS backend not available",
    "CUDA out of memory",
    "Padding-free training not supported",
    "Training is very slow",
    "System becomes unresponsive",
    "Process killed",
    "verify_apple.py",
    "--full",
    "--skip-downloads",
    "UNSLOTH_FORCE_MPS",
    "UNSLOTH_DISABLE_AUTO_PADDING_FREE",
    "UNSLOTH_ENABLE_MLX_QUANT",
    "UNSLOTH_VERBOSE",
    "patch_for_mac",
    "native Metal kernels",
];

/// What the page lacks.
pub fn unanswered() -> Vec<String> {
    let text = Page::read("docs/the-guide.md".as_ref()).text;
    ITEMS
        .iter()
        .filter(|item| !text.contains(**item))
        .map(|item| format!("docs/the-guide.md does not answer `{item}`"))
        .collect()
}

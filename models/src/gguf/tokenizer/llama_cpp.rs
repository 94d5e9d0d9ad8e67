//! What llama.cpp knows beside a file: patterns of its pre-tokenizers, and the tokens that end a text.
//!
//! Source: `llama-vocab.cpp` of llama.cpp, as llama-cpp-python 0.3.36 carries it.

use super::Metadata;

/// Splits as Llama 3 does.
pub const LLAMA3_PATTERN: &str = "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+";
/// Splits as Qwen 2 does.
pub const QWEN2_PATTERN: &str = "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+";

/// Splits in turn, as llama.cpp does where a file names no pre-tokenizer, or `default`.
pub const DEFAULT_PATTERNS: [&str; 4] = [
    "[\\p{P}\\$\\+<=>\\^~\\|]+",
    "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)",
    "\\p{N}+",
    "[0-9][0-9][0-9]",
];

/// Texts of tokens that end a generated text, whatever the metadata says: `special_eog_ids` of llama.cpp.
pub(super) const END_TEXTS: [&str; 22] = [
    "<|eot_id|>",
    "<|im_end|>",
    "<|end|>",
    "<|return|>",
    "<|call|>",
    "<|flush|>",
    "<|calls|>",
    "<end_of_turn>",
    "<|endoftext|>",
    "</s>",
    "<|eom_id|>",
    "<EOT>",
    "_<EOT>",
    "[EOT]",
    "[EOS]",
    "<|end_of_text|>",
    "<end_of_utterance>",
    "<eos>",
    "<turn|>",
    "<|tool_response>",
    "<｜end▁of▁sentence｜>",
    "[e~[",
];
/// Ends of fill-in-the-middle, which end a text too: the key, and texts that serve where the key is absent.
const FILL_ENDS: [(&str, &[&str]); 3] = [
    ("fim_pad", &["<|fim_pad|>", "<fim-pad>", "<fim_pad>", "<PAD>", "[PAD]"]),
    ("fim_rep", &["<|fim_repo|>", "<|repo_name|>", "<fim-repo>", "<REPO>", "<reponame>"]),
    ("fim_sep", &["<|file_sep|>"]),
];

/// How a file of the kind `gpt2` splits text into words.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Split {
    Llama3,
    Qwen2,
    /// Single digits, then as GPT-2.
    Digits,
    Gpt2,
    Default,
}

/// The split that a name of `tokenizer.ggml.pre` stands for. Names of splits that are not written here are not known.
pub(super) fn split_of(pre: &str) -> Option<Split> {
    Some(match pre {
        "llama-bpe" | "llama3" | "llama-v3" | "falcon3" | "falcon-h1" | "pixtral" | "midm-2.0" | "lfm2" | "jina-v5-nano"
        | "smaug-bpe" | "dbrx" | "chatglm-bpe" | "glm4" => Split::Llama3,
        "qwen2" | "deepseek-r1-qwen" | "kormo" | "f2llmv2" | "megrez" | "stablelm2" | "hunyuan" | "solar-open" => {
            Split::Qwen2
        }
        "smollm" | "starcoder" | "refact" | "command-r" | "codeshell" | "exaone" | "minerva-7b" | "mellum2" => Split::Digits,
        "gpt-2" | "phi-2" | "mpt" | "olmo" | "jais" | "trillion" | "granite-docling" | "exaone4" | "gigachat" | "mellum"
        | "a.x-4.0" => Split::Gpt2,
        "default" => Split::Default,
        _ => return None,
    })
}

/// Whether llama.cpp takes a word that is in the vocabulary as it is, and, where the file does not say, adds a start token.
pub(super) fn is_llama3(pre: &str) -> bool {
    ["llama-bpe", "llama3", "llama-v3", "falcon3", "falcon-h1", "pixtral", "midm-2.0", "lfm2", "jina-v5-nano"].contains(&pre)
}

/// Ids of the tokens that end a text beside `eos`, as llama.cpp collects them.
pub(super) fn end_tokens(metadata: &Metadata, tokens: &[&str]) -> Vec<u32> {
    let keyed = |key: &str| metadata.number(&format!("tokenizer.ggml.{key}_token_id")).filter(|id| *id < tokens.len());
    let by_text = |texts: &[&str]| tokens.iter().position(|token| texts.contains(token));
    let mut ids: Vec<usize> = ["eot", "eom"].into_iter().filter_map(keyed).collect();
    ids.extend(FILL_ENDS.iter().filter_map(|(key, texts)| keyed(key).or_else(|| by_text(texts))));
    ids.extend(tokens.iter().enumerate().filter(|(_, token)| END_TEXTS.contains(token)).map(|(id, _)| id));
    // Where these end a message, `<|end|>` ends a part of it.
    let has = |text: &str| tokens.contains(&text);
    if (has("<|return|>") && has("<|call|>")) || ((has("<|call|>") || has("<|calls|>")) && has("<|flush|>")) {
        ids.retain(|id| tokens[*id] != "<|end|>");
    }
    ids.sort_unstable();
    ids.dedup();
    ids.into_iter().map(|id| id as u32).collect()
}

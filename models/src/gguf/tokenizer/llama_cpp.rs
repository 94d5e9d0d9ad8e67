//! What llama.cpp has in its code: the patterns of pre-tokenizers, and the tokens that end a text.
//!
//! Source: `llama-vocab.cpp` of llama.cpp, as llama-cpp-python 0.3.36 carries it.

use crate::gguf::metadata::Metadata;

/// The pattern of Llama 3.
pub const LLAMA3_PATTERN: &str = "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+";
/// The pattern of Qwen 2.
pub const QWEN2_PATTERN: &str = "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+";
/// The pattern of GPT-4o, which gpt-oss and Phi-4-mini have. llama.cpp writes upper case as "not a to z" and knows no combining marks, so it
/// splits some words of other scripts than Latin differently.
pub const GPT4O_PATTERN: &str = "[^\\r\\n\\p{L}\\p{N}]?[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]*[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\\r\\n\\p{L}\\p{N}]?[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]+[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n/]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+";
/// The pattern of Mistral's newer tokenizers, since Mistral Nemo. What is said of [`GPT4O_PATTERN`] is true of it too.
pub const TEKKEN_PATTERN: &str = "[^\\r\\n\\p{L}\\p{N}]?[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]*[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]+|[^\\r\\n\\p{L}\\p{N}]?[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]+[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]*|\\p{N}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n/]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+";

/// The pattern of Seed-Coder and Seed-OSS.
const SEED_PATTERN: &str = "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1}| ?[^\\s\\p{L}\\p{N}\\r\\n]+|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+";

/// Each pattern with the values of `tokenizer.ggml.pre` that mean it, of which the first is written, except for tokenizers with the
/// pattern of Llama 3 that use merges.
pub const PATTERNS: &[(&str, &[&str])] = &[
    (
        LLAMA3_PATTERN,
        &[
            "llama-bpe",
            "llama3",
            "llama-v3",
            "falcon3",
            "falcon-h1",
            "pixtral",
            "midm-2.0",
            "lfm2",
            "jina-v5-nano",
            "smaug-bpe",
            "dbrx",
            "chatglm-bpe",
            "glm4",
        ],
    ),
    (QWEN2_PATTERN, &["qwen2", "deepseek-r1-qwen", "kormo", "f2llmv2", "megrez", "stablelm2", "hunyuan", "solar-open"]),
    (GPT4O_PATTERN, &["gpt-4o", "llama4", "kanana2"]),
    (TEKKEN_PATTERN, &["tekken"]),
    (SEED_PATTERN, &["seed-coder"]),
];

/// The patterns, applied one after the other, that llama.cpp uses if a file names no pre-tokenizer or `default`.
pub const DEFAULT_PATTERNS: [&str; 4] = [
    "[\\p{P}\\$\\+<=>\\^~\\|]+",
    "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)",
    "\\p{N}+",
    "[0-9][0-9][0-9]",
];

/// Tokens that end a generated text even if the metadata does not name them: `special_eog_ids` of llama.cpp.
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
/// Tokens of fill-in-the-middle that end a text too: the key, and the tokens that are used if the key is absent.
const FILL_ENDS: [(&str, &[&str]); 3] = [
    ("fim_pad", &["<|fim_pad|>", "<fim-pad>", "<fim_pad>", "<PAD>", "[PAD]"]),
    ("fim_rep", &["<|fim_repo|>", "<|repo_name|>", "<fim-repo>", "<REPO>", "<reponame>"]),
    ("fim_sep", &["<|file_sep|>"]),
];

/// How text is split into words in a file of the kind `gpt2`.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Split {
    /// By a pattern.
    Pattern(&'static str),
    /// Into single digits, then as in GPT-2.
    Digits,
    Gpt2,
    Default,
}

/// The split for a value of `tokenizer.ggml.pre`; `None` if it is not supported.
pub(super) fn split_of(pre: &str) -> Option<Split> {
    if let Some((pattern, _)) = PATTERNS.iter().find(|(_, names)| names.contains(&pre)) {
        return Some(Split::Pattern(pattern));
    }
    Some(match pre {
        "smollm" | "starcoder" | "refact" | "command-r" | "codeshell" | "exaone" | "minerva-7b" | "mellum2" => Split::Digits,
        "gpt-2" | "phi-2" | "mpt" | "olmo" | "jais" | "trillion" | "granite-docling" | "exaone4" | "gigachat" | "mellum"
        | "a.x-4.0" => Split::Gpt2,
        "default" => Split::Default,
        _ => return None,
    })
}

const LLAMA3: [&str; 9] =
    ["llama-bpe", "llama3", "llama-v3", "falcon3", "falcon-h1", "pixtral", "midm-2.0", "lfm2", "jina-v5-nano"];

/// Whether llama.cpp takes a word that is in the vocabulary whole, whatever its merges.
pub(super) fn ignores_merges(pre: &str) -> bool {
    LLAMA3.contains(&pre) || pre == "glm4" || pre == "tekken"
}

/// Whether llama.cpp adds a start token by default.
pub(super) fn adds_bos(pre: &str) -> bool {
    LLAMA3.contains(&pre) || pre == "tekken"
}

/// The ids of the tokens that end a text besides `eos`, as in llama.cpp.
pub(super) fn end_tokens(metadata: &Metadata, tokens: &[&str]) -> Vec<u32> {
    let keyed = |key: &str| metadata.number(&format!("tokenizer.ggml.{key}_token_id")).filter(|id| *id < tokens.len());
    let by_text = |texts: &[&str]| tokens.iter().position(|token| texts.contains(token));
    let mut ids: Vec<usize> = ["eot", "eom"].into_iter().filter_map(keyed).collect();
    ids.extend(FILL_ENDS.iter().filter_map(|(key, texts)| keyed(key).or_else(|| by_text(texts))));
    ids.extend(tokens.iter().enumerate().filter(|(_, token)| END_TEXTS.contains(token)).map(|(id, _)| id));
    // In a vocabulary with these tokens, `<|end|>` ends only a part of a message.
    let has = |text: &str| tokens.contains(&text);
    if (has("<|return|>") && has("<|call|>")) || ((has("<|call|>") || has("<|calls|>")) && has("<|flush|>")) {
        ids.retain(|id| tokens[*id] != "<|end|>");
    }
    ids.sort_unstable();
    ids.dedup();
    ids.into_iter().map(|id| id as u32).collect()
}

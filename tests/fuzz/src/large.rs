//! Large files that say little, or the same again and again: what random damage rarely makes.

use std::fmt::Write;

use crate::target::TARGETS;
use crate::target::Target;

/// About the bytes of each.
const SIZE: usize = 240 << 10;

/// The files, each with its reader and a name.
pub fn files() -> Vec<(&'static Target, &'static str, Vec<u8>)> {
    let find = |name: &str| TARGETS.iter().find(|target| target.name == name);
    let all = json().into_iter().chain(rows()).chain(settings()).chain(binary()).chain(templates());
    all.filter_map(|(target, name, bytes)| find(target).map(|target| (target, name, bytes))).collect()
}

type Named = (&'static str, &'static str, Vec<u8>);

/// A part, repeated between a beginning and an end.
fn repeated(begin: &str, part: &str, end: &str) -> Vec<u8> {
    let count = (SIZE - begin.len() - end.len()) / part.len();
    [begin, &part.repeat(count), end].concat().into_bytes()
}

/// As [`repeated`], with the number of each part in hexadecimal where it has `#`.
fn numbered(begin: &str, part: &str, end: &str) -> Vec<u8> {
    let mut text = begin.to_owned();
    for number in 0.. {
        if text.len() + part.len() + end.len() > SIZE {
            break;
        }
        text.push_str(&part.replace('#', &format!("{number:x}")));
    }
    (text + end).into_bytes()
}

fn json() -> Vec<Named> {
    vec![
        ("model-config", "numbers", repeated("[", "0,", "0]")),
        ("model-config", "objects", repeated("[", "{\"\":0},", "0]")),
        ("model-config", "keys", numbered("{", "\"#\":0,", "\"model_type\":\"llama\"}")),
        ("model-config", "layer types", repeated("{\"model_type\":\"gemma3\",\"layer_types\":[", "\"a\",", "\"\"]}")),
        ("peft-config", "keys", numbered("{\"peft_type\":\"LORA\",\"r\":8,", "\"#\":0,", "\"a\":0}")),
        ("peft-config", "patterns", numbered("{\"peft_type\":\"LORA\",\"r\":8,\"rank_pattern\":{", "\"#\":1,", "\"a\":1}}")),
        ("peft-config", "modules", numbered("{\"peft_type\":\"LORA\",\"r\":8,\"target_modules\":[", "\"#\",", "\"a\"]}")),
        ("peft-config", "expression", repeated("{\"peft_type\":\"LORA\",\"r\":8,\"target_modules\":\"", "(a|b)*", "\"}")),
        ("index", "files", numbered("{\"weight_map\":{", "\"#\":\"#\",", "\"a\":\"a\"}}")),
        ("index", "tensors", numbered("{\"weight_map\":{", "\"#\":\"a\",", "\"a\":\"a\"}}")),
        (
            "tokenizer",
            "tokens",
            numbered("{\"model\":{\"type\":\"BPE\",\"merges\":[],\"vocab\":{", "\"#\":0,", "\"z\":1}}}"),
        ),
        (
            "tokenizer",
            "added",
            repeated("{\"model\":{\"type\":\"BPE\",\"merges\":[],\"vocab\":{}},\"added_tokens\":[", ADDED, "0]}"),
        ),
        ("template-config", "keys", numbered("{", "\"#_token\":\"a\",", "\"a\":\"b\"}")),
    ]
}

const ADDED: &str = "{\"id\":0,\"content\":\"a\",\"single_word\":false,\"lstrip\":false,\"rstrip\":false,\"normalized\":false,\"special\":true},";

fn rows() -> Vec<Named> {
    let message = "{\"role\":\"user\",\"content\":\"\"},";
    let answer = "{\"role\":\"assistant\",\"content\":\"a\"}";
    vec![
        ("json-list", "objects", repeated("{\n\"a\":1}\n", "{}\n", "")),
        ("json-list", "nested", repeated("[[", "0,", "0]]")),
        ("json-list", "ids", repeated("[{\"input_ids\":[", "1,", "1]}]")),
        ("json-list", "empty messages", repeated("[{\"messages\":[", "{\"\":0},", "0]}]")),
        ("jsonl", "messages", repeated("{\"messages\":[", message, &format!("{answer}]}}"))),
        ("jsonl", "tools", repeated("{\"text\":\"a\",\"tools\":[", "{},", "0]}")),
        ("jsonl", "keys", numbered("{", "\"#\":0,", "\"text\":\"a\"}")),
        ("csv", "columns", numbered("text", ",#", "\na\n")),
        ("csv", "quotes", repeated("text\n", "\"\n", "")),
        ("csv", "rows", repeated("text\n", "a\n", "")),
    ]
}

fn settings() -> Vec<Named> {
    vec![
        ("run-toml", "keys", numbered("", "a#=1\n", "")),
        ("run-toml", "tables", numbered("", "[a#]\n", "")),
        ("run-toml", "inline tables", repeated("a=[", "{a=1},", "0]\n")),
        ("run-toml", "numbers", repeated("a=[", "0,", "0]\n")),
        ("run-toml", "nested keys", repeated("a", ".a", "=1\n")),
        ("run-toml", "nested lists", repeated("a=", "[", "\n")),
        ("run-toml", "no keys", repeated("", "= ", "\n")),
        ("run-yaml", "keys", numbered("", "a#: 1\n", "")),
        ("run-yaml", "numbers", repeated("[", "0,", "0]\n")),
        ("run-yaml", "list", repeated("", "- 0\n", "")),
        ("run-yaml", "nested lists", repeated("", "- ", "")),
        ("run-yaml", "one alias", repeated(&format!("a: &a \"{}\"\nb: [", "x".repeat(100_000)), "*a,", "*a]\n")),
        ("run-yaml", "aliases", aliases()),
    ]
}

/// Lists of which each has the one before nine times.
fn aliases() -> Vec<u8> {
    let mut text = "a0: &a0 [x]\n".to_owned();
    for level in 1..9 {
        let before = level - 1;
        writeln!(text, "a{level}: &a{level} [{}*a{before}]", format!("*a{before},").repeat(8)).ok();
    }
    text.into_bytes()
}

fn binary() -> Vec<Named> {
    let header = |entries: &str| {
        let mut bytes = (entries.len() as u64).to_le_bytes().to_vec();
        bytes.extend(entries.as_bytes());
        bytes
    };
    let tensor = "\"#\":{\"dtype\":\"F32\",\"shape\":[0],\"data_offsets\":[0,0]},";
    let tensors = numbered("{", tensor, "\"__metadata__\":{}}");
    let dimensions = repeated("{\"a\":{\"dtype\":\"F32\",\"data_offsets\":[0,0],\"shape\":[", "0,", "0]}}");
    let metadata = numbered("{\"__metadata__\":{", "\"#\":\"\",", "\"a\":\"\"}}");
    let mut all = vec![("compressed", "zeros", vec![0; SIZE]), ("pytorch", "zeros", vec![0; SIZE])];
    for (name, text) in [("tensors", tensors), ("dimensions", dimensions), ("metadata", metadata)] {
        all.push(("safetensors", name, header(&String::from_utf8_lossy(&text))));
    }
    for target in ["gguf", "imatrix", "gguf-adapter"] {
        all.push((
            target,
            "tensors",
            gguf(&[], (SIZE / 64) as u64, |number| tensor_info(&format!("{number:x}.in_sum2"), &[1], number)),
        ));
        all.push((target, "bytes", gguf(&[list("a", 0, SIZE / 2, |_| vec![0])], 0, |_| Vec::new())));
        all.push((
            target,
            "keys",
            gguf(&(0..SIZE / 32).map(|at| entry(&format!("{at:x}"), 0, &[0])).collect::<Vec<_>>(), 0, |_| Vec::new()),
        ));
        // All of them the same bytes.
        let experts = |number: u64| tensor_info(&format!("blk.{number}.ffn_gate_exps.weight"), &[1, 1, 4096], 0);
        all.push((
            target,
            "experts",
            [gguf(&[text("general.architecture", "qwen3moe")], 2000, experts), vec![0; SIZE / 2]].concat(),
        ));
    }
    for (name, model, token) in [("runs", "llama", true), ("tokens", "gpt2", false)] {
        let token = |at: usize| if token { "a".repeat(at + 1) } else { format!("{at:x}") };
        let count = if model == "llama" { 600 } else { SIZE / 24 };
        let entries = [
            text("general.architecture", "llama"),
            text("tokenizer.ggml.model", model),
            list("tokenizer.ggml.tokens", 8, count, |at| counted(&token(at))),
            list("tokenizer.ggml.scores", 6, count, |_| vec![0; 4]),
            list("tokenizer.ggml.merges", 8, 1, |_| counted("a b")),
        ];
        all.push(("gguf", name, gguf(&entries, 0, |_| Vec::new())));
    }
    all
}

fn counted(text: &str) -> Vec<u8> {
    [&(text.len() as u64).to_le_bytes(), text.as_bytes()].concat()
}

fn entry(key: &str, kind: u32, value: &[u8]) -> Vec<u8> {
    [&counted(key), &kind.to_le_bytes()[..], value].concat()
}

fn text(key: &str, value: &str) -> Vec<u8> {
    entry(key, 8, &counted(value))
}

fn list(key: &str, kind: u32, count: usize, item: impl Fn(usize) -> Vec<u8>) -> Vec<u8> {
    let items: Vec<u8> = (0..count).flat_map(item).collect();
    entry(key, 9, &[&kind.to_le_bytes()[..], &(count as u64).to_le_bytes(), &items].concat())
}

fn tensor_info(name: &str, shape: &[u64], number: u64) -> Vec<u8> {
    let mut bytes = counted(name);
    bytes.extend((shape.len() as u32).to_le_bytes());
    shape.iter().for_each(|dim| bytes.extend(dim.to_le_bytes()));
    bytes.extend(0u32.to_le_bytes());
    bytes.extend((number * 32).to_le_bytes());
    bytes
}

/// A GGUF file without the bytes of its tensors.
fn gguf(entries: &[Vec<u8>], tensors: u64, tensor: impl Fn(u64) -> Vec<u8>) -> Vec<u8> {
    let mut bytes = b"GGUF\x03\0\0\0".to_vec();
    bytes.extend(tensors.to_le_bytes());
    bytes.extend((entries.len() as u64).to_le_bytes());
    bytes.extend(entries.concat());
    (0..tensors).for_each(|number| bytes.extend(tensor(number)));
    let end = bytes.len().next_multiple_of(32) + 32 * tensors as usize;
    bytes.resize(end, 0);
    bytes
}

fn templates() -> Vec<Named> {
    vec![
        ("template", "operators", repeated("{{ a", " + a", " }}")),
        ("template", "negations", repeated("{{ ", "not ", "a }}")),
        ("template", "branches", repeated("{% if a %}", "{% elif a %}", "{% endif %}")),
        ("template", "brackets", repeated("{{ ", "(a ~ ", "a }}")),
        ("template", "tags", repeated("", "{{ a ~ b }}", "")),
        ("template", "loops", repeated("", "{% for m in messages %}", "")),
        ("template", "comments", repeated("", "{# ", "")),
    ]
}

//! Tokenizers, chat templates and rows.

use std::path::Path;
use std::sync::OnceLock;

use burnish_data::source::read_rows;
use burnish_data::{LengthPolicy, RowTokenizer, RowUse};
use burnish_models::{ChatTemplate, Message, SpecialTokens, Tokenizer};
use serde_json::{Value, json};

use super::{MIB, Target, files, outcome};

const TEXT: &str = "The quick brown fox, Ａ ﬁ e\u{301} ½ \u{200b} <s> 1234567 \n\n\t x";

/// Encodes and decodes a text.
pub(super) fn encode(tokenizer: &Tokenizer) -> String {
    let ids = match tokenizer.encode(TEXT, true) {
        Ok(ids) => ids,
        Err(error) => return error.to_string(),
    };
    let offsets = outcome(tokenizer.encode_with_offsets(TEXT, false), |_| "offsets".to_owned());
    let start = outcome(tokenizer.encode_start(TEXT, true, 3), |_| "a start".to_owned());
    let text = outcome(tokenizer.decode(&[&ids[..], &[u32::MAX]].concat(), false), |_| "a text".to_owned());
    format!("{offsets}, {start}, {text}, {}", tokenizer.vocab_size() > 0)
}

pub(super) const TOKENIZER: Target = Target {
    name: "tokenizer",
    file: "tokenizer.json",
    beside: &[(
        "tokenizer_config.json",
        include_bytes!("../../../../recipes/assets/quickstart/model/tokenizer_config.json"),
    )],
    seeds: || {
        files(&[
            include_bytes!("../../../../recipes/assets/quickstart/model/tokenizer.json"),
            include_bytes!("../../../fixtures/tokenizer.json"),
        ])
    },
    words: &[
        "\"type\":\"BPE\"",
        "\"Unigram\"",
        "\"WordPiece\"",
        "\"WordLevel\"",
        "\"ByteLevel\"",
        "\"Split\"",
        "\"Regex\":\"(a*)*b\"",
        "\"Sequence\"",
        "\"Metaspace\"",
        "\"Strip\"",
        "\"Precompiled\"",
        "\"TemplateProcessing\"",
        "\"byte_fallback\":true",
        "\"content\":\"\"",
        "\"id\":4294967295",
        "\"truncation\":{\"max_length\":0}",
        "\"dropout\":0.5",
        "(?=",
        "{1,65535}",
    ],
    fixed: 32 * MIB,
    read: |path| outcome(Tokenizer::from_folder(path.parent().unwrap_or(path)), |tokenizer| encode(&tokenizer)),
};

pub(super) const SENTENCE_PIECE: Target = Target {
    name: "sentencepiece",
    file: "tokenizer.model",
    beside: &[],
    seeds: || {
        files(&[
            include_bytes!("../../../fixtures/sentencepiece/gemma.model"),
            include_bytes!("../../../fixtures/sentencepiece/llama.model"),
            include_bytes!("../../../fixtures/sentencepiece/unigram.model"),
            include_bytes!("../../../fixtures/sentencepiece/unigram_bytes.model"),
        ])
    },
    words: &["\u{2581}", "<0x41>", "<unk>", "<s>", "</s>"],
    fixed: 16 * MIB,
    read: |path| {
        let bytes = std::fs::read(path).unwrap_or_default();
        let null = Value::Null;
        outcome(Tokenizer::from_sentence_piece(&bytes, &null, &null, &null), |tokenizer| encode(&tokenizer))
    },
};

/// Words of templates.
const JINJA: &[&str] = &[
    "{%",
    "%}",
    "{{",
    "}}",
    "{#",
    "#}",
    "{%- for m in messages %}",
    "{% endfor %}",
    "{% if tools %}",
    "{% elif x %}",
    "{% endif %}",
    "{% else %}",
    "{% set x = namespace(a=1) %}",
    "{% macro f(x) %}{{ f(x) }}{% endmacro %}",
    "{{ f(1) }}",
    "{% generation %}",
    "{% endgeneration %}",
    "messages",
    "[0]",
    "[::-1]",
    "[1:]",
    ".content",
    "['role']",
    "|tojson",
    "|tojson(indent=4)",
    "|trim",
    "|length",
    "|join(',')",
    "|map('x')",
    "|selectattr('role','eq','user')",
    " * 999999999",
    "~",
    "range(99999999)",
    "range(0,10,0)",
    ".split('')",
    ".strip()",
    ".replace('a','aa')",
    "strftime_now('%Y')",
    "raise_exception('x')",
    "|list",
    "|dictsort",
    "is defined",
    "not ",
    "loop.index0",
    "{% break %}",
    "'a' * 99999999",
    "|indent(99999999)",
    "|center(99999999)",
    "'%99999999d' % 1",
    "|format",
    "10 ** 99999",
    "|batch(0)",
    "|slice(0)",
    "|random",
    "lipsum",
];

/// Renders a conversation in every way.
fn render(template: &ChatTemplate) -> String {
    let parameters = json!({ "type": "object", "properties": { "a": { "type": "string" } } });
    let tools = json!([{ "type": "function", "function": { "name": "f", "parameters": parameters } }]);
    let mut call = Message::new("assistant", "");
    call.extra.insert("tool_calls".into(), json!([{ "function": { "name": "f", "arguments": { "a": "é" } } }]));
    let messages = [
        Message::new("system", "Be brief."),
        Message::new("user", "Hi <b>"),
        call,
        Message::new("tool", "3"),
        Message::new("assistant", "Bye"),
    ];
    let plain = outcome(template.render(&messages[..2], None, true), |_| "rendered".to_owned());
    let called = outcome(template.render(&messages, Some(&tools), false), |_| "rendered".to_owned());
    let marked = outcome(template.render_marked(&messages, None), |marked| format!("{}", marked.is_some()));
    format!("{plain}; {called}; {marked}; {}", outcome(template.reads_reasoning(None), |reads| reads.to_string()))
}

pub(super) const TEMPLATE: Target = Target {
    name: "template",
    file: "chat_template.jinja",
    beside: &[],
    seeds: || {
        let jinja: Value =
            serde_json::from_slice(include_bytes!("../../../../models/tests/fixtures/jinja.json")).unwrap_or_default();
        let mut seeds = Vec::new();
        texts(&jinja, &mut seeds);
        seeds.retain(|text| text.contains(&b'{'));
        seeds.extend(files(&[
            include_bytes!("../../../../recipes/data/tests/fixtures/cases/tool-use/chat_template.jinja"),
            include_bytes!(
                "../../../../recipes/data/tests/fixtures/cases/tool-use/additional_chat_templates/tool_use.jinja"
            ),
        ]));
        seeds
    },
    words: JINJA,
    // Templates are programs, whose instructions are limited, and with them the bytes of their texts.
    fixed: 256 * MIB,
    read: |path| {
        let source = String::from_utf8_lossy(&std::fs::read(path).unwrap_or_default()).into_owned();
        outcome(ChatTemplate::new(source, &SpecialTokens::default()), |template| render(&template))
    },
};

/// All texts in a value.
fn texts(value: &Value, found: &mut Vec<Vec<u8>>) {
    match value {
        Value::String(text) => found.push(text.clone().into_bytes()),
        Value::Array(items) => items.iter().for_each(|item| texts(item, found)),
        Value::Object(map) => map.iter().for_each(|(key, item)| {
            found.push(key.clone().into_bytes());
            texts(item, found);
        }),
        _ => {}
    }
}

pub(super) const TEMPLATE_FOLDER: Target = Target {
    name: "template-config",
    file: "tokenizer_config.json",
    beside: &[("tokenizer.json", include_bytes!("../../../../recipes/assets/quickstart/model/tokenizer.json"))],
    seeds: || {
        files(&[
            include_bytes!("../../../../recipes/assets/quickstart/model/tokenizer_config.json"),
            include_bytes!("../../../../recipes/data/tests/fixtures/cases/tool-use/tokenizer_config.json"),
            include_bytes!("../../../../recipes/data/tests/fixtures/cases/reasoning/tokenizer_config.json"),
        ])
    },
    words: &[
        "\"chat_template\":[{\"name\":\"default\",\"template\":\"\"}]",
        "\"added_tokens_decoder\":{\"1\":{}}",
        "\"bos_token\":{\"content\":1}",
        "{{",
        "{%",
    ],
    fixed: 16 * MIB,
    read: |path| {
        let folder = path.parent().unwrap_or(path);
        let tokenizer = match Tokenizer::from_folder(folder) {
            Ok(tokenizer) => tokenizer,
            Err(error) => return error.to_string(),
        };
        let template = ChatTemplate::from_folder(folder, tokenizer.special());
        format!("{}; {}", encode(&tokenizer), outcome(template, |found| found.map_or(String::new(), |found| render(&found))))
    },
};

const TOKENIZER_JSON: &[u8] = include_bytes!("../../../../recipes/assets/quickstart/model/tokenizer.json");

/// Reads the rows of a file, and tokenises them for every use.
fn rows(path: &Path) -> String {
    static TOKENIZER: OnceLock<Option<Tokenizer>> = OnceLock::new();
    let null = Value::Null;
    let tokenizer = TOKENIZER.get_or_init(|| Tokenizer::from_json(TOKENIZER_JSON, &null, &null, &null).ok());
    let Some(tokenizer) = tokenizer else { return "no tokenizer".to_owned() };
    let of = |rows, length_policy| RowTokenizer {
        tokenizer,
        template: None,
        mask_prompt: true,
        rows,
        max_seq_length: 32,
        length_policy,
        vocab_size: 256,
    };
    let tokenizers = [
        of(RowUse::Answers, LengthPolicy::Truncate),
        of(RowUse::Answers, LengthPolicy::Split),
        of(RowUse::Pairs, LengthPolicy::Truncate),
        of(RowUse::Ratings, LengthPolicy::Drop),
    ];
    let mut said = String::new();
    let read = read_rows(path, |_, row| {
        match row {
            Ok(row) => {
                said = tokenizers.iter().map(|use_| outcome(use_.tokenize(&row), |_| "examples; ".to_owned())).collect();
            }
            Err(reason) => said = reason,
        }
        Ok(())
    });
    format!("{said}; {}", outcome(read, |()| "read".to_owned()))
}

const ROWS: &[&str] = &[
    "\"messages\":[{\"role\":\"user\",\"content\":\"a\"}]",
    "\"prompt\":\"a\"",
    "\"completion\":\"b\"",
    "\"text\":\"\"",
    "\"chosen\":",
    "\"rejected\":",
    "\"input_ids\":[1,2,4294967295]",
    "\"labels\":[-100]",
    "\"conversations\":[{\"from\":\"gpt\",\"value\":\"\"}]",
    "\"label\":true",
    "\n",
    "\r\n",
    "\"tools\":[]",
    "\"tool_calls\":[{}]",
    "\"weight\":0",
];

fn row_seeds() -> Vec<Vec<u8>> {
    files(&[
        include_bytes!("../../../../recipes/data/tests/fixtures/cases/alpaca/data.jsonl"),
        include_bytes!("../../../../recipes/data/tests/fixtures/cases/tool-use/data.jsonl"),
        include_bytes!("../../../../recipes/data/tests/fixtures/cases/reasoning/reasoning.jsonl"),
        include_bytes!("../../../../recipes/data/tests/fixtures/cases/weight-zero/data.jsonl"),
        include_bytes!("../../../../recipes/data/tests/fixtures/cases/null-columns/g-sharegpt-null-messages.jsonl"),
        br#"{"input_ids": [1, 2, 3], "labels": [-100, 2, 3]}
{"prompt": "a", "chosen": "b", "rejected": "c"}
{"prompt": [{"role": "user", "content": "a"}], "completion": [{"role": "assistant", "content": "b"}], "label": false}
{"text": "NaN"}"#,
    ])
}

pub(super) const JSON_LINES: Target =
    Target { name: "jsonl", file: "rows.jsonl", beside: &[], seeds: row_seeds, words: ROWS, fixed: 64 * MIB, read: rows };

pub(super) const JSON_LIST: Target = Target {
    name: "json-list",
    seeds: || {
        files(&[
            b"[{\"text\": \"a\"}, {\n\"prompt\": \"b\",\n\"completion\": \"c\"}]",
            b"{\n \"text\": \"a\"\n}\n{\n \"text\": \"b\"\n}",
        ])
    },
    file: "rows.json",
    ..JSON_LINES
};

pub(super) const CSV: Target = Target {
    name: "csv",
    file: "rows.csv",
    seeds: || {
        files(&[
            b"prompt,completion\n\"a, b\",c\nd,\"e\n\"\"f\"\"\"\n",
            b"text;label\nx;true\n",
            b"messages\n\"[{\"\"role\"\": \"\"user\"\"}]\"\n",
        ])
    },
    words: &["\"", "\"\"", ",", ";", "\n", "\r", "prompt", "messages", "label", "[{", "true"],
    ..JSON_LINES
};

pub(super) const ZSTD: Target =
    Target { name: "compressed", file: "rows.jsonl.zst", seeds: Vec::new, words: &[], ..JSON_LINES };

//! Every key of the other programs' own lists, which `tests/scripts/list_peer_keys.py` writes from their packages: each is mapped, has no
//! effect for a reason, or is refused by name with what to do.

use std::collections::BTreeMap;
use std::fmt::Write;

use super::*;
use crate::config::alias::meaning;
use crate::config::entry::SECTIONS;

const LISTS: [(&str, &str); 5] = [
    ("mlx-lm", include_str!("../reference/mlx-lm.tsv")),
    ("Unsloth", include_str!("../reference/unsloth.tsv")),
    ("axolotl", include_str!("../reference/axolotl.tsv")),
    ("LLaMA-Factory", include_str!("../reference/llama-factory.tsv")),
    ("TRL", include_str!("../reference/trl.tsv")),
];

/// A key of a list.
struct Listed {
    key: &'static str,
    default: Option<Value>,
    declared_by: &'static str,
}

fn listed(list: &'static str) -> Vec<Listed> {
    let of_line = |line: &'static str| {
        let [key, default, declared_by]: [&str; 3] = line.split('\t').collect::<Vec<_>>().try_into().unwrap();
        Listed { key, default: serde_json::from_str(default).ok(), declared_by }
    };
    list.lines().filter(|line| !line.starts_with('#')).map(of_line).collect()
}

/// A file with one key; of a nested one, with what its table needs besides.
fn file_with(key: &str, value: &Value) -> Value {
    let Some((table, inner)) = key.split_once('.') else { return json!({ key: value }) };
    let mut map = match table {
        "lora_parameters" => json!({ "rank": 8, "scale": 20.0 }),
        "lr_schedule" => json!({ "name": "cosine_decay", "arguments": [1e-5, 1000] }),
        "datasets" | "hf_dataset" => json!({ "path": "d" }),
        _ => json!({}),
    };
    map[inner] = value.clone();
    if table == "datasets" { json!({ table: [map] }) } else { json!({ table: map }) }
}

/// What becomes of a key with a value: its error, if it is refused.
fn read_key(key: &str, value: &Value) -> Result<Loaded, ConfigError> {
    let mut map = file_with(key, value).as_object().cloned().unwrap();
    let names_data = ["datasets", "hf_dataset", "dataset", "data", "local_dataset", "dataset_name"];
    if !names_data.contains(&key.split('.').next_back().unwrap_or(key))
        && !map.contains_key("datasets")
        && !map.contains_key("hf_dataset")
    {
        map.entry("data").or_insert_with(|| json!({}));
    }
    let file = serde_json::to_string(&map).unwrap();
    let (_folder, path) = written("c.yaml", &file);
    load_with(Some(&path), Map::new(), &[], Needs::Nothing)
}

#[test]
fn no_key_of_another_program_is_unknown() {
    let values = [json!(true), json!(3), json!(0.25), json!("word"), json!(["word"]), json!({ "word": 1 })];
    for (program, list) in LISTS {
        for Listed { key, default, .. } in listed(list) {
            for value in default.iter().chain(&values) {
                let Err(error) = read_key(key, value) else { continue };
                let text = error.to_string();
                let word = key.split('.').next_back().unwrap();
                let unknown =
                    text.contains(&format!("unknown key `{key}`")) || text.contains(&format!("unknown key `{word}`"));
                assert!(!unknown, "{program}: {key} = {value}: {text}");
                // The key is named, by its own name or that of what it became, and so is what to do or what is expected.
                let ours = meaning(word).and_then(|meaning| match meaning {
                    Meaning::Same(ours) | Meaning::Yields(ours) => Some(ours),
                    _ => None,
                });
                let named = text.contains(word) || ours.is_some_and(|ours| text.contains(ours));
                let table = key.split('.').next().unwrap();
                assert!(named || text.contains(table) || is_about_others(&text), "{program}: {key} = {value}: {text}");
                assert!(text.len() > word.len() + 20, "{program}: {key} = {value}: {text}");
            }
        }
    }
}

/// Whether a value is right for its key, and wrong beside the defaults of others.
fn is_about_others(text: &str) -> bool {
    ["needs `", "exclude each other"].iter().any(|words| text.contains(words))
}

/// Keys whose default in the other program is refused here, because it asks for something.
const REFUSED_BY_DEFAULT: &[&str] = &[
    // The model is trained, not tested.
    "train",
    "do_train",
    // A part of a set, not the whole.
    "hf_dataset.train_split",
    "hf_dataset.valid_split",
    // The loss of a trainer that does not exist here.
    "alpha",
    // Read with the rest of a file of TRL.
    "disable_dropout",
    // Kinds of files that the run does not write.
    "quantization",
];

#[test]
fn a_file_with_a_default_written_out_is_read() {
    let mut refused = Vec::new();
    for (program, list) in LISTS {
        for Listed { key, default, declared_by } in listed(list) {
            // A key of a plugin is in the file because the plugin is.
            let of_plugin = program == "axolotl" && declared_by.ends_with("Args");
            let Some(default) =
                default.filter(|default| !default.is_null() && !of_plugin && !REFUSED_BY_DEFAULT.contains(&key))
            else {
                continue;
            };
            if let Err(error) = read_key(key, &default) {
                refused.push(format!("{program}: {key} = {default}: {error}"));
            }
        }
    }
    assert!(refused.is_empty(), "{}", refused.join("\n"));
}

#[test]
fn every_refusal_says_what_to_do_and_every_key_without_effect_why() {
    for (name, meaning) in FOREIGN.iter() {
        let (Meaning::Harmless(reason) | Meaning::Only(_, reason) | Meaning::Refused(reason)) = meaning else { continue };
        assert!(reason.len() > 10 && !reason.ends_with('.'), "{name}: {reason}");
        let does =
            ["remove", "set ", "use ", "put ", "see ", "change ", "rename", "list", "only", "`", "run", "is the", "train"];
        let says = !matches!(meaning, Meaning::Refused(_)) || does.iter().any(|word| reason.contains(word));
        assert!(says, "{name}: {reason}");
    }
}

/// What becomes of a key, without its value.
fn becomes(key: &str) -> (u8, String) {
    let (table, word) = key.split_once('.').map_or((None, key), |(table, word)| (Some(table), word));
    if let Some(table) = table.filter(|table| !SECTIONS.contains(table)) {
        return (1, format!("part of `{table}`, which is read as a whole"));
    }
    if TrainConfig::KEYS.iter().any(|ours| ours.name == word) {
        return (0, "the same key".to_owned());
    }
    match meaning(word) {
        Some(Meaning::Same(ours) | Meaning::Yields(ours)) => (2, format!("`{ours}`")),
        Some(Meaning::Translated) => (3, "read by its value".to_owned()),
        Some(Meaning::Harmless(why)) => (4, format!("no effect: {why}")),
        Some(Meaning::Only(values, why)) => (5, format!("only {}: {why}", values.join(" or "))),
        Some(Meaning::Refused(why)) => (6, format!("refused: {why}")),
        None => panic!("{key} is unknown"),
    }
}

/// The page of `docs/` with every key.
fn page() -> String {
    let mut page = include_str!("../reference/page.md").to_owned();
    for (program, list) in LISTS {
        let title = list.lines().next().unwrap().trim_start_matches("# ").split(';').next().unwrap();
        let keys = listed(list);
        let count = keys.len();
        writeln!(page, "\n## {program}\n\n{count} keys, from {title}.\n\n| what becomes of them | keys |\n|---|---|")
            .unwrap();
        let mut groups: BTreeMap<(u8, String), Vec<&str>> = BTreeMap::new();
        for Listed { key, .. } in keys {
            groups.entry(becomes(key)).or_default().push(key);
        }
        for ((_, what), keys) in groups {
            let keys: Vec<String> = keys.iter().map(|key| format!("`{key}`")).collect();
            writeln!(page, "| {what} | {} |", keys.join(" ")).unwrap();
        }
    }
    page
}

/// The page is written again with `BURNISH_WRITE_DOCS=1`.
#[test]
fn the_documents_list_every_key() {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/settings.md");
    if std::env::var_os("BURNISH_WRITE_DOCS").is_some() {
        std::fs::write(&path, page()).unwrap();
    }
    assert!(
        std::fs::read_to_string(path).unwrap() == page(),
        "docs/settings.md is not up to date: run with BURNISH_WRITE_DOCS=1"
    );
}

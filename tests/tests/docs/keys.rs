//! The tables of other programs' keys, made from the program's own.

use burnish_recipes::config::{Meaning, programs};

use super::page::is_current;

const PAGES: [(&str, &str); 6] = [
    ("mlx-lm", "docs/coming-from-mlx-lm.md"),
    ("Unsloth", "docs/coming-from-unsloth.md"),
    ("axolotl", "docs/coming-from-axolotl.md"),
    ("LLaMA-Factory", "docs/coming-from-llama-factory.md"),
    ("transformers", "docs/coming-from-transformers.md"),
    ("TRL", "docs/coming-from-trl.md"),
];

/// Tables that are not what the program does.
pub fn outdated() -> Vec<String> {
    let mut problems = Vec::new();
    for (program, keys) in programs() {
        match PAGES.iter().find(|(name, _)| *name == program) {
            Some((_, page)) => {
                problems.extend(is_current(page, "<!-- keys -->", "<!-- end of keys -->", &table(keys)).err());
            }
            None => problems.push(format!("{program}: its keys are read, but no page of docs/ has them")),
        }
    }
    problems
}

fn table(keys: &[(&str, Meaning)]) -> String {
    let mut rows: Vec<(usize, String)> = keys.iter().map(|(key, meaning)| row(key, *meaning)).collect();
    rows.sort_by_key(|(group, _)| *group);
    let rows: Vec<String> = rows.into_iter().map(|(_, row)| row).collect();
    format!("| key | here |\n|---|---|\n{}", rows.join("\n"))
}

/// What is read first, then what has no effect, then what is refused.
fn row(key: &str, meaning: Meaning) -> (usize, String) {
    let (group, here) = match meaning {
        Meaning::Same(own) => (0, format!("`{own}`")),
        Meaning::Yields(own) => (0, format!("`{own}`, unless that is set too")),
        Meaning::Translated => (0, "its value is translated; a line of the log says into what".to_owned()),
        Meaning::Harmless(why) => (1, format!("no effect: {why}")),
        Meaning::Only(values, why) => {
            let values: Vec<String> = values.iter().map(|value| format!("`{value}`")).collect();
            (2, format!("no effect if {}; refused otherwise: {why}", values.join(" or ")))
        }
        Meaning::Refused(why) => (3, format!("refused, unless it is off: {why}")),
    };
    (group, format!("| `{key}` | {} |", here.replace('|', "\\|")))
}

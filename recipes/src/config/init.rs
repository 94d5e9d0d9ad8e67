//! A configuration file with every key explained.

use super::TrainConfig;
use super::alias::other_names;
use super::key::Key;

/// Every key with its documentation and default; keys without a default are commented out.
pub fn commented_toml() -> String {
    commented_toml_of(&TrainConfig::default(), &[])
}

/// Every key with its documentation and its value in a configuration, after these remarks; keys without a value are commented out.
pub fn commented_toml_of(config: &TrainConfig, remarks: &[String]) -> String {
    let values: toml::Table = toml::from_str(&config.to_toml()).unwrap_or_default();
    let mut lines = vec![
        "# Configuration of `burnish train -c FILE`. A flag of the same name, in kebab case, overrides a line here."
            .to_owned(),
        "# Names in parentheses are other programs' names for the same key; they are accepted too.".to_owned(),
    ];
    lines.extend(remarks.iter().map(|remark| format!("# {}", remark.replace('\n', "\n# "))));
    let mut section = "";
    for key in TrainConfig::KEYS {
        if key.section != section {
            section = key.section;
            lines.push(format!("\n# ---- {section} ----"));
        }
        lines.push(format!("\n# {}", explained(key)));
        lines.push(match values.get(key.name) {
            None => format!("# {} = \"\"", key.name),
            Some(value) => format!("{} = {value}", key.name),
        });
    }
    lines.join("\n") + "\n"
}

fn explained(key: &'static Key) -> String {
    let others: Vec<&str> = other_names(key.name).collect();
    let help = key.help.trim();
    if others.is_empty() { help.to_owned() } else { format!("{help} ({})", others.join(", ")) }
}

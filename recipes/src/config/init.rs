//! A configuration file with every key explained.

use super::TrainConfig;

/// Every key with its documentation and default; keys without a default are commented out.
pub fn commented_toml() -> String {
    let defaults = serde_json::to_value(TrainConfig::default()).unwrap_or_default();
    let mut text =
        String::from("# Configuration of `burnish train -c FILE`. A flag of the same name overrules a line here.\n");
    for key in TrainConfig::KEYS {
        text.push_str("\n#");
        text.push_str(key.help);
        text.push('\n');
        match defaults.get(key.name) {
            Some(serde_json::Value::Null) | None => text.push_str(&format!("# {} = \"\"\n", key.name)),
            Some(value) => text.push_str(&format!("{} = {value}\n", key.name)),
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_reads_back_as_the_defaults() {
        let config: TrainConfig = toml::from_str(&commented_toml()).unwrap();
        assert_eq!(config, TrainConfig::default());
    }
}

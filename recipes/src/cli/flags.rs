//! The flags of `train`, generated from the table of keys.

use clap::builder::Str;
use clap::{Arg, ArgAction, ArgMatches, Command, FromArgMatches};
use serde_json::{Map, Value};

use crate::config::{FOREIGN, Key, Kind, Meaning, TrainConfig};

/// The values given on the command line, by key.
#[derive(Debug, Clone, Default)]
pub struct ConfigFlags(pub Map<String, Value>);

/// A flag of the command line.
struct Flag {
    name: &'static str,
    /// The key that it sets; `None` if its value must be translated from another program.
    key: Option<&'static Key>,
    is_own: bool,
}

fn all() -> impl Iterator<Item = Flag> {
    let own = TrainConfig::KEYS.iter().map(|key| Flag { name: key.name, key: Some(key), is_own: true });
    let foreign = FOREIGN.iter().map(|(name, meaning)| {
        let key = match meaning {
            Meaning::Same(own) => TrainConfig::KEYS.iter().find(|key| key.name == *own),
            _ => None,
        };
        Flag { name, key, is_own: false }
    });
    // One letter is too short for a long flag.
    own.chain(foreign.filter(|flag| flag.name.len() > 1))
}

impl clap::Args for ConfigFlags {
    fn augment_args(mut command: Command) -> Command {
        let defaults = serde_json::to_value(TrainConfig::default()).unwrap_or_default();
        for Flag { name, key, is_own } in all() {
            let flag = name.replace('_', "-");
            let arg = Arg::new(name).long(Str::from(flag.clone())).hide(!is_own).allow_hyphen_values(true);
            let Some(key) = key else {
                // A flag that follows is not this one's value.
                let arg = arg.allow_hyphen_values(false).allow_negative_numbers(true);
                command = command.arg(arg.num_args(0..=1).default_missing_value("true"));
                continue;
            };
            let default = &defaults[key.name];
            let arg = arg.help_heading(key.section).help(explained(key, default));
            if key.kind == Kind::Bool {
                // Of the two flags, show the one that changes the default.
                let on = default == &Value::Bool(true);
                let no_name = Str::from(format!("no_{name}"));
                let no = Arg::new(no_name.clone()).long(Str::from(format!("no-{flag}"))).action(ArgAction::SetTrue);
                let no = no.overrides_with(name).hide(!(is_own && on)).help_heading(key.section);
                let no = no.help(turned_off(key));
                let yes = arg.action(ArgAction::SetTrue).allow_hyphen_values(false).overrides_with(no_name);
                command = command.arg(yes.hide(!is_own || on)).arg(no);
            } else {
                command = command.arg(arg.value_name(value_name(key.kind)));
            }
        }
        command
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl FromArgMatches for ConfigFlags {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let mut map = Map::new();
        for Flag { name, key, .. } in all() {
            if key.is_some_and(|key| key.kind == Kind::Bool) {
                if matches.get_flag(name) {
                    map.insert(name.to_owned(), Value::Bool(true));
                } else if matches.get_flag(&format!("no_{name}")) {
                    map.insert(name.to_owned(), Value::Bool(false));
                }
            } else if let Some(text) = matches.get_one::<String>(name) {
                map.insert(name.to_owned(), key.map_or_else(|| guess(text), |key| parse(key.kind, text)));
            }
        }
        Ok(Self(map))
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

fn explained(key: &Key, default: &Value) -> String {
    let help = key.help.trim().trim_end_matches('.');
    match default {
        Value::Null | Value::Bool(_) => help.to_owned(),
        Value::String(text) if text.is_empty() => help.to_owned(),
        Value::String(text) => format!("{help} [default: {text}]"),
        other => format!("{help} [default: {other}]"),
    }
}

/// What a key that is on by default does when it is off.
fn turned_off(key: &Key) -> String {
    match key.name {
        "mask_prompt" => "Train on the prompts too, not on the answers only".to_owned(),
        "padding_free" => "Pad the rows of a micro-batch to one length: more work for the same loss".to_owned(),
        "shuffle" => "Keep the rows in the order of the file".to_owned(),
        "keep_rows" => "Prepare the rows again in each run, and keep none in the user's cache folder".to_owned(),
        "prevent_sleep" => "macOS: let the Mac sleep while it trains".to_owned(),
        _ => format!("Turn off: {}", explained(key, &Value::Null)),
    }
}

/// The same flags, of which the help shows those of the data only.
#[derive(Debug, Clone, Default)]
pub struct DataFlags(pub Map<String, Value>);

impl clap::Args for DataFlags {
    fn augment_args(command: Command) -> Command {
        let is_other =
            |heading: &str| heading != "Model and data" && TrainConfig::KEYS.iter().any(|key| key.section == heading);
        ConfigFlags::augment_args(command).mut_args(|arg| {
            let hides = arg.is_hide_set() || arg.get_help_heading().is_some_and(is_other);
            arg.hide(hides)
        })
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl FromArgMatches for DataFlags {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        Ok(Self(ConfigFlags::from_arg_matches(matches)?.0))
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

fn value_name(kind: Kind) -> &'static str {
    match kind {
        Kind::Integer => "N",
        Kind::Float => "X",
        Kind::Texts => "NAMES",
        Kind::Text | Kind::Bool => "VALUE",
    }
}

/// Parses a value as the kind of its key. A value that does not parse stays text; it is refused later, with the name of the key.
fn parse(kind: Kind, text: &str) -> Value {
    match kind {
        Kind::Integer => text.replace('_', "").parse::<i64>().map_or_else(|_| Value::from(text), Value::from),
        Kind::Float => {
            let number = text.parse::<f64>().ok().and_then(serde_json::Number::from_f64);
            number.map_or_else(|| Value::from(text), Value::Number)
        }
        Kind::Bool => text.parse::<bool>().map_or_else(|_| Value::from(text), Value::from),
        Kind::Text | Kind::Texts => Value::from(text),
    }
}

/// Parses a value whose kind only the other program knows.
fn guess(text: &str) -> Value {
    [Kind::Bool, Kind::Integer, Kind::Float]
        .into_iter()
        .map(|kind| parse(kind, text))
        .find(|value| !value.is_string())
        .unwrap_or_else(|| Value::from(text))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::config::load;

    fn parsed(arguments: &[&str]) -> Result<Map<String, Value>, clap::Error> {
        let command = <ConfigFlags as clap::Args>::augment_args(Command::new("train"));
        let matches = command.try_get_matches_from(["train"].iter().chain(arguments))?;
        Ok(ConfigFlags::from_arg_matches(&matches)?.0)
    }

    #[test]
    fn what_is_on_by_default_says_what_it_is_without() {
        let defaults = serde_json::to_value(TrainConfig::default()).unwrap();
        for key in TrainConfig::KEYS.iter().filter(|key| defaults[key.name] == true) {
            assert!(!turned_off(key).starts_with("Turn off"), "{}", key.name);
        }
    }

    #[test]
    fn every_key_and_every_foreign_name_is_a_flag() {
        <ConfigFlags as clap::Args>::augment_args(Command::new("train")).debug_assert();
        for Flag { name, key, .. } in all() {
            let flag = format!("--{}", name.replace('_', "-"));
            let (arguments, expected): (Vec<&str>, Value) = match key.map(|key| key.kind) {
                None | Some(Kind::Bool) => (vec![&flag], json!(true)),
                Some(Kind::Integer) => (vec![&flag, "1_000"], json!(1000)),
                Some(Kind::Float) => (vec![&flag, "1e-3"], json!(1e-3)),
                Some(Kind::Text | Kind::Texts) => (vec![&flag, "a,b"], json!("a,b")),
            };
            assert_eq!(Value::Object(parsed(&arguments).unwrap()), json!({ name: expected }), "{name}");
        }
    }

    #[test]
    fn switches_turn_on_and_off_and_the_last_one_counts() {
        assert_eq!(parsed(&["--no-shuffle"]).unwrap()["shuffle"], json!(false));
        assert_eq!(parsed(&["--no-packing", "--packing"]).unwrap()["packing"], json!(true));
        assert_eq!(parsed(&["--packing", "--no-packing"]).unwrap()["packing"], json!(false));
        assert_eq!(parsed(&["--no-sample-packing"]).unwrap()["sample_packing"], json!(false));
        assert_eq!(parsed(&["--bf16", "--rank", "8"]).unwrap(), *json!({ "bf16": true, "rank": 8 }).as_object().unwrap());
    }

    #[test]
    fn values_that_do_not_parse_are_refused_with_their_key() {
        for (arguments, expected) in [
            (["--rank", "many"], "`rank` should be a whole number, 0 or more, got \"many\""),
            (["--rank", "-1"], "`rank` should be a whole number, 0 or more, got -1"),
            (["--learning-rate", "nan"], "`learning_rate` should be a number, got \"nan\""),
            (["--neftune-noise-alpha", "5"], "`neftune_noise_alpha` is not supported"),
            (["--lora-parameters", "8"], "`lora_parameters` should be a table"),
        ] {
            let error = load(None, parsed(&arguments).unwrap()).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
        let flags =
            parsed(&["--model", "m", "--data", "d", "--num-layers", "-1", "--target-modules", "q_proj,v_proj"]).unwrap();
        let config = load(None, flags).unwrap().config;
        assert_eq!((config.num_layers, config.target_modules.names()), (0, Some(vec!["q_proj", "v_proj"])));
    }

    #[test]
    fn an_unknown_flag_is_a_usage_error_with_a_suggestion() {
        let error = parsed(&["--lerning-rate", "1"]).unwrap_err();
        assert_eq!(error.exit_code(), 2);
        assert!(error.to_string().contains("--learning-rate"), "{error}");
    }
}

//! The flags of `train`, made from the table of keys.

use clap::builder::Str;
use clap::{Arg, ArgAction, ArgMatches, Command, FromArgMatches};
use serde_json::{Map, Value};

use crate::config::{ALIASES, Key, Kind, TrainConfig};

/// What was given on the command line, by key.
#[derive(Debug, Clone, Default)]
pub struct ConfigFlags(pub Map<String, Value>);

/// A name on the command line, with the key that it sets.
fn names() -> impl Iterator<Item = (&'static str, &'static Key)> {
    let own = TrainConfig::KEYS.iter().map(|key| (key.name, key));
    let others = ALIASES.iter().filter_map(|(alias, own)| {
        // One letter is too short for a long flag.
        let key = TrainConfig::KEYS.iter().find(|key| key.name == *own)?;
        (alias.len() > 1).then_some((*alias, key))
    });
    own.chain(others)
}

impl clap::Args for ConfigFlags {
    fn augment_args(mut command: Command) -> Command {
        for (name, key) in names() {
            let is_alias = name != key.name;
            let flag = name.replace('_', "-");
            let arg = Arg::new(name).long(Str::from(flag.clone())).hide(is_alias).help(key.help.trim());
            if key.kind == Kind::Bool {
                let no_name = Str::from(format!("no_{name}"));
                let no =
                    Arg::new(no_name.clone()).long(Str::from(format!("no-{flag}"))).action(ArgAction::SetTrue).hide(true);
                command = command.arg(arg.action(ArgAction::SetTrue).overrides_with(no_name)).arg(no.overrides_with(name));
            } else {
                let value = match key.kind {
                    Kind::Integer => "N",
                    Kind::Float => "X",
                    Kind::Texts => "NAMES",
                    _ => "TEXT",
                };
                command = command.arg(arg.value_name(value).allow_hyphen_values(true));
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
        for (name, key) in names() {
            if key.kind == Kind::Bool {
                if matches.get_flag(name) {
                    map.insert(name.to_owned(), Value::Bool(true));
                } else if matches.get_flag(&format!("no_{name}")) {
                    map.insert(name.to_owned(), Value::Bool(false));
                }
            } else if let Some(text) = matches.get_one::<String>(name) {
                map.insert(name.to_owned(), parse(key.kind, text));
            }
        }
        Ok(Self(map))
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

/// A value as the key's kind reads it; what does not parse stays text and is refused with the key's name later.
fn parse(kind: Kind, text: &str) -> Value {
    match kind {
        Kind::Integer => text.replace('_', "").parse::<i64>().map_or_else(|_| Value::from(text), Value::from),
        Kind::Float => {
            text.parse::<f64>().ok().and_then(serde_json::Number::from_f64).map_or_else(|| Value::from(text), Value::Number)
        }
        Kind::Texts if text.contains(',') => text.split(',').map(|part| Value::from(part.trim())).collect(),
        _ => Value::from(text),
    }
}

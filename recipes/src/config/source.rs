//! Reads the keys of a file, or of the command line, under our own names.

use std::collections::BTreeMap;

use burnish_lora::Init;
use serde_json::{Map, Value};

use super::TrainConfig;
use super::alias::{FOREIGN, peer_of};
use super::choice::{LossType, QuantizationKind, Recipe};
use super::entry::{Entry, SECTIONS, entries};
use super::error::ConfigError;
use super::foreign::{self, Reading};
use super::key::{Key, Kind};
use super::peers::{Peer, axolotl, llama_factory, mlx_lm, trl, unsloth};
use super::report_to::joined;
use super::value::should_be;
use crate::data::LengthPolicy;

/// The values of all sources, under our own names.
#[derive(Default)]
pub(super) struct Keys {
    pub values: Map<String, Value>,
    pub notes: Vec<String>,
    /// The recipe, if it is known before the keys are read.
    pub recipe: Option<Recipe>,
}

impl Keys {
    /// Adds all keys of one source; they override those of earlier ones.
    pub fn take(&mut self, map: Map<String, Value>, place: &str, errors: &mut Vec<ConfigError>) {
        let mut entries = entries(map);
        let peer = peer_of(entries.iter().map(|entry| entry.name.as_str()));
        let mut source = Source { peer, is_file: !place.is_empty(), recipe: self.recipe, ..Source::default() };
        let wrong = |key: &str, reason: String| ConfigError::Value { place: place.to_owned(), key: key.to_owned(), reason };
        let mut rewritten = mlx_lm::rewrite(&mut entries, &mut self.notes)
            .and_then(|()| llama_factory::rewrite(&mut entries, &mut self.notes));
        if source.is_of(&axolotl::PEER) {
            rewritten = rewritten.and_then(|()| axolotl::rewrite(&mut entries));
        }
        if source.is_of(&unsloth::PEER) {
            unsloth::rewrite(&mut entries);
        }
        if source.is_of(&trl::PEER) && source.is_file {
            rewritten = rewritten.and_then(|()| trl::rewrite(&mut entries, self.recipe, &mut self.notes));
        }
        if let Err((key, reason)) = rewritten {
            errors.push(wrong(key, reason));
        }
        for Entry { shown, name, value } in entries {
            // A file that is no configuration has thousands.
            if errors.len() >= MOST_ERRORS {
                break;
            }
            match source.read(&shown, &name, value) {
                Ok(notes) => self.notes.extend(notes),
                Err(Unread::Wrong(reason)) => errors.push(wrong(&shown, reason)),
                Err(Unread::Unknown) => {
                    errors.push(ConfigError::UnknownKey { place: place.to_owned(), nearest: nearest(&name), key: shown });
                }
            }
        }
        match source.finish() {
            Ok(notes) => self.notes.extend(notes),
            Err((key, reason)) => errors.push(wrong(key, reason)),
        }
        self.values.extend(source.values);
    }
}

/// The most problems of a file that are reported.
const MOST_ERRORS: usize = 20;

/// Why a key was not read.
enum Unread {
    Unknown,
    Wrong(String),
}

impl From<String> for Unread {
    fn from(reason: String) -> Self {
        Self::Wrong(reason)
    }
}

/// The keys of one source.
#[derive(Default)]
struct Source {
    values: Map<String, Value>,
    /// The name under which each was given.
    given_as: BTreeMap<String, String>,
    /// Used if nothing else sets the key: the name as given, our key, its value.
    yielding: Vec<(String, &'static str, Value)>,
    /// The program that the file belongs to, if its keys tell.
    peer: Option<&'static Peer>,
    is_file: bool,
    recipe: Option<Recipe>,
    /// Whether the scheduler is transformers' `constant`, which ignores `warmup_steps`.
    without_warmup: bool,
}

/// A key that was set.
struct Set {
    value: Value,
    /// A remark for the user.
    why: Option<&'static str>,
}

impl Source {
    fn is_of(&self, peer: &Peer) -> bool {
        self.peer.is_some_and(|own| own.name == peer.name)
    }

    /// Reads a key, and returns notes for the user.
    fn read(&mut self, shown: &str, name: &str, value: Value) -> Result<Vec<String>, Unread> {
        let because = |why: &str| if why.is_empty() { String::new() } else { format!(" ({why})") };
        match foreign::read(name, &value)? {
            Reading::Ignored(note) => return Ok(note.map(|note| format!("`{shown}` {note}")).into_iter().collect()),
            Reading::Yields(own) => self.yielding.push((shown.to_owned(), own, value)),
            Reading::As(keys) => {
                let (mut became, mut why) =
                    (Vec::new(), if name == "lora_parameters" { "alpha = scale * rank" } else { "" });
                for (own, value) in keys {
                    if let Some(set) = self.set(own, name, value)? {
                        became.push(format!("`{own} = {}`", set.value));
                        why = set.why.filter(|why| !why.is_empty()).unwrap_or(why);
                    }
                }
                if !became.is_empty() {
                    return Ok(vec![format!("`{shown}` is read as {}{}", became.join(", "), because(why))]);
                }
            }
            Reading::Own if is_key(name) => {
                let theirs = value.clone();
                if let Some(Set { value, why: Some(why) }) = self.set(name, name, value)? {
                    return Ok(vec![format!("`{shown} = {theirs}` is read as `{name} = {value}`{}", because(why))]);
                }
            }
            // The name of a section.
            Reading::Own if SECTIONS.contains(&name) && value.is_null() => {}
            Reading::Own => return Err(Unread::Unknown),
        }
        Ok(Vec::new())
    }

    /// Sets a key; returns `None` if the default stays.
    fn set(&mut self, own: &str, given_as: &str, value: Value) -> Result<Option<Set>, String> {
        let Some(key) = TrainConfig::KEYS.iter().find(|key| key.name == own) else {
            return Err(format!("stands for `{own}`, which is not a key"));
        };
        if value.is_null() {
            return Ok(None);
        }
        let by_transformers = given_as == "lr_scheduler_type" || self.is_of(&axolotl::PEER);
        self.without_warmup |= own == "lr_scheduler" && value == "constant" && by_transformers;
        let (value, why) = foreign::value_for(key, value);
        check(key, &value, self.recipe)?;
        if own == "report_to" {
            let value = joined(self.values.get(own).unwrap_or(&Value::Null), &value);
            self.values.insert(own.to_owned(), value.clone());
            return Ok(Some(Set { value, why }));
        }
        if let (Some(before), Some(name)) = (self.values.get(own), self.given_as.get(own)) {
            // A warmup_steps or warmup_ratio of 0 doesn't count, lora_target_linear overrides lora_target_modules, and pref_loss stage.
            let is_less = |value: &Value, name: &str, than: &str| match own {
                "warmup" => value.as_f64() == Some(0.0),
                "target_modules" => than == "lora_target_linear" && name == "lora_target_modules",
                "recipe" => than == "pref_loss" && name == "stage",
                _ => false,
            };
            if is_less(&value, given_as, name) {
                return Ok(None);
            }
            if !is_less(before, name, given_as) && *before != value {
                return Err(format!("is {value}, but `{name}` is {before}, and both set `{own}`"));
            }
        }
        self.values.insert(own.to_owned(), value.clone());
        self.given_as.insert(own.to_owned(), given_as.to_owned());
        Ok(Some(Set { value, why }))
    }

    /// Does what needs all keys; returns notes for the user.
    fn finish(&mut self) -> Result<Vec<String>, (&'static str, String)> {
        let mut notes = Vec::new();
        for (name, own, value) in std::mem::take(&mut self.yielding) {
            match self.values.get(own) {
                Some(set) if *set == value => {}
                Some(set) => notes.push(format!("`{name}` has no effect: `{own}` is {set}")),
                None => {
                    let set = self.set(own, &name, value).map_err(|reason| (own, reason))?;
                    notes.extend(set.map(|set| format!("`{name}` is read as `{own} = {}`", set.value)));
                }
            }
        }
        if self.without_warmup && self.values.get("warmup").and_then(Value::as_f64) != Some(0.0) {
            self.values.insert("warmup".to_owned(), 0.0.into());
            notes.push(
                "`warmup = 0.0`, because transformers' constant scheduler has no warm-up; constant_with_warmup has one"
                    .to_owned(),
            );
        }
        if self.is_of(&mlx_lm::PEER) && self.is_file {
            mlx_lm::part_of_full(&self.values).map_or(Ok(()), |reason| Err(("fine_tune_type", reason)))?;
        }
        notes.extend(self.peer.and_then(|peer| self.take_defaults(peer)));
        if let Some(peer) = self.peer.filter(|_| self.is_file) {
            notes.extend((peer.traps)(&self.values));
        }
        notes.extend(self.drop_dropout());
        if self.is_of(&mlx_lm::PEER) {
            notes.extend(mlx_lm::to_optimizer_steps(&mut self.values).map_err(|reason| ("iters", reason))?);
        }
        Ok(notes)
    }

    /// Turns dropout off where the other program's trainers of preferences do.
    ///
    /// # Source
    /// `disable_dropout` of the trainers of LLaMA-Factory, and of TRL's configurations, which axolotl uses.
    fn drop_dropout(&mut self) -> Option<String> {
        let peer = self.peer.filter(|peer| [axolotl::PEER.name, llama_factory::PEER.name].contains(&peer.name))?;
        let is_preference = self.values.get("recipe").is_some_and(|recipe| recipe != "sft");
        let has_dropout = self.values.get("dropout").and_then(Value::as_f64).is_some_and(|share| share > 0.0);
        let is_theirs = self.given_as.get("dropout").is_some_and(|name| name == "lora_dropout");
        if !(self.is_file && is_preference && has_dropout && is_theirs) {
            return None;
        }
        self.values.insert("dropout".to_owned(), 0.0.into());
        Some(format!("`dropout = 0.0`, because {} turns dropout off to train preferences", peer.name))
    }

    /// Fills in the other program's defaults for keys that its file leaves out, if they affect the result.
    fn take_defaults(&mut self, peer: &Peer) -> Option<String> {
        let mut given = self.values.clone();
        if let (Some(recipe), false) = (self.recipe, given.contains_key("recipe")) {
            given.insert("recipe".to_owned(), recipe.name().into());
        }
        let Value::Object(mut defaults) = (peer.defaults)(&given) else { return None };
        let kind = self.values.get("fine_tune_type").or(defaults.get("fine_tune_type"));
        let full = kind.is_some_and(|kind| kind == "full");
        // Either `iters` or `epochs` sets the length of the run.
        let iters = self.values.get("iters").is_some_and(|iters| *iters != 0);
        let epochs = self.values.contains_key("epochs");
        let adapter = self.values.contains_key("adapter");
        defaults.retain(|key, _| match key.as_str() {
            given if self.values.contains_key(given) => false,
            "rank" | "alpha" | "num_layers" | "target_modules" => !full && !adapter,
            "quantization" | "double_quant" | "dropout" => !full,
            "epochs" => !iters,
            "iters" => !epochs,
            _ => true,
        });
        if !self.is_file || defaults.is_empty() {
            return None;
        }
        let taken: Vec<String> = defaults.iter().map(|(key, value)| format!("`{key} = {value}`")).collect();
        self.values.extend(defaults);
        Some(format!("not in the file, so set to the defaults of {}: {}", peer.name, taken.join(", ")))
    }
}

fn is_key(name: &str) -> bool {
    TrainConfig::KEYS.iter().any(|key| key.name == name)
}

/// Checks that a value fits its key.
fn check(key: &Key, value: &Value, recipe: Option<Recipe>) -> Result<(), String> {
    let fits = match key.kind {
        Kind::Bool => value.is_boolean(),
        Kind::Integer => value.as_u64().is_some(),
        Kind::Float => value.is_number(),
        Kind::Text => value.is_string(),
        Kind::Texts => value.is_string() || value.as_array().is_some_and(|list| list.iter().all(Value::is_string)),
    };
    if !fits {
        let part = key.name == "epochs" && value.is_f64();
        let way_out = if part { "; use `iters` to train for part of an epoch" } else { "" };
        return Err(should_be(expected(key.kind), value) + way_out);
    }
    match choices(key.name) {
        Some(known) if !value.as_str().is_some_and(|text| known.contains(&text)) => {
            let known = if key.name == "loss_type" { losses(recipe) } else { known.to_vec() };
            Err(should_be(&format!("one of {}", known.join(", ")), value))
        }
        None if key.name == "init" && value.as_str().is_none_or(|text| text.parse::<Init>().is_err()) => {
            Err(should_be("default, gaussian, pissa, pissa_niter_N, olora or loftq", value))
        }
        _ => Ok(()),
    }
}

/// The losses of a recipe that has several, or else of all.
fn losses(recipe: Option<Recipe>) -> Vec<&'static str> {
    let own = recipe.map(crate::recipe::losses).filter(|own| !own.is_empty());
    own.map_or_else(|| LossType::NAMES.to_vec(), |own| [LossType::Auto].iter().chain(own).map(|loss| loss.name()).collect())
}

/// The values of a key that accepts only a few.
fn choices(name: &str) -> Option<&'static [&'static str]> {
    Some(match name {
        "fine_tune_type" => &["lora", "full"],
        "recipe" => &Recipe::NAMES,
        "loss_type" => &LossType::NAMES,
        "quantization" => &QuantizationKind::NAMES,
        "length_policy" => &LengthPolicy::NAMES,
        "lr_scheduler" => &["constant", "linear", "cosine"],
        "optimizer" => &["adamw", "adamw8bit"],
        "dtype" => burnish_backends::dtype::NAMES,
        "backend" => burnish_backends::NAMES,
        _ => return None,
    })
}

fn expected(kind: Kind) -> &'static str {
    match kind {
        Kind::Bool => "true or false",
        Kind::Integer => "a whole number, 0 or more",
        Kind::Float => "a number",
        Kind::Text => "a string",
        Kind::Texts => "a string or a list of strings",
    }
}

/// The key most similar to an unknown one.
fn nearest(key: &str) -> Option<String> {
    let names = TrainConfig::KEYS.iter().map(|key| key.name).chain(FOREIGN.iter().map(|(name, _)| *name));
    names
        .map(|name| (strsim::jaro_winkler(key, name), name))
        .filter(|(likeness, _)| *likeness > 0.8)
        // Of two equally similar keys the first one, since our own names come first.
        .reduce(|best, next| if next.0 > best.0 { next } else { best })
        .map(|(_, name)| name.to_owned())
}

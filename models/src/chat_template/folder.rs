//! Reads the chat templates of a Hugging Face folder and the special tokens that they can use.

use std::path::Path;

use serde_json::Value;

use super::{ChatTemplate, DEFAULT};
use crate::error::{ModelError, Result};
use crate::json_file::read_if_present;
use crate::tokenizer::{SpecialTokens, token_text};

/// The folder of templates other than the default.
pub const ADDITIONAL_TEMPLATES: &str = "additional_chat_templates";

/// The folders of such templates that are read. Where both have a template of one name, that in the second is used.
pub(crate) const TEMPLATE_FOLDERS: [&str; 2] = ["chat_templates", ADDITIONAL_TEMPLATES];

/// The file of the tokenizer that may have `chat_template`.
const CONFIG: &str = "tokenizer_config.json";
/// The files of a processor that may have it, the one that transformers prefers first.
const OF_PROCESSORS: [&str; 2] = ["processor_config.json", "chat_template.json"];

impl ChatTemplate {
    /// Reads `chat_template.jinja`, `additional_chat_templates/*.jinja` and `chat_templates/*.jinja`, or, without these,
    /// `chat_template` in `tokenizer_config.json`. Without that either, it reads `chat_template` in a file of the model's processor:
    /// `processor_config.json` or `chat_template.json`, which multimodal models have. `None` if the folder has no template.
    ///
    /// # Errors
    /// If the default template does not compile, `chat_template` has another form than those of transformers, or a file can't be
    /// read.
    pub fn from_folder(folder: &Path, special: &SpecialTokens) -> Result<Option<Self>> {
        let config = read_if_present(&folder.join(CONFIG))?;
        let mut templates = files(folder)?;
        let configured = configured(&folder.join(CONFIG), &config)?;
        if templates.is_empty() {
            templates = of_processor(folder, configured)?;
        } else if templates.iter().all(|(name, _)| name != DEFAULT) {
            // Files replace all templates of the configuration, except for a default that they lack.
            templates.extend(configured.into_iter().filter(|(name, _)| name == DEFAULT));
        }
        if templates.is_empty() {
            return Ok(None);
        }
        let mut template = Self::named(templates, special)?;
        let map = read_if_present(&folder.join("special_tokens_map.json"))?;
        for file in [&map, &config] {
            template.add_special_tokens(file);
        }
        Ok(Some(template))
    }

    /// Makes every special token in a file a variable of the templates, as transformers does.
    fn add_special_tokens(&mut self, file: &Value) {
        let Some(map) = file.as_object() else { return };
        let own = map.iter().filter(|(name, _)| name.ends_with("_token"));
        let nested = ["extra_special_tokens", "model_specific_special_tokens"]
            .into_iter()
            .filter_map(|key| map.get(key)?.as_object())
            .flatten();
        for (name, token) in own.chain(nested) {
            if let Some(text) = token_text(token) {
                self.special.insert(name.clone(), text.into());
            }
        }
        let additional = map.get("additional_special_tokens").and_then(Value::as_array);
        if let Some(tokens) = additional.filter(|tokens| !tokens.is_empty()) {
            let texts: Vec<String> = tokens.iter().filter_map(token_text).map(str::to_owned).collect();
            self.special.insert("additional_special_tokens".to_owned(), texts.into());
        }
    }
}

/// The templates in files of their own.
fn files(folder: &Path) -> Result<Vec<(String, String)>> {
    let read = |path: &Path| std::fs::read_to_string(path).map_err(|error| ModelError::io(path, error));
    let mut templates = Vec::new();
    let path = folder.join("chat_template.jinja");
    if path.exists() {
        templates.push((DEFAULT.to_owned(), read(&path)?));
    }
    for more in TEMPLATE_FOLDERS.map(|name| folder.join(name)).into_iter().filter(|more| more.is_dir()) {
        let entries = std::fs::read_dir(&more).map_err(|error| ModelError::io(&more, error))?;
        let paths = entries.map(|entry| entry.map(|entry| entry.path())).collect::<std::io::Result<Vec<_>>>();
        let mut paths = paths.map_err(|error| ModelError::io(&more, error))?;
        paths.sort();
        for path in paths.iter().filter(|path| path.extension().is_some_and(|extension| extension == "jinja")) {
            if let Some(name) = path.file_stem().and_then(|name| name.to_str()) {
                templates.retain(|(known, _)| known != name);
                templates.push((name.to_owned(), read(path)?));
            }
        }
    }
    Ok(templates)
}

/// The templates of the tokenizer, or those of the processor if it has none.
fn of_processor(folder: &Path, of_tokenizer: Vec<(String, String)>) -> Result<Vec<(String, String)>> {
    for name in OF_PROCESSORS {
        let path = folder.join(name);
        let found = configured(&path, &read_if_present(&path)?)?;
        if found.is_empty() {
            continue;
        }
        if of_tokenizer.is_empty() {
            return Ok(found);
        }
        if found != of_tokenizer {
            tracing::warn!("{}: its chat template differs from that of {CONFIG}, which is used", path.display());
        }
        break;
    }
    Ok(of_tokenizer)
}

/// The templates of a file: a string, a list of objects with `name` and `template`, or an object.
fn configured(path: &Path, file: &Value) -> Result<Vec<(String, String)>> {
    let refuse = |value: &Value| {
        let reason = "`chat_template`: expected a template, or a list of objects with `name` and `template`";
        ModelError::format(path, format!("{reason}, got {}", excerpt(value)))
    };
    let named = |name: Option<&str>, template: Option<&Value>| {
        Some((name?.to_owned(), template.and_then(Value::as_str)?.to_owned()))
    };
    match file.get("chat_template") {
        None | Some(Value::Null) => Ok(Vec::new()),
        Some(Value::String(source)) => Ok(vec![(DEFAULT.to_owned(), source.clone())]),
        Some(Value::Array(list)) => {
            let entries = list.iter().map(|entry| {
                let name = entry.get("name").and_then(Value::as_str);
                named(name, entry.get("template")).ok_or_else(|| refuse(entry))
            });
            entries.collect()
        }
        Some(Value::Object(map)) => {
            map.iter().map(|(name, source)| named(Some(name), Some(source)).ok_or_else(|| refuse(source))).collect()
        }
        Some(other) => Err(refuse(other)),
    }
}

/// The beginning of a value, for an error.
fn excerpt(value: &Value) -> String {
    let text = value.to_string();
    let mut start: String = text.chars().take(60).collect();
    if start.len() < text.len() {
        start.push('…');
    }
    start
}

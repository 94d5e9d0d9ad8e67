//! The text part of a multimodal model's `config.json`.

use std::borrow::Cow;

use serde_json::{Value, json};

use crate::families;

/// Keys beside `text_config` that apply to it too.
const SHARED: [&str; 5] = ["bos_token_id", "eos_token_id", "pad_token_id", "tie_word_embeddings", "torch_dtype"];

/// The configuration of the text model: `text_config` if the file is that of a multimodal model whose text part a family can read,
/// otherwise the file itself.
pub fn text_part(json: &Value) -> Cow<'_, Value> {
    let Some(Value::Object(text)) = json.get("text_config") else { return Cow::Borrowed(json) };
    // In old files, only the type of the whole model is given.
    let outer = json.get("model_type").and_then(Value::as_str).unwrap_or_default();
    let own = text.get("model_type").and_then(Value::as_str).map_or_else(|| format!("{outer}_text"), str::to_owned);
    let Ok(family) = families::by_model_type(&own) else { return Cow::Borrowed(json) };
    let mut text = text.clone();
    for key in SHARED {
        if let Some(value) = json.get(key).filter(|_| text.get(key).is_none_or(Value::is_null)) {
            text.insert(key.to_owned(), value.clone());
        }
    }
    text.insert("architectures".to_owned(), json!([family.class_of(&own)]));
    text.insert("model_type".to_owned(), json!(own));
    Cow::Owned(Value::Object(text))
}

//! Reads a `config.json`.

use serde_json::Value;

use super::{ModelConfig, refuse_unread, text_part};
use crate::error::{ModelError, Result};
use crate::families;

impl ModelConfig {
    /// Reads a parsed `config.json` with the family that its `model_type` names. Of a multimodal model, the text part is read.
    ///
    /// # Errors
    /// [`ModelError::UnknownModelType`] if no family has that `model_type`; [`ModelError::Config`] names a key that is missing,
    /// has the wrong type, contradicts another, or asks for something that is not supported.
    pub fn from_json(value: &Value) -> Result<Self> {
        let value = &*text_part(value);
        let model_type = value
            .get("model_type")
            .and_then(Value::as_str)
            .ok_or_else(|| ModelError::Config { reason: "`model_type` is missing".to_owned() })?;
        let family = families::by_model_type(model_type)?;
        refuse_unread(value, family)?;
        let config = (family.configure)(value)?;
        config.check()?;
        Ok(config)
    }
}

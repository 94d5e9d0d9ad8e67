//! Writes the chat templates of a model.

use std::path::Path;

use burnish_models::ChatTemplate;
use burnish_models::chat_template::ADDITIONAL_TEMPLATES;
use serde_json::{Value, json};

use crate::counted_file::write_text;
use crate::error::{ExportError, Result};

/// Writes each template to the file that transformers reads it from, and returns the number of bytes.
pub(crate) fn write(folder: &Path, template: &ChatTemplate) -> Result<u64> {
    let mut bytes = 0;
    for (name, source) in template.sources() {
        if name == "default" {
            bytes += write_text(&folder.join("chat_template.jinja"), source)?;
        } else if is_file_name(name) {
            let more = folder.join(ADDITIONAL_TEMPLATES);
            std::fs::create_dir_all(&more).map_err(|error| ExportError::io(&more, error))?;
            bytes += write_text(&more.join(format!("{name}.jinja")), source)?;
        }
    }
    Ok(bytes)
}

/// Whether a template's name can be part of a path. Names come from the model's files, which are not trusted.
fn is_file_name(name: &str) -> bool {
    !name.is_empty() && name.chars().all(|character| character.is_ascii_alphanumeric() || "-_".contains(character))
}

/// The value of `chat_template` in `tokenizer_config.json`, for older readers.
pub(crate) fn configured(template: &ChatTemplate) -> Value {
    match template.sources().collect::<Vec<_>>().as_slice() {
        [("default", source)] => json!(source),
        several => several.iter().map(|(name, source)| json!({ "name": name, "template": source })).collect(),
    }
}

#[cfg(test)]
mod tests {
    use burnish_models::SpecialTokens;

    use super::*;
    use crate::safetensors::pretty;

    fn read_back(templates: &[(&str, &str)]) -> Vec<(String, String)> {
        let named = templates.iter().map(|(name, source)| ((*name).to_owned(), (*source).to_owned())).collect();
        let template = ChatTemplate::named(named, &SpecialTokens::default()).unwrap();
        let folder = tempfile::tempdir().unwrap();
        write(folder.path(), &template).unwrap();
        let config = json!({ "chat_template": configured(&template) });
        write_text(&folder.path().join("tokenizer_config.json"), &pretty(&config)).unwrap();
        let read = ChatTemplate::from_folder(folder.path(), &SpecialTokens::default()).unwrap().unwrap();
        read.sources().map(|(name, source)| (name.to_owned(), source.to_owned())).collect()
    }

    #[test]
    fn every_chat_template_is_written() {
        let two = read_back(&[("default", "d"), ("tool_use", "t")]);
        assert_eq!(two, [("default".to_owned(), "d".to_owned()), ("tool_use".to_owned(), "t".to_owned())]);
        assert_eq!(read_back(&[("default", "d")]).len(), 1);
        assert_eq!(read_back(&[("tool_use", "t"), ("rag", "r")]).len(), 2);
        // Such a name would lead outside the folder, so its template is in the configuration only.
        assert_eq!(read_back(&[("../out", "t")]), [("../out".to_owned(), "t".to_owned())]);
    }
}

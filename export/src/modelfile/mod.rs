//! Writes the Modelfile with which Ollama takes over a GGUF file.
//!
//! Source: `docs/modelfile.md` of Ollama.

mod turns;

use std::path::{Path, PathBuf};

use burnish_models::gguf::is_gguf_name;
use burnish_models::{ChatTemplate, Pretrained};

use crate::error::Result;
use crate::target::{self, write_file};
use turns::Turns;

/// The first line, by which an export recognises its own files.
const FIRST: &str = "# Modelfile written by Burnish";
/// Ollama's own default. Longer contexts take much more memory.
const CONTEXT: usize = 4096;

/// The name of the Modelfile beside a GGUF file: `model.gguf` has `model.Modelfile`, and `llama-3.1` has `llama-3.1.Modelfile`.
pub fn modelfile_of(gguf: &Path) -> PathBuf {
    if is_gguf_name(gguf) {
        return gguf.with_extension("Modelfile");
    }
    let mut name = gguf.as_os_str().to_owned();
    name.push(".Modelfile");
    name.into()
}

/// Checks that an export may write the Modelfile of a GGUF file.
///
/// # Errors
/// As [`check_file`](crate::target::check_file).
pub fn check_modelfile(gguf: &Path, overwrite: bool, inputs: &[PathBuf]) -> Result<()> {
    target::check_file(&modelfile_of(gguf), overwrite, inputs, FIRST.as_bytes())
}

/// What the GGUF file holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Holds {
    /// The model.
    Model,
    /// An adapter of the model.
    Adapter,
}

/// Writes the Modelfile of a GGUF file of `model` beside it, and returns its path: the template of the chat, where it can be expressed in
/// Ollama's template language, the system message that the model's own template has by default, the end tokens, and the context.
///
/// # Errors
/// As [`export_gguf`](crate::export_gguf), if the file can't be written.
pub fn write_modelfile(model: &Pretrained, gguf: &Path, holds: Holds, overwrite: bool) -> Result<PathBuf> {
    let (path, text) = (modelfile_of(gguf), modelfile(model, gguf, holds));
    let inputs = target::inputs_of(model, &*model.checkpoint);
    write_file(&path, overwrite, &inputs, FIRST.as_bytes(), |file| file.put(text.as_bytes()))?;
    Ok(path)
}

/// The text of a Modelfile.
fn modelfile(model: &Pretrained, gguf: &Path, holds: Holds) -> String {
    let name = |path: &Path| {
        path.file_name().map_or_else(|| path.display().to_string(), |name| name.to_string_lossy().into_owned())
    };
    let own = name(gguf);
    let mut lines = vec![format!("{FIRST}: ollama create NAME -f {}", name(&modelfile_of(gguf)))];
    match (holds, std::fs::canonicalize(&model.source)) {
        (Holds::Model, _) => lines.push(format!("FROM ./{own}")),
        (Holds::Adapter, Ok(base)) => lines.extend([format!("FROM {}", base.display()), format!("ADAPTER ./{own}")]),
        (Holds::Adapter, Err(_)) => lines.extend([
            format!("# The base: burnish export --model {} --format gguf --output base.gguf", model.source),
            "FROM ./base.gguf".to_owned(),
            format!("ADAPTER ./{own}"),
        ]),
    }
    lines.extend(template_lines(model));
    lines.extend(end_tokens(model).map(|token| format!("PARAMETER stop \"{token}\"")));
    lines.push(format!("PARAMETER num_ctx {}", model.config.max_position_embeddings.min(CONTEXT)));
    lines.join("\n") + "\n"
}

/// The lines of the chat template and of the default system message.
fn template_lines(model: &Pretrained) -> Vec<String> {
    let Some(template) = &model.chat_template else {
        // Without this line, Ollama would take one of another model that has similar words.
        return vec![
            "# The model has no chat template: it continues the prompt.".to_owned(),
            "TEMPLATE {{ .Prompt }}".to_owned(),
        ];
    };
    let special = model.tokenizer.special();
    // Ollama puts the start token there itself, as the file says.
    let bos = special.bos.as_ref().filter(|_| special.add_bos).map(|(text, _)| text.as_str());
    let turns = Turns::learn(template, bos);
    let Some((turns, go)) = turns.and_then(|turns| turns.to_go().map(|go| (turns, go))) else {
        return vec![
            "# No TEMPLATE: the chat template of this model can't be expressed in Ollama's template language. Ollama then compares the"
                .to_owned(),
            "# one in the GGUF file with those that it knows, and without a match passes the prompt on as it is.".to_owned(),
        ];
    };
    let mut lines =
        vec!["# Without tools: the template has the turns of the model's own chat template, and no more.".to_owned()];
    if has_date(template, bos, &turns) {
        lines.push("# It has the day of the export in it, where the model's own has the current day.".to_owned());
    }
    lines.push(format!("TEMPLATE \"\"\"{go}\"\"\""));
    lines.extend(turns.default_system().map(|system| format!("SYSTEM \"\"\"{system}\"\"\"")));
    lines
}

/// Whether the turns depend on the day.
fn has_date(template: &ChatTemplate, bos: Option<&str>, turns: &Turns) -> bool {
    let mut earlier = template.clone();
    earlier.fix_now(1_000_000_000);
    Turns::learn(&earlier, bos).as_ref() != Some(turns)
}

/// The texts of the tokens that end an answer.
fn end_tokens(model: &Pretrained) -> impl Iterator<Item = String> {
    let texts = model.config.eos_token_id.iter().filter_map(|id| model.tokenizer.inner().id_to_token(*id));
    texts.filter(|text| !text.contains(['"', '\\', '\n']))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn quickstart() -> Pretrained {
        Pretrained::open(concat!(env!("CARGO_MANIFEST_DIR"), "/../recipes/assets/quickstart/model")).unwrap()
    }

    #[test]
    fn a_modelfile_has_the_turns_the_end_tokens_and_the_context() {
        let model = quickstart();
        let text = modelfile(&model, Path::new("out/bookings.gguf"), Holds::Model);
        let context = model.config.max_position_embeddings.min(CONTEXT);
        let expected = format!(
            "# Modelfile written by Burnish: ollama create NAME -f bookings.Modelfile\nFROM ./bookings.gguf\n\
             # Without tools: the template has the turns of the model's own chat template, and no more.\n\
             TEMPLATE \"\"\"{}\"\"\"\nPARAMETER stop \"<|im_end|>\"\nPARAMETER num_ctx {context}\n",
            Turns::learn(model.chat_template.as_ref().unwrap(), None).unwrap().to_go().unwrap()
        );
        assert_eq!(text, expected);
        let adapter = modelfile(&model, Path::new("a.gguf"), Holds::Adapter);
        assert!(adapter.contains("/quickstart/model\nADAPTER ./a.gguf\n"), "{adapter}");
        let remote = Pretrained { source: "owner/name".into(), ..model };
        let adapter = modelfile(&remote, Path::new("a.gguf"), Holds::Adapter);
        assert!(
            adapter.contains("--model owner/name") && adapter.contains("FROM ./base.gguf\nADAPTER ./a.gguf"),
            "{adapter}"
        );
        let bare = modelfile(&Pretrained { chat_template: None, ..remote }, Path::new("a.gguf"), Holds::Model);
        assert!(bare.contains("TEMPLATE {{ .Prompt }}\n"), "{bare}");
    }

    #[test]
    fn files_beside_each_other_have_modelfiles_of_their_own() {
        for (gguf, expected) in [
            ("out/m.gguf", "out/m.Modelfile"),
            ("m.GGUF", "m.Modelfile"),
            ("llama-3.1", "llama-3.1.Modelfile"),
            ("llama-3.2", "llama-3.2.Modelfile"),
            ("model", "model.Modelfile"),
        ] {
            assert_eq!(modelfile_of(Path::new(gguf)), Path::new(expected));
        }
    }

    #[test]
    fn only_an_own_modelfile_is_replaced() {
        let (model, folder) = (quickstart(), tempfile::tempdir().unwrap());
        let gguf = folder.path().join("m.gguf");
        let path = write_modelfile(&model, &gguf, Holds::Model, false).unwrap();
        assert_eq!(path, folder.path().join("m.Modelfile"));
        assert!(matches!(check_modelfile(&gguf, false, &[]), Err(crate::ExportError::Exists { .. })));
        write_modelfile(&model, &gguf, Holds::Model, true).unwrap();
        std::fs::write(&path, "FROM mine").unwrap();
        let error = write_modelfile(&model, &gguf, Holds::Model, true).unwrap_err().to_string();
        assert!(error.contains("no export wrote"), "{error}");
    }
}

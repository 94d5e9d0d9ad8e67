//! Opens a model on disk or on the hub.

use std::path::Path;

use burnish_kernels::FusedBackend;
use serde_json::Value;

use crate::chat_template::{ChatTemplate, Message};
use crate::checkpoint::{Checkpoint, canonical, experts_apart, is_weights, open_files, open_folder, quantised_folder};
use crate::config::{ModelConfig, text_part};
use crate::error::{ModelError, Result};
use crate::gguf::{GgufFile, is_gguf_name, keys};
use crate::hub;
use crate::json_file;
use crate::load_options::LoadOptions;
use crate::model::LanguageModel;
use crate::part::undeclared_tensors;
use crate::recognise;
use crate::tokenizer::Tokenizer;

/// An opened model, with its weights still on disk.
pub struct Pretrained {
    /// Its configuration.
    pub config: ModelConfig,
    /// `config.json`: that of the text part for a multimodal model, one made from the metadata for a GGUF file.
    pub config_json: Value,
    /// Its tokenizer.
    pub tokenizer: Tokenizer,
    /// Its chat template.
    pub chat_template: Option<ChatTemplate>,
    /// Its `generation_config.json`.
    pub generation_config: Option<Value>,
    /// Its weights, with the names that the family declares.
    pub checkpoint: Box<dyn Checkpoint>,
    /// The path or hub id that it was opened by.
    pub source: String,
}

impl Pretrained {
    /// Opens a Hugging Face folder, a `.gguf` file, or a model of the hub by its id, which is fetched into the hub's cache.
    ///
    /// A file of weights (`.safetensors`, or `.bin`, `.pt` and `.pth` of PyTorch) is opened with the configuration and the tokenizer
    /// beside it.
    ///
    /// # Errors
    /// A [`ModelError`] that names the file or id and what is wrong with it.
    pub fn open(id_or_path: impl AsRef<Path>) -> Result<Self> {
        let path = id_or_path.as_ref();
        let source = path.display().to_string();
        let mut opened = if path.is_dir() {
            Self::from_folder(path)?
        } else if is_gguf_name(path) {
            Self::from_gguf(path)?
        } else if path.is_file() && is_weights(path) {
            Self::from_file(path)?
        } else if path.exists() {
            let reason = "is a file, but not one of weights: expected .gguf, .safetensors, .bin, .pt or .pth".into();
            return Err(ModelError::Unsupported { path: path.into(), reason });
        } else {
            Self::from_folder(&hub::fetch_model(&source)?)?
        };
        opened.source = source;
        Ok(opened)
    }

    /// Loads the model to a device.
    ///
    /// # Errors
    /// As [`LanguageModel::load`].
    pub fn load<B: FusedBackend>(&self, device: &B::Device, options: LoadOptions) -> Result<LanguageModel<B>> {
        LanguageModel::load(&self.config, &self.checkpoint, device, options)
    }

    /// The tokens of a conversation, with the beginning of the assistant's answer: a prompt for [`crate::generate()`].
    ///
    /// # Errors
    /// [`ModelError::NoTemplate`] if the model has no chat template, and an error if the template rejects the messages.
    pub fn chat_prompt(&self, messages: &[Message]) -> Result<Vec<u32>> {
        let template = self.chat_template.as_ref().ok_or(ModelError::NoTemplate)?;
        // The text of the template already contains the special tokens.
        self.tokenizer.encode(&template.render(messages, None, true)?, false)
    }

    /// Opens a Hugging Face folder without weights, to train from scratch.
    ///
    /// # Errors
    /// As [`Pretrained::open`].
    pub fn without_weights(folder: &Path) -> Result<Self> {
        Self::from_parts(folder, Box::new(NoWeights))
    }

    fn from_folder(folder: &Path) -> Result<Self> {
        recognise::check_folder(folder, folder)?;
        Self::from_parts(folder, open_folder(folder)?)
    }

    /// The weights of a file, with what its folder has besides weights.
    fn from_file(path: &Path) -> Result<Self> {
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        Self::from_parts(folder, open_files(&[path.to_owned()])?)
    }

    fn from_parts(folder: &Path, checkpoint: Box<dyn Checkpoint>) -> Result<Self> {
        let whole = json_file::read(&folder.join("config.json"))?;
        let mut config_json = text_part(&whole).into_owned();
        if config_json != whole {
            // Everything that is written from it, adapters too, is that of the text model.
            tracing::warn!("{}: only the text part of this multimodal model is read", folder.display());
        }
        recognise::check_quantised(folder, &whole, &checkpoint.names())?;
        let checkpoint = quantised_folder(folder, checkpoint, &whole)?;
        let mut tokenizer = Tokenizer::from_folder(folder)?;
        let generation = folder.join("generation_config.json");
        let generation_config = generation.exists().then(|| json_file::read(&generation)).transpose()?;
        let mut config = ModelConfig::from_json(&config_json)?;
        add_end_tokens(&mut config, generation_config.as_ref(), &tokenizer);
        let checkpoint = experts_apart(canonical(checkpoint, &mut config, &mut config_json)?, &config);
        warn_of_undeclared(folder, &config, &*checkpoint);
        if let Some(end) = config.eos_token_id.first() {
            tokenizer.set_end_of_text(*end);
        }
        Ok(Self {
            config,
            chat_template: ChatTemplate::from_folder(folder, tokenizer.special())?,
            config_json,
            tokenizer,
            generation_config,
            checkpoint,
            source: folder.display().to_string(),
        })
    }

    fn from_gguf(path: &Path) -> Result<Self> {
        let file = GgufFile::open(path)?;
        if file.metadata().text(keys::TYPE) == Some(keys::ADAPTER) {
            return Err(ModelError::IsAdapter { path: path.to_owned(), base: None, format: "GGUF" });
        }
        if let Some(reason) = file.metadata().text(keys::TYPE).and_then(keys::other_content) {
            return Err(ModelError::format(path, reason));
        }
        let config_json = file.config_json()?;
        let tokenizer = file.tokenizer()?;
        let mut config = ModelConfig::from_json(&config_json)?;
        add_end_tokens(&mut config, None, &tokenizer);
        warn_of_undeclared(path, &config, &file);
        Ok(Self {
            config,
            chat_template: file.chat_template()?,
            config_json,
            tokenizer,
            generation_config: None,
            checkpoint: Box::new(file),
            source: path.display().to_string(),
        })
    }
}

/// Tells which weights the configuration has no use for.
fn warn_of_undeclared(path: &Path, config: &ModelConfig, checkpoint: &dyn Checkpoint) {
    let mut names = undeclared_tensors(config, checkpoint);
    // Read for the configuration.
    let factors = [keys::ROPE_FREQS, keys::ROPE_FACTORS_LONG, keys::ROPE_FACTORS_SHORT];
    names.retain(|name| !factors.contains(&name.as_str()));
    if let Some(first) = names.first() {
        let more = if names.len() > 1 { format!(" and {} more", names.len() - 1) } else { String::new() };
        tracing::warn!("{}: its configuration has no place for {first}{more}: not read", path.display());
    }
}

/// Adds the end tokens of `generation_config.json` and of the tokenizer to those of `config.json`.
fn add_end_tokens(config: &mut ModelConfig, generation: Option<&Value>, tokenizer: &Tokenizer) {
    let id_of = |id: &Value| id.as_u64().and_then(|id| u32::try_from(id).ok());
    let named = generation.and_then(|json| json.get("eos_token_id"));
    let mut more: Vec<u32> = match named {
        Some(Value::Array(ids)) => ids.iter().filter_map(id_of).collect(),
        Some(id) => id_of(id).into_iter().collect(),
        None => Vec::new(),
    };
    more.extend(tokenizer.special().eos.as_ref().map(|(_, id)| *id));
    more.extend(&tokenizer.special().end);
    for id in more {
        if !config.eos_token_id.contains(&id) {
            config.eos_token_id.push(id);
        }
    }
}

/// The checkpoint of a model without weights.
struct NoWeights;

impl Checkpoint for NoWeights {
    fn names(&self) -> Vec<String> {
        Vec::new()
    }

    fn shape(&self, _name: &str) -> Option<Vec<usize>> {
        None
    }

    fn read_f32(&self, name: &str) -> Result<Vec<f32>> {
        Err(ModelError::Mismatch { problems: vec![format!("{name}: missing, the model has no weights")] })
    }
}

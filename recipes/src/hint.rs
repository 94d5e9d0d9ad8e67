//! What to do about an error.

use burnish_engine::Hinted;
use burnish_lora::LoraError;
use burnish_models::ModelError;
use burnish_models::atomic::WriteError;

use crate::config::ConfigError;
use crate::data::DataError;

/// What to do about an error, where we know it.
pub fn hint(error: &anyhow::Error) -> Option<String> {
    for cause in error.chain() {
        if let Some(hinted) = cause.downcast_ref::<Hinted>() {
            return Some(hinted.hint().to_owned());
        }
        let known = cause
            .downcast_ref::<ModelError>()
            .and_then(of_model)
            .or_else(|| cause.downcast_ref::<LoraError>().and_then(of_lora))
            .or_else(|| cause.downcast_ref::<DataError>().and_then(of_data))
            .or_else(|| cause.downcast_ref::<ConfigError>().and_then(of_config))
            .or_else(|| cause.downcast_ref::<std::io::Error>().and_then(of_io));
        if known.is_some() {
            return known;
        }
    }
    None
}

fn of_io(error: &std::io::Error) -> Option<String> {
    use std::io::ErrorKind;
    Some(match error.kind() {
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => {
            "the disk is full: free some space or choose another --output-dir; the last checkpoint is whole".to_owned()
        }
        ErrorKind::PermissionDenied => "check who owns the file or folder, or choose another".to_owned(),
        ErrorKind::NotFound => "check the spelling; the path is taken from the folder you are in".to_owned(),
        ErrorKind::ReadOnlyFilesystem => "the disk can't be written to; choose another --output-dir".to_owned(),
        _ => return None,
    })
}

fn of_model(error: &ModelError) -> Option<String> {
    Some(match error {
        ModelError::Io { source, .. } => return of_io(source),
        ModelError::Format { .. } => "the file may be cut off or not what its name says; fetch it again".to_owned(),
        ModelError::Mismatch { .. } => {
            "config.json and the weights belong to different models, or a shard is missing".to_owned()
        }
        ModelError::Overflow { .. } => "--dtype bf16 and --dtype f32 hold it".to_owned(),
        ModelError::NonFinite => "--dtype bf16 and --dtype f32 have a larger range than f16".to_owned(),
        ModelError::UnknownModelType { .. } | ModelError::UnknownArchitecture { .. } => {
            "the README lists the families that can be loaded".to_owned()
        }
        ModelError::NoTemplate => {
            "use an instruct model, or rows of `text` or `prompt` and `completion`; --raw generates without one".to_owned()
        }
        ModelError::Hub { .. } => {
            "check the id and the network; HF_TOKEN opens gated models, HF_HUB_OFFLINE=1 uses the cache alone".to_owned()
        }
        ModelError::IsAdapter { is_mlx: false, .. } => "--adapter takes it, and --model the model it belongs to".to_owned(),
        ModelError::IsAdapter { is_mlx: true, .. } => {
            "mlx_lm.fuse merges it into its model, whose folder can then be the model".to_owned()
        }
        ModelError::Config { .. }
        | ModelError::Unsupported { .. }
        | ModelError::Tokenizer { .. }
        | ModelError::Template { .. } => return None,
    })
}

fn of_lora(error: &LoraError) -> Option<String> {
    Some(match error {
        LoraError::Io { source, .. } | LoraError::Write(WriteError::Io { source, .. }) => return of_io(source),
        LoraError::Mismatch { .. } => "the adapter was trained on another model; adapter_config.json names it".to_owned(),
        LoraError::NoTarget { .. } => "`target_modules` takes these names, or \"all-linear\"".to_owned(),
        LoraError::Model(error) => return of_model(error),
        LoraError::Write(_) | LoraError::Unsupported { .. } | LoraError::Format { .. } | LoraError::Config { .. } => {
            return None;
        }
    })
}

fn of_data(error: &DataError) -> Option<String> {
    match error {
        DataError::Io { source, .. } => of_io(source),
        other => other.hint().map(str::to_owned),
    }
}

fn of_config(error: &ConfigError) -> Option<String> {
    Some(match error {
        ConfigError::Io { source, .. } => return of_io(source),
        ConfigError::UnknownKey { nearest: Some(nearest), .. } => format!("did you mean `{nearest}`?"),
        ConfigError::UnknownKey { nearest: None, .. } => "`burnish init` writes a file with every key".to_owned(),
        ConfigError::Syntax { .. } => "`burnish init` writes a file to start from".to_owned(),
        ConfigError::Value { .. } | ConfigError::Problems { .. } => return None,
    })
}

//! Hints: what a user can do about an error.

use burnish_engine::Hinted;
use burnish_export::ExportError;
use burnish_lora::LoraError;
use burnish_models::ModelError;
use burnish_models::atomic::WriteError;
use burnish_models::gguf::is_gguf_name;

use crate::config::ConfigError;
use crate::data::DataError;

/// The way out where a disk takes no more, for every command.
const ELSEWHERE: &str = "write to another place";

/// Words of errors that a damaged file has, and one of another format; not one that is sound but not supported.
const DAMAGE: [&str; 13] = [
    "cut off",
    "not a GGUF file",
    "expected GGUF version",
    "bytes that are left can hold",
    "not UTF-8",
    "has the unknown type",
    "not a safetensors file",
    "not a complete safetensors file",
    "lies beyond the end",
    "is empty",
    "not a file of torch.save",
    "is missing from the archive",
    "not JSON",
];

/// As [`hint`], for an error of a run, which has checkpoints.
pub fn hint_of_run(error: &anyhow::Error) -> Option<String> {
    Some(hint(error)?.replace(ELSEWHERE, "choose another --output-dir; the last checkpoint is intact"))
}

/// A hint for an error, if there is one.
pub fn hint(error: &anyhow::Error) -> Option<String> {
    for cause in error.chain() {
        if let Some(hinted) = cause.downcast_ref::<Hinted>() {
            return Some(hinted.hint().to_owned());
        }
        let known = cause
            .downcast_ref::<ModelError>()
            .and_then(of_model)
            .or_else(|| cause.downcast_ref::<LoraError>().and_then(of_lora))
            .or_else(|| cause.downcast_ref::<ExportError>().and_then(of_export))
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
            format!("the disk is full: free some space or {ELSEWHERE}")
        }
        ErrorKind::FileTooLarge => {
            format!(
                "the size of files is limited (by `ulimit -f`, or to 4 GB on a FAT32 disk): raise the limit or {ELSEWHERE}"
            )
        }
        ErrorKind::PermissionDenied => "check the permissions of the file or folder, or choose another".to_owned(),
        ErrorKind::IsADirectory => "name a file, not a folder".to_owned(),
        ErrorKind::NotFound => "check the spelling; relative paths start at the current folder".to_owned(),
        ErrorKind::ReadOnlyFilesystem => format!("the disk is read-only: {ELSEWHERE}"),
        _ => return None,
    })
}

fn of_model(error: &ModelError) -> Option<String> {
    Some(match error {
        ModelError::Io { source, .. } => return of_io(source),
        ModelError::Format { reason, .. } if DAMAGE.iter().any(|words| reason.contains(words)) => {
            "the file may be truncated or of another format; download it again".to_owned()
        }
        ModelError::Mismatch { .. } => {
            "config.json and the weights may belong to different models, or a shard may be missing".to_owned()
        }
        ModelError::Overflow { .. } | ModelError::NonFinite => {
            "use --dtype bf16 or --dtype f32, which have a larger range".to_owned()
        }
        ModelError::UnknownModelType { .. } | ModelError::UnknownArchitecture { .. } => {
            "the README lists the supported model families".to_owned()
        }
        ModelError::NoTemplate => {
            "use an instruct model; or train on rows with `text`, or `prompt` and `completion`; or generate with --raw"
                .to_owned()
        }
        ModelError::Hub { way: Some(way), .. } => way.clone(),
        ModelError::Hub { way: None, .. } => {
            "check the id and the network; set HF_TOKEN for gated models, or HF_HUB_OFFLINE=1 to use only the cache"
                .to_owned()
        }
        ModelError::IsAdapter { .. } => "pass it as --adapter, and the model it belongs to as --model".to_owned(),
        ModelError::Format { .. }
        | ModelError::Config { .. }
        | ModelError::Unsupported { .. }
        | ModelError::Tokenizer { .. }
        | ModelError::Template { .. } => return None,
    })
}

fn of_lora(error: &LoraError) -> Option<String> {
    Some(match error {
        LoraError::Io { source, .. } | LoraError::Write(WriteError::Io { source, .. }) => return of_io(source),
        LoraError::Mismatch { path, .. } if is_gguf_name(path) => "the adapter was trained on another model".to_owned(),
        LoraError::Mismatch { .. } => {
            "the adapter was trained on another model, which its adapter_config.json names".to_owned()
        }
        LoraError::NoTarget { .. } => "set `target_modules` to some of these names, or to \"all-linear\"".to_owned(),
        LoraError::Model(error) => return of_model(error),
        LoraError::Write(_) | LoraError::Unsupported { .. } | LoraError::Format { .. } | LoraError::Config { .. } => {
            return None;
        }
    })
}

/// Errors of other crates inside an export error, which are not in the chain because it displays them directly.
fn of_export(error: &ExportError) -> Option<String> {
    match error {
        ExportError::Model(ModelError::Overflow { .. }) => {
            Some("write bf16 or f32, which have a larger range: --quant of `export`, --dtype of `merge`".to_owned())
        }
        ExportError::Model(error) => of_model(error),
        ExportError::Lora(error) => of_lora(error),
        _ => None,
    }
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
        ConfigError::UnknownKey { nearest: None, .. } => "`burnish init` writes a file that lists every key".to_owned(),
        ConfigError::Syntax { .. } => "`burnish init` writes a file to start from".to_owned(),
        ConfigError::Value { .. } | ConfigError::Problems { .. } => return None,
    })
}

#[cfg(test)]
mod tests {
    use std::io::{Error, ErrorKind};

    use super::*;

    #[test]
    fn an_error_of_the_disk_has_a_hint_anywhere_in_the_chain() {
        for (kind, words) in [
            (ErrorKind::StorageFull, "the disk is full"),
            (ErrorKind::QuotaExceeded, "the disk is full"),
            (ErrorKind::FileTooLarge, "ulimit -f"),
            (ErrorKind::ReadOnlyFilesystem, "read-only"),
        ] {
            let path = || std::path::PathBuf::from("run/checkpoint-2");
            let written = || WriteError::Io { path: path(), source: Error::from(kind) };
            for error in [
                anyhow::Error::from(Error::from(kind)).context("can't write metrics.jsonl"),
                anyhow::Error::from(written()),
                anyhow::Error::from(LoraError::Write(written())),
                anyhow::Error::from(ExportError::Lora(LoraError::Write(written()))),
                anyhow::Error::from(ModelError::Io { path: path(), source: Error::from(kind) }),
            ] {
                let hint = hint(&error);
                assert!(hint.as_deref().is_some_and(|hint| hint.contains(words)), "{error:?}: {hint:?}");
                // Only a run has a checkpoint and an output folder.
                assert!(hint.is_some_and(|hint| !hint.contains("checkpoint") && !hint.contains("--output-dir")));
                let of_run = hint_of_run(&error);
                assert!(
                    of_run.is_some_and(|hint| hint.contains(words) && hint.contains("--output-dir; the last checkpoint"))
                );
            }
        }
    }

    #[test]
    fn an_error_of_the_hub_without_a_hint_of_its_own_says_what_to_check() {
        let reason = "not in the cache (/cache), and HF_HUB_OFFLINE is set".to_owned();
        let error = ModelError::Hub { id: "owner/name".to_owned(), reason, way: None };
        assert!(hint(&error.into()).unwrap().contains("check the id"));
    }

    #[test]
    fn a_folder_in_place_of_a_file_is_told() {
        let error = anyhow::Error::from(Error::from(ErrorKind::IsADirectory));
        assert!(hint(&error).is_some_and(|hint| hint.contains("a file, not a folder")));
    }

    #[test]
    fn a_sound_file_is_not_to_be_downloaded_again() {
        let of = |reason: &str| hint(&ModelError::format("m", reason).into());
        for damaged in
            ["the file is cut off: at byte 8", "not a complete safetensors file: HeaderTooLarge", "the file is empty"]
        {
            assert!(of(damaged).is_some_and(|hint| hint.contains("download it again")), "{damaged}");
        }
        for sound in [
            "its `data.pkl`: it needs `os.system` of Python, which is not part of a state dict of tensors",
            "is in the format of torch.save before PyTorch 1.6, which is not read",
            "`w` has the storage type TQ1_0 of ggml, which is not supported",
            "expected one of model.safetensors, found none of them",
        ] {
            assert_eq!(of(sound), None, "{sound}");
        }
    }

    #[test]
    fn a_weight_that_f16_cannot_hold_names_the_flag_of_the_command() {
        let overflow = || ModelError::Overflow { tensor: "w".into(), value: 1e6 };
        assert!(hint(&overflow().into()).is_some_and(|hint| hint.contains("--dtype bf16")));
        assert!(hint(&ExportError::Model(overflow()).into()).is_some_and(|hint| hint.contains("--quant of `export`")));
    }

    #[test]
    fn only_a_folder_of_an_adapter_names_its_base() {
        let of =
            |path: &str| hint(&LoraError::Mismatch { path: path.into(), problems: Vec::new() }.into()).unwrap_or_default();
        assert!(of("run/adapter").contains("adapter_config.json"));
        assert_eq!(of("l.gguf"), "the adapter was trained on another model");
    }
}

//! The target of an export: what may be replaced there, and how it is written.

use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::Duration;

use burnish_models::{Checkpoint, Pretrained, atomic};

use crate::counted_file::CountedFile;
use crate::error::{ExportError, Result};
use crate::model_card::{MODEL_CARD, is_own_card};

/// The files that exports write into folders.
const OWN_FILES: [&str; 12] = [
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "model.safetensors",
    "model.safetensors.index.json",
    "adapter_config.json",
    "adapter_model.safetensors",
    "adapters.safetensors",
];
/// The folder that exports write into folders.
const TEMPLATES: &str = "additional_chat_templates";
/// Files that file managers leave in any folder.
const SYSTEM_FILES: [&str; 3] = [".DS_Store", "Thumbs.db", "desktop.ini"];

/// Checks that an export may write the folder `target`, before anything is computed.
///
/// An existing folder is replaced only with `overwrite`, and only if it holds nothing but files that exports write and if none
/// of the `inputs` of this export is the folder or lies in it.
///
/// # Errors
/// [`ExportError::Exists`] if the target exists and `overwrite` is false, [`ExportError::Occupied`] if it must not be replaced.
pub fn check_folder(target: &Path, overwrite: bool, inputs: &[PathBuf]) -> Result<()> {
    let occupied = |reason: String| Err(ExportError::Occupied { path: target.to_owned(), reason });
    if target.is_file() {
        return occupied("is a file, but this export writes a folder".into());
    }
    if !exists(target) {
        return Ok(());
    }
    check_inputs(target, inputs)?;
    let entries = fs::read_dir(target).map_err(|error| ExportError::io(target, error))?;
    let mut names = Vec::new();
    for entry in entries {
        let entry = entry.map_err(|error| ExportError::io(target, error))?;
        names.push(entry.file_name().to_string_lossy().into_owned());
    }
    names.sort();
    let is_run =
        names.iter().any(|name| name.starts_with("checkpoint-")) || names.iter().any(|name| name == "metrics.jsonl");
    if is_run {
        return occupied("is the folder of a training run and is never replaced; choose another folder".into());
    }
    match names.iter().find(|name| !is_own(target, name)) {
        Some(name) => occupied(format!("has `{name}`, which no export wrote, so it is not replaced; choose another folder")),
        None if overwrite => Ok(()),
        None => Err(ExportError::Exists { path: target.to_owned() }),
    }
}

/// Checks that an export may write the file `target`. An existing file is replaced only with `overwrite`, and only if it begins
/// with `magic` and is not one of the `inputs`.
///
/// # Errors
/// As [`check_folder`].
pub fn check_file(target: &Path, overwrite: bool, inputs: &[PathBuf], magic: &[u8]) -> Result<()> {
    let occupied = |reason: &str| Err(ExportError::Occupied { path: target.to_owned(), reason: reason.to_owned() });
    if target.is_dir() {
        return occupied("is a folder, but this export writes a file");
    }
    if target.as_os_str().to_string_lossy().ends_with(std::path::is_separator) {
        return occupied("is the name of a folder, but this export writes a file");
    }
    if !exists(target) {
        return Ok(());
    }
    check_inputs(target, inputs)?;
    let mut begin = vec![0; magic.len()];
    let read = File::open(target).and_then(|mut file| file.read_exact(&mut begin));
    if read.is_err() || begin != magic {
        return occupied("is a file that no export wrote, so it is not replaced; choose another name");
    }
    if overwrite { Ok(()) } else { Err(ExportError::Exists { path: target.to_owned() }) }
}

/// Checks the target as [`check_folder`] does, and writes it: `fill` puts the files into a folder beside it, which is then
/// renamed. The target is complete or unchanged, whatever happens.
///
/// # Errors
/// As [`check_folder`], and if `fill` fails or the folder can't be written.
pub fn write_folder<E: From<ExportError> + From<atomic::WriteError>>(
    target: &Path,
    overwrite: bool,
    inputs: &[PathBuf],
    fill: impl FnOnce(&Path) -> std::result::Result<(), E>,
) -> std::result::Result<(), E> {
    atomic::recover(target)?;
    check_folder(target, overwrite, inputs)?;
    atomic::write_folder(target, fill)
}

/// Checks the target as [`check_file`] does, and writes it as [`write_folder`] does a folder. Returns its number of bytes.
pub(crate) fn write_file(
    target: &Path,
    overwrite: bool,
    inputs: &[PathBuf],
    magic: &[u8],
    fill: impl FnOnce(&mut CountedFile) -> Result<()>,
) -> Result<u64> {
    check_file(target, overwrite, inputs, magic)?;
    atomic::write_file(target, |file| {
        let file = file.try_clone().map_err(|error| ExportError::io(target, error))?;
        let mut file = CountedFile::new(file, target);
        fill(&mut file)?;
        file.finish()
    })
}

/// As [`write_file`], of several files that belong together: all are complete, or all are unchanged. `fill` gets the index of each.
pub(crate) fn write_files(
    targets: &[PathBuf],
    overwrite: bool,
    inputs: &[PathBuf],
    magic: &[u8],
    mut fill: impl FnMut(usize, &mut CountedFile) -> Result<()>,
) -> Result<u64> {
    for target in targets {
        check_file(target, overwrite, inputs, magic)?;
    }
    let mut written = 0;
    atomic::write_files(targets, |index, file| {
        let target = &targets[index];
        let file = file.try_clone().map_err(|error| ExportError::io(target, error))?;
        let mut file = CountedFile::new(file, target);
        fill(index, &mut file)?;
        written += file.finish()?;
        Ok::<_, ExportError>(())
    })?;
    Ok(written)
}

/// Unfinished files and folders older than this belong to no running export.
const STALE: Duration = Duration::from_hours(24);

/// Deletes what killed exports of earlier versions left in a folder, and returns the paths: files and folders called `.burnish-`
/// and six letters or digits, unchanged for a day, with nothing in them but what exports write.
pub fn remove_stale(folder: &Path) -> Vec<PathBuf> {
    let is_untouched = |path: &Path| {
        let modified = path.symlink_metadata().and_then(|metadata| metadata.modified());
        modified.is_ok_and(|then| then.elapsed().is_ok_and(|passed| passed > STALE))
    };
    let is_left = |path: &Path| {
        let name = path.file_name().and_then(|name| name.to_str()).and_then(|name| name.strip_prefix(".burnish-"));
        let is_named = name.is_some_and(|rest| rest.len() == 6 && rest.bytes().all(|byte| byte.is_ascii_alphanumeric()));
        if !is_named || path.is_symlink() || !is_untouched(path) {
            return false;
        }
        match fs::read_dir(path) {
            // A folder with `old` in it stays: that may be the only copy of a folder that was being replaced.
            Ok(mut entries) => entries.all(|entry| {
                entry.is_ok_and(|entry| {
                    is_untouched(&entry.path()) && entry.file_name().to_str().is_some_and(|name| is_own(path, name))
                })
            }),
            Err(_) => path.is_file() && check_file(path, true, &[], b"GGUF").is_ok(),
        }
    };
    let entries = fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
    let left = entries.filter(|path| is_left(path));
    left.filter(|path| if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) }.is_ok()).collect()
}

/// The files and folders that an export of a model reads.
pub fn inputs_of(model: &Pretrained, weights: &dyn Checkpoint) -> Vec<PathBuf> {
    let mut inputs = weights.files();
    // A hub id is not a path; the files of its model are among those of the weights.
    inputs.extend([PathBuf::from(&model.source)].into_iter().filter(|source| source.exists()));
    inputs
}

/// Whether the path exists, if only as a broken link.
fn exists(target: &Path) -> bool {
    target.symlink_metadata().is_ok()
}

/// Whether an export writes an entry of that name into a folder.
fn is_own(folder: &Path, name: &str) -> bool {
    let is_shard = || {
        let parts = name.strip_prefix("model-").and_then(|rest| rest.strip_suffix(".safetensors"))?.split_once("-of-")?;
        let is_number = |part: &str| part.len() == 5 && part.bytes().all(|byte| byte.is_ascii_digit());
        Some(is_number(parts.0) && is_number(parts.1))
    };
    let path = folder.join(name);
    if path.is_dir() {
        let is_template = |entry: std::io::Result<fs::DirEntry>| {
            entry.is_ok_and(|entry| entry.path().extension().is_some_and(|extension| extension == "jinja"))
        };
        return name == TEMPLATES && fs::read_dir(&path).is_ok_and(|mut entries| entries.all(is_template));
    }
    if name == MODEL_CARD {
        return fs::read_to_string(&path).is_ok_and(|text| is_own_card(&text));
    }
    OWN_FILES.contains(&name) || SYSTEM_FILES.contains(&name) || is_shard() == Some(true)
}

/// Refuses a target that is an input or contains one.
fn check_inputs(target: &Path, inputs: &[PathBuf]) -> Result<()> {
    let Ok(real) = fs::canonicalize(target) else { return Ok(()) };
    let read = inputs.iter().find(|input| {
        let real_input = fs::canonicalize(input).ok();
        // A file of the hub's cache is a link: both the link and the file it leads to count.
        let link = input.parent().zip(input.file_name()).and_then(|(parent, name)| {
            let parent = if parent.as_os_str().is_empty() { Path::new(".") } else { parent };
            Some(fs::canonicalize(parent).ok()?.join(name))
        });
        [real_input, link].into_iter().flatten().any(|input| input.starts_with(&real))
    });
    match read {
        Some(input) => {
            let reason = format!("is an input of this export ({}), so it is not replaced; choose another", input.display());
            Err(ExportError::Occupied { path: target.to_owned(), reason })
        }
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests;

//! What an export may replace, and how it is written: beside its place, then renamed.

use std::fs::{self, File};
use std::io::{BufWriter, Read, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use burnish_models::{Checkpoint, Pretrained, atomic};

use crate::error::{ExportError, Result};

/// Files that exports write into folders.
const OWN_FILES: [&str; 11] = [
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
];
/// A folder that exports write into folders.
const TEMPLATES: &str = "additional_chat_templates";
/// What file managers leave in any folder.
const OF_SYSTEM: [&str; 3] = [".DS_Store", "Thumbs.db", "desktop.ini"];

/// Checks that an export may write a folder here, before anything is computed.
///
/// What is there is replaced with `overwrite` only, and then only a folder that holds nothing but files that exports write and
/// is, or contains, none of the `inputs` of this one.
///
/// # Errors
/// [`ExportError::Exists`] without `overwrite`, else [`ExportError::Occupied`].
pub fn check_folder(target: &Path, overwrite: bool, inputs: &[PathBuf]) -> Result<()> {
    let occupied = |reason: String| Err(ExportError::Occupied { path: target.to_owned(), reason });
    if target.is_file() {
        return occupied("is a file, and a folder is to be written".into());
    }
    if !is_there(target) {
        return Ok(());
    }
    if !overwrite {
        return Err(ExportError::Exists { path: target.to_owned() });
    }
    check_inputs(target, inputs)?;
    let entries = fs::read_dir(target).map_err(|error| ExportError::io(target, error))?;
    let mut names: Vec<String> = entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    let is_run =
        names.iter().any(|name| name.starts_with("checkpoint-")) || names.iter().any(|name| name == "metrics.jsonl");
    if is_run {
        return occupied("is the folder of a training run, and is not replaced; choose another".into());
    }
    match names.iter().find(|name| !is_own(target, name)) {
        Some(name) => occupied(format!("holds `{name}`, which no export wrote, and is not replaced; choose another folder")),
        None => Ok(()),
    }
}

/// Checks that an export may write a file here: with `overwrite` it replaces a file that begins with `magic` and is none of
/// the `inputs`.
///
/// # Errors
/// As [`check_folder`].
pub fn check_file(target: &Path, overwrite: bool, inputs: &[PathBuf], magic: &[u8]) -> Result<()> {
    let occupied = |reason: &str| Err(ExportError::Occupied { path: target.to_owned(), reason: reason.to_owned() });
    if target.is_dir() {
        return occupied("is a folder, and a file is to be written");
    }
    if !is_there(target) {
        return Ok(());
    }
    if !overwrite {
        return Err(ExportError::Exists { path: target.to_owned() });
    }
    check_inputs(target, inputs)?;
    let mut begin = vec![0; magic.len()];
    let read = File::open(target).and_then(|mut file| file.read_exact(&mut begin));
    if read.is_err() || begin != magic {
        return occupied("is a file that no export wrote, and is not replaced; choose another name");
    }
    Ok(())
}

/// Writes a folder that `fill` puts files into, after [`check_folder`]. It appears under its name whole or not at all.
///
/// # Errors
/// As [`check_folder`], and when `fill` fails or the disk refuses; what was there stays then.
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

/// A file that appears under its name only when it is whole, after [`check_file`].
pub(crate) fn file(
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

/// How long what an export writes is left alone before nobody can be at it.
const STALE: Duration = Duration::from_hours(24);

/// Deletes what killed exports of earlier versions left in a folder, and returns it: `.burnish-` and six letters or digits, with
/// nothing in it that an export does not write, untouched for a day.
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
            // What was set aside to be replaced, in a folder `old`, may be all that there is of it.
            Ok(entries) => entries.flatten().all(|entry| {
                is_untouched(&entry.path()) && entry.file_name().to_str().is_some_and(|name| is_own(path, name))
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
    // A hub id names no path, and its files are among those of the weights.
    inputs.extend([PathBuf::from(&model.source)].into_iter().filter(|source| source.exists()));
    inputs
}

/// Also a link that leads nowhere.
fn is_there(target: &Path) -> bool {
    target.symlink_metadata().is_ok()
}

/// Whether an entry of a folder is one that an export writes.
fn is_own(folder: &Path, name: &str) -> bool {
    let is_shard = || {
        let parts = name.strip_prefix("model-").and_then(|rest| rest.strip_suffix(".safetensors"))?.split_once("-of-")?;
        let is_number = |part: &str| part.len() == 5 && part.bytes().all(|byte| byte.is_ascii_digit());
        Some(is_number(parts.0) && is_number(parts.1))
    };
    let path = folder.join(name);
    if path.is_dir() {
        let entries = || fs::read_dir(&path).into_iter().flatten().flatten();
        return name == TEMPLATES
            && entries().all(|entry| entry.path().extension().is_some_and(|extension| extension == "jinja"));
    }
    OWN_FILES.contains(&name) || OF_SYSTEM.contains(&name) || is_shard() == Some(true)
}

/// Refuses a target that is an input, or the folder of one.
fn check_inputs(target: &Path, inputs: &[PathBuf]) -> Result<()> {
    let Ok(real) = fs::canonicalize(target) else { return Ok(()) };
    let read = inputs.iter().find(|input| {
        let whole = fs::canonicalize(input).ok();
        // A file of the hub's cache is a link, and its name lies in the folder too.
        let named = input.parent().zip(input.file_name()).and_then(|(parent, name)| {
            let parent = if parent.as_os_str().is_empty() { Path::new(".") } else { parent };
            Some(fs::canonicalize(parent).ok()?.join(name))
        });
        [whole, named].into_iter().flatten().any(|input| input.starts_with(&real))
    });
    match read {
        Some(input) => {
            let reason = format!("would be replaced by what is read from it ({}); choose another", input.display());
            Err(ExportError::Occupied { path: target.to_owned(), reason })
        }
        None => Ok(()),
    }
}

/// A file that knows how much was written to it.
pub(crate) struct CountedFile {
    writer: BufWriter<File>,
    path: PathBuf,
    pub(crate) written: u64,
}

impl CountedFile {
    fn new(file: File, path: &Path) -> Self {
        Self { writer: BufWriter::with_capacity(1 << 20, file), path: path.to_owned(), written: 0 }
    }

    pub(crate) fn create(path: &Path) -> Result<Self> {
        Ok(Self::new(File::create(path).map_err(|error| ExportError::io(path, error))?, path))
    }

    pub(crate) fn put(&mut self, bytes: &[u8]) -> Result<()> {
        self.writer.write_all(bytes).map_err(|error| ExportError::io(&self.path, error))?;
        self.written += bytes.len() as u64;
        Ok(())
    }

    /// Zeros up to a multiple of `alignment`.
    pub(crate) fn align(&mut self, alignment: u64) -> Result<()> {
        let gap = self.written.next_multiple_of(alignment) - self.written;
        self.put(&vec![0; gap as usize])
    }

    pub(crate) fn finish(mut self) -> Result<u64> {
        self.writer.flush().map_err(|error| ExportError::io(&self.path, error))?;
        self.writer.get_ref().sync_all().map_err(|error| ExportError::io(&self.path, error))?;
        Ok(self.written)
    }
}

/// Writes a small file.
pub(crate) fn small(path: &Path, text: &str) -> Result<u64> {
    let mut file = CountedFile::create(path)?;
    file.put(text.as_bytes())?;
    file.finish()
}

#[cfg(test)]
mod tests;

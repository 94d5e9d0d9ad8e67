//! Checkpoints of a run: one folder each, written under a temporary name and renamed.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use burnish_engine::{LossScale, Trainer};
use burnish_export::{FloatType, write_safetensors_file};
use burnish_models::Checkpoint;
use burnish_models::atomic::{self, write_folder};
use burnish_models::checkpoint::SafetensorsFolder;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::fingerprint::{Fingerprint, hex};
use crate::tune::ChosenProducts;

const PREFIX: &str = "checkpoint-";
const MANIFEST: &str = "manifest.json";
const STATE: &str = "trainer_state.json";
const OPTIMIZER: &str = "optimizer.safetensors";

/// The progress of a run. Data order and random draws follow from seed, epoch and step alone.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct TrainerState {
    /// Optimizer steps so far, skipped ones included.
    pub step: usize,
    /// Steps skipped because their gradient overflowed f16.
    #[serde(default)]
    pub skipped: usize,
    /// The loss scale, if the model computes in f16.
    #[serde(default)]
    pub loss_scale: Option<LossScale>,
    /// Epoch of the last step, counted from 0.
    pub epoch: usize,
    /// Tokens trained on so far.
    pub tokens: u64,
    /// Seed of the data order, the fresh adapters and dropout.
    pub seed: u64,
    /// When the run began, in seconds since 1970. Chat templates may print this date.
    #[serde(default)]
    pub started: i64,
    /// Lowest validation loss so far.
    pub best_loss: Option<f64>,
    /// Step of the lowest validation loss.
    pub best_step: Option<usize>,
    /// Validations since then, none of them better.
    pub without_improvement: usize,
    /// The vendor's library that computed large matrix products, if any.
    #[serde(default)]
    pub product_library: Option<String>,
    /// How products are computed, if not all are by default.
    #[serde(default)]
    pub products: Option<ChosenProducts>,
    /// Digests of the inputs. Checkpoints of older versions have none.
    #[serde(default)]
    pub fingerprint: Option<Fingerprint>,
}

impl TrainerState {
    /// Records the validation loss of a step, and returns whether it is the best so far.
    pub fn take_validation(&mut self, loss: f64, step: usize) -> bool {
        // A non-finite loss is never the best, and any finite loss is better than a non-finite one.
        let is_best = loss.is_finite() && self.best_loss.is_none_or(|best| !best.is_finite() || loss < best);
        if is_best {
            (self.best_loss, self.best_step, self.without_improvement) = (Some(loss), Some(step), 0);
        } else {
            self.without_improvement += 1;
        }
        is_best
    }

    /// Discards the best validation, as if there had been none.
    pub fn forget_best(&mut self) {
        self.best_loss = None;
        self.best_step = None;
        self.without_improvement = 0;
    }
}

/// Size and checksum of every other file of the checkpoint.
#[derive(Debug, Serialize, Deserialize)]
struct Manifest {
    files: BTreeMap<String, FileEntry>,
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct FileEntry {
    bytes: u64,
    sha256: String,
}

/// A checkpoint whose every byte was verified.
#[derive(Debug, Clone)]
pub struct RunCheckpoint {
    /// The folder.
    pub path: PathBuf,
    /// Progress of the run when it was saved.
    pub state: TrainerState,
}

impl RunCheckpoint {
    /// Writes a checkpoint; `weights` writes the trained tensors into the folder it gets.
    ///
    /// # Errors
    /// When a file can't be written. An older checkpoint of the same step then stays intact.
    pub fn save(
        run: &Path,
        state: &TrainerState,
        config_toml: &str,
        moments: &dyn Checkpoint,
        weights: impl FnOnce(&Path) -> Result<()>,
    ) -> Result<PathBuf> {
        let target = Self::folder(run, state.step);
        write_folder(&target, |folder| -> Result<()> {
            weights(folder)?;
            write_safetensors_file(moments, &folder.join(OPTIMIZER), FloatType::F32)?;
            write(folder, STATE, serde_json::to_string_pretty(state)?.as_bytes())?;
            write(folder, "config.toml", config_toml.as_bytes())?;
            let manifest = Manifest { files: checksums(folder)? };
            write(folder, MANIFEST, serde_json::to_string_pretty(&manifest)?.as_bytes())
        })?;
        Ok(target)
    }

    /// The folder for the checkpoint of a step.
    pub fn folder(run: &Path, step: usize) -> PathBuf {
        run.join(format!("{PREFIX}{step}"))
    }

    /// Opens a checkpoint and verifies every file.
    ///
    /// # Errors
    /// When a file is missing, truncated, or differs from the manifest.
    pub fn open(path: &Path) -> Result<Self> {
        let text =
            fs::read_to_string(path.join(MANIFEST)).with_context(|| format!("{}: no readable manifest", path.display()))?;
        let manifest: Manifest =
            serde_json::from_str(&text).with_context(|| format!("{}: damaged manifest", path.display()))?;
        let found = checksums(path)?;
        for (name, entry) in &manifest.files {
            match found.get(name) {
                None => bail!("{}: `{name}` is missing", path.display()),
                Some(other) if other != entry => bail!("{}: `{name}` is damaged (checksum differs)", path.display()),
                Some(_) => {}
            }
        }
        let text = fs::read_to_string(path.join(STATE)).with_context(|| format!("{}: no {STATE}", path.display()))?;
        let state = serde_json::from_str(&text).with_context(|| format!("{}: damaged {STATE}", path.display()))?;
        Ok(Self { path: path.to_owned(), state })
    }

    /// The newest intact checkpoint of a run, and the error of each newer one, which is damaged.
    pub fn newest(run: &Path) -> (Option<Self>, Vec<String>) {
        let mut refused = Vec::new();
        for (_, path) in list(run).into_iter().rev() {
            match Self::open(&path) {
                Ok(checkpoint) => return (Some(checkpoint), refused),
                Err(error) => refused.push(format!("{error:#}")),
            }
        }
        (None, refused)
    }

    /// Deletes all but the newest `limit` intact checkpoints and the best one; 0 keeps all. Damaged checkpoints don't count towards
    /// the limit, and are deleted once they are older than those kept.
    ///
    /// # Errors
    /// When a folder can't be deleted.
    pub fn prune(
        run: &Path,
        limit: usize,
        best: Option<usize>,
        mut is_whole: impl FnMut(usize, &Path) -> bool,
    ) -> Result<()> {
        let mut kept = 0;
        for (step, path) in list(run).into_iter().rev() {
            if limit == 0 || kept < limit {
                kept += usize::from(limit > 0 && is_whole(step, &path));
            } else if Some(step) != best {
                atomic::remove_folder(&path)?;
            }
        }
        Ok(())
    }

    /// Copies the checkpoint into the folder of another run.
    ///
    /// # Errors
    /// When a file can't be read or written.
    pub fn copy_to(&self, run: &Path) -> Result<()> {
        write_folder(&Self::folder(run, self.state.step), |folder| -> Result<()> {
            for entry in fs::read_dir(&self.path).with_context(|| self.path.display().to_string())? {
                let from = entry.with_context(|| self.path.display().to_string())?.path();
                let to = folder.join(from.file_name().unwrap_or_default());
                fs::copy(&from, &to).with_context(|| from.display().to_string())?;
            }
            Ok(())
        })
    }

    /// Restores the optimizer's moments and its number of updates.
    ///
    /// # Errors
    /// When a tensor is missing or has another shape.
    pub fn restore_moments(&self, trainer: &mut dyn Trainer) -> Result<()> {
        let updates = self.state.step - self.state.skipped.min(self.state.step);
        // Without updates there are no moments; a test may ask to lose them.
        if updates == 0 || burnish_engine::is_broken("resume") {
            return Ok(());
        }
        let file = self.path.join(OPTIMIZER);
        let moments = SafetensorsFolder::from_files(std::slice::from_ref(&file))?;
        trainer.restore_moments(updates, &moments).with_context(|| file.display().to_string())
    }
}

/// The step of a checkpoint, from the name of its folder.
pub(super) fn step_of(name: &str) -> Option<usize> {
    name.strip_prefix(PREFIX)?.parse().ok()
}

/// The checkpoints of a run by step, oldest first.
pub(super) fn list(run: &Path) -> Vec<(usize, PathBuf)> {
    let Ok(entries) = fs::read_dir(run) else { return Vec::new() };
    let mut found: Vec<(usize, PathBuf)> =
        entries.flatten().filter_map(|entry| Some((step_of(entry.file_name().to_str()?)?, entry.path()))).collect();
    found.sort();
    found
}

fn checksums(folder: &Path) -> Result<BTreeMap<String, FileEntry>> {
    let mut files = BTreeMap::new();
    for entry in fs::read_dir(folder).with_context(|| folder.display().to_string())? {
        let entry = entry.with_context(|| folder.display().to_string())?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if name == MANIFEST || !entry.path().is_file() {
            continue;
        }
        let mut file = File::open(entry.path()).with_context(|| entry.path().display().to_string())?;
        let mut hasher = Sha256::new();
        let bytes =
            std::io::copy(&mut file, &mut HashWriter(&mut hasher)).with_context(|| entry.path().display().to_string())?;
        let sha256 = hex(hasher);
        files.insert(name, FileEntry { bytes, sha256 });
    }
    Ok(files)
}

/// Writes a file without a sync: `write_folder` syncs the folder at the end.
fn write(folder: &Path, name: &str, bytes: &[u8]) -> Result<()> {
    let path = folder.join(name);
    fs::write(&path, bytes).with_context(|| path.display().to_string())
}

/// Lets `io::copy` feed a hash.
struct HashWriter<'a>(&'a mut Sha256);

impl Write for HashWriter<'_> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    /// Moments of so many elements, which say how large the file is while each is read.
    #[derive(Default)]
    struct Planted {
        elements: Vec<usize>,
        run: PathBuf,
        sizes: Mutex<Vec<u64>>,
    }

    impl Checkpoint for Planted {
        fn names(&self) -> Vec<String> {
            (0..self.elements.len()).map(|index| index.to_string()).collect()
        }

        fn shape(&self, name: &str) -> Option<Vec<usize>> {
            Some(vec![self.elements[name.parse::<usize>().unwrap()]])
        }

        fn read_f32(&self, name: &str) -> burnish_models::Result<Vec<f32>> {
            let file = self.run.join(".checkpoint-3.new").join(OPTIMIZER);
            self.sizes.lock().unwrap().push(fs::metadata(file).unwrap().len());
            let index: usize = name.parse().unwrap();
            Ok(vec![index as f32 + 0.5; self.elements[index]])
        }
    }

    impl RunCheckpoint {
        /// A checkpoint without moments, with one file beside its state.
        pub(in crate::train) fn planted(run: &Path, state: &TrainerState, config_toml: &str) -> PathBuf {
            Self::save(run, state, config_toml, &Planted::default(), |folder| write(folder, "weights", b"abc")).unwrap()
        }
    }

    fn planted(run: &Path, step: usize) -> PathBuf {
        RunCheckpoint::planted(run, &TrainerState { step, ..TrainerState::default() }, "")
    }

    #[test]
    fn moments_are_written_one_at_a_time() {
        let run = tempfile::tempdir().unwrap();
        let moments = Planted { elements: vec![1 << 20; 3], run: run.path().to_owned(), ..Planted::default() };
        let state = TrainerState { step: 3, ..TrainerState::default() };
        let path = RunCheckpoint::save(run.path(), &state, "", &moments, |_| Ok(())).unwrap();
        RunCheckpoint::open(&path).unwrap();
        let sizes = moments.sizes.into_inner().unwrap();
        assert!(sizes.len() == 3 && sizes[1] > 4 << 20 && sizes[2] > 8 << 20, "{sizes:?}");
        let written = SafetensorsFolder::from_files(&[path.join(OPTIMIZER)]).unwrap();
        assert_eq!((written.names().len(), written.read_f32("2").unwrap()), (3, vec![2.5; 1 << 20]));
    }

    fn steps(run: &Path) -> Vec<usize> {
        list(run).into_iter().map(|(step, _)| step).collect()
    }

    #[test]
    fn a_damaged_checkpoint_does_not_count_towards_the_limit() {
        let run = tempfile::tempdir().unwrap();
        let folders = [10, 20, 30, 40].map(|step| planted(run.path(), step));
        fs::write(folders[2].join("weights"), b"abd").unwrap();
        let prune = |limit| RunCheckpoint::prune(run.path(), limit, None, |_, path| RunCheckpoint::open(path).is_ok());
        prune(0).unwrap();
        assert_eq!(steps(run.path()), [10, 20, 30, 40]);
        prune(2).unwrap();
        assert_eq!(steps(run.path()), [20, 30, 40]);
        RunCheckpoint::prune(run.path(), 1, Some(20), |_, _| true).unwrap();
        assert_eq!(steps(run.path()), [20, 40]);
    }

    #[test]
    fn a_non_finite_validation_is_never_the_best() {
        let mut state = TrainerState::default();
        let mut take = |loss, step| state.take_validation(loss, step);
        assert!(!take(f64::NAN, 1) && !take(f64::INFINITY, 2) && take(3.0, 3));
        assert!(!take(f64::NAN, 4) && !take(3.0, 5) && take(2.5, 6) && !take(2.6, 7));
        assert_eq!((state.best_step, state.best_loss, state.without_improvement), (Some(6), Some(2.5), 1));
        // Written by an earlier version.
        let mut state = TrainerState { best_loss: Some(f64::NAN), best_step: Some(1), ..TrainerState::default() };
        assert!(state.take_validation(9.0, 2));
    }

    #[test]
    fn a_copied_checkpoint_is_intact() {
        let (one, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let path = planted(one.path(), 7);
        RunCheckpoint::open(&path).unwrap().copy_to(other.path()).unwrap();
        assert_eq!(RunCheckpoint::open(&RunCheckpoint::folder(other.path(), 7)).unwrap().state.step, 7);
    }
}

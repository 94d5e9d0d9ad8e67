//! The file with the candidates that were chosen for a device.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use anyhow::{Context, Result};
use burnish_engine::kernel_cache::digest;
use burnish_models::atomic;
use serde::{Deserialize, Serialize};

use super::key::TuningKey;

static FOLDER: OnceLock<PathBuf> = OnceLock::new();

/// Keeps what is chosen in a folder. Without it, nothing is kept, and nothing that was kept is used.
pub fn keep_in(folder: PathBuf) {
    FOLDER.set(folder).ok();
}

/// What a file holds.
#[derive(Debug, Serialize, Deserialize)]
struct Contents {
    key: TuningKey,
    /// Candidate, by class.
    products: BTreeMap<String, String>,
}

/// The file of a device.
#[derive(Debug, Clone)]
pub struct ProductTable {
    key: TuningKey,
    path: PathBuf,
}

impl ProductTable {
    /// The file of a device in the folder of [`keep_in`].
    pub fn of(key: &TuningKey) -> Option<Self> {
        FOLDER.get().map(|folder| Self::within(folder, key))
    }

    /// The file of a device in a folder.
    pub fn within(folder: &Path, key: &TuningKey) -> Self {
        let parts = [&key.backend, &key.device, &key.driver, &key.program];
        let name = digest(parts.iter().flat_map(|part| [part.as_bytes(), b"\n"]));
        Self { key: key.clone(), path: folder.join(format!("{name}.json")) }
    }

    /// Where it lies.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The candidate of each class; empty without a file. A damaged file counts as missing, with a warning.
    pub fn read(&self) -> BTreeMap<String, String> {
        let text = match fs::read_to_string(&self.path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return BTreeMap::new(),
            Err(error) => return self.ignored(&error.to_string()),
        };
        match serde_json::from_str::<Contents>(&text) {
            Ok(contents) if contents.key == self.key => contents.products,
            Ok(contents) => self.ignored(&format!("it is of {}", contents.key)),
            Err(error) => self.ignored(&error.to_string()),
        }
    }

    fn ignored(&self, reason: &str) -> BTreeMap<String, String> {
        tracing::warn!("{}: this file with measured products is ignored: {reason}", self.path.display());
        BTreeMap::new()
    }

    /// Adds candidates to those of the file. Of processes at the same time, none loses what another one adds.
    ///
    /// # Errors
    /// When the file can't be written; it then stays as it was.
    pub fn add(&self, products: &BTreeMap<String, String>) -> Result<()> {
        let folder = self.path.parent().unwrap_or(Path::new("."));
        let named = || self.path.display().to_string();
        fs::create_dir_all(folder).with_context(named)?;
        let lock = File::create(folder.join("lock")).with_context(named)?;
        lock.lock().with_context(named)?;
        let mut all = self.read();
        all.extend(products.iter().map(|(class, candidate)| (class.clone(), candidate.clone())));
        let contents = Contents { key: self.key.clone(), products: all };
        Ok(atomic::write_bytes(&self.path, serde_json::to_string_pretty(&contents)?.as_bytes())?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(device: &str) -> TuningKey {
        let [backend, driver, program] = ["vulkan", "Mesa 25", "0.1.0"].map(str::to_owned);
        TuningKey { backend, device: device.to_owned(), driver, program }
    }

    fn products(all: &[(&str, &str)]) -> BTreeMap<String, String> {
        all.iter().map(|(class, candidate)| ((*class).to_owned(), (*candidate).to_owned())).collect()
    }

    #[test]
    fn what_is_added_is_read_for_the_same_device() {
        let folder = tempfile::tempdir().unwrap();
        let of = |device: &str| ProductTable::within(&folder.path().join("products"), &key(device));
        assert!(of("a").read().is_empty());
        of("a").add(&products(&[("one", "x"), ("two", "y")])).unwrap();
        of("a").add(&products(&[("two", "z")])).unwrap();
        assert_eq!(of("a").read(), products(&[("one", "x"), ("two", "z")]));
        assert!(of("b").read().is_empty());
        let other = TuningKey { program: "0.2.0".to_owned(), ..key("a") };
        assert!(ProductTable::within(&folder.path().join("products"), &other).read().is_empty());
    }

    #[test]
    fn a_damaged_file_is_ignored_and_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let table = ProductTable::within(folder.path(), &key("a"));
        table.add(&products(&[("one", "x")])).unwrap();
        let whole = fs::read(table.path()).unwrap();
        let of_another = String::from_utf8(whole.clone()).unwrap().replace("Mesa 25", "Mesa 26").into_bytes();
        for damaged in [&b""[..], b"{", &whole[..whole.len() / 2], &[0xff, 0xfe], &of_another] {
            fs::write(table.path(), damaged).unwrap();
            assert!(table.read().is_empty(), "{damaged:?}");
        }
        table.add(&products(&[("two", "y")])).unwrap();
        assert_eq!(table.read(), products(&[("two", "y")]));
    }

    #[test]
    fn processes_at_the_same_time_lose_nothing() {
        let folder = tempfile::tempdir().unwrap();
        std::thread::scope(|scope| {
            for thread in 0..4 {
                let table = ProductTable::within(folder.path(), &key("a"));
                scope.spawn(move || {
                    for number in 0..5 {
                        table.add(&products(&[(&format!("{thread} {number}"), "x")])).unwrap();
                    }
                });
            }
        });
        assert_eq!(ProductTable::within(folder.path(), &key("a")).read().len(), 20);
    }
}

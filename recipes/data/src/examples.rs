//! The examples of a data set, in memory or in files.

use std::borrow::Cow;
use std::sync::Arc;

use super::row_file::RowFile;
use super::tokenize::Example;

/// Examples, in the order of their files. They are in memory, or are read from files of prepared rows when they are needed.
#[derive(Debug, Clone)]
pub struct Examples {
    stores: Vec<Arc<Store>>,
    /// Store and index of each; `None` is all of the only store.
    chosen: Option<Arc<[(u32, u32)]>>,
}

#[derive(Debug)]
enum Store {
    Memory(Vec<Example>),
    File(RowFile),
    /// Lengths without content.
    Lengths(Vec<u32>),
}

impl PartialEq for Examples {
    fn eq(&self, other: &Self) -> bool {
        self.len() == other.len() && self.iter().eq(other.iter())
    }
}

impl Store {
    fn len(&self) -> usize {
        match self {
            Self::Memory(examples) => examples.len(),
            Self::File(file) => file.len(),
            Self::Lengths(lengths) => lengths.len(),
        }
    }
}

impl From<Vec<Example>> for Examples {
    fn from(examples: Vec<Example>) -> Self {
        Self { stores: vec![Arc::new(Store::Memory(examples))], chosen: None }
    }
}

impl From<RowFile> for Examples {
    fn from(file: RowFile) -> Self {
        Self { stores: vec![Arc::new(Store::File(file))], chosen: None }
    }
}

impl Examples {
    /// Examples of these lengths that have nothing but zeros, for batches of which only the shapes matter. They take 4 bytes each.
    pub fn of_lengths(lengths: impl IntoIterator<Item = usize>) -> Self {
        let lengths = lengths.into_iter().map(|length| length as u32).collect();
        Self { stores: vec![Arc::new(Store::Lengths(lengths))], chosen: None }
    }

    /// The number of examples.
    pub fn len(&self) -> usize {
        let all = || self.stores.iter().map(|store| store.len()).sum();
        self.chosen.as_ref().map_or_else(all, |chosen| chosen.len())
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether they are read from a file when they are needed.
    pub fn are_on_disk(&self) -> bool {
        self.stores.iter().all(|store| matches!(&**store, Store::File(_)))
    }

    /// The store, and the index in it.
    fn at(&self, index: usize) -> (&Store, usize) {
        let (store, index) = self.chosen.as_ref().map_or((0, index), |chosen| {
            let (store, index) = chosen[index];
            (store as usize, index as usize)
        });
        (&self.stores[store], index)
    }

    /// One example.
    ///
    /// # Panics
    /// If the index is not below the number of examples, or the file can't be read any more.
    pub fn get(&self, index: usize) -> Cow<'_, Example> {
        match self.at(index) {
            (Store::Memory(examples), index) => Cow::Borrowed(&examples[index]),
            (Store::File(file), index) => Cow::Owned(file.get(index)),
            (Store::Lengths(lengths), index) => {
                let length = lengths[index] as usize;
                Cow::Owned(Example { input_ids: vec![0; length], labels: vec![0; length], desirable: true })
            }
        }
    }

    /// The number of tokens of an example, which is known without reading it.
    ///
    /// # Panics
    /// If the index is not below the number of examples.
    pub fn tokens(&self, index: usize) -> usize {
        match self.at(index) {
            (Store::Memory(examples), index) => examples[index].input_ids.len(),
            (Store::File(file), index) => file.tokens(index),
            (Store::Lengths(lengths), index) => lengths[index] as usize,
        }
    }

    /// All of them, in order.
    pub fn iter(&self) -> impl Iterator<Item = Cow<'_, Example>> {
        (0..self.len()).map(|index| self.get(index))
    }

    /// Examples of several files, each given by its file and its index there.
    ///
    /// # Panics
    /// If one of the files has only a part of its examples.
    pub(super) fn select(files: &[&Self], indices: impl Iterator<Item = (usize, usize)>) -> Self {
        assert!(files.iter().all(|file| file.chosen.is_none() && file.stores.len() == 1), "whole files");
        let stores = files.iter().flat_map(|file| &file.stores).cloned().collect();
        Self { stores, chosen: Some(indices.map(|(file, index)| (file as u32, index as u32)).collect()) }
    }

    /// The same examples in memory.
    pub fn to_vec(&self) -> Vec<Example> {
        self.iter().map(Cow::into_owned).collect()
    }
}

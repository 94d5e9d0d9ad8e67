//! The file that says which shard has which tensor.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::fmt;
use std::path::{Component, Path, PathBuf};

use serde::de::{DeserializeSeed, Error as _, IgnoredAny, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};

use crate::encoding::text_of;
use crate::error::{ModelError, Result};

/// The most shards; no model has nearly as many.
const MOST: usize = 10_000;

/// The tensors that an index lists.
pub(crate) fn tensor_names(index: &Path) -> Result<Vec<String>> {
    let mut names = Vec::new();
    for_tensors(index, |tensor, _| {
        names.push(tensor.to_owned());
        Ok(())
    })?;
    Ok(names)
}

/// The files that an index names. Each must lie in the folder itself.
pub(crate) fn shard_paths(folder: &Path, index: &Path) -> Result<Vec<PathBuf>> {
    let mut names: BTreeSet<String> = BTreeSet::new();
    for_tensors(index, |tensor, file| {
        let mut parts = Path::new(file).components();
        if !matches!((parts.next(), parts.next()), (Some(Component::Normal(_)), None)) {
            return Err(format!("`{tensor}` points outside the folder: {file}"));
        }
        if !names.contains(file) {
            names.insert(file.to_owned());
        }
        if names.len() > MOST { Err(format!("it names more than {MOST} files")) } else { Ok(()) }
    })?;
    if names.is_empty() {
        return Err(ModelError::format(index, "`weight_map` is empty"));
    }
    Ok(names.into_iter().map(|name| folder.join(name)).collect())
}

/// Gives each tensor of an index and its file to `take`, without keeping them. The reason that `take` returns ends it.
fn for_tensors(index: &Path, mut take: impl FnMut(&str, &str) -> std::result::Result<(), String>) -> Result<()> {
    let bytes = std::fs::read(index).map_err(|error| ModelError::io(index, error))?;
    let text = text_of(&bytes).map_err(|reason| ModelError::format(index, reason))?;
    let mut failure = None;
    let mut take = |tensor: &str, file: &str| take(tensor, file).map_err(|reason| failure = Some(reason)).is_ok();
    let mut json = serde_json::Deserializer::from_str(text);
    let found = Outer(&mut take).deserialize(&mut json).and_then(|found| json.end().map(|()| found));
    match (found, failure) {
        (_, Some(reason)) => Err(ModelError::format(index, reason)),
        (Err(error), None) => Err(ModelError::format(index, format!("not an index: {error}"))),
        (Ok(false), None) => Err(ModelError::format(index, "`weight_map` is missing")),
        (Ok(true), None) => Ok(()),
    }
}

/// Takes a tensor and its file; false ends the reading.
type Take<'t> = &'t mut dyn FnMut(&str, &str) -> bool;

/// A text, which is copied only if it has escapes.
#[derive(Deserialize)]
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

/// The whole index: returns whether it has `weight_map`.
struct Outer<'t>(Take<'t>);

impl<'de> DeserializeSeed<'de> for Outer<'_> {
    type Value = bool;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> std::result::Result<bool, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Outer<'_> {
    type Value = bool;

    fn expecting(&self, formatter: &mut fmt::Formatter) -> fmt::Result {
        formatter.write_str("an object with `weight_map`")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> std::result::Result<bool, A::Error> {
        let mut found = false;
        while let Some(Text(key)) = map.next_key()? {
            if key == "weight_map" {
                map.next_value_seed(Inner(&mut *self.0))?;
                found = true;
            } else {
                map.next_value::<IgnoredAny>()?;
            }
        }
        Ok(found)
    }
}

/// The object with the file of each tensor.
struct Inner<'t>(Take<'t>);

impl<'de> DeserializeSeed<'de> for Inner<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> std::result::Result<(), D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Inner<'_> {
    type Value = ();

    fn expecting(&self, formatter: &mut fmt::Formatter) -> fmt::Result {
        formatter.write_str("the name of a file for each tensor")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> std::result::Result<(), A::Error> {
        while let Some(Text(tensor)) = map.next_key()? {
            let Text(file) = map.next_value()?;
            if !(self.0)(&tensor, &file) {
                return Err(A::Error::custom("refused"));
            }
        }
        Ok(())
    }
}

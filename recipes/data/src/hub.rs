//! Data sets on the Hugging Face hub.

use std::path::PathBuf;

use burnish_models::{HubRepository, ModelError};

use super::error::DataError;
use super::parts::{EXTENSIONS, Sources, TEST, TRAIN, VALID};
use super::shards;

/// Downloads the parts of a data set: `train.jsonl`, `valid.jsonl` and `test.jsonl` at the top level or in `data/`, or else its only
/// file of rows. Such a file may have another extension, and a part may have several files, as `datasets` names them.
///
/// # Errors
/// [`DataError::Hub`] when the hub fails or the data set has no such files.
pub(super) fn fetch(id: &str) -> Result<Sources, DataError> {
    let refuse = |reason: String| DataError::Hub { id: id.to_owned(), reason, way: None };
    let of_hub = |error: ModelError| match error {
        ModelError::Hub { id, reason, way } => DataError::Hub { id, reason, way },
        other => refuse(other.to_string()),
    };
    let dataset = HubRepository::dataset(id).map_err(of_hub)?;
    let parts = choose(dataset.files()).map_err(refuse)?;
    let fetch = |file: Option<Part<'_>>| -> Result<Option<PathBuf>, DataError> {
        let Some(Part { file, all }) = file else { return Ok(None) };
        let path = dataset.fetch(file).map_err(of_hub)?;
        let Some((all, count)) = all else { return Ok(Some(path)) };
        let folder = file.rsplit_once('/').map_or(String::new(), |(folder, _)| format!("{folder}/"));
        for name in (1..count).filter_map(|number| shards::one_of(&all, number)) {
            dataset.fetch(&format!("{folder}{name}")).map_err(of_hub)?;
        }
        Ok(Some(path.with_file_name(all)))
    };
    Ok(Sources { train: fetch(parts.train)?, valid: fetch(parts.valid)?, test: fetch(parts.test)? })
}

/// The first file of a part, and the name for all of them, with their number, if there are several.
#[derive(Debug, PartialEq, Eq)]
struct Part<'a> {
    file: &'a str,
    all: Option<(String, usize)>,
}

#[derive(Debug, PartialEq, Eq)]
struct Parts<'a> {
    train: Option<Part<'a>>,
    valid: Option<Part<'a>>,
    test: Option<Part<'a>>,
}

fn choose(files: &[String]) -> Result<Parts<'_>, String> {
    let named = |names: &[&str]| {
        let folders = ["", "data/"].into_iter();
        let wanted: Vec<String> = folders
            .flat_map(|folder| names.iter().map(move |name| format!("{folder}{name}")))
            .flat_map(|stem| EXTENSIONS.iter().map(move |extension| format!("{stem}.{extension}")))
            .collect();
        let only = wanted.iter().find_map(|wanted| files.iter().find(|file| *file == wanted));
        only.map(|file| Part { file, all: None }).or_else(|| files.iter().find_map(|file| first(file, names)))
    };
    let parts = Parts { train: named(TRAIN), valid: named(VALID), test: named(TEST) };
    if parts.train.is_some() {
        return Ok(parts);
    }
    let is_other = |file: &str| [&parts.valid, &parts.test].into_iter().flatten().all(|part| part.file != file);
    for extension in EXTENSIONS {
        let rows: Vec<&str> = files
            .iter()
            .map(String::as_str)
            .filter(|file| file.ends_with(&format!(".{extension}")) && !file.ends_with("dataset_infos.json"))
            .filter(|file| is_other(file))
            .collect();
        match rows.as_slice() {
            [] => {}
            [only] => return Ok(Parts { train: Some(Part { file: only, all: None }), ..parts }),
            several => {
                return Err(format!("has no train.jsonl, but several other files: {}", several.join(", ")));
            }
        }
    }
    Err("has no .jsonl, .json, .csv or .parquet file".to_owned())
}

/// A file at the top level or in `data/` that is the first of several.
fn first<'a>(file: &'a str, names: &[&str]) -> Option<Part<'a>> {
    let name = file.strip_prefix("data/").unwrap_or(file);
    Some(Part { file, all: Some(shards::all_of(name, names)?) })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    fn part(file: &str) -> Option<Part<'_>> {
        Some(Part { file, all: None })
    }

    #[test]
    fn parts_are_found_by_name() {
        let files = files(&["README.md", "data/train.jsonl", "validation.json", "extra.jsonl"]);
        let parts = choose(&files).unwrap();
        assert_eq!(parts, Parts { train: part("data/train.jsonl"), valid: part("validation.json"), test: None });
    }

    #[test]
    fn the_only_file_has_the_training_rows() {
        let only = files(&["README.md", "rows.json", "test.json", "dataset_infos.json"]);
        assert_eq!(choose(&only).unwrap(), Parts { train: part("rows.json"), valid: None, test: part("test.json") });
        assert!(choose(&files(&["a.jsonl", "b.jsonl"])).unwrap_err().contains("a.jsonl, b.jsonl"));
        assert!(choose(&files(&["rows.orc"])).unwrap_err().contains(".parquet"));
    }

    #[test]
    fn a_part_may_have_several_files() {
        let names =
            ["data/test-00000-of-00001.parquet", "data/train-00000-of-00002.parquet", "data/train-00001-of-00002.parquet"];
        let found = files(&names);
        let Parts { train, valid, test } = choose(&found).unwrap();
        let all = ("train-*-of-00002.parquet".to_owned(), 2);
        assert_eq!(train, Some(Part { file: names[1], all: Some(all) }));
        assert_eq!((valid, test), (None, part(names[0])));
    }
}

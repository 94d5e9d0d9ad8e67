//! Data sets on the Hugging Face hub.

use burnish_models::{HubRepository, ModelError};

use super::error::DataError;
use super::parts::{EXTENSIONS, Sources, TEST, TRAIN, VALID};

/// Downloads the parts of a data set: `train.jsonl`, `valid.jsonl` and `test.jsonl` at the top level or in `data/`, or else its only
/// file of rows. Such a file may have another extension, and may be the first of one part, as `datasets` names it.
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
    let fetch = |file: Option<&str>| file.map(|file| dataset.fetch(file).map_err(of_hub)).transpose();
    Ok(Sources { train: fetch(parts.train)?, valid: fetch(parts.valid)?, test: fetch(parts.test)? })
}

#[derive(Debug, PartialEq, Eq)]
struct Parts<'a> {
    train: Option<&'a str>,
    valid: Option<&'a str>,
    test: Option<&'a str>,
}

fn choose(files: &[String]) -> Result<Parts<'_>, String> {
    let named = |names: &[&str]| {
        let folders = ["", "data/"].into_iter();
        let wanted: Vec<String> = folders
            .flat_map(|folder| names.iter().map(move |name| format!("{folder}{name}")))
            .flat_map(|stem| EXTENSIONS.iter().map(move |extension| format!("{stem}.{extension}")))
            .collect();
        wanted.iter().find_map(|wanted| files.iter().find(|file| *file == wanted)).map(String::as_str)
    };
    let parts = Parts { train: named(TRAIN), valid: named(VALID), test: named(TEST) };
    if parts.train.is_some() {
        return Ok(parts);
    }
    for extension in EXTENSIONS {
        let rows: Vec<&str> = files
            .iter()
            .map(String::as_str)
            .filter(|file| file.ends_with(&format!(".{extension}")) && !file.ends_with("dataset_infos.json"))
            .filter(|file| Some(*file) != parts.valid && Some(*file) != parts.test)
            .collect();
        match rows.as_slice() {
            [] => {}
            [only] => return Ok(Parts { train: Some(only), ..parts }),
            several => {
                return Err(format!("has no train.jsonl, but several other files: {}", several.join(", ")));
            }
        }
    }
    let parquet = if files.iter().any(|file| file.ends_with(".parquet")) { "; Parquet is not supported" } else { "" };
    Err(format!("has no .jsonl or .json file{parquet}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn parts_are_found_by_name() {
        let files = files(&["README.md", "data/train.jsonl", "validation.json", "extra.jsonl"]);
        let parts = choose(&files).unwrap();
        assert_eq!(parts, Parts { train: Some("data/train.jsonl"), valid: Some("validation.json"), test: None });
    }

    #[test]
    fn the_only_file_has_the_training_rows() {
        let only = files(&["README.md", "rows.json", "test.json", "dataset_infos.json"]);
        assert_eq!(choose(&only).unwrap(), Parts { train: Some("rows.json"), valid: None, test: Some("test.json") });
        assert!(choose(&files(&["a.jsonl", "b.jsonl"])).unwrap_err().contains("a.jsonl, b.jsonl"));
        assert!(choose(&files(&["train-0.parquet"])).unwrap_err().contains("Parquet"));
    }
}

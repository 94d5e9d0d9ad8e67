//! Data sets of several files, named as one: `train-*-of-00002.parquet`, or a folder that `save_to_disk` of datasets wrote.

use std::io;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::parts::COLUMNS;

/// The file of such a folder that names the others.
const STATE: &str = "state.json";
/// Stands for the number of a file.
const ANY: &str = "-*-of-";
/// More files of one part are refused.
const MOST: usize = 100_000;

/// Whether a folder was written by `save_to_disk`.
pub(crate) fn is_saved(folder: &Path) -> bool {
    folder.join(STATE).is_file()
}

/// The name for all files of which `file` is the first, such as `train-00000-of-00002.parquet`, and their number.
pub(crate) fn all_of(file: &str, stems: &[&str]) -> Option<(String, usize)> {
    let extension = COLUMNS.iter().find(|known| file.strip_suffix(*known).is_some_and(|stem| stem.ends_with('.')))?;
    let stem = file.strip_suffix(extension)?.strip_suffix('.')?;
    let (name, count) = stem.rsplit_once("-of-")?;
    let (name, number) = name.rsplit_once('-')?;
    let is_first = number.len() == count.len() && number.bytes().all(|digit| digit == b'0');
    let known = stems.contains(&name) && is_first && !number.is_empty();
    let total = count.parse().ok().filter(|total| known && (1..=MOST).contains(total))?;
    Some((format!("{name}{ANY}{count}.{extension}"), total))
}

/// The name of one of the files.
pub(crate) fn one_of(all: &str, number: usize) -> Option<String> {
    let (name, rest) = all.split_once(ANY)?;
    let width = rest.split_once('.')?.0.len();
    Some(format!("{name}-{number:0width$}-of-{rest}"))
}

/// The files behind a name, in their order. Most names are of one file.
///
/// # Errors
/// If a folder does not say which files it has.
pub(crate) fn files(path: &Path) -> io::Result<Vec<PathBuf>> {
    if path.is_dir() {
        return saved(path);
    }
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let count = name.split_once(ANY).and_then(|(_, rest)| rest.split_once('.')?.0.parse::<usize>().ok());
    match count.filter(|count| *count <= MOST && !path.exists()) {
        Some(count) => {
            Ok((0..count).filter_map(|number| one_of(&name, number)).map(|name| path.with_file_name(name)).collect())
        }
        None => Ok(vec![path.to_owned()]),
    }
}

/// The files of a folder that `save_to_disk` wrote.
fn saved(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let wrong = |what: &str| io::Error::other(format!("its {STATE} {what}; write it again with save_to_disk"));
    let text = std::fs::read_to_string(folder.join(STATE))?;
    let state: Value = serde_json::from_str(&text).map_err(|error| wrong(&format!("is not JSON: {error}")))?;
    let is_set = |key: &str| state.get(key).is_some_and(|value| value.as_array().is_none_or(|list| !list.is_empty()));
    if ["_indices_data_files", "_indices_files"].iter().any(|key| is_set(key) && !state[*key].is_null()) {
        return Err(wrong("selects rows by indices, which is not supported"));
    }
    let names = state.get("_data_files").and_then(Value::as_array).ok_or_else(|| wrong("names no files"))?;
    let file = |name: &Value| {
        let name = name.get("filename").and_then(Value::as_str).unwrap_or_default();
        let is_plain = Path::new(name).file_name().is_some_and(|plain| plain == name);
        is_plain.then(|| folder.join(name)).ok_or_else(|| wrong("names a file outside of the folder"))
    };
    names.iter().map(file).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_file_stands_for_all() {
        let all = |file: &str| all_of(file, &["train"]);
        assert_eq!(all("train-00000-of-00012.parquet"), Some(("train-*-of-00012.parquet".to_owned(), 12)));
        for other in [
            "train-00001-of-00012.parquet",
            "train-00000-of-00000.parquet",
            "train.parquet",
            "train-00000-of-00002.orc",
            "valid-00000-of-00002.parquet",
            "train-0-of-00002.parquet",
            "train-00000-of-999999.parquet",
        ] {
            assert_eq!(all(other), None, "{other}");
        }
        assert_eq!(one_of("train-*-of-00012.parquet", 11).as_deref(), Some("train-00011-of-00012.parquet"));
        let found = files(Path::new("data/train-*-of-00002.arrow")).unwrap();
        assert_eq!(found, ["data/train-00000-of-00002.arrow", "data/train-00001-of-00002.arrow"].map(PathBuf::from));
        assert_eq!(files(Path::new("rows.jsonl")).unwrap(), [PathBuf::from("rows.jsonl")]);
    }

    #[test]
    fn a_saved_folder_names_its_files() {
        let folder = tempfile::tempdir().unwrap();
        let of = |state: &str| {
            std::fs::write(folder.path().join(STATE), state).unwrap();
            files(folder.path()).map_err(|error| error.to_string())
        };
        let two = r#"{"_data_files": [{"filename": "b.arrow"}, {"filename": "a.arrow"}], "_indices_data_files": null}"#;
        assert_eq!(of(two).unwrap(), [folder.path().join("b.arrow"), folder.path().join("a.arrow")]);
        for (state, words) in [
            ("{", "not JSON"),
            ("{}", "names no files"),
            (r#"{"_data_files": [{"filename": "../a.arrow"}]}"#, "outside"),
            (r#"{"_data_files": [], "_indices_data_files": [{"filename": "i.arrow"}]}"#, "indices"),
        ] {
            assert!(of(state).unwrap_err().contains(words), "{state}");
        }
    }
}

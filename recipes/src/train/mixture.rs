//! The files that `data` names: one, or several with weights.

use std::path::Path;

use anyhow::Result;
use burnish_engine::with_hint;

use crate::data::Sources;

/// A part of `data`.
#[derive(Debug, Clone, PartialEq)]
pub struct DataPart {
    /// Its files.
    pub sources: Sources,
    /// How often an epoch has its rows.
    pub weight: f64,
}

/// The parts of `data`, which are separated by commas; a number after a colon is the weight of a part, such as `a.jsonl, b.jsonl:0.5`.
///
/// # Errors
/// When a part is not found, or its weight is not a positive number.
pub fn data_parts(data: &str) -> Result<Vec<DataPart>> {
    if Path::new(data).exists() {
        return Ok(vec![DataPart { sources: Sources::locate(data)?, weight: 1.0 }]);
    }
    let part = |part: &str| {
        let part = part.trim();
        let (name, weight) = part
            .rsplit_once(':')
            .and_then(|(name, weight)| Some((name, weight.trim().parse::<f64>().ok()?)))
            .filter(|_| !Path::new(part).exists())
            .unwrap_or((part, 1.0));
        if !(weight > 0.0 && weight <= 1000.0) {
            return Err(with_hint(
                format!("`data`: the weight of {name} is {weight}, expected a number above 0, up to 1000"),
                "2 has its rows twice in an epoch, 0.5 half of them; leave a part out to have none",
            ));
        }
        Ok(DataPart { sources: Sources::locate(name)?, weight })
    };
    data.split(',').map(part).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hint::hint;

    #[test]
    fn several_files_have_weights() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name).display().to_string();
        for name in ["a.jsonl", "b.jsonl", "c, d:2.jsonl"] {
            std::fs::write(path(name), "{\"text\": \"a\"}\n").unwrap();
        }
        let names = |data: &str| -> Vec<(String, f64)> {
            let name = |part: DataPart| {
                (part.sources.train.unwrap().file_name().unwrap().to_string_lossy().into_owned(), part.weight)
            };
            data_parts(data).unwrap().into_iter().map(name).collect()
        };
        let owned = |name: &str, weight: f64| (name.to_owned(), weight);
        assert_eq!(names(&path("a.jsonl")), [owned("a.jsonl", 1.0)]);
        assert_eq!(names(&path("c, d:2.jsonl")), [owned("c, d:2.jsonl", 1.0)]);
        let both = format!("{}, {}:0.5", path("a.jsonl"), path("b.jsonl"));
        assert_eq!(names(&both), [owned("a.jsonl", 1.0), owned("b.jsonl", 0.5)]);
        for weight in ["0", "-1", "NaN", "1e9"] {
            let error = data_parts(&format!("{}:{weight}", path("a.jsonl"))).unwrap_err();
            assert!(error.to_string().contains("the weight of") && hint(&error).is_some(), "{error}");
        }
    }
}

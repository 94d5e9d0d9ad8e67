//! Parquet and Arrow files, written by pyarrow and datasets, have the tokens of the same rows as JSON lines.

use std::path::{Path, PathBuf};

use burnish_models::{ChatTemplate, Tokenizer};
use serde_json::Value;

use super::*;

/// Prints everything that a row has.
const TEMPLATE: &str = "{% if tools %}{{ tools | tojson }}{% endif %}{% for message in messages %}{{ '<|im_start|>' + message.role + '\n' + \
     message.content }}{% if message.tool_calls %}{{ message.tool_calls | tojson }}{% endif %}{{ '<|im_end|>\n' }}{% endfor %}\
     {% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}";

fn fixtures() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/columns")
}

fn prepared(file: &Path, cache: Option<&RowCache>) -> Result<TokenizedFile, DataError> {
    let tokenizer = models::tokenizer();
    let template = ChatTemplate::new(TEMPLATE.to_owned(), tokenizer.special()).unwrap();
    let row_tokenizer = RowTokenizer { max_seq_length: 4096, ..row_tokenizer(&tokenizer, Some(&template)) };
    Preparation { cache, ..Preparation::default() }.load(file, &row_tokenizer)
}

fn examples(file: &Path) -> Result<Vec<Example>, DataError> {
    prepared(file, None).map(|prepared| prepared.examples.to_vec())
}

#[test]
fn files_of_columns_have_the_tokens_of_json_lines() {
    let folder = fixtures();
    let expected = examples(&folder.join("rows.jsonl")).unwrap();
    assert_eq!(expected.len(), 48);
    let parquet = ["snappy.parquet", "gzip.parquet", "lz4.parquet", "none.parquet", "zstd.parquet"];
    for file in parquet.into_iter().chain(["file.arrow", "stream.arrow", "rows.feather"]) {
        assert!(examples(&folder.join(file)).unwrap() == expected, "{file}");
    }
    // The kind of a file does not follow from its name.
    let copies = tempfile::tempdir().unwrap();
    for file in ["snappy.parquet", "stream.arrow"] {
        let copy = copies.path().join(format!("{file}.jsonl"));
        std::fs::copy(folder.join(file), &copy).unwrap();
        assert!(examples(&copy).unwrap() == expected, "{file}");
    }
}

#[test]
fn several_files_are_read_as_one() {
    let folder = fixtures();
    let expected = examples(&folder.join("rows.jsonl")).unwrap();
    let hub = Sources::locate(folder.join("hub").to_str().unwrap()).unwrap();
    let all = folder.join("hub/data/train-*-of-00002.parquet");
    assert_eq!((hub.train.as_ref(), hub.valid), (Some(&all), None));
    assert!(examples(&hub.test.unwrap()).unwrap() == expected[..3]);
    let saved = Sources::locate(folder.join("saved").to_str().unwrap()).unwrap();
    assert_eq!(saved.train, Some(folder.join("saved/train")));
    assert!(examples(&saved.valid.unwrap()).unwrap() == expected[..3]);
    assert_eq!(Sources::locate(folder.join("saved/train").to_str().unwrap()).unwrap().train, saved.train);
    let kept = tempfile::tempdir().unwrap();
    let mut cache = RowCache::new(kept.path().to_owned());
    cache.smallest = 0;
    for name in [all, saved.train.unwrap()] {
        for was_kept in [false, true] {
            let prepared = prepared(&name, Some(&cache)).unwrap();
            assert!(prepared.was_kept == was_kept && prepared.examples.to_vec() == expected, "{}", name.display());
            // Rows are counted from the first file on.
            assert!(prepared.rows().map(|(number, _)| number).eq(1..=48));
        }
    }
    let part = tempfile::tempdir().unwrap();
    std::fs::copy(folder.join("hub/data/train-00000-of-00002.parquet"), part.path().join("train-00000-of-00002.parquet"))
        .unwrap();
    let error = Sources::locate(part.path().to_str().unwrap()).unwrap_err().to_string();
    assert!(error.contains("train-00001-of-00002.parquet is missing"), "{error}");
}

#[test]
fn other_types_are_refused_by_column_and_type() {
    for kind in ["timestamp", "binary", "decimal", "map"] {
        for extension in ["parquet", "arrow"] {
            let error = examples(&fixtures().join(format!("refused/{kind}.{extension}"))).unwrap_err();
            let expected = format!("the column `other.inner` has the type {kind}, which is not supported");
            assert!(error.to_string().ends_with(&expected), "{error}");
            assert!(error.hint().unwrap().contains("remove_columns([\"other\"])"), "{error}");
        }
    }
    let error = examples(&fixtures().join("refused/brotli.parquet")).unwrap_err();
    assert!(error.to_string().contains("compressed by brotli"), "{error}");
}

#[test]
fn damaged_files_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    for name in ["snappy.parquet", "zstd.parquet", "file.arrow", "stream.arrow"] {
        let whole = std::fs::read(fixtures().join(name)).unwrap();
        let path = folder.path().join(name);
        for length in (1..whole.len()).step_by(whole.len() / 40).chain([4, 7, 8, whole.len() - 1]) {
            std::fs::write(&path, &whole[..length]).unwrap();
            let error = examples(&path).unwrap_err();
            assert!(matches!(error, DataError::Columns { .. }), "{name}, {length} bytes: {error}");
        }
    }
    // A page with a checksum.
    let mut bytes = std::fs::read(fixtures().join("zstd.parquet")).unwrap();
    bytes[300] ^= 1;
    let path = folder.path().join("zstd.parquet");
    std::fs::write(&path, bytes).unwrap();
    let error = examples(&path).unwrap_err().to_string();
    assert!(error.contains("the file is damaged: row 1: column `") && error.contains("checksum"), "{error}");
}

#[test]
fn a_bad_row_has_its_number() {
    let tokenizer: Tokenizer = models::tokenizer();
    let of_pairs = RowTokenizer { rows: RowUse::Pairs, ..row_tokenizer(&tokenizer, None) };
    let error = load(&fixtures().join("snappy.parquet"), &of_pairs, BadRows::Stop).unwrap_err();
    assert!(matches!(error, DataError::Row { line: 1, .. }), "{error}");
    let mut values = Vec::new();
    source::read_values(&fixtures().join("file.arrow"), |number, value| {
        values.push((number, value.unwrap()));
        Ok(())
    })
    .unwrap();
    assert_eq!((values.len(), &values[47].1["id"], &values[47].1["note"]), (48, &Value::from(47), &Value::Null));
}

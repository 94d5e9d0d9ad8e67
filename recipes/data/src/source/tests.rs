use super::*;

type NumberedRow = (usize, Result<Row, String>);

fn rows_of(text: &[u8]) -> Result<Vec<NumberedRow>, DataError> {
    rows_of_file("rows.jsonl", text)
}

fn rows_of_file(name: &str, text: &[u8]) -> Result<Vec<NumberedRow>, DataError> {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join(name);
    std::fs::write(&file, text).unwrap();
    let mut rows = Vec::new();
    read_rows(&file, |line, row| {
        rows.push((line, row));
        Ok(())
    })?;
    Ok(rows)
}

#[test]
fn line_numbers_count_empty_lines() {
    let rows = rows_of("\u{feff}{\"text\": \"a\"}\r\n\n{\"text\": \"b\"}\nnonsense".as_bytes()).unwrap();
    let lines: Vec<usize> = rows.iter().map(|(line, _)| *line).collect();
    assert_eq!(lines, [1, 3, 4]);
    assert_eq!(rows[1].1, Ok(Row::Text("b".into())));
    assert!(rows[2].1.as_ref().unwrap_err().contains("not JSON"));
}

#[test]
fn rows_of_a_list_have_line_numbers() {
    let rows = rows_of(b"[\n {\"text\": \"a, [\\\" b\"},\n\n {\"text\":\n \"c\"}, 7\n]").unwrap();
    let lines: Vec<usize> = rows.iter().map(|(line, _)| *line).collect();
    assert_eq!(lines, [2, 4, 5]);
    assert_eq!(rows[0].1, Ok(Row::Text("a, [\" b".into())));
    assert_eq!(rows[1].1, Ok(Row::Text("c".into())));
    assert!(rows[2].1.is_err());
}

#[test]
fn a_truncated_list_is_an_error() {
    let rows = rows_of(b"[{\"text\": \"a\"}, {\"text\": \"b").unwrap();
    assert!(rows[0].1.is_ok() && rows[1].1.is_err());
}

#[test]
fn an_empty_file_is_an_error() {
    for text in ["", "\n\n", "[]", "[ ]\n"] {
        assert!(matches!(rows_of(text.as_bytes()), Err(DataError::Empty { .. })), "{text:?}");
    }
}

#[test]
fn invalid_utf_8_is_an_error_of_its_row() {
    let rows = rows_of(b"{\"text\": \"a\"}\n{\"text\": \"\xff\"}\n").unwrap();
    assert!(rows[0].1.is_ok());
    let error = rows[1].1.as_ref().unwrap_err();
    assert!(error.starts_with("not UTF-8: its byte 11 is 0xff; if the text is Latin-1"), "{error}");
}

#[test]
fn a_mark_of_byte_order_may_stand_before_any_row() {
    let rows = rows_of("\u{feff}{\"text\": \"a\"}\n\u{feff}{\"text\": \"b\"}\n".as_bytes()).unwrap();
    assert_eq!(rows, [(1, Ok(Row::Text("a".into()))), (2, Ok(Row::Text("b".into())))]);
}

#[test]
fn files_of_other_kinds_are_named_with_the_way_out() {
    for (bytes, found, way) in [
        (&gzip(b"PAR1\x15\x04")[..], "compressed Parquet", "gunzip"),
        (b"FEA1", "Feather", "write_feather"),
        (b"version https://git-lfs.github.com/spec/v1\n", "Git LFS", "git lfs pull"),
        (b"PK\x03\x04", "zip", "unzip"),
        (b"\xff\xfe{\0\"\0", "UTF-16", "iconv -f UTF-16"),
        (b"{\0\"\0t\0", "UTF-16", "iconv -f UTF-16"),
        (b"\0{\0\"\0t", "UTF-16", "iconv -f UTF-16"),
        (b"{\0\0\0\"\0\0\0", "UTF-32", "iconv -f UTF-32"),
        (b"\xff\xfe\0\0{\0\0\0", "UTF-32", "iconv -f UTF-32"),
        (&[0; 4096], "zero bytes", "damaged"),
    ] {
        let error = rows_of(bytes).unwrap_err();
        assert!(error.to_string().contains(found) && error.hint().unwrap().contains(way), "{error}");
    }
}

#[test]
fn lines_may_end_with_a_carriage_return() {
    for end in ["\n", "\r\n", "\r"] {
        let text = format!("{{\"text\": \"a\"}}{end}{end}{{\"text\": \"b\"}}{end}");
        assert_eq!(rows_of(text.as_bytes()).unwrap(), [(1, Ok(Row::Text("a".into()))), (3, Ok(Row::Text("b".into())))]);
    }
}

#[test]
fn zero_bytes_at_the_end_are_told() {
    let rows = rows_of(b"{\"text\": \"a\"}\n\0\0\0\0\0\0\0\0").unwrap();
    assert_eq!(rows[0], (1, Ok(Row::Text("a".into()))));
    assert_eq!(rows[1], (2, Err("not JSON: it has zero bytes, so the file is damaged".into())));
}

#[test]
fn folders_and_files_are_found() {
    let folder = tempfile::tempdir().unwrap();
    let name = folder.path().to_str().unwrap();
    assert!(Sources::locate(name).unwrap_err().to_string().contains("no train.jsonl"));
    std::fs::write(folder.path().join("train.orc"), "x").unwrap();
    assert!(Sources::locate(name).unwrap_err().to_string().contains("`train.orc` is not supported"));
    for file in ["train.jsonl", "validation.json"] {
        std::fs::write(folder.path().join(file), "x").unwrap();
    }
    let found = Sources::locate(name).unwrap();
    assert_eq!(found.train, Some(folder.path().join("train.jsonl")));
    assert_eq!(found.valid, Some(folder.path().join("validation.json")));
    assert_eq!(found.test, None);
    let file = folder.path().join("train.jsonl");
    assert_eq!(Sources::locate(file.to_str().unwrap()).unwrap().train, Some(file));
    assert!(Sources::locate("./nothing.jsonl").unwrap_err().to_string().contains("no such file"));
}

#[test]
fn rows_of_several_lines_are_read() {
    let rows = rows_of(b"{\n \"text\": \"a } {\"\n}\n\n{\n \"text\": \"b\"\n}\n").unwrap();
    assert_eq!(rows, [(1, Ok(Row::Text("a } {".into()))), (5, Ok(Row::Text("b".into())))]);
    // A single object of several lines is a file with one row.
    let rows = rows_of(b"{\n \"rows\": [\n {\"text\": \"a\"}\n ]\n}").unwrap();
    assert_eq!(rows.len(), 1);
    assert!(rows[0].1.as_ref().unwrap_err().contains("jq -c '.rows[]' FILE > rows.jsonl"), "{rows:?}");
}

#[test]
fn a_row_that_continues_on_the_next_line_is_an_error() {
    // A broken line does not affect the others.
    let rows = rows_of(b"{\"text\": \"a\n{\"text\": \"b\"}\n").unwrap();
    assert!(rows[0].1.as_ref().unwrap_err().contains("the line ends before its row does"), "{rows:?}");
    assert_eq!(rows[1], (2, Ok(Row::Text("b".into()))));
}

#[test]
fn a_list_must_end_and_nothing_may_follow_it() {
    for (text, words) in [("[{\"text\": \"a\"},\n", "does not end"), ("[{\"text\": \"a\"}]\n{}", "more text after the list")]
    {
        let rows = rows_of(text.as_bytes()).unwrap();
        assert_eq!(rows.len(), 2, "{text}");
        assert!(rows[0].1.is_ok() && rows[1].1.as_ref().unwrap_err().contains(words), "{rows:?}");
    }
}

fn completion(prompt: &str, completion: &str) -> Row {
    Row::Completion { prompt: prompt.into(), completion: completion.into() }
}

#[test]
fn tables_have_a_row_a_line_and_their_first_line_names_the_keys() {
    let quoted = "prompt,completion,text\n\"Say \"\"hi\"\",\nplease\",hi,\n1,2,\n";
    let expected = [(2, Ok(completion("Say \"hi\",\nplease", "hi"))), (4, Ok(completion("1", "2")))];
    assert_eq!(rows_of_file("rows.csv", quoted.as_bytes()).unwrap(), expected);
    assert_eq!(rows_of_file("ROWS.CSV", format!("\u{feff}{quoted}").replace('\n', "\r\n").as_bytes()).unwrap().len(), 2);
    for (name, text) in [("rows.csv", "prompt;completion\na, b;c\n"), ("rows.tsv", "prompt\tcompletion\na, b\tc\n")] {
        assert_eq!(rows_of_file(name, text.as_bytes()).unwrap(), [(2, Ok(completion("a, b", "c")))], "{name}");
    }
    let chat = "messages\n\"[{\"\"role\"\": \"\"user\"\", \"\"content\"\": \"\"a\"\"}, {\"\"role\"\": \"\"assistant\"\", \"\"content\"\": \"\"b\"\"}]\"\n";
    assert!(
        matches!(&rows_of_file("rows.csv", chat.as_bytes()).unwrap()[0].1, Ok(Row::Chat { messages, .. }) if messages.len() == 2)
    );
    // Text stays text, also where it looks like JSON.
    assert_eq!(
        rows_of_file("rows.csv", b"text\n[1]\n7\n").unwrap(),
        [(2, Ok(Row::Text("[1]".into()))), (3, Ok(Row::Text("7".into())))]
    );
    for answer in ["{\"people\": 2}", "[1, 2]", "[]", "[{\"name\": \"a\"}]"] {
        let table = format!("prompt,completion\na,\"{}\"\n", answer.replace('"', "\"\""));
        assert_eq!(rows_of_file("rows.csv", table.as_bytes()).unwrap(), [(2, Ok(completion("a", answer)))]);
    }
    let lists = "prompt\tcompletion\n[{'role': 'user', 'content': 'a'}]\t[{'role': 'assistant', 'content': 'b'}]\n"
        .replace('\'', "\"");
    assert!(
        matches!(&rows_of_file("rows.tsv", lists.as_bytes()).unwrap()[0].1, Ok(Row::Chat { messages, .. }) if messages.len() == 2)
    );
}

#[test]
fn rows_of_tables_have_the_line_where_they_begin() {
    let expected = [(2, "a"), (4, "b\nc"), (6, "d")].map(|(line, text)| (line, text.to_owned()));
    let unix = "text\na\n\n\"b\nc\"\nd";
    let found = |text: &str| -> Vec<_> {
        let rows = rows_of_file("rows.csv", text.as_bytes()).unwrap().into_iter();
        rows.map(|(line, row)| match row {
            Ok(Row::Text(text)) => (line, text.replace('\r', "")),
            other => panic!("{other:?}"),
        })
        .collect()
    };
    assert_eq!(found(unix), expected);
    assert_eq!(found(&format!("{unix}\n\n")), expected);
    assert_eq!(found(&unix.replace('\n', "\r\n")), expected);
    assert_eq!(found("text\ra\rb"), [(2, "a".to_owned()), (3, "b".to_owned())]);
    assert_eq!(found("text\r\n\"a\"\r\n"), [(2, "a".to_owned())]);
}

#[test]
fn bad_tables_say_what_is_wrong() {
    let rows = rows_of_file("rows.csv", b"prompt,completion\na,b,c\n\xff,b\na\na,b\n").unwrap();
    let errors: Vec<_> = rows.iter().map(|(line, row)| (*line, row.as_ref().err().map(String::as_str))).collect();
    let expected = [
        (2, Some("it has 3 cells, but there are 2 columns")),
        (3, Some("`prompt` is not UTF-8: its byte 1 is 0xff")),
        (4, Some("it has 1 cells, but there are 2 columns")),
        (5, None),
    ];
    assert_eq!(errors, expected);
    let error = rows_of_file("rows.csv", b"text,text\na,b\n").unwrap_err();
    assert!(error.to_string().ends_with("rows.csv:1: two columns are named `text`"), "{error}");
    for text in ["", "text\n", "\n"] {
        assert!(matches!(rows_of_file("rows.csv", text.as_bytes()), Err(DataError::Empty { .. })), "{text:?}");
    }
}

/// `{"text": "a"}` and a line end, compressed by zstd.
const ZSTD: [u8; 23] = [40, 181, 47, 253, 32, 14, 113, 0, 0, 123, 34, 116, 101, 120, 116, 34, 58, 32, 34, 97, 34, 125, 10];

fn gzip(text: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    std::io::Write::write_all(&mut encoder, text).unwrap();
    encoder.finish().unwrap()
}

#[test]
fn compressed_files_are_read_whatever_their_name() {
    let a = || Ok(Row::Text("a".into()));
    let line = b"{\"text\": \"a\"}\n";
    let twice = [gzip(line), gzip(line)].concat();
    assert_eq!(rows_of_file("rows.jsonl.gz", &twice).unwrap(), [(1, a()), (2, a())]);
    assert_eq!(rows_of_file("rows.jsonl", &gzip(line)).unwrap(), [(1, a())]);
    assert_eq!(rows_of_file("rows.jsonl.zst", &[ZSTD, ZSTD].concat()).unwrap(), [(1, a()), (2, a())]);
    assert_eq!(rows_of_file("rows.csv.gz", &gzip(b"text\na\n")).unwrap(), [(2, a())]);
    for cut in [&twice[..twice.len() - 9], &ZSTD[..20], &[&ZSTD[..], b"rest"].concat()] {
        assert!(matches!(rows_of_file("rows.jsonl", cut), Err(DataError::Io { .. })));
    }
}

#[test]
fn folders_may_have_tables_and_compressed_files() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("train.csv.gz"), gzip(b"text\na\n")).unwrap();
    std::fs::write(folder.path().join("valid.tsv"), "text\na\n").unwrap();
    let found = Sources::locate(folder.path().to_str().unwrap()).unwrap();
    let path = |name: &str| Some(folder.path().join(name));
    assert_eq!(found, Sources { train: path("train.csv.gz"), valid: path("valid.tsv"), test: None });
    assert!(matches!(Sources::locate("rows.csv.zst"), Err(DataError::NotFound { .. })));
}

#[test]
fn values_of_any_kind_are_read_with_their_lines_and_tables_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let values_of = |name: &str, text: &str| {
        let file = folder.path().join(name);
        std::fs::write(&file, text).unwrap();
        let mut values = Vec::new();
        read_values(&file, |line, value| {
            values.push((line, value));
            Ok(())
        })?;
        Ok(values)
    };
    let value = |json: &str| Ok(serde_json::from_str(json).unwrap());
    let lines = values_of("rows.jsonl", "{\"question\": 1}\n\n7\n").unwrap();
    assert_eq!(lines, [(1, value("{\"question\": 1}")), (3, value("7"))]);
    let list = values_of("rows.json", "[\n {\"a\": [1]},\n null, nonsense]").unwrap();
    assert_eq!(list[..2], [(2, value("{\"a\": [1]}")), (3, value("null"))]);
    assert!(list[2].1.as_ref().unwrap_err().starts_with("not JSON: "), "{list:?}");
    for (name, kind) in [("rows.csv", "it is a table"), ("rows.md", "it is a document")] {
        let error: DataError = values_of(name, "a,b\n1,2\n").unwrap_err();
        assert!(matches!(error, DataError::Binary { found, .. } if found == kind), "{error}");
    }
    assert!(matches!(values_of("none.jsonl", "\n"), Err(DataError::Empty { .. })));
}

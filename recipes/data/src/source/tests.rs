use super::*;

type NumberedRow = (usize, Result<Row, String>);

fn rows_of(text: &[u8]) -> Result<Vec<NumberedRow>, DataError> {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("rows.jsonl");
    std::fs::write(&file, text).unwrap();
    let mut rows = Vec::new();
    read_rows(&file, |line, row| {
        rows.push((line, row));
        Ok(())
    })?;
    Ok(rows)
}

#[test]
fn lines_are_counted_with_the_empty_ones() {
    let rows = rows_of("\u{feff}{\"text\": \"a\"}\r\n\n{\"text\": \"b\"}\nnonsense".as_bytes()).unwrap();
    let lines: Vec<usize> = rows.iter().map(|(line, _)| *line).collect();
    assert_eq!(lines, [1, 3, 4]);
    assert_eq!(rows[1].1, Ok(Row::Text("b".into())));
    assert!(rows[2].1.as_ref().unwrap_err().contains("not JSON"));
}

#[test]
fn a_list_of_rows_has_lines_too() {
    let rows = rows_of(b"[\n {\"text\": \"a, [\\\" b\"},\n\n {\"text\":\n \"c\"}, 7\n]").unwrap();
    let lines: Vec<usize> = rows.iter().map(|(line, _)| *line).collect();
    assert_eq!(lines, [2, 4, 5]);
    assert_eq!(rows[0].1, Ok(Row::Text("a, [\" b".into())));
    assert_eq!(rows[1].1, Ok(Row::Text("c".into())));
    assert!(rows[2].1.is_err());
}

#[test]
fn a_cut_list_loses_nothing_silently() {
    let rows = rows_of(b"[{\"text\": \"a\"}, {\"text\": \"b").unwrap();
    assert!(rows[0].1.is_ok() && rows[1].1.is_err());
}

#[test]
fn nothing_is_an_error() {
    for text in ["", "\n\n", "[]", "[ ]\n"] {
        assert!(matches!(rows_of(text.as_bytes()), Err(DataError::Empty { .. })), "{text:?}");
    }
}

#[test]
fn bytes_that_are_no_text_are_an_error_of_their_row() {
    let rows = rows_of(b"{\"text\": \"a\"}\n{\"text\": \"\xff\"}\n").unwrap();
    assert!(rows[0].1.is_ok());
    assert_eq!(rows[1].1, Err("not UTF-8 after byte 10".into()));
}

#[test]
fn folders_and_files_are_found() {
    let folder = tempfile::tempdir().unwrap();
    let name = folder.path().to_str().unwrap();
    assert!(Sources::locate(name).unwrap_err().to_string().contains("no train.jsonl"));
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
    // One document is a file of one row.
    let rows = rows_of(b"{\n \"rows\": [\n {\"text\": \"a\"}\n ]\n}").unwrap();
    assert_eq!(rows.len(), 1);
    assert!(rows[0].1.as_ref().unwrap_err().contains("jq -c '.rows[]' FILE > rows.jsonl"), "{rows:?}");
}

#[test]
fn a_row_that_goes_on_in_the_next_line_is_said_to() {
    // One broken line does not spoil the others.
    let rows = rows_of(b"{\"text\": \"a\n{\"text\": \"b\"}\n").unwrap();
    assert!(rows[0].1.as_ref().unwrap_err().contains("the line ends before its row does"), "{rows:?}");
    assert_eq!(rows[1], (2, Ok(Row::Text("b".into()))));
}

#[test]
fn a_list_must_end_and_be_all() {
    for (text, words) in [("[{\"text\": \"a\"},\n", "does not end"), ("[{\"text\": \"a\"}]\n{}", "more after the list")] {
        let rows = rows_of(text.as_bytes()).unwrap();
        assert_eq!(rows.len(), 2, "{text}");
        assert!(rows[0].1.is_ok() && rows[1].1.as_ref().unwrap_err().contains(words), "{rows:?}");
    }
}

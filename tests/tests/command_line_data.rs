//! `data` on the command line, and prepared rows that `train` keeps.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use burnish_tests::{burnish, text};
use serde_json::Value;

fn model() -> String {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../recipes/assets/quickstart/model").display().to_string()
}

/// A folder with a cache of its own.
struct Place(tempfile::TempDir);

impl Place {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> String {
        self.0.path().join(name).display().to_string()
    }

    fn write(&self, name: &str, text: &str) -> String {
        fs::write(self.0.path().join(name), text).unwrap();
        self.path(name)
    }

    fn program(&self) -> Command {
        let mut program = burnish(env!("CARGO_BIN_EXE_burnish-under-test"));
        // The second is for macOS, where the first does nothing.
        program.env("XDG_CACHE_HOME", self.path("cache")).env("HOME", self.0.path());
        program
    }

    fn succeeds(&self, arguments: &[&str]) -> (String, String) {
        let output = self.program().args(arguments).output().unwrap();
        let (stdout, stderr) = text(&output);
        assert!(output.status.success(), "{arguments:?}: {stderr}");
        (stdout, stderr)
    }

    fn fails(&self, arguments: &[&str], words: &[&str]) {
        let output = self.program().args(arguments).output().unwrap();
        let (_, stderr) = text(&output);
        assert_eq!(output.status.code(), Some(1), "{arguments:?}: {stderr}");
        assert!(!stderr.contains("panicked"), "{stderr}");
        for word in ["error: "].iter().chain(words) {
            assert!(stderr.contains(word), "{arguments:?} does not say `{word}`: {stderr}");
        }
    }

    /// The files of prepared rows.
    fn kept(&self) -> Vec<PathBuf> {
        let mut found = Vec::new();
        let mut folders = vec![self.0.path().to_owned()];
        while let Some(folder) = folders.pop() {
            for path in fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
                if path.is_dir() {
                    folders.push(path);
                } else if path.extension().is_some_and(|extension| extension == "rows") {
                    found.push(path);
                }
            }
        }
        found
    }
}

fn chat(question: &str, answer: &str) -> String {
    format!(
        "{{\"messages\": [{{\"role\": \"user\", \"content\": \"{question}\"}}, {{\"role\": \"assistant\", \"content\": \"{answer}\"}}]}}\n"
    )
}

#[test]
fn data_shows_tokens_lengths_and_what_is_odd() {
    let place = Place::new();
    let rows =
        [chat("Two at six?", "Yes."), chat("a", ""), "{\"text\": 7}\n".to_owned(), chat("Two at six?", "Yes.")].concat();
    let file = place.write("rows.jsonl", &rows);
    let model = model();
    let (text, _) = place.succeeds(&["data", &file, "--model", &model, "--max-seq-length", "64"]);
    for words in [
        "4 rows, 3 examples",
        "line 1: ",
        "+ assistant",
        "  user",
        "lengths in tokens",
        "packing would put them into 2 rows",
        "bad rows: 1",
        "line 3: text should be a string",
        "with an empty answer: 1; the first is line 2",
        "rows that repeat an earlier one: 1; the first is line 4, which repeats line 1",
    ] {
        assert!(text.contains(words), "no `{words}` in {text}");
    }
    assert!(!text.contains('\u{1b}'), "no colours where there is no terminal: {text}");
    let (json, _) = place.succeeds(&["--json", "data", &file, "--model", &model, "--rows", "1"]);
    let value: Value = serde_json::from_str(&json).unwrap();
    let file_found = &value["files"][0];
    assert_eq!((&file_found["rows"], &file_found["duplicates"]["within"]), (&4.into(), &1.into()));
    assert_eq!(file_found["shown"].as_array().unwrap().len(), 1);
    assert_eq!(file_found["odd"][0]["what"], "EmptyAnswer");
    let learned: String = file_found["shown"][0]["examples"][0]
        .as_array()
        .unwrap()
        .iter()
        .filter(|part| part["learned"] == true)
        .flat_map(|part| part["tokens"].as_array().unwrap().iter().map(|token| token.as_str().unwrap().to_owned()))
        .collect();
    assert!(learned.starts_with("Yes."), "{learned}");
    place.fails(&["data", "--model", &model], &["no data is named", "hint: burnish data FILE"]);
    place.fails(&["data", &place.path("none.jsonl"), "--model", &model], &["no such file", "hint: "]);
}

#[test]
fn validation_rows_that_are_trained_on_are_told() {
    let place = Place::new();
    let folder = place.path("set");
    fs::create_dir(&folder).unwrap();
    place.write("set/train.jsonl", &[chat("a", "b"), chat("c", "d")].concat());
    place.write("set/valid.jsonl", &[chat("e", "f"), chat("c", "d")].concat());
    let (text, _) = place.succeeds(&["data", &folder, "--model", &model()]);
    assert!(text.contains("rows that are in an earlier file too: 1; the first is line 2"), "{text}");
    assert_eq!(text.matches("odd was found").count(), 1, "{text}");
}

/// The losses of a run, and what it said.
fn trained(place: &Place, data: &str, name: &str, more: &[&str]) -> (Vec<String>, String) {
    let (run, model) = (place.path(name), model());
    let fixed = ["train", "--model", &model, "--data", data, "--output-dir", &run, "--backend", "cpu", "--iters", "3"];
    let (_, said) = place.succeeds(&[&fixed[..], &["--batch-size", "2"], more].concat());
    let metrics = fs::read_to_string(Path::new(&run).join("metrics.jsonl")).unwrap();
    let losses = metrics.lines().map(|line| {
        let value: Value = serde_json::from_str(line).unwrap();
        format!("{} {}", value["loss"], value["grad_norm"])
    });
    (losses.collect(), said)
}

#[test]
fn prepared_rows_are_kept_and_the_same() {
    const EARLIER: &str = "prepared by an earlier run";
    let place = Place::new();
    let words = "there is room for two or more at the table by the window ".repeat(3);
    let rows: String = (0..5000).map(|row| chat(&format!("Row {row}: {words}"), &format!("Yes, {row}."))).collect();
    assert!(rows.len() > 1 << 20);
    let file = place.write("rows.jsonl", &rows);
    let (in_memory, said) = trained(&place, &file, "a", &["--no-keep-rows"]);
    assert!(!said.contains(EARLIER) && place.kept().is_empty());
    let (first, said) = trained(&place, &file, "b", &[]);
    assert!(!said.contains(EARLIER) && place.kept().len() == 1, "{said}");
    let (second, said) = trained(&place, &file, "c", &[]);
    assert!(said.contains(EARLIER), "{said}");
    assert!(in_memory.len() == 3 && first == in_memory && second == in_memory, "{in_memory:?} {first:?} {second:?}");
    // A resumed run finds its rows too.
    let (_, said) = trained(&place, &file, "c", &["--iters", "4", "--resume", "auto"]);
    assert!(said.contains(EARLIER), "{said}");
    let (_, said) = trained(&place, &file, "d", &["--no-mask-prompt"]);
    assert!(!said.contains(EARLIER) && place.kept().len() == 2, "{said}");
    // A file that was cut off by a crash of the system is not used.
    for kept in place.kept() {
        let bytes = fs::read(&kept).unwrap();
        fs::write(&kept, &bytes[..bytes.len() / 2]).unwrap();
    }
    let (again, said) = trained(&place, &file, "e", &[]);
    assert!(!said.contains(EARLIER) && again == in_memory, "{said}");
    let (said, _) = place.succeeds(&["data", "--clear-cache"]);
    assert!(said.contains("deleted 2 files of prepared rows") && place.kept().is_empty(), "{said}");
}

#[test]
fn files_of_several_kinds_are_mixed() {
    let place = Place::new();
    let table = (0..30).map(|row| format!("\"{row} + 1 = \",{}\n", row + 1)).collect::<String>();
    let table = place.write("table.csv", &format!("prompt,completion\n{table}"));
    let lines = place.write("rows.jsonl", &chat("a", "b"));
    let text = place.write("notes.md", "# One\n\nSome text.\n\n# Two\n\nMore of it.\n");
    let data = format!("{table}, {lines}:10, {text}");
    let (_, said) = trained(&place, &data, "run", &["--max-seq-length", "96"]);
    // 30 rows of the table, ten times the one of the lines, and the text.
    assert!(said.contains("41 training examples"), "{said}");
    let (_, said) = trained(&place, &data, "short", &["--max-seq-length", "96", "--length-policy", "drop"]);
    assert!(said.contains("training examples"), "{said}");
    let row = "{\"question\": \"2 + 2 = \", \"answer\": \"4\", \"text\": \"x\"}\n";
    let named = place.write("named.jsonl", row);
    let columns = ["--prompt-feature", "question", "--completion-feature", "answer"];
    trained(&place, &named, "named", &columns);
    let (model, run) = (model(), place.path("missing"));
    let missing = ["train", "--model", &model, "--data", &named, "--output-dir", &run, "--chat-feature", "turns"];
    place.fails(&missing, &["no `turns`, which `chat_feature` names"]);
}

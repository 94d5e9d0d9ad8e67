//! `generate` and `chat` on the command line.
#![allow(clippy::unwrap_used)]

use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use burnish_tests::{burnish, text};
use serde_json::Value;

fn program() -> Command {
    burnish(env!("CARGO_BIN_EXE_burnish-under-test"))
}

fn model() -> String {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../recipes/assets/quickstart/model").display().to_string()
}

fn generate(more: &[&str]) -> Value {
    let output = program().args(["--json", "generate", "--model", &model()]).args(more).output().unwrap();
    let (answer, log) = text(&output);
    assert!(output.status.success(), "{log}");
    serde_json::from_str(answer.lines().last().unwrap()).unwrap()
}

#[test]
fn an_answer_ends_before_a_stop_string() {
    let prompt = ["--prompt", "Book a table for two at seven", "--max-tokens", "60"];
    let whole = generate(&prompt);
    let whole = whole["text"].as_str().unwrap();
    let characters: Vec<(usize, char)> = whole.char_indices().collect();
    assert!(characters.len() > 8, "{whole}");
    // Two characters from the middle, wherever the tokens split.
    let (middle, after) = (characters[characters.len() / 2].0, characters[characters.len() / 2 + 2].0);
    let stop = &whole[middle..after];
    let stopped = generate(&[&prompt[..], &["--stop", "not in it at all", "--stop", stop]].concat());
    assert_eq!(stopped["text"], whole[..whole.find(stop).unwrap()]);
    assert_eq!(stopped["finish"], "Stop");
    // Nothing beyond that is printed while the answer is generated.
    let model = model();
    let plain = [&["generate", "--model", &model][..], &prompt, &["--stop", stop]].concat();
    let output = program().args(plain).output().unwrap();
    assert_eq!(text(&output).0.trim_end_matches('\n'), &whole[..whole.find(stop).unwrap()]);
}

#[test]
fn the_same_seed_gives_the_same_answer() {
    let of = |seed: &str| generate(&["--prompt", "Say something", "--temperature", "30", "--seed", seed])["tokens"].clone();
    assert_eq!(of("7"), of("7"));
    assert_ne!(of("7"), of("8"));
}

/// Sends lines to `chat`, and returns its answers and its log.
fn chat(lines: &str) -> (String, String) {
    let mut child = program()
        .args(["chat", "--model", &model(), "--max-tokens", "12"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(lines.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", text(&output).1);
    text(&output)
}

#[test]
fn a_conversation_continues_and_can_be_undone_or_reset() {
    let answers = |lines: &str| -> Vec<String> {
        let prompts = |line: &str| line.trim_start_matches("> ").to_owned();
        chat(lines).0.lines().map(prompts).filter(|line| !line.is_empty()).collect()
    };
    let both = answers("hello there\nand again\n");
    assert_eq!(both.len(), 2, "{both:?}");
    // The same words get another answer as the second turn of a conversation.
    let undone = answers("hello there\nand again\n/undo\nand again\n");
    assert_eq!(undone, [both[0].as_str(), &both[1], &both[1]]);
    let reset = answers("hello there\n/reset\nhello there\nand again\n");
    assert_eq!(reset, [both[0].as_str(), &both[0], &both[1]]);
}

#[test]
fn an_unknown_command_is_reported_and_the_conversation_continues() {
    let (answers, log) = chat("/fly\nhello there\n/quit\nnever read\n");
    assert!(log.contains("unknown command /fly"), "{log}");
    assert_eq!(answers.lines().filter(|line| !line.trim_start_matches("> ").is_empty()).count(), 1, "{answers}");
}

//! Runs the commands of the pages, and compares what they print with what the pages say.
//!
//! Each page has a folder of its own, in which `burnish quickstart` was run. `sh` blocks must succeed. In `console` blocks, lines after
//! `$ ` are commands, and the lines below are what they print; `…` stands for any text in a line, or alone for any lines. Where a block
//! expects an error, only what is printed from there on is compared, and the command must fail. Comments before a block:
//!
//! - `<!-- setup: commands -->` makes what the block needs;
//! - `<!-- numbers differ -->` lets every number stand for any other;
//! - `<!-- not run: why -->` leaves the block out;
//! - `<!-- only on linux -->` leaves it out elsewhere.
//!
//! `REFUSING_HUB` is the address of a hub that refuses everything.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use burnish_tests::burnish;

use super::blocks::{is_about_messages, is_run};
use super::page::{Block, Page, all, blesses, root};

/// The page whose first command is `burnish quickstart`. The other pages begin with what that wrote.
const FIRST: &str = "docs/quick-start.md";
const QUICKSTART: &str = "runs/quickstart";
const SUMMARY: &str = "docs/SUMMARY.md";
const COMMANDS: &str = "docs/commands";

/// The program under the name that users know, and folders for pages.
struct Place {
    root: tempfile::TempDir,
    hub: String,
}

impl Place {
    fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        for folder in ["bin", "home"] {
            fs::create_dir(root.path().join(folder)).unwrap();
        }
        symlink(env!("CARGO_BIN_EXE_burnish-under-test"), root.path().join("bin/burnish")).unwrap();
        Self { root, hub: refusing_hub() }
    }

    /// Runs commands; returns whether they succeeded, and all that they printed.
    fn run(&self, folder: &Path, commands: &str) -> (bool, String) {
        let (bin, home) = (self.root.path().join("bin"), self.root.path().join("home"));
        let path = format!("{}:{}", bin.display(), std::env::var("PATH").unwrap_or_default());
        let mut shell = burnish("sh");
        shell.args(["-eu", "-c", &format!("exec 2>&1\n{commands}")]).current_dir(folder).stdin(Stdio::null());
        shell.envs([("HOME", &home), ("XDG_CACHE_HOME", &home), ("HF_HOME", &home)]);
        shell
            .env("PATH", path)
            .env("REFUSING_HUB", &self.hub)
            .env("COLUMNS", "100")
            .env("LC_ALL", "C")
            .env_remove("RUST_LOG");
        let output = shell.output().unwrap();
        (output.status.success(), String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// The folder of a page.
    fn folder(&self, page: &Path) -> PathBuf {
        let name = page.display().to_string().replace(['/', '.'], "-");
        let folder = self.root.path().join(name);
        fs::create_dir(&folder).unwrap();
        if page != Path::new(FIRST) {
            fs::create_dir(folder.join("runs")).unwrap();
            let made = self.root.path().join(FIRST.replace(['/', '.'], "-")).join(QUICKSTART);
            assert!(Command::new("cp").arg("-R").arg(made).arg(folder.join("runs")).status().unwrap().success());
        }
        folder
    }
}

/// Answers every request as the hub does without a token; returns its address.
fn refusing_hub() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            BufReader::new(&stream).lines().map_while(Result::ok).take_while(|line| !line.is_empty()).for_each(drop);
            stream.write_all(b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\nConnection: close\r\n\r\n").ok();
        }
    });
    address
}

/// A command of a `console` block, and what it should print.
struct Step {
    command: String,
    expected: Vec<String>,
}

fn steps(text: &str) -> Vec<Step> {
    let mut steps: Vec<Step> = Vec::new();
    for line in text.lines() {
        match (line.strip_prefix("$ "), steps.last_mut()) {
            (Some(command), _) => steps.push(Step { command: command.to_owned(), expected: Vec::new() }),
            // A command goes on in the next line.
            (None, Some(step)) if step.command.ends_with('\\') => {
                step.command.push('\n');
                step.command.push_str(line);
            }
            (None, Some(step)) => step.expected.push(line.to_owned()),
            (None, None) => panic!("a console block should begin with `$ `, got `{line}`"),
        }
    }
    steps
}

/// Whether a line of the page fits what was printed.
fn fits(expected: &str, actual: &str) -> bool {
    let mut parts = expected.split('…');
    let Some(mut rest) = actual.strip_prefix(parts.next().unwrap_or_default()) else { return false };
    let mut parts = parts.peekable();
    if parts.peek().is_none() {
        return rest.is_empty();
    }
    while let Some(part) = parts.next() {
        if parts.peek().is_none() {
            return rest.ends_with(part);
        }
        let Some(at) = rest.find(part) else { return false };
        rest = &rest[at + part.len()..];
    }
    true
}

fn all_fit(expected: &[String], actual: &[String]) -> bool {
    match expected.split_first() {
        None => actual.is_empty(),
        Some((first, rest)) if first.trim() == "…" => (0..=actual.len()).any(|skipped| all_fit(rest, &actual[skipped..])),
        Some((first, rest)) => actual.first().is_some_and(|line| fits(first, line)) && all_fit(rest, &actual[1..]),
    }
}

/// The text with the same sign for every number.
fn without_numbers(text: &str) -> String {
    let (mut plain, mut in_number) = (String::new(), false);
    for letter in text.chars() {
        in_number = letter.is_ascii_digit() || in_number && ['.', ':', 'e', '+', '-'].contains(&letter);
        if !in_number {
            plain.push(letter);
        } else if !plain.ends_with('#') {
            plain.push('#');
        }
    }
    plain
}

fn is_error(line: &str) -> bool {
    line.starts_with("error: ")
}

/// The lines of what was printed that a step is about.
fn shown(step: &Step, printed: &str) -> Vec<String> {
    let lines: Vec<String> = printed.lines().map(|line| line.trim_end().to_owned()).collect();
    let starts_late = step.expected.first().is_some_and(|line| is_error(line));
    let start = if starts_late { lines.iter().position(|line| is_error(line)).unwrap_or(0) } else { 0 };
    lines[start..].to_vec()
}

/// What is wrong with a step, and the lines that the page should have instead.
fn problem(step: &Step, ok: bool, printed: &str, differ: bool) -> Option<(String, Vec<String>)> {
    let actual = shown(step, printed);
    let seen = |lines: &[String]| -> Vec<String> {
        if differ { lines.iter().map(|line| without_numbers(line)).collect() } else { lines.to_vec() }
    };
    let fails = step.expected.iter().any(|line| is_error(line));
    if all_fit(&seen(&step.expected), &seen(&actual)) && ok != fails {
        return None;
    }
    let how = if ok { "succeeded" } else { "failed" };
    let said = format!("`{}` {how} and printed:\n{}", step.command, actual.join("\n"));
    // Lines of the page that still fit keep their dots.
    let kept =
        |line: String| step.expected.iter().find(|old| old.trim() != "…" && fits(old, &line)).cloned().unwrap_or(line);
    Some((said, actual.into_iter().map(kept).collect()))
}

/// Runs a block; returns what is wrong, and the text that it should have if that is known.
fn run_block(place: &Place, folder: &Path, block: &Block) -> Option<(String, Option<String>)> {
    if let Some(setup) = block.comment("setup:") {
        let (ok, printed) = place.run(folder, setup);
        if !ok {
            return Some((format!("its setup failed:\n{printed}"), None));
        }
    }
    if block.language != "console" {
        let (ok, printed) = place.run(folder, &block.text);
        return (!ok).then(|| (format!("it failed:\n{printed}"), None));
    }
    let (mut problems, mut text) = (Vec::new(), String::new());
    let differ = block.comment("numbers differ").is_some();
    for step in steps(&block.text) {
        let (ok, printed) = place.run(folder, &step.command);
        let printed = printed.replace(&place.root.path().display().to_string(), "…");
        let found = problem(&step, ok, &printed, differ);
        let (said, lines) = found.map_or((None, step.expected.clone()), |(said, lines)| (Some(said), lines));
        problems.extend(said);
        text.extend(["$ ", &step.command, "\n"]);
        text.extend(lines.into_iter().map(|line| line + "\n"));
    }
    (!problems.is_empty()).then(|| (problems.join("\n"), Some(text)))
}

/// A heading in code names a message, which the block below must print.
fn names_another_message(block: &Block, page: &Page) -> bool {
    let is_about_one = is_about_messages(page) && block.language == "console";
    is_about_one && !block.text.lines().any(|line| line.contains(&block.heading))
}

/// Blocks whose commands fail, or print something else than the page says. `PAGE` runs one page only, by a part of its name.
pub fn wrong_blocks() -> Vec<String> {
    let place = Place::new();
    let only = std::env::var("PAGE").unwrap_or_default();
    let is_asked_for = |page: &Page| page.path == Path::new(FIRST) || page.path.display().to_string().contains(&only);
    let mut pages: Vec<Page> =
        all().into_iter().filter(|page| page.path.starts_with("docs") && is_asked_for(page)).collect();
    pages.sort_by_key(|page| page.path != Path::new(FIRST));
    pages.iter().flat_map(|page| wrong_blocks_of(&place, page)).collect()
}

fn wrong_blocks_of(place: &Place, page: &Page) -> Vec<String> {
    let here = |block: &&Block| block.comment("only on").is_none_or(|system| system == std::env::consts::OS);
    let blocks: Vec<&Block> = page.blocks.iter().filter(|block| is_run(block)).filter(here).collect();
    if blocks.is_empty() {
        return Vec::new();
    }
    let folder = place.folder(&page.path);
    let (mut problems, mut text, mut is_changed) = (Vec::new(), page.text.clone(), false);
    let mut changes = Vec::new();
    for block in blocks {
        let at = format!("{}:{}", page.path.display(), block.line);
        if names_another_message(block, page) {
            problems.push(format!("{at}: it does not print `{}`, which its heading names", block.heading));
        }
        match run_block(place, &folder, block) {
            None => {}
            Some((_, Some(now))) if blesses() => changes.push((block.range.clone(), now)),
            Some((what, _)) => problems.push(format!("{at}: {what}")),
        }
    }
    for (range, now) in changes.into_iter().rev() {
        text.replace_range(range, &now);
        is_changed = true;
    }
    if is_changed {
        fs::write(root().join(&page.path), text).unwrap();
    }
    problems
}

/// The commands that the program's help lists.
fn commands() -> Vec<String> {
    let place = Place::new();
    let (ok, help) = place.run(place.root.path(), "burnish --help");
    assert!(ok, "{help}");
    let list = help.split_once("Commands:\n").unwrap().1.split_once("\n\n").unwrap().0;
    let names = list.lines().filter(|line| line.starts_with("  ") && !line.starts_with("   "));
    names.map(|line| line.split_whitespace().next().unwrap().to_owned()).filter(|name| name != "help").collect()
}

/// Commands without a page that shows their help. `BLESS=1` makes the pages.
pub fn missing_commands() -> Vec<String> {
    let mut problems = Vec::new();
    for name in commands() {
        let path = format!("{COMMANDS}/{name}.md");
        if blesses() && !root().join(&path).exists() {
            fs::write(root().join(&path), format!("# burnish {name}\n\n```console\n$ burnish {name} --help\n```\n"))
                .unwrap();
            let summary = fs::read_to_string(root().join(SUMMARY)).unwrap();
            let after =
                summary.rfind("](commands/").and_then(|at| summary[at..].find('\n').map(|end| at + end + 1)).unwrap();
            let line = format!("  - [{name}](commands/{name}.md)\n");
            fs::write(root().join(SUMMARY), format!("{}{line}{}", &summary[..after], &summary[after..])).unwrap();
        }
        let shows =
            |page: &Page| page.blocks.iter().any(|block| block.text.starts_with(&format!("$ burnish {name} --help\n")));
        if !root().join(&path).exists() || !shows(&Page::read(path.as_ref())) {
            problems.push(format!("{path} should exist and show the help of `{name}`; BLESS=1 writes it"));
        }
    }
    problems
}

#[test]
fn dots_stand_for_what_is_left_out() {
    let lines = |text: &str| text.lines().map(str::to_owned).collect::<Vec<_>>();
    let fits = |expected: &str, actual: &str| all_fit(&lines(expected), &lines(actual));
    assert!(fits("a\n…\nb … d", "a\nx\ny\nb c d") && fits("…", "") && fits("…\nb", "b\na\nb"));
    assert!(fits("loss …, … tok/s", "loss 0.5, 3 tok/s") && fits("loss …", "loss 1"));
    assert!(!fits("a", "a\nb") && !fits("a\n…\nb", "a\nc") && !fits("loss …, … tok/s", "loss 0.5"));
}

#[test]
fn a_block_has_commands_and_what_they_print() {
    let steps = steps("$ burnish env\nline\n$ echo a \\\n  b\na b\n");
    assert_eq!((steps[0].command.as_str(), &steps[0].expected[..]), ("burnish env", &["line".to_owned()][..]));
    assert_eq!((steps[1].command.as_str(), steps[1].expected.len()), ("echo a \\\n  b", 1));
    let error = Step { command: "c".to_owned(), expected: vec!["error: no".to_owned()] };
    assert!(problem(&error, false, "step 1\nerror: no\n", false).is_none());
    assert!(
        problem(&error, true, "error: no\n", false).is_some() && problem(&error, false, "error: yes\n", false).is_some()
    );
}

#[test]
fn numbers_may_differ_where_a_block_says_so() {
    let step = Step { command: "c".to_owned(), expected: vec!["loss 2.5, lr 1.0e-3, 0:12 left".to_owned()] };
    assert!(problem(&step, true, "loss 31, lr 2.5e-4, 1:00 left\n", true).is_none());
    assert!(problem(&step, true, "loss 31, lr 2.5e-4, 1:00 left\n", false).is_some());
    assert!(problem(&step, true, "loss NaN, lr 2.5e-4, 1:00 left\n", true).is_some());
}

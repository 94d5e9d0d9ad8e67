//! The pages of `docs/`: every page is listed, no link is dead, every command does what its page says, and what is made from the
//! program is current. `BLESS=1` writes what the program says now into the pages.
#![allow(clippy::unwrap_used)]

mod blocks;
mod crates;
mod guide;
mod keys;
mod links;
mod page;
#[cfg(unix)]
mod shell;
mod workflows;

use std::fs;

use page::{Page, root};

fn none(problems: Vec<String>) {
    assert!(problems.is_empty(), "{} problems:\n{}", problems.len(), problems.join("\n"));
}

#[test]
fn the_readme_is_a_page() {
    let lines = fs::read_to_string(root().join("README.md")).unwrap().lines().count();
    assert!(lines <= 100, "{lines} lines");
}

#[test]
fn every_page_is_listed_once() {
    let summary = Page::read("docs/SUMMARY.md".as_ref());
    let mut listed: Vec<_> = summary.links.iter().map(|link| format!("docs/{}", link.target)).collect();
    let mut pages: Vec<_> = page::below("docs").iter().map(|path| path.display().to_string()).collect();
    pages.retain(|path| path != "docs/SUMMARY.md");
    listed.sort();
    pages.sort();
    assert_eq!(listed, pages, "docs/SUMMARY.md should list every page of docs/ once");
}

#[test]
fn no_link_is_dead() {
    none(links::dead());
}

#[test]
fn every_block_of_commands_is_run_or_says_why_not() {
    none(page::all().iter().flat_map(blocks::unmarked).collect());
}

#[test]
fn examples_are_parts_of_files_that_compile() {
    none(page::all().iter().flat_map(blocks::strange_code).collect());
}

#[test]
fn messages_of_other_machines_are_those_of_the_library() {
    none(page::all().iter().flat_map(blocks::other_messages).collect());
}

#[test]
fn every_message_of_troubleshooting_is_produced_by_a_test() {
    none(blocks::unproduced_messages());
}

#[test]
fn actions_are_pinned_to_commits() {
    none(workflows::unpinned());
}

#[test]
fn the_archives_of_a_release_are_those_of_the_page() {
    none(workflows::other_archives());
}

#[test]
fn the_tables_of_keys_are_current() {
    none(keys::outdated());
}

#[test]
fn the_guide_is_answered_line_by_line() {
    none(guide::unanswered());
}

#[test]
fn the_drawing_has_every_crate_and_only_arrows_that_exist() {
    none(crates::wrong());
}

#[test]
#[cfg(unix)]
fn every_command_has_a_page_and_every_page_says_what_happens() {
    let mut problems = shell::missing_commands();
    problems.extend(shell::wrong_blocks());
    none(problems);
}

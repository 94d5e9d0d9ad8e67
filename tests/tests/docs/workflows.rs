//! What `.github/workflows` promises: actions that can't change, and the archives that the page about installing lists.

use std::collections::BTreeSet;
use std::fs;

use super::page::{Page, root};

const FOLDER: &str = ".github/workflows";

/// Lines with an action that a tag or a branch names, which its owner can move to other code.
pub fn unpinned() -> Vec<String> {
    let mut found = Vec::new();
    let mut actions = 0;
    for entry in fs::read_dir(root().join(FOLDER)).unwrap() {
        let path = entry.unwrap().path();
        for line in fs::read_to_string(&path).unwrap().lines() {
            let Some((_, action)) = line.split_once("uses: ") else { continue };
            actions += 1;
            let (action, version) = action.split_once(" # ").unwrap_or((action, ""));
            let commit = action.split_once('@').map_or("", |(_, commit)| commit);
            let is_commit = commit.len() == 40 && commit.bytes().all(|byte| byte.is_ascii_hexdigit());
            if !is_commit || version.is_empty() {
                found.push(format!("{}: `{action}` should be OWNER/NAME@COMMIT # VERSION", path.display()));
            }
        }
    }
    assert!(actions > 10, "only {actions} actions");
    found
}

/// Targets that only the release workflow or only `docs/install.md` has.
pub fn other_archives() -> Vec<String> {
    let workflow = fs::read_to_string(root().join(FOLDER).join("release.yml")).unwrap();
    let built: BTreeSet<String> =
        workflow.lines().filter_map(|line| line.trim().strip_prefix("- target: ")).map(str::to_owned).collect();
    let page = Page::read("docs/install.md".as_ref()).text;
    let name = |line: &str| line.strip_prefix("| `burnish-VERSION-")?.split('.').next().map(str::to_owned);
    let told: BTreeSet<String> = page.lines().filter_map(name).collect();
    assert!(built.len() > 3, "only {built:?}");
    built.symmetric_difference(&told).map(|target| format!("{target} is not in both")).collect()
}

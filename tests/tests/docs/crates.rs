//! The drawing of the crates.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use super::page::root;

const DRAWING: &str = "docs/crates.svg";

/// The crates of the workspace, each with those that it depends on.
fn workspace() -> BTreeMap<String, BTreeSet<String>> {
    let text = fs::read_to_string(root().join("Cargo.toml")).unwrap();
    let members = text.split_once("members = [").unwrap().1.split_once(']').unwrap().0;
    let folders = members.split(',').map(|member| member.trim().trim_matches('"')).filter(|member| !member.is_empty());
    let packages = folders.map(|folder| {
        let manifest = fs::read_to_string(root().join(folder).join("Cargo.toml")).unwrap();
        let name = manifest.lines().find_map(|line| line.strip_prefix("name = ")).unwrap().trim_matches('"').to_owned();
        let own = manifest.split("\n[").find_map(|part| part.strip_prefix("dependencies]\n")).unwrap_or_default();
        let used = own.lines().map(|line| match line.split_once("package = \"") {
            Some((_, renamed)) => renamed.split('"').next().unwrap(),
            None => line.split(['.', ' ']).next().unwrap(),
        });
        (name, used.filter(|name| name.starts_with("burnish-")).map(str::to_owned).collect())
    });
    packages.collect()
}

/// The values of an attribute, in the order of the file.
fn values<'a>(text: &'a str, attribute: &str) -> Vec<&'a str> {
    let parts = text.split(&format!("{attribute}=\"")).skip(1).collect::<Vec<_>>();
    parts.into_iter().filter_map(|rest| rest.split_once('"')).map(|(value, _)| value).collect()
}

/// Crates and arrows that the drawing lacks, or that do not exist.
pub fn wrong() -> Vec<String> {
    let text = fs::read_to_string(root().join(DRAWING)).unwrap();
    let workspace = workspace();
    let drawn: BTreeSet<&str> = values(&text, "data-crate").into_iter().collect();
    let mut problems = Vec::new();
    let known: BTreeSet<&str> = workspace.keys().map(String::as_str).collect();
    problems
        .extend(known.symmetric_difference(&drawn).map(|name| format!("{name} is only in the workspace, or only drawn")));
    let mut arrows: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for (from, to) in values(&text, "data-user").into_iter().zip(values(&text, "data-used")) {
        if !workspace.get(from).is_some_and(|used| used.contains(to)) {
            problems.push(format!("{from} does not depend on {to}"));
        }
        arrows.entry(from).or_default().insert(to);
    }
    for (user, used) in &workspace {
        let (mut reached, mut queue) = (BTreeSet::new(), vec![user.as_str()]);
        while let Some(at) = queue.pop() {
            queue.extend(arrows.get(at).into_iter().flatten().filter(|next| reached.insert(**next)));
        }
        let lacking = used.iter().filter(|name| !reached.contains(name.as_str()));
        problems.extend(lacking.map(|name| format!("no arrows lead from {user} to {name}")));
    }
    problems.into_iter().map(|problem| format!("{DRAWING}: {problem}")).collect()
}

//! Links that lead nowhere.

use std::path::{Component, Path, PathBuf};

use super::page::{Page, all, below, root};

/// Every link of a page in the repository to a file, or a heading of a page, that does not exist.
pub fn dead() -> Vec<String> {
    let mut pages = all();
    let known: Vec<PathBuf> = pages.iter().map(|page| page.path.clone()).collect();
    pages.extend(below(".").iter().filter(|path| !known.contains(path)).map(|path| Page::read(path)));
    let mut dead = Vec::new();
    for page in &pages {
        for link in page.links.iter().filter(|link| !link.target.contains("://") && !link.target.starts_with("mailto:")) {
            if let Err(reason) = check(page, &link.target, &pages) {
                dead.push(format!("{}:{}: {}: {reason}", page.path.display(), link.line, link.target));
            }
        }
    }
    dead
}

fn check(page: &Page, target: &str, pages: &[Page]) -> Result<(), &'static str> {
    let (file, anchor) = target.split_once('#').map_or((target, None), |(file, anchor)| (file, Some(anchor)));
    let path = if file.is_empty() { page.path.clone() } else { plain(&page.path.parent().unwrap().join(file)) };
    if !root().join(&path).exists() {
        return Err("there is no such file");
    }
    let Some(anchor) = anchor else { return Ok(()) };
    let there = pages.iter().find(|page| page.path == path).ok_or("only pages have headings")?;
    if there.anchors.iter().any(|known| known == anchor) { Ok(()) } else { Err("the page has no such heading") }
}

/// A path without `..`.
fn plain(path: &Path) -> PathBuf {
    let mut plain = PathBuf::new();
    for part in path.components() {
        match part {
            Component::ParentDir => {
                plain.pop();
            }
            Component::CurDir => {}
            other => plain.push(other),
        }
    }
    plain
}

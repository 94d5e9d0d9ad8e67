//! A page of Markdown: its links, the targets of links to it, and its blocks of code.

use std::collections::HashMap;
use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};

use pulldown_cmark::{CodeBlockKind, Event, Options, Parser, Tag, TagEnd};

/// A link or an image.
pub struct Link {
    pub line: usize,
    pub target: String,
}

/// A block of code.
#[derive(Clone)]
pub struct Block {
    pub line: usize,
    /// Where its text is in the page.
    pub range: Range<usize>,
    /// The first word after the fence.
    pub language: String,
    pub text: String,
    /// The comments directly before it.
    pub comments: Vec<String>,
    /// The heading above it.
    pub heading: String,
}

impl Block {
    /// The rest of a comment that begins with a word.
    pub fn comment(&self, word: &str) -> Option<&str> {
        self.comments.iter().find_map(|comment| comment.strip_prefix(word)).map(str::trim)
    }
}

/// A page of the repository.
pub struct Page {
    /// From the root of the repository.
    pub path: PathBuf,
    pub text: String,
    pub links: Vec<Link>,
    pub blocks: Vec<Block>,
    /// What a link may have after `#`.
    pub anchors: Vec<String>,
}

/// The root of the repository.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_path_buf()
}

/// Every page below a folder, from the root of the repository.
pub fn below(folder: &str) -> Vec<PathBuf> {
    let (mut pages, mut folders) = (Vec::new(), vec![PathBuf::from(folder)]);
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(root().join(&folder)).unwrap() {
            let path = folder.join(entry.unwrap().file_name());
            let name = path.file_name().unwrap().to_string_lossy();
            if root().join(&path).is_dir() && !name.starts_with('.') && name != "target" && name != "runs" {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "md") {
                pages.push(path.strip_prefix(".").unwrap_or(&path).to_path_buf());
            }
        }
    }
    pages.sort();
    pages
}

/// The pages of `docs/`, and the pages of the repository that lead to them.
pub fn all() -> Vec<Page> {
    let mut paths = below("docs");
    paths.extend(["README.md", "CONTRIBUTING.md"].map(PathBuf::from));
    paths.iter().map(|path| Page::read(path)).collect()
}

/// Whether pages are to be written again.
pub fn blesses() -> bool {
    std::env::var_os("BLESS").is_some()
}

/// Replaces what stands between two lines of a page, or says that it is not current.
pub fn is_current(path: &str, start: &str, end: &str, made: &str) -> Result<(), String> {
    let text = fs::read_to_string(root().join(path)).unwrap();
    let lost = || format!("{path}: no lines `{start}` and `{end}`");
    let (before, rest) = text.split_once(&format!("{start}\n")).ok_or_else(lost)?;
    let (old, after) = rest.split_once(end).ok_or_else(lost)?;
    if old.trim() == made.trim() {
        return Ok(());
    }
    if !blesses() {
        return Err(format!("{path}: what follows `{start}` is not current; BLESS=1 writes it"));
    }
    fs::write(root().join(path), format!("{before}{start}\n\n{}\n\n{end}{after}", made.trim())).unwrap();
    Ok(())
}

/// The comment in a piece of HTML.
fn comment(html: &str) -> Option<String> {
    Some(html.trim().strip_prefix("<!--")?.strip_suffix("-->")?.trim().to_owned())
}

impl Page {
    pub fn read(path: &Path) -> Self {
        let text = fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let mut page = Self {
            path: path.to_path_buf(),
            links: Vec::new(),
            blocks: Vec::new(),
            anchors: Vec::new(),
            text: text.clone(),
        };
        page.parse(&text);
        page
    }

    fn parse(&mut self, text: &str) {
        let line = |at: usize| text[..at].lines().count() + usize::from(text[..at].ends_with('\n') || at == 0);
        let (mut comments, mut heading, mut in_heading, mut html) = (Vec::new(), String::new(), false, String::new());
        let mut code: Option<Block> = None;
        let mut seen: HashMap<String, usize> = HashMap::new();
        for (event, range) in Parser::new_ext(text, Options::ENABLE_TABLES).into_offset_iter() {
            match event {
                Event::Html(part) => {
                    html.push_str(&part);
                    continue;
                }
                Event::Start(Tag::HtmlBlock) => continue,
                Event::End(TagEnd::HtmlBlock) => {
                    comments.extend(html.split_inclusive("-->").filter_map(comment));
                    self.anchors.extend(identifiers(&html));
                    html.clear();
                    continue;
                }
                Event::Start(Tag::CodeBlock(CodeBlockKind::Fenced(info))) => {
                    code = Some(Block {
                        line: line(range.start),
                        range: range.start..range.start,
                        language: info.split([' ', ',']).next().unwrap_or_default().to_owned(),
                        text: String::new(),
                        comments: std::mem::take(&mut comments),
                        heading: heading.clone(),
                    });
                }
                Event::Text(part) if code.is_some() => {
                    let block = code.as_mut().unwrap();
                    let start = if block.text.is_empty() { range.start } else { block.range.start };
                    block.range = start..range.end;
                    block.text.push_str(&part);
                }
                Event::End(TagEnd::CodeBlock) => self.blocks.extend(code.take()),
                Event::Start(Tag::Heading { .. }) => {
                    (in_heading, heading) = (true, String::new());
                }
                Event::End(TagEnd::Heading(_)) => {
                    in_heading = false;
                    let anchor = anchor(&heading);
                    let times = seen.entry(anchor.clone()).and_modify(|times| *times += 1).or_insert(0);
                    self.anchors.push(if *times == 0 { anchor } else { format!("{anchor}-{times}") });
                }
                Event::Text(part) | Event::Code(part) if in_heading => heading.push_str(&part),
                Event::Start(Tag::Link { dest_url, .. } | Tag::Image { dest_url, .. }) => {
                    self.links.push(Link { line: line(range.start), target: dest_url.to_string() });
                }
                Event::InlineHtml(part) => self.anchors.extend(identifiers(&part)),
                _ => {}
            }
            comments.clear();
        }
    }
}

/// The values of `id` in a piece of HTML.
fn identifiers(html: &str) -> impl Iterator<Item = String> {
    html.split("id=\"").skip(1).filter_map(|rest| rest.split_once('"')).map(|(id, _)| id.to_owned())
}

/// What GitHub and mdBook make of a heading.
fn anchor(heading: &str) -> String {
    let keep = |letter: &char| letter.is_alphanumeric() || [' ', '-', '_'].contains(letter);
    heading.trim().to_lowercase().chars().filter(keep).map(|letter| if letter == ' ' { '-' } else { letter }).collect()
}

#[test]
fn anchors_are_those_of_github() {
    assert_eq!(anchor("What `--memory 16` plans, and why"), "what---memory-16-plans-and-why");
    assert_eq!(anchor("`rows.jsonl:7: expected value`"), "rowsjsonl7-expected-value");
}

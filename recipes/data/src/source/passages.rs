//! Text and Markdown, which have no rows: parts of a document.

use std::io::{self, BufRead};
use std::path::Path;

use super::piece::{Piece, without_mark};
use super::unpack::plain_name;
use crate::passage::Outline;

/// Bytes of a part, after which the next paragraph begins another one.
const BYTES: usize = 256 << 10;

/// Whether a file is a document, and whether it is Markdown, by its name.
pub(super) fn kind(file: &Path) -> Option<bool> {
    let name = file.file_name()?.to_string_lossy();
    match plain_name(&name).rsplit_once('.')?.1 {
        "txt" => Some(false),
        "md" | "markdown" => Some(true),
        _ => None,
    }
}

/// Gives the parts of a document to `take`; one is in memory at a time.
///
/// # Errors
/// When the file can't be read, and those of `take`.
pub(super) fn pieces<E: From<io::Error>>(
    mut input: impl BufRead,
    is_markdown: bool,
    take: &mut dyn FnMut(Piece) -> Result<(), E>,
) -> Result<(), E> {
    let mut outline = Outline::new(is_markdown);
    let (mut part, mut first, mut number) = (Vec::new(), 1, 0);
    let mut line = Vec::new();
    loop {
        line.clear();
        number += 1;
        let is_end = input.read_until(b'\n', &mut line)? == 0;
        let begins = outline.begins(&String::from_utf8_lossy(&line));
        if is_end || (begins && part.len() >= BYTES) {
            let bytes = without_mark(&part);
            if !bytes.trim_ascii().is_empty() {
                take(Piece::passage(first, bytes, is_markdown, is_end))?;
            }
            part.clear();
            first = number;
        }
        if is_end {
            return Ok(());
        }
        part.extend_from_slice(&line);
    }
}

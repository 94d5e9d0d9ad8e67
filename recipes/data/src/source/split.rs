//! Splits a file into rows. Each is parsed separately later, so that errors have a line, and a bad row doesn't affect others.

use std::io::{self, BufRead, Cursor, Read};

use burnish_models::json;

use super::piece::{Piece, without_mark};

/// Bytes of a file with rows of several lines each, which is in memory as a whole.
const WHOLE: u64 = 512 << 20;

/// Gives the rows of a file to `take`, one after another; only one row is in memory at a time, unless rows have several lines each.
///
/// # Errors
/// When the file can't be read, and those of `take`.
pub(super) fn pieces<E: From<io::Error>>(
    mut input: impl BufRead,
    take: &mut dyn FnMut(Piece) -> Result<(), E>,
) -> Result<(), E> {
    let mut number = 0;
    let mut line = Vec::new();
    // Empty lines may precede the first row.
    while without_mark(&line).trim_ascii().is_empty() {
        number += 1;
        line.clear();
        if input.read_until(b'\n', &mut line)? == 0 {
            return Ok(());
        }
    }
    let first = without_mark(&line);
    if first.trim_ascii_start().starts_with(b"[") {
        return elements(number, Cursor::new(first.to_vec()).chain(input), take);
    }
    // Old files end each line with a carriage return alone.
    if line.last() != Some(&b'\n') && first.trim_ascii().contains(&b'\r') {
        let pieces = lines(first, b'\r').map(|(line, bytes)| Piece::json(line, bytes));
        return pieces.into_iter().try_for_each(take);
    }
    if unfinished(first.trim_ascii()) {
        // Whether these are rows of several lines is known at the end of the file.
        let bytes = whole(Cursor::new(first.to_vec()).chain(input), WHOLE)?;
        let shifted = |mut piece: Piece| {
            piece.line += number - 1;
            piece
        };
        let mut is_one_each = true;
        documents(&bytes, &mut |document| {
            is_one_each &= document.is_some_and(|(_, document)| is_json(document));
            if is_one_each { Ok(()) } else { Err(()) }
        })
        .ok();
        return if is_one_each {
            documents(&bytes, &mut |document| {
                document.map_or(Ok(()), |(line, document)| take(shifted(Piece::json(line, document))))
            })
        } else {
            lines(&bytes, b'\n').try_for_each(|(line, bytes)| take(shifted(of_one_line(line, bytes))))
        };
    }
    loop {
        if !line.trim_ascii().is_empty() {
            take(Piece::json(number, line.strip_suffix(b"\n").unwrap_or(&line)))?;
        }
        line.clear();
        number += 1;
        if input.read_until(b'\n', &mut line)? == 0 {
            return Ok(());
        }
    }
}

/// All bytes, if they are not more than that.
fn whole(input: impl Read, most: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    input.take(most + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 <= most {
        return Ok(bytes);
    }
    let reason = "its first row does not end on its line, and the file is too large to be in memory; write each row on one line: \
                  jq -c . FILE > rows.jsonl";
    Err(io::Error::new(io::ErrorKind::FileTooLarge, reason))
}

/// Lines that are not empty, with their numbers from 1.
fn lines(bytes: &[u8], end: u8) -> impl Iterator<Item = (usize, &[u8])> {
    let lines = bytes.split(move |byte| *byte == end).enumerate();
    lines.filter(|(_, line)| !line.trim_ascii().is_empty()).map(|(index, line)| (index + 1, line))
}

/// Whether a JSON value begins in this line but does not end in it.
fn unfinished(line: &[u8]) -> bool {
    let text = std::str::from_utf8(line).ok();
    text.and_then(|text| json::parse(text).err()).is_some_and(|error| error.unfinished)
}

fn of_one_line(line: usize, bytes: &[u8]) -> Piece {
    if unfinished(bytes) {
        let reason = "not JSON: the line ends before its row does; write each row on one line: jq -c . FILE > rows.jsonl";
        return Piece::bad(line, reason);
    }
    Piece::json(line, bytes)
}

/// Tracks nested brackets and strings.
#[derive(Default)]
struct Nesting {
    depth: usize,
    quoted: bool,
    escaped: bool,
}

impl Nesting {
    fn pass(&mut self, byte: u8) {
        match byte {
            _ if self.escaped => self.escaped = false,
            b'\\' if self.quoted => self.escaped = true,
            b'"' => self.quoted = !self.quoted,
            _ if self.quoted => {}
            b'[' | b'{' => self.depth += 1,
            b']' | b'}' => self.depth = self.depth.saturating_sub(1),
            _ => {}
        }
    }
}

fn is_json(bytes: &[u8]) -> bool {
    std::str::from_utf8(bytes).is_ok_and(|text| json::parse(text).is_ok())
}

/// Gives consecutive objects of several lines each to `take`, with their first lines; `None` if there is anything else.
fn documents<E>(bytes: &[u8], take: &mut dyn FnMut(Option<(usize, &[u8])>) -> Result<(), E>) -> Result<(), E> {
    let mut nesting = Nesting::default();
    let (mut line, mut start) = (1, None);
    for (at, byte) in bytes.iter().enumerate() {
        line += usize::from(*byte == b'\n');
        if start.is_none() && byte.is_ascii_whitespace() {
            continue;
        }
        if start.is_none() && *byte != b'{' {
            return take(None);
        }
        let (first, from) = *start.get_or_insert((line, at));
        nesting.pass(*byte);
        if nesting.depth == 0 && !nesting.quoted {
            take(Some((first, &bytes[from..=at])))?;
            start = None;
        }
    }
    if start.is_some() { take(None) } else { Ok(()) }
}

/// The elements of a JSON list, which begins in the given line.
fn elements<E: From<io::Error>>(
    mut line: usize,
    mut input: impl BufRead,
    take: &mut dyn FnMut(Piece) -> Result<(), E>,
) -> Result<(), E> {
    let mut nesting = Nesting::default();
    let mut element = Vec::new();
    // The first line of the element that is being read.
    let mut start: Option<usize> = None;
    let mut ended = false;
    loop {
        let bytes = input.fill_buf()?;
        let count = bytes.len();
        if count == 0 {
            break;
        }
        for byte in bytes {
            line += usize::from(*byte == b'\n');
            if ended {
                if !byte.is_ascii_whitespace() {
                    return take(Piece::bad(line, "not JSON: there is more text after the list"));
                }
                continue;
            }
            let outside = nesting.depth == 1 && !nesting.quoted;
            if outside && start.is_none() && !byte.is_ascii_whitespace() && !matches!(byte, b',' | b']') {
                start = Some(line);
            }
            if outside && matches!(byte, b',' | b']' | b'}') {
                if let Some(line) = start.take() {
                    take(Piece::json(line, element.trim_ascii_end()))?;
                    element.clear();
                }
                ended = *byte != b',';
            }
            nesting.pass(*byte);
            if start.is_some() {
                element.push(*byte);
            }
        }
        input.consume(count);
    }
    // The rest of a truncated list is a piece too, so that it becomes an error instead of being lost silently.
    if let Some(line) = start {
        take(Piece::json(line, element.trim_ascii_end()))?;
    }
    if ended { Ok(()) } else { take(Piece::bad(line, "not JSON: the list does not end; the file may be truncated")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn large_files_with_rows_of_several_lines_are_refused() {
        let text = b"{\n\"text\": \"a\"\n}\n";
        assert_eq!(whole(&text[..], 16).unwrap(), text);
        assert!(whole(&text[..], 15).unwrap_err().to_string().contains("jq -c . FILE"));
    }
}

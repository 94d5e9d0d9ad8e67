//! Splits a file into rows. Each is parsed separately later, so that errors have a line, and a bad row doesn't affect others.

use burnish_models::json;

/// A part of a file that should be a row.
pub(super) struct Piece<'a> {
    /// Its first line, from 1.
    pub(super) line: usize,
    /// Its bytes, or what is wrong with the file here.
    pub(super) bytes: Result<&'a [u8], String>,
}

/// The rows of a file.
pub(super) fn pieces(bytes: &[u8]) -> Box<dyn Iterator<Item = Piece<'_>> + '_> {
    if bytes.trim_ascii_start().starts_with(b"[") {
        return Box::new(elements(bytes).into_iter());
    }
    let is_unfinished = |(_, line): &(usize, &[u8])| unfinished(line);
    match lines(bytes).next().filter(is_unfinished) {
        None => Box::new(lines(bytes).map(|(line, bytes)| Piece { line, bytes: Ok(bytes) })),
        Some(_) => match documents(bytes) {
            Some(documents) => Box::new(documents.into_iter()),
            None => Box::new(lines(bytes).map(|(line, bytes)| Piece { line, bytes: of_one_line(bytes) })),
        },
    }
}

/// Lines that are not empty, with their numbers from 1. Old files end each with a carriage return alone.
fn lines(bytes: &[u8]) -> impl Iterator<Item = (usize, &[u8])> {
    let end = if bytes.contains(&b'\n') { b'\n' } else { b'\r' };
    let lines = bytes.split(move |byte| *byte == end).enumerate();
    lines.filter(|(_, line)| !line.trim_ascii().is_empty()).map(|(index, line)| (index + 1, line))
}

/// Whether a JSON value begins in this line but does not end in it.
fn unfinished(line: &[u8]) -> bool {
    let text = std::str::from_utf8(line).ok();
    text.and_then(|text| json::parse(text).err()).is_some_and(|error| error.unfinished)
}

fn of_one_line(line: &[u8]) -> Result<&[u8], String> {
    if unfinished(line) {
        let reason = "not JSON: the line ends before its row does; write each row on one line: jq -c . FILE > rows.jsonl";
        return Err(reason.to_owned());
    }
    Ok(line)
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

/// Consecutive objects of several lines each; `None` if the file is anything else.
fn documents(bytes: &[u8]) -> Option<Vec<Piece<'_>>> {
    let mut found = Vec::new();
    let mut nesting = Nesting::default();
    let (mut line, mut start) = (1, None);
    for (at, byte) in bytes.iter().enumerate() {
        line += usize::from(*byte == b'\n');
        if start.is_none() && byte.is_ascii_whitespace() {
            continue;
        }
        if start.is_none() && *byte != b'{' {
            return None;
        }
        let (first, from) = *start.get_or_insert((line, at));
        nesting.pass(*byte);
        if nesting.depth == 0 && !nesting.quoted {
            let document = &bytes[from..=at];
            json::parse(std::str::from_utf8(document).ok()?).ok()?;
            found.push(Piece { line: first, bytes: Ok(document) });
            start = None;
        }
    }
    start.is_none().then_some(found)
}

/// The elements of a JSON list.
fn elements(bytes: &[u8]) -> Vec<Piece<'_>> {
    let mut found = Vec::new();
    let mut nesting = Nesting::default();
    let (mut line, mut ended) = (1, false);
    let mut start: Option<(usize, usize)> = None;
    let mut close = |start: &mut Option<(usize, usize)>, end: usize| {
        if let Some((line, at)) = start.take() {
            found.push(Piece { line, bytes: Ok(bytes[at..end].trim_ascii_end()) });
        }
    };
    let mut rest = None;
    for (at, byte) in bytes.iter().enumerate() {
        line += usize::from(*byte == b'\n');
        if ended {
            if !byte.is_ascii_whitespace() {
                rest = Some(line);
                break;
            }
            continue;
        }
        let outside = nesting.depth == 1 && !nesting.quoted;
        if outside && start.is_none() && !byte.is_ascii_whitespace() && !matches!(byte, b',' | b']') {
            start = Some((line, at));
        }
        if outside && matches!(byte, b',' | b']' | b'}') {
            close(&mut start, at);
            ended = *byte != b',';
        }
        nesting.pass(*byte);
    }
    // The rest of a truncated list is a piece too, so that it becomes an error instead of being lost silently.
    close(&mut start, bytes.len());
    if let Some(line) = rest {
        found.push(Piece { line, bytes: Err("not JSON: there is more text after the list".to_owned()) });
    } else if !ended {
        found.push(Piece { line, bytes: Err("not JSON: the list does not end; the file may be truncated".to_owned()) });
    }
    found
}

//! The entries of a zip archive as `torch.save` writes it: stored as they are, and so readable in place.
//!
//! Source: APPNOTE.TXT 6.3.10 of PKWARE. An archive reader for all kinds of zip would copy entries, and reserve memory for as many as
//! the archive claims.

use std::collections::HashMap;
use std::ops::Range;

/// A result whose error lacks the path.
type Read<T> = Result<T, String>;

const END: [u8; 4] = *b"PK\x05\x06";
const END_64: [u8; 4] = *b"PK\x06\x06";
const LOCATOR_64: [u8; 4] = *b"PK\x06\x07";
const CENTRAL: [u8; 4] = *b"PK\x01\x02";
const LOCAL: [u8; 4] = *b"PK\x03\x04";
/// Bytes of the end record without its comment.
const END_BYTES: usize = 22;
/// The longest comment.
const COMMENT: usize = 0xffff;
/// The id of the extra field with 64-bit sizes.
const EXTRA_64: u16 = 1;

/// The bytes of each entry, by its name.
pub(super) type Entries<'a> = HashMap<&'a str, Range<usize>>;

fn number<const N: usize>(bytes: &[u8], at: usize) -> Read<u64> {
    let found = at.checked_add(N).and_then(|end| bytes.get(at..end)).ok_or("the zip archive is cut off")?;
    Ok(found.iter().rev().fold(0, |value, byte| value << 8 | u64::from(*byte)))
}

fn position<const N: usize>(bytes: &[u8], at: usize) -> Read<usize> {
    usize::try_from(number::<N>(bytes, at)?).map_err(|_| "the zip archive has a position beyond its end".to_owned())
}

fn slice(bytes: &[u8], start: usize, length: usize) -> Read<&[u8]> {
    let end = start.checked_add(length);
    Ok(end.and_then(|end| bytes.get(start..end)).ok_or("the zip archive is cut off")?)
}

/// Reads the central directory and finds the bytes of every entry.
///
/// # Errors
/// If the archive is cut off or malformed, or an entry is compressed or encrypted.
pub(super) fn entries(bytes: &[u8]) -> Read<Entries<'_>> {
    let (mut at, count) = directory(bytes)?;
    let mut entries = HashMap::new();
    for _ in 0..count {
        let (name, range, next) = entry(bytes, at)?;
        if entries.insert(name, range).is_some() {
            return Err(format!("the zip archive has the entry `{}` twice", shown(name)));
        }
        at = next;
    }
    Ok(entries)
}

/// The position of the central directory, and its number of entries.
fn directory(bytes: &[u8]) -> Read<(usize, u64)> {
    let first = bytes.len().saturating_sub(END_BYTES + COMMENT);
    let last = bytes.len().checked_sub(END_BYTES).ok_or("the zip archive is cut off")?;
    // The comment ends where the file ends.
    let is_end = |at: &usize| {
        bytes[*at..].starts_with(&END) && number::<2>(bytes, at + 20) == Ok((bytes.len() - at - END_BYTES) as u64)
    };
    let end = (first..=last).rev().find(is_end).ok_or("the zip archive is cut off: it has no end record")?;
    let locator = end.checked_sub(20).filter(|at| bytes[*at..].starts_with(&LOCATOR_64));
    let Some(locator) = locator else {
        return Ok((position::<4>(bytes, end + 16)?, number::<2>(bytes, end + 10)?));
    };
    let end = position::<8>(bytes, locator + 8)?;
    if slice(bytes, end, 4)? != END_64 {
        return Err("the zip archive has no end record where its locator says".to_owned());
    }
    Ok((position::<8>(bytes, end.saturating_add(48))?, number::<8>(bytes, end.saturating_add(32))?))
}

/// The entry at a position of the central directory: its name, its bytes, and the position of the next one.
fn entry(bytes: &[u8], at: usize) -> Read<(&str, Range<usize>, usize)> {
    let fixed = slice(bytes, at, 46)?;
    if fixed[..4] != CENTRAL {
        return Err("the zip archive has fewer entries than it says".to_owned());
    }
    let lengths: [usize; 3] = [position::<2>(fixed, 28)?, position::<2>(fixed, 30)?, position::<2>(fixed, 32)?];
    let name = slice(bytes, at + 46, lengths[0])?;
    let name = std::str::from_utf8(name).map_err(|_| "the zip archive has a name that is not UTF-8")?;
    let extra = slice(bytes, at + 46 + lengths[0], lengths[1])?;
    let next = at + 46 + lengths.iter().sum::<usize>();
    let refuse = |what: &str| Err(format!("the entry `{}` of the zip archive is {what}", shown(name)));
    if number::<2>(fixed, 8)? & 1 != 0 {
        return refuse("encrypted");
    }
    if number::<2>(fixed, 10)? != 0 {
        return refuse("compressed, which torch.save never does");
    }
    let mut sizes = [number::<4>(fixed, 24)?, number::<4>(fixed, 20)?, number::<4>(fixed, 42)?];
    widen(extra, &mut sizes)?;
    let [length, stored, local] = sizes.map(|size| usize::try_from(size).unwrap_or(usize::MAX));
    if length != stored {
        return refuse("malformed: its two sizes differ, although it is not compressed");
    }
    let head = slice(bytes, local, 30)?;
    if head[..4] != LOCAL {
        return refuse("malformed: it has no local header");
    }
    let start = local + 30 + position::<2>(head, 26)? + position::<2>(head, 28)?;
    match start.checked_add(length).filter(|end| *end <= bytes.len()) {
        Some(end) => Ok((name, start..end, next)),
        None => refuse("cut off"),
    }
}

/// Replaces the sizes that 32 bits don't hold by those of the extra field.
fn widen(mut extra: &[u8], sizes: &mut [u64; 3]) -> Read<()> {
    while extra.len() >= 4 {
        let (id, length) = (number::<2>(extra, 0)?, position::<2>(extra, 2)?);
        let field = slice(extra, 4, length)?;
        if id == u64::from(EXTRA_64) {
            let mut at = 0;
            for size in sizes.iter_mut().filter(|size| **size == u64::from(u32::MAX)) {
                *size = number::<8>(field, at)?;
                at += 8;
            }
            break;
        }
        extra = &extra[4 + length..];
    }
    Ok(())
}

/// A name from a file as it is shown in an error.
pub(super) fn shown(name: &str) -> String {
    const MOST: usize = 80;
    let mut text: String = name.chars().take(MOST).flat_map(char::escape_default).collect();
    if name.chars().nth(MOST).is_some() {
        text.push('…');
    }
    text
}

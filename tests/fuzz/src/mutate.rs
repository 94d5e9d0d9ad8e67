//! Damages files.

use crate::random::Random;

/// Files are never larger.
pub const MOST: usize = 256 << 10;

/// Numbers at which readers err, in the widths that formats have.
const NUMBERS: [u64; 16] = [
    0,
    1,
    2,
    7,
    8,
    0x7f,
    0x80,
    0xff,
    0x7fff,
    0xffff,
    0x7fff_ffff,
    0xffff_ffff,
    1 << 40,
    i64::MAX as u64,
    i64::MIN as u64,
    u64::MAX,
];

/// Words at which readers of text err.
const WORDS: [&str; 24] = [
    "null",
    "true",
    "-1",
    "1e999",
    "-0",
    "NaN",
    "\"\"",
    "[]",
    "{}",
    "[",
    "{",
    "]",
    "}",
    ",",
    ":",
    "\"",
    "\\",
    "\\ud800",
    "\\u0000",
    "\u{feff}",
    "\u{202e}",
    "ſ",
    "99999999999999999999",
    "0.5",
];

/// The file with one to eight changes. Parts may be taken from `other`, and words from `words`.
pub fn mutate(file: &[u8], other: &[u8], words: &[&str], random: &mut Random) -> Vec<u8> {
    let mut bytes = file.to_vec();
    for _ in 0..=(random.below(4) * random.below(3)) {
        change(&mut bytes, other, words, random);
    }
    bytes.truncate(MOST);
    bytes
}

fn change(bytes: &mut Vec<u8>, other: &[u8], words: &[&str], random: &mut Random) {
    let at = random.below(bytes.len() + 1);
    let magnitude = random.below(9);
    let short = 1 + random.below(1 << magnitude);
    let end = (at + short).min(bytes.len());
    match random.below(12) {
        0 => flip(bytes, at, random),
        1 => put(bytes, at, &[random.number() as u8]),
        2 | 3 => {
            let number = NUMBERS[random.below(NUMBERS.len())].wrapping_add(random.below(3) as u64).wrapping_sub(1);
            put(bytes, at, &number.to_le_bytes()[..1 << random.below(4)]);
        }
        4 => drop(bytes.drain(at..end)),
        5 => bytes.truncate(at),
        6 => {
            let part = bytes[at..end].to_vec();
            insert(bytes, at, &part.repeat(1 << random.below(8)));
        }
        7 => {
            let from = random.below(other.len() + 1);
            let part = &other[from..(from + short).min(other.len())];
            let place = random.below(bytes.len() + 1);
            if random.below(2) == 0 { insert(bytes, place, part) } else { put(bytes, place, part) }
        }
        8 | 9 => {
            let own = if random.below(2) == 0 { random.pick(words) } else { None };
            let word = own.or(random.pick(&WORDS)).copied().unwrap_or_default();
            // Deep nesting now and then.
            let count = if random.below(20) == 0 { 1 << random.below(14) } else { 1 };
            insert(bytes, at, word.repeat(count).as_bytes());
        }
        10 => {
            let moved: Vec<u8> = bytes.drain(at..end).collect();
            let place = random.below(bytes.len() + 1);
            insert(bytes, place, &moved);
        }
        _ => change_digit(bytes, at, random),
    }
}

fn flip(bytes: &mut [u8], at: usize, random: &mut Random) {
    if let Some(byte) = bytes.get_mut(at) {
        *byte ^= 1 << random.below(8);
    }
}

/// Replaces bytes, as many as there are.
fn put(bytes: &mut [u8], at: usize, with: &[u8]) {
    for (byte, new) in bytes[at..].iter_mut().zip(with) {
        *byte = *new;
    }
}

fn insert(bytes: &mut Vec<u8>, at: usize, part: &[u8]) {
    let room = MOST.saturating_sub(bytes.len());
    bytes.splice(at..at, part.iter().take(room).copied());
}

/// Changes the first digit after a position, so that numbers in text stay numbers.
fn change_digit(bytes: &mut [u8], at: usize, random: &mut Random) {
    if let Some(digit) = bytes[at..].iter_mut().find(|byte| byte.is_ascii_digit()) {
        *digit = b'0' + random.below(10) as u8;
    }
}

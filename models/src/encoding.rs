//! Recognises text that is not UTF-8.

/// The text of a file, without a byte order mark.
///
/// # Errors
/// What it is instead of UTF-8: text in another encoding, a damaged file, or where the first invalid byte is.
pub fn text_of(bytes: &[u8]) -> Result<&str, String> {
    if let Some(encoding) = other_encoding(bytes) {
        return Err(format!("expected text in UTF-8, got {encoding}"));
    }
    if is_blank(bytes) {
        return Err("expected text, got zero bytes only: the file is damaged".to_owned());
    }
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    std::str::from_utf8(bytes).map_err(|error| {
        let at = error.valid_up_to();
        let line = bytes[..at].split(|byte| *byte == b'\n').count();
        let column = bytes[..at].iter().rev().take_while(|byte| **byte != b'\n').count() + 1;
        format!("expected text in UTF-8, got the byte {:#04x} at line {line}, byte {column}", bytes[at])
    })
}

/// The encoding of a text if it is UTF-16 or UTF-32: by its byte order mark, or, since JSON and configurations begin with ASCII
/// characters, by the zero bytes of the first ones.
pub fn other_encoding(bytes: &[u8]) -> Option<&'static str> {
    let first: Vec<bool> = bytes.iter().take(4).map(|byte| *byte == 0).collect();
    match (bytes, first.as_slice()) {
        ([0xff, 0xfe, 0, 0, ..] | [0, 0, 0xfe, 0xff, ..], _)
        | (_, [true, true, true, false] | [false, true, true, true]) => Some("UTF-32"),
        ([0xff, 0xfe, ..] | [0xfe, 0xff, ..], _) | (_, [true, false, true, false] | [false, true, false, true]) => {
            Some("UTF-16")
        }
        _ => None,
    }
}

/// Whether a file has bytes, all of which are 0: after a crash, some file systems leave files like this.
pub fn is_blank(bytes: &[u8]) -> bool {
    !bytes.is_empty() && bytes.iter().all(|byte| *byte == 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn utf_16(text: &str, big: bool) -> Vec<u8> {
        text.encode_utf16().flat_map(|code| if big { code.to_be_bytes() } else { code.to_le_bytes() }).collect()
    }

    fn utf_32(text: &str, big: bool) -> Vec<u8> {
        text.chars().map(u32::from).flat_map(|code| if big { code.to_be_bytes() } else { code.to_le_bytes() }).collect()
    }

    #[test]
    fn encodings_are_recognised_with_and_without_a_byte_order_mark() {
        for mark in ["", "\u{feff}"] {
            for big in [false, true] {
                let text = format!("{mark}{{\"text\": \"é\"}}");
                assert_eq!(other_encoding(&utf_16(&text, big)), Some("UTF-16"), "{text} {big}");
                assert_eq!(other_encoding(&utf_32(&text, big)), Some("UTF-32"), "{text} {big}");
            }
        }
        for text in ["", "{", "{}", "[1]\n", "\u{feff}{}"] {
            assert_eq!(other_encoding(text.as_bytes()), None, "{text:?}");
        }
    }

    #[test]
    fn what_is_not_utf_8_is_described() {
        assert_eq!(text_of("\u{feff}{\"é\": 1}".as_bytes()), Ok("{\"é\": 1}"));
        assert_eq!(text_of(b""), Ok(""));
        let error = |bytes: &[u8]| text_of(bytes).unwrap_err();
        assert_eq!(error(&utf_16("{}", false)), "expected text in UTF-8, got UTF-16");
        assert_eq!(error(b"{\n \"caf\xe9\": 1}"), "expected text in UTF-8, got the byte 0xe9 at line 2, byte 6");
        assert!(error(&[0; 9]).contains("zero bytes only"));
    }
}

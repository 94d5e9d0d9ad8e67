//! Compressed files, recognised by their first bytes.

use std::io::{self, Read};

use flate2::read::MultiGzDecoder;
use ruzstd::decoding::StreamingDecoder;

const GZIP: &[u8] = b"\x1f\x8b";
const ZSTD: &[u8] = b"\x28\xb5\x2f\xfd";

/// What a file of gzip or zstd holds; any other file as it is.
///
/// # Errors
/// If the compressed data is damaged or truncated.
pub(super) fn unpacked(bytes: Vec<u8>) -> io::Result<Vec<u8>> {
    let mut unpacked = Vec::new();
    if bytes.starts_with(GZIP) {
        MultiGzDecoder::new(bytes.as_slice()).read_to_end(&mut unpacked)?;
    } else if bytes.starts_with(ZSTD) {
        let mut rest = bytes.as_slice();
        // A file may consist of several frames.
        while rest.starts_with(ZSTD) {
            StreamingDecoder::new(&mut rest).map_err(io::Error::other)?.read_to_end(&mut unpacked)?;
        }
        if !rest.is_empty() {
            return Err(io::Error::other("there are other bytes after the last frame of zstd"));
        }
    } else {
        return Ok(bytes);
    }
    Ok(unpacked)
}

/// The name of a file in lower case, without the extension of its compression.
pub(super) fn plain_name(name: &str) -> String {
    let lower = name.to_lowercase();
    let plain = [".gz", ".zst"].into_iter().find_map(|extension| lower.strip_suffix(extension));
    plain.unwrap_or(&lower).to_owned()
}

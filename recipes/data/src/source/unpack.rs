//! Compressed files, recognised by their first bytes.

use std::io::{self, BufRead, BufReader, Read};

use flate2::bufread::MultiGzDecoder;
use ruzstd::decoding::{FrameDecoder, StreamingDecoder};

const GZIP: &[u8] = b"\x1f\x8b";
const ZSTD: &[u8] = b"\x28\xb5\x2f\xfd";

/// What a file of gzip or zstd holds; any other file as it is. Damage is an error of reading.
pub(super) fn unpacked(mut packed: impl BufRead + 'static) -> io::Result<Box<dyn BufRead>> {
    let start = packed.fill_buf()?;
    if start.starts_with(GZIP) {
        return Ok(Box::new(BufReader::new(MultiGzDecoder::new(packed))));
    }
    if start.starts_with(ZSTD) {
        return Ok(Box::new(BufReader::new(Frames { packed: Some(packed), decoder: None })));
    }
    Ok(Box::new(packed))
}

/// The frames of a zstd file, one after another.
struct Frames<R: BufRead> {
    /// The file between two frames.
    packed: Option<R>,
    /// The frame that is being read.
    decoder: Option<StreamingDecoder<R, FrameDecoder>>,
}

impl<R: BufRead> Read for Frames<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            if let Some(decoder) = &mut self.decoder {
                let read = decoder.read(buffer)?;
                if read > 0 || buffer.is_empty() {
                    return Ok(read);
                }
                self.packed = self.decoder.take().map(StreamingDecoder::into_inner);
            }
            let Some(mut packed) = self.packed.take() else { return Ok(0) };
            let start = packed.fill_buf()?;
            if start.is_empty() {
                self.packed = Some(packed);
                return Ok(0);
            }
            if !start.starts_with(ZSTD) {
                return Err(io::Error::other("there are other bytes after the last frame of zstd"));
            }
            self.decoder = Some(StreamingDecoder::new(packed).map_err(io::Error::other)?);
        }
    }
}

/// The name of a file in lower case, without the extension of its compression.
pub(super) fn plain_name(name: &str) -> String {
    let lower = name.to_lowercase();
    let plain = [".gz", ".zst"].into_iter().find_map(|extension| lower.strip_suffix(extension));
    plain.unwrap_or(&lower).to_owned()
}

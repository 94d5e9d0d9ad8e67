//! The compression of columns.

use std::io::{self, Read};

use flate2::read::MultiGzDecoder;
use ruzstd::decoding::StreamingDecoder;

use super::flaw::Flaw;

/// How the bytes of columns are compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Codec {
    Plain,
    Snappy,
    Gzip,
    Zstd,
    /// A block without a frame.
    Lz4,
    /// Blocks, each after its sizes, as Hadoop writes them.
    Lz4Hadoop,
    Lz4Frame,
}

/// How many times larger than its compressed bytes a block can be.
const MOST_OF_SNAPPY: usize = 32;
const MOST_OF_LZ4: usize = 256;

impl Codec {
    /// Unpacks bytes, which should become so many.
    ///
    /// # Errors
    /// If they don't.
    pub(super) fn unpack(self, packed: Vec<u8>, size: usize) -> Result<Vec<u8>, Flaw> {
        let block = |most: usize| (size <= packed.len().saturating_mul(most).saturating_add(64)).then_some(());
        let unpacked = match self {
            Self::Plain => Some(packed),
            Self::Snappy => block(MOST_OF_SNAPPY).and_then(|()| {
                let is_right = snap::raw::decompress_len(&packed).is_ok_and(|length| length == size);
                is_right.then(|| snap::raw::Decoder::new().decompress_vec(&packed).ok()).flatten()
            }),
            Self::Gzip => read(MultiGzDecoder::new(&packed[..]), size).ok(),
            Self::Zstd => StreamingDecoder::new(&packed[..]).ok().and_then(|decoder| read(decoder, size).ok()),
            Self::Lz4 => block(MOST_OF_LZ4).and_then(|()| lz4_flex::block::decompress(&packed, size).ok()),
            Self::Lz4Hadoop => block(MOST_OF_LZ4)
                .and_then(|()| hadoop(&packed, size).or_else(|| lz4_flex::block::decompress(&packed, size).ok())),
            Self::Lz4Frame => read(lz4_flex::frame::FrameDecoder::new(&packed[..]), size).ok(),
        };
        let unpacked = unpacked.ok_or_else(|| Flaw::damaged("its compressed data can't be unpacked"))?;
        if unpacked.len() != size {
            return Err(Flaw::damaged(format!("it has {} bytes where {size} are announced", unpacked.len())));
        }
        Ok(unpacked)
    }
}

/// Everything, but not much more than expected.
fn read(unpacking: impl Read, size: usize) -> io::Result<Vec<u8>> {
    let mut unpacked = Vec::new();
    unpacking.take(size as u64 + 1).read_to_end(&mut unpacked)?;
    Ok(unpacked)
}

fn hadoop(mut packed: &[u8], size: usize) -> Option<Vec<u8>> {
    let number = |bytes: &[u8]| bytes.first_chunk().map(|bytes| u32::from_be_bytes(*bytes) as usize);
    let mut unpacked = Vec::new();
    while !packed.is_empty() {
        let (whole, length) = (number(packed)?, number(packed.get(4..)?)?);
        let block = packed.get(8..8_usize.checked_add(length)?)?;
        if whole > size - unpacked.len() || whole > length.saturating_mul(MOST_OF_LZ4).saturating_add(64) {
            return None;
        }
        unpacked.extend(lz4_flex::block::decompress(block, whole).ok()?);
        packed = &packed[8 + length..];
    }
    Some(unpacked)
}

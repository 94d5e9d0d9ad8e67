//! Unsupported file formats, recognised by their first bytes.

use burnish_models::encoding;

/// The unsupported format of a file, and how to convert it.
pub(super) fn other_kind(bytes: &[u8]) -> Option<(&'static str, &'static str)> {
    const KINDS: [(&[u8], &str, &str); 7] = [
        (b"BZh", "it is compressed by bzip2", "unpack it: bunzip2 FILE"),
        (b"\xfd7zXZ\0", "it is compressed by xz", "unpack it: unxz FILE"),
        (b"PK\x03\x04", "it is a zip archive", "unpack it: unzip FILE"),
        // These are read unless they are compressed as a whole.
        (b"PAR1", "it is a compressed Parquet file", "unpack it: gunzip FILE, or zstd -d FILE"),
        (b"ARROW1", "it is a compressed Arrow file", "unpack it: gunzip FILE, or zstd -d FILE"),
        (b"FEA1", "it is a Feather file of version 1", "write it again: pyarrow.feather.write_feather(table, FILE)"),
        (b"version https://git-lfs", "it is a pointer of Git LFS, not the file itself", "fetch the file: git lfs pull"),
    ];
    if encoding::is_blank(bytes) {
        return Some(("it consists of zero bytes", "the file is damaged; write it again"));
    }
    match encoding::other_encoding(bytes) {
        Some("UTF-16") => {
            return Some(("its text is UTF-16", "convert it to UTF-8: iconv -f UTF-16 -t UTF-8 FILE > rows.jsonl"));
        }
        Some("UTF-32") => {
            return Some(("its text is UTF-32", "convert it to UTF-8: iconv -f UTF-32 -t UTF-8 FILE > rows.jsonl"));
        }
        _ => {}
    }
    KINDS.iter().find(|(magic, ..)| bytes.starts_with(magic)).map(|(_, found, way)| (*found, *way))
}

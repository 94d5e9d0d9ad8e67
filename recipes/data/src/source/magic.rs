//! Files of other kinds, known by their first bytes.

/// What a file is that holds no text, and how rows come of it.
pub(super) fn other_kind(bytes: &[u8]) -> Option<(&'static str, &'static str)> {
    const TABLE: &str =
        "datasets writes rows: load_dataset(\"parquet\", data_files=FILE, split=\"train\").to_json(\"rows.jsonl\")";
    const UTF_8: &str = "iconv -f UTF-16 -t UTF-8 FILE > rows.jsonl writes it as UTF-8";
    const KINDS: [(&[u8], &str, &str); 9] = [
        (b"\x1f\x8b", "it is compressed by gzip", "gunzip FILE unpacks it"),
        (b"\x28\xb5\x2f\xfd", "it is compressed by zstd", "unzstd FILE unpacks it"),
        (b"BZh", "it is compressed by bzip2", "bunzip2 FILE unpacks it"),
        (b"\xfd7zXZ\0", "it is compressed by xz", "unxz FILE unpacks it"),
        (b"PK\x03\x04", "it is a zip archive", "unzip FILE unpacks it"),
        (b"PAR1", "it is a Parquet file", TABLE),
        (b"ARROW1", "it is an Arrow file", "datasets writes rows: Dataset.from_file(FILE).to_json(\"rows.jsonl\")"),
        (b"\xff\xfe", "its text is UTF-16", UTF_8),
        (b"\xfe\xff", "its text is UTF-16", UTF_8),
    ];
    KINDS.iter().find(|(magic, ..)| bytes.starts_with(magic)).map(|(_, found, way)| (*found, *way))
}

//! Rows in columns: Parquet and Arrow files.

use std::path::{Path, PathBuf};

use burnish_data::DataError;
use burnish_data::source::read_rows;

use super::{MIB, Target, files, outcome};

/// Rows that are read. A few bytes can stand for any number of equal rows.
const ROWS: usize = 10_000;

fn rows(path: &Path) -> String {
    let (mut said, mut count) = (String::new(), 0);
    let read = read_rows(path, |_, row| {
        said = outcome(row, |_| "a row".to_owned());
        count += 1;
        if count < ROWS { Ok(()) } else { Err(DataError::Empty { file: PathBuf::new() }) }
    });
    format!("{said}; {}", outcome(read, |()| "read".to_owned()))
}

pub(super) const PARQUET: Target = Target {
    name: "parquet",
    file: "rows.parquet",
    beside: &[],
    seeds: || {
        files(&[
            include_bytes!("../../../../recipes/data/tests/fixtures/columns/snappy.parquet"),
            include_bytes!("../../../../recipes/data/tests/fixtures/columns/gzip.parquet"),
            include_bytes!("../../../../recipes/data/tests/fixtures/columns/lz4.parquet"),
            include_bytes!("../../../../recipes/data/tests/fixtures/columns/none.parquet"),
            include_bytes!("../../../../recipes/data/tests/fixtures/columns/zstd.parquet"),
            include_bytes!("../../../../recipes/data/tests/fixtures/columns/refused/map.parquet"),
        ])
    },
    words: &[
        "PAR1",
        "PARE",
        "\x15\x00",
        "\x15\x04",
        "\x15\x06",
        "\x15\x0c",
        "\x15\x10",
        "\x19\x1c",
        "\u{7f}\u{7f}\u{7f}\x01",
    ],
    // Most of it is the limit of a row.
    fixed: 768 * MIB,
    read: rows,
};

pub(super) const ARROW: Target = Target {
    name: "arrow",
    file: "rows.arrow",
    seeds: || {
        files(&[
            include_bytes!("../../../../recipes/data/tests/fixtures/columns/file.arrow"),
            include_bytes!("../../../../recipes/data/tests/fixtures/columns/stream.arrow"),
            include_bytes!("../../../../recipes/data/tests/fixtures/columns/rows.feather"),
            include_bytes!("../../../../recipes/data/tests/fixtures/columns/refused/map.arrow"),
        ])
    },
    words: &["ARROW1", "\0\0\0\0", "\x01\0\0\0", "\u{7f}\u{7f}\u{7f}\u{7f}", "\x10\0\0\0\0\0\0\0"],
    ..PARQUET
};

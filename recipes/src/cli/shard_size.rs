//! The size that files of weights are divided at.

/// Parses a size such as `5GB`, `500MB`, `2G` or `512MiB`. As in transformers and llama.cpp, kilo is 1,000.
pub(super) fn shard_size(text: &str) -> Result<u64, String> {
    const UNITS: [(&str, u64); 7] = [
        ("KIB", 1 << 10),
        ("MIB", 1 << 20),
        ("GIB", 1 << 30),
        ("KB", 1_000),
        ("MB", 1_000_000),
        ("GB", 1_000_000_000),
        ("M", 1_000_000),
    ];
    let upper = text.trim().to_ascii_uppercase();
    let units = UNITS.into_iter().chain([("G", 1_000_000_000)]);
    let parsed = units.into_iter().find_map(|(unit, bytes)| {
        let number: f64 = upper.strip_suffix(unit)?.trim().parse().ok()?;
        let size = number * bytes as f64;
        (1.0..1e18).contains(&size).then_some(size as u64)
    });
    parsed.ok_or_else(|| "expected a size such as 5GB or 500MB".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_the_units_of_transformers_and_llama_cpp() {
        for (text, bytes) in [
            ("5GB", 5_000_000_000),
            ("500MB", 500_000_000),
            ("2g", 2_000_000_000),
            ("1.5 MiB", 1_572_864),
            ("300M", 300_000_000),
        ] {
            assert_eq!(shard_size(text), Ok(bytes), "{text}");
        }
        for wrong in ["", "5", "GB", "-1GB", "0MB", "1e30GB", "5TB", "NaNMB"] {
            assert!(shard_size(wrong).is_err(), "{wrong}");
        }
    }
}

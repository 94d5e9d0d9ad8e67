//! Numbers that the scripts of golden files compute too.

/// `numbers(seed, count)` of `make_quantized.py`.
pub fn numbers(seed: u64, count: usize) -> Vec<f32> {
    let number = |at: usize| {
        let mut z = ((seed << 32) + at as u64 + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^= z >> 31;
        let product = ((z >> 40) as i64 - (1 << 23)) * ((z >> 16) & 0xFF_FFFF) as i64;
        let mut x = (product as f64 * 2f64.powi(-48)) as f32;
        let run = at / 32;
        if run % 17 == 3 {
            x = 0.02;
        }
        match run % 13 {
            5 => x = 0.0,
            7 => x = x.abs(),
            9 => x = -x.abs(),
            _ => {}
        }
        if run % 19 == 4 { x * 2f32.powi(-12) } else { x }
    };
    (0..count).map(number).collect()
}

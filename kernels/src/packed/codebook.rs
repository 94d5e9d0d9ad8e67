//! Codes that stand for the values of a table: the quantiles of NF4, and the dynamic maps of eight bits.

use std::sync::LazyLock;

/// Elements that share a scale in an 8-bit block: of optimizer moments, and of the scales of double-quantised NF4.
pub const DYNAMIC_BLOCK: usize = 256;

/// What the 16 codes of NF4 stand for: quantiles of a standard normal distribution, scaled to [-1, 1], with a zero of their own.
///
/// Source: Dettmers et al. 2023, "QLoRA", appendix E.
pub const NF4: [f32; 16] = [
    -1.0,
    -0.696_192_8,
    -0.525_073_05,
    -0.394_917_5,
    -0.284_441_38,
    -0.184_773_43,
    -0.091_050_036,
    0.0,
    0.079_580_3,
    0.160_930_2,
    0.246_112_3,
    0.337_915_24,
    0.440_709_83,
    0.562_617,
    0.722_956_84,
    1.0,
];

/// Entries of the table in which bitsandbytes' CPU library looks a value up.
const LOOK_UP: f32 = 65_535.0;

/// An 8-bit code: 256 rising values in [-1, 1], and where one gives way to the next.
#[derive(Debug)]
pub struct Codebook {
    values: [f32; 256],
    /// Half-way between neighbours; the last is beyond every value.
    bounds: [f32; 256],
}

/// The dynamic map with a sign: seven decades of exponents, whose fractions have the more bits the larger the exponent.
///
/// Source: Dettmers 2015, "8-Bit Approximations for Parallelism in Deep Learning"; `create_dynamic_map` of bitsandbytes.
pub static SIGNED: LazyLock<Codebook> = LazyLock::new(|| Codebook::dynamic(true));

/// The dynamic map without a sign, which has a bit more of fraction.
pub static UNSIGNED: LazyLock<Codebook> = LazyLock::new(|| Codebook::dynamic(false));

impl Codebook {
    fn dynamic(signed: bool) -> Self {
        let mut values = vec![0.0, 1.0];
        for exponent in 0..7 {
            let decade = 10f64.powi(exponent - 6) as f32;
            let items = if signed { 1usize << exponent } else { 2usize << exponent };
            for item in 0..items {
                let mean = f32::midpoint(boundary(item, items), boundary(item + 1, items));
                values.push(decade * mean);
                if signed {
                    values.push(-(decade * mean));
                }
            }
        }
        values.sort_by(f32::total_cmp);
        let mut bounds = [f32::INFINITY; 256];
        for (bound, pair) in bounds.iter_mut().zip(values.windows(2)) {
            *bound = f32::midpoint(pair[0], pair[1]);
        }
        let mut table = [0.0; 256];
        table.copy_from_slice(&values);
        Self { values: table, bounds }
    }

    /// What the codes stand for, rising.
    pub fn values(&self) -> &[f32; 256] {
        &self.values
    }

    /// Where a code gives way to the next: the code of `x` is the number of bounds below it.
    pub fn bounds(&self) -> &[f32] {
        &self.bounds[..255]
    }

    /// The code whose value is nearest; half-way, the lower one.
    pub fn nearest(&self, x: f32) -> u8 {
        let mut code = 0;
        for bit in [128, 64, 32, 16, 8, 4, 2, 1] {
            if x > self.bounds[code + bit - 1] {
                code += bit;
            }
        }
        code as u8
    }

    /// The code that bitsandbytes' CPU library gives a value of [-1, 1]: the nearest one to the nearest of 65,536 steps. Below a
    /// step, codes are passed over, so this is for data that others read, not for moments.
    pub fn nearest_step(&self, x: f32) -> u8 {
        let step = ((1.0 + x) * 0.5).mul_add(LOOK_UP, 0.5) as u16;
        self.nearest(2.0 * f32::from(step) / LOOK_UP - 1.0)
    }

    /// Codes of a block and their scale, the largest magnitude: `code = nearest(x / scale)`, and 0 everywhere where that is 0.
    pub fn quantize(&self, values: &[f32], codes: &mut [u8], code: impl Fn(&Self, f32) -> u8) -> f32 {
        let scale = values.iter().fold(0.0f32, |largest, value| largest.max(value.abs()));
        if scale == 0.0 {
            codes.fill(code(self, 0.0));
            return scale;
        }
        let inverse = 1.0 / scale;
        for (target, value) in codes.iter_mut().zip(values) {
            *target = code(self, (value * inverse).clamp(-1.0, 1.0));
        }
        scale
    }

    /// What codes stand for, times their scale.
    pub fn dequantize(&self, codes: &[u8], scale: f32, values: &mut [f32]) {
        for (value, code) in values.iter_mut().zip(codes) {
            *value = self.values[usize::from(*code)] * scale;
        }
    }
}

/// Boundary `at` of `items` equal parts of [0.1, 1], rounded as `torch.linspace` does: from either end to the middle.
fn boundary(at: usize, items: usize) -> f32 {
    let (start, end) = (0.1f32, 1.0f32);
    let step = (end - start) / items as f32;
    if at < items.div_ceil(2) { step.mul_add(at as f32, start) } else { (-step).mul_add((items - at) as f32, end) }
}

/// The NF4 code of a value of [-1, 1]: the nearest one; half-way, the lower one.
pub(super) fn nf4(x: f32) -> u8 {
    // As many compares as bounds, without a branch, so that lanes go side by side.
    NF4_BOUNDS.iter().map(|bound| u8::from(x > *bound)).sum()
}

const NF4_BOUNDS: [f32; 15] = {
    let mut bounds = [0.0; 15];
    let mut at = 0;
    while at < 15 {
        bounds[at] = f32::midpoint(NF4[at], NF4[at + 1]);
        at += 1;
    }
    bounds
};

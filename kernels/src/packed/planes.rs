//! Packed matrices as devices hold them: one buffer of 32-bit words, in which integers and scales lie apart.
//!
//! Blocks of 18, 22, 34 or 210 bytes do not begin at words. Planes have the same bits in another order, which is the same for all
//! formats, so that a kernel tells them apart by widths alone. See `docs/adr/0012-frozen-weights.md`.

use super::codebook::{DYNAMIC_BLOCK, NF4, SIGNED};
use super::nf4::Absmax;
use super::vector::{self, Row};
use super::{Affine, Floats, GgmlType, GgufBlocks, Nf4, PackError, Packed};
use rayon::prelude::*;

/// Elements of a block with scales of scales.
const SUPER: usize = 256;

/// What gives a group its scale.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Scales {
    /// An f16 a group, two a word: `w = (q - zero) · scale`.
    Half {
        /// What stands for 0.
        zero: u32,
    },
    /// A word a group, f16 scale and bias from the lowest bits: `w = q · scale + bias`.
    HalfPair,
    /// The same with bf16.
    BrainPair,
    /// Two words a group, f32 scale and bias.
    FloatPair,
    /// An f32 a group: `w = NF4[q] · scale`.
    Table,
    /// The same, with a byte a group, four a word, then an f32 a 256 groups, then the 256 values of [`SIGNED`], then an f32 offset:
    /// `scale = SIGNED[byte] · coarse + offset`.
    DoubleTable,
    /// A word a 256 elements, f16 `d` and `m`, then twelve bits a group: a scale `s` and a minimum `l` of six bits each, from the
    /// lowest bits on. `w = q · (d · s) - m · l`.
    SixBits,
    /// An f16 `d` a 256 elements, two a word, then four words of them, signed bytes `s`: `w = (q - 32) · (d · s)`.
    SignedBytes,
}

/// Where the parts of a packed matrix lie in its words. Elements are counted in row-major order over all rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Planes {
    /// `[out, in]`.
    pub dims: [usize; 2],
    /// Lower bits of an integer, from word 0 on, the first in the lowest bits: 4 or 8.
    pub low: usize,
    /// Upper bits of an integer, from word [`Planes::high_at`] on: 0, 1 or 2.
    pub high: usize,
    /// Elements that share a scale.
    pub group: usize,
    /// What gives it.
    pub scales: Scales,
}

impl Planes {
    fn elements(&self) -> usize {
        self.dims[0] * self.dims[1]
    }

    /// The first word of the upper bits.
    pub fn high_at(&self) -> usize {
        self.elements() * self.low / 32
    }

    /// The first word of scales.
    pub fn scales_at(&self) -> usize {
        self.high_at() + (self.elements() * self.high).div_ceil(32)
    }

    /// The first word of what scales the scales, behind them.
    pub fn coarse_at(&self) -> usize {
        let groups = self.elements() / self.group;
        let words = match self.scales {
            Scales::Half { .. } => groups.div_ceil(2),
            Scales::HalfPair | Scales::BrainPair | Scales::Table => groups,
            Scales::FloatPair => 2 * groups,
            Scales::DoubleTable => groups.div_ceil(4),
            Scales::SixBits => self.elements() / SUPER,
            Scales::SignedBytes => (self.elements() / SUPER).div_ceil(2),
        };
        self.scales_at() + words
    }

    /// How many words there are.
    pub fn words(&self) -> usize {
        let blocks = self.elements() / SUPER;
        let coarse = match self.scales {
            Scales::DoubleTable => (self.elements() / self.group).div_ceil(DYNAMIC_BLOCK) + SIGNED.values().len() + 1,
            Scales::SixBits => 3 * blocks,
            Scales::SignedBytes => 4 * blocks,
            _ => 0,
        };
        self.coarse_at() + coarse
    }

    /// The weights of rows, from `first` on, as many as `values` holds: those of [`Packed::rows_into`], to the bit.
    ///
    /// # Panics
    /// When `values` is not whole rows, or reaches beyond the last one.
    pub fn rows_into(&self, words: &[u32], first: usize, values: &mut [f32]) {
        let start = first * self.dims[1];
        assert!(
            values.is_empty() || values.len().is_multiple_of(self.dims[1]) && start + values.len() <= self.elements(),
            "{} elements from row {first} on of {:?}",
            values.len(),
            self.dims
        );
        let mut scales = Vec::new();
        for (row, values) in (first..).zip(values.chunks_mut(self.dims[1].max(1))) {
            self.decode(self.row(words, row, &mut scales), values);
        }
    }

    fn decode(&self, row: Row, values: &mut [f32]) {
        match (self.scales, self.low, self.high) {
            (Scales::Table | Scales::DoubleTable, ..) => vector::table(row, &NF4, values),
            (Scales::Half { .. } | Scales::SignedBytes, 4, 0) => vector::centred_four(row, values),
            (Scales::Half { .. } | Scales::SignedBytes, 4, 1) => vector::centred_five(row, values),
            (Scales::Half { .. } | Scales::SignedBytes, 4, _) => vector::centred_six(row, values),
            (Scales::Half { .. } | Scales::SignedBytes, ..) => vector::centred_eight(row, values),
            (_, 4, 0) => vector::biased_four(row, values),
            (_, 4, 1) => vector::biased_five(row, values),
            (_, 4, _) => vector::biased_six(row, values),
            _ => vector::biased_eight(row, values),
        }
    }

    /// Whether [`Planes::row_dot`] needs no row of weights: where they are multiples of integers.
    pub fn has_dot(&self) -> bool {
        !matches!(self.scales, Scales::Table | Scales::DoubleTable)
    }

    /// The sums of groups of a vector, which [`Planes::row_dot`] asks for.
    pub fn group_sums(&self, x: &[f32]) -> Vec<f32> {
        x.chunks(self.group).map(|x| x.iter().sum()).collect()
    }

    /// `Σ w x` over a row, from its integers: `Σ scale · Σ q x + Σ bias · Σ x`. The weights of a table are decoded instead.
    ///
    /// # Panics
    /// When `x` is not as long as a row, or `sums` are not its [`Planes::group_sums`].
    pub fn row_dot(&self, words: &[u32], row: usize, x: &[f32], sums: &[f32], scales: &mut Vec<[f32; 2]>) -> f32 {
        assert!(
            x.len() == self.dims[1] && sums.len() * self.group == x.len(),
            "row_dot: {} elements of {:?}",
            x.len(),
            self.dims
        );
        let row = self.row(words, row, scales);
        let product = match (self.low, self.high) {
            (4, 0) => vector::dot_four(row, x),
            (4, 1) => vector::dot_five(row, x),
            (4, _) => vector::dot_six(row, x),
            _ => vector::dot_eight(row, x),
        };
        let bias = |scale: &[f32; 2]| scale[1] - row.zero * scale[0];
        product + row.scales.iter().zip(sums).map(|(scale, sum)| bias(scale) * sum).sum::<f32>()
    }

    /// A row's words, with its scales in the buffer.
    fn row<'a>(&self, words: &'a [u32], row: usize, scales: &'a mut Vec<[f32; 2]>) -> Row<'a> {
        let columns = self.dims[1];
        let plane = |from: usize, bits: usize| &words[from + row * columns * bits / 32..][..columns * bits / 32];
        let groups = columns / self.group;
        scales.clear();
        self.scales_into(words, row * groups, groups, scales);
        let zero = match self.scales {
            Scales::Half { zero } => zero as f32,
            Scales::SignedBytes => 32.0,
            _ => 0.0,
        };
        let high = if self.high == 0 { &[] } else { plane(self.high_at(), self.high) };
        Row { low: plane(0, self.low), high, scales, group: self.group, zero }
    }

    /// Some rows, one after the other.
    ///
    /// # Panics
    /// When there is no such row.
    pub fn rows(&self, words: &[u32], rows: &[usize]) -> Vec<f32> {
        let [outputs, inputs] = self.dims;
        let mut values = vec![0.0; rows.len() * inputs];
        values.par_chunks_mut(inputs.max(1)).zip(rows).for_each(|(values, row)| {
            assert!(*row < outputs, "no row {row} of {outputs}");
            self.rows_into(words, *row, values);
        });
        values
    }

    /// All weights, row-major, by all threads.
    pub fn dequantize(&self, words: &[u32]) -> Vec<f32> {
        let mut values = vec![0.0; self.elements()];
        if !values.is_empty() {
            let rows = (super::TASK / self.dims[1]).max(1);
            let tasks = values.par_chunks_mut(rows * self.dims[1]).enumerate();
            tasks.for_each(|(task, values)| self.rows_into(words, task * rows, values));
        }
        values
    }

    /// The mean over groups of the squared quantisation step: the distance of two neighbouring weights of a group. Those of a table
    /// are unevenly spaced, so for them it is the mean distance.
    pub fn mean_square_step(&self, words: &[u32]) -> f64 {
        let gap = if self.has_dot() { 1.0 } else { f64::from(NF4[15] - NF4[0]) / 15.0 };
        let mut scales = Vec::new();
        self.scales_into(words, 0, self.elements() / self.group, &mut scales);
        let squares = scales.iter().map(|[scale, _]| (gap * f64::from(*scale)).powi(2));
        squares.sum::<f64>() / scales.len().max(1) as f64
    }

    /// Scale and bias of so many groups from one on.
    fn scales_into(&self, words: &[u32], first: usize, count: usize, out: &mut Vec<[f32; 2]>) {
        let (scales, coarse) = (&words[self.scales_at()..], &words[self.coarse_at()..]);
        let half = |at: usize| widen((scales[at / 2] >> (16 * (at % 2))) as u16);
        let groups = first..first + count;
        match self.scales {
            Scales::Half { .. } => out.extend(groups.map(|group| [half(group), 0.0])),
            Scales::HalfPair => {
                out.extend(scales[groups].iter().map(|word| [*word, word >> 16].map(|half| widen(half as u16))));
            }
            Scales::BrainPair => {
                let upper = |word: u32| [f32::from_bits(word << 16), f32::from_bits(word & 0xFFFF_0000)];
                out.extend(scales[groups].iter().map(|word| upper(*word)));
            }
            Scales::FloatPair => {
                let pairs = scales[2 * first..2 * (first + count)].as_chunks().0;
                out.extend(pairs.iter().map(|pair: &[u32; 2]| pair.map(f32::from_bits)));
            }
            Scales::Table => out.extend(scales[groups].iter().map(|word| [f32::from_bits(*word), 0.0])),
            Scales::DoubleTable => {
                let offset = f32::from_bits(words[self.words() - 1]);
                out.extend(groups.map(|group| {
                    let code = (scales[group / 4] >> (8 * (group % 4))) & 255;
                    [SIGNED.values()[code as usize] * f32::from_bits(coarse[group / DYNAMIC_BLOCK]) + offset, 0.0]
                }));
            }
            Scales::SixBits => out.extend(groups.map(|group| {
                let (block, bits) = (group / 8, twelve_bits(coarse, group));
                [half(2 * block) * (bits & 63) as f32, -(half(2 * block + 1) * (bits >> 6) as f32)]
            })),
            Scales::SignedBytes => out.extend(groups.map(|group| {
                let (block, j) = (group / 16, group % 16);
                let scale = (coarse[4 * block + j / 4] >> (8 * (j % 4))) as u8 as i8;
                [half(block) * f32::from(scale), 0.0]
            })),
        }
    }
}

/// A finite f16 as f32: its exponent is 112 less.
fn widen(half: u16) -> f32 {
    let magnitude = f32::from_bits(u32::from(half & 0x7FFF) << 13) * f32::from_bits((127 + 112) << 23);
    f32::from_bits(magnitude.to_bits() | (u32::from(half & 0x8000) << 16))
}

/// Whether [`Packed::to_planes`] knows a type.
pub(super) fn planes_of(kind: GgmlType, dims: [usize; 2]) -> Option<Planes> {
    use GgmlType::{Q4_0, Q4_1, Q4K, Q5_0, Q5_1, Q5K, Q6K, Q8_0};
    let (low, high, group, scales) = match kind {
        Q4_0 => (4, 0, 32, Scales::Half { zero: 8 }),
        Q4_1 => (4, 0, 32, Scales::HalfPair),
        Q5_0 => (4, 1, 32, Scales::Half { zero: 16 }),
        Q5_1 => (4, 1, 32, Scales::HalfPair),
        Q8_0 => (8, 0, 32, Scales::Half { zero: 128 }),
        Q4K => (4, 0, 32, Scales::SixBits),
        Q5K => (4, 1, 32, Scales::SixBits),
        Q6K => (4, 2, 16, Scales::SignedBytes),
        _ => return None,
    };
    Some(Planes { dims, low, high, group, scales })
}

impl Packed {
    /// The matrix as a device holds it.
    ///
    /// # Errors
    /// [`PackError::Group`] where blocks of NF4 do not divide a row, [`PackError::Planes`] for types of GGUF that stay on the host.
    pub fn to_planes(&self, tensor: &str) -> Result<(Planes, Vec<u32>), PackError> {
        let planes = self.kind().planes(tensor, self.dims())?;
        let words = match self {
            Self::Nf4(matrix) => of_nf4(planes, matrix),
            Self::Affine(matrix) => of_affine(planes, matrix),
            Self::Gguf(matrix) => of_gguf(planes, matrix),
        };
        Ok((planes, words))
    }
}

/// Puts a value of so many bits at a place of a plane that begins at a word.
fn put(words: &mut [u32], from: usize, bits: usize, at: usize, value: u32) {
    let each = 32 / bits;
    words[from + at / each] |= value << (at % each * bits);
}

/// The twelve bits of a group in a plane of them: a scale, and a minimum above it.
fn twelve_bits(plane: &[u32], group: usize) -> u32 {
    let (word, shift) = (12 * group / 32, 12 * group % 32);
    let next = if shift > 20 { plane[word + 1] } else { 0 };
    ((u64::from(plane[word]) | (u64::from(next) << 32)) >> shift) as u32 & 4095
}

/// The inverse, in a plane of zeros.
fn put_twelve_bits(plane: &mut [u32], group: usize, bits: u32) {
    let (word, shift) = (12 * group / 32, 12 * group % 32);
    let bits = u64::from(bits) << shift;
    plane[word] |= bits as u32;
    if shift > 20 {
        plane[word + 1] |= (bits >> 32) as u32;
    }
}

/// The twelve bits of a group of a block of `Q4_K` or `Q5_K`, which spreads those of its last four groups over three bytes.
fn six_bits(block: &[u8], group: usize) -> u32 {
    let byte = |at: usize| u32::from(block[4 + at]);
    let [scale, least] = if group < 4 {
        [byte(group) & 63, byte(group + 4) & 63]
    } else {
        let (lower, upper) = (byte(group + 4), [byte(group - 4) >> 6, byte(group) >> 6]);
        [(lower & 15) | (upper[0] << 4), (lower >> 4) | (upper[1] << 4)]
    };
    scale | (least << 6)
}

fn of_nf4(planes: Planes, matrix: &Nf4) -> Vec<u32> {
    let mut words = vec![0; planes.words()];
    for (word, bytes) in words.iter_mut().zip(matrix.codes().as_chunks::<4>().0) {
        *word = u32::from_le_bytes(bytes.map(|byte| byte.rotate_left(4)));
    }
    match matrix.absmax() {
        Absmax::Single(scales) => {
            words[planes.scales_at()..].iter_mut().zip(scales).for_each(|(word, scale)| *word = scale.to_bits());
        }
        Absmax::Double(double) => {
            for (at, code) in double.codes.iter().enumerate() {
                put(&mut words, planes.scales_at(), 8, at, u32::from(*code));
            }
            // Not all devices index a constant table of a kernel's own.
            let coarse = double.scales.iter().chain(SIGNED.values()).chain([&double.offset]);
            words[planes.coarse_at()..].iter_mut().zip(coarse).for_each(|(word, scale)| *word = scale.to_bits());
        }
    }
    words
}

fn of_affine(planes: Planes, matrix: &Affine) -> Vec<u32> {
    let mut words = matrix.words().to_vec();
    words.reserve_exact(planes.words() - words.len());
    let pair = |scale: u16, bias: u16| u32::from(scale) | (u32::from(bias) << 16);
    match (matrix.scales(), matrix.biases()) {
        (Floats::F16(scales), Floats::F16(biases)) => {
            words.extend(scales.iter().zip(biases).map(|(scale, bias)| pair(scale.to_bits(), bias.to_bits())));
        }
        (Floats::BF16(scales), Floats::BF16(biases)) => {
            words.extend(scales.iter().zip(biases).map(|(scale, bias)| pair(scale.to_bits(), bias.to_bits())));
        }
        (scales, biases) => {
            words.extend((0..scales.len()).flat_map(|at| [scales.get(at).to_bits(), biases.get(at).to_bits()]));
        }
    }
    words
}

fn of_gguf(planes: Planes, matrix: &GgufBlocks) -> Vec<u32> {
    let kind = matrix.kind();
    let mut words = vec![0; planes.words()];
    let blocks = || matrix.bytes().par_chunks_exact(kind.block_bytes());
    let integers = |words: &mut [u32], bits: usize, part: fn(u32) -> u32| {
        let words = words.par_chunks_exact_mut(kind.block_elements() * bits / 32).zip(blocks());
        words.with_min_len(64).for_each(|(words, block)| {
            (0..kind.block_elements()).for_each(|at| put(words, 0, bits, at, part(integer(kind, block, at))));
        });
    };
    let (scales, coarse) = (planes.scales_at(), planes.coarse_at());
    let (low, high) = words[..scales].split_at_mut(planes.high_at());
    integers(low, planes.low, if planes.low == 4 { |q| q & 15 } else { |q| q });
    if planes.high > 0 {
        integers(high, planes.high, |q| q >> 4);
    }
    let half = |block: &[u8], at: usize| u32::from(u16::from_le_bytes([block[at], block[at + 1]]));
    for (number, block) in matrix.bytes().chunks_exact(kind.block_bytes()).enumerate() {
        match planes.scales {
            Scales::Half { .. } => put(&mut words, scales, 16, number, half(block, 0)),
            Scales::HalfPair => words[scales + number] = half(block, 0) | (half(block, 2) << 16),
            Scales::SixBits => {
                words[scales + number] = half(block, 0) | (half(block, 2) << 16);
                (0..8).for_each(|group| put_twelve_bits(&mut words[coarse..], 8 * number + group, six_bits(block, group)));
            }
            Scales::SignedBytes => {
                put(&mut words, scales, 16, number, half(block, 208));
                for (at, byte) in block[192..208].iter().enumerate() {
                    put(&mut words, coarse, 8, 16 * number + at, u32::from(*byte));
                }
            }
            Scales::BrainPair | Scales::FloatPair | Scales::Table | Scales::DoubleTable => {}
        }
    }
    words
}

/// The integer of an element of a block, from 0 on.
fn integer(kind: GgmlType, block: &[u8], at: usize) -> u32 {
    use GgmlType::{Q4_0, Q4_1, Q4K, Q5_0, Q5_1, Q5K, Q6K, Q8_0};
    // Halves of a block of 32 share bytes; halves of 64 do in the K types.
    let nibble = |from: usize| (block[from + at % 16] >> (at / 16 * 4)) & 15;
    let nibble_k = |from: usize| (block[from + at / 64 * 32 + at % 32] >> (at / 32 % 2 * 4)) & 15;
    let fifth = |from: usize| (block[from + at / 8] >> (at % 8)) & 1;
    u32::from(match kind {
        Q4_0 => nibble(2),
        Q4_1 => nibble(4),
        Q5_0 => nibble(6) | (fifth(2) << 4),
        Q5_1 => nibble(8) | (fifth(4) << 4),
        Q8_0 => block[2 + at] ^ 128,
        Q4K => nibble_k(16),
        Q5K => nibble_k(48) | (((block[16 + at % 32] >> (at / 32)) & 1) << 4),
        Q6K => {
            let (n, quarter, l) = (at / 128, at % 128 / 32, at % 32);
            let low = (block[64 * n + 32 * (quarter % 2) + l] >> (quarter / 2 * 4)) & 15;
            low | (((block[128 + 32 * n + l] >> (2 * quarter)) & 3) << 4)
        }
        _ => 0,
    })
}

//! Quantising: rows of floats to rows of blocks.

use std::sync::atomic::{AtomicBool, Ordering};

use rayon::prelude::*;

use super::super::{Element, PackError, TASK, check_finite, check_length};
use super::{GgmlType, half, iq4, q2_k, q3_k, q4_0, q4_1, q4_k, q5_0, q5_1, q5_k, q6_k, q8_0};

/// Encodes a row in blocks; with the importance of its columns, if that is known.
type Encode = fn(&[f32], Option<&[f32]>, &mut [u8]);

impl GgmlType {
    /// Blocks of a row-major matrix, as `ggml_quantize_chunk` of llama.cpp gives without an importance matrix.
    ///
    /// # Errors
    /// Those of [`GgmlType::quantize_weighted`].
    pub fn quantize<T: Element>(self, tensor: &str, values: &[T], dims: [usize; 2]) -> Result<Vec<u8>, PackError> {
        self.quantize_weighted(tensor, values, dims, None)
    }

    /// Blocks of a row-major matrix, as `ggml_quantize_chunk` of llama.cpp gives, to the bit where the processor adds and multiplies
    /// one after the other. `importance` is the mean square of what each column is multiplied by: the errors of important columns
    /// become smaller. `Q8_0` has no use for it.
    ///
    /// # Errors
    /// [`PackError::Group`] if blocks do not divide a row, [`PackError::Length`] if there are not `dims` elements or not as many
    /// importances as columns, [`PackError::NotFinite`] if an element is not finite, [`PackError::Importance`] if an importance is
    /// negative or not finite, [`PackError::Range`] if a scale is beyond f16, and [`PackError::Unwritable`] for the types of floats and for `MXFP4`.
    pub fn quantize_weighted<T: Element>(
        self,
        tensor: &str,
        values: &[T],
        dims: [usize; 2],
        importance: Option<&[f32]>,
    ) -> Result<Vec<u8>, PackError> {
        let encode: Encode = match self {
            Self::Q4_0 => q4_0::quantize,
            Self::Q4_1 => q4_1::quantize,
            Self::Q5_0 => q5_0::quantize,
            Self::Q5_1 => q5_1::quantize,
            Self::Q8_0 => q8_0::quantize,
            Self::Q2K => q2_k::quantize,
            Self::Q3K => q3_k::quantize,
            Self::Q4K => q4_k::quantize,
            Self::Q5K => q5_k::quantize,
            Self::Q6K => q6_k::quantize,
            Self::IQ4NL => iq4::quantize_nl,
            Self::IQ4XS => iq4::quantize_xs,
            Self::F32 | Self::F16 | Self::BF16 | Self::MXFP4 => {
                return Err(PackError::Unwritable { tensor: tensor.to_owned(), format: self.name() });
            }
        };
        let elements = self.block_elements();
        let columns = dims[1];
        if !columns.is_multiple_of(elements) {
            return Err(PackError::Group { tensor: tensor.to_owned(), columns, group: elements });
        }
        check_length(tensor, values, dims)?;
        check_importance(tensor, importance, columns)?;
        let mut bytes = vec![0; values.len() / elements * self.block_bytes()];
        if bytes.is_empty() {
            return Ok(bytes);
        }
        // Without importance, blocks know nothing of rows.
        let each = if importance.is_some() { columns * (TASK / columns).max(1) } else { TASK.next_multiple_of(elements) };
        let row = importance.map_or(each, |_| columns);
        let (is_finite, fits) = (AtomicBool::new(true), AtomicBool::new(true));
        let tasks = bytes.par_chunks_mut(each / elements * self.block_bytes()).zip(values.par_chunks(each));
        tasks.for_each_init(Vec::new, |room, (bytes, values)| {
            let floats = T::widen(values, room);
            if !floats.iter().fold(true, |finite, x| finite & x.is_finite()) {
                is_finite.store(false, Ordering::Relaxed);
                return;
            }
            for (floats, bytes) in floats.chunks(row).zip(bytes.chunks_mut(row / elements * self.block_bytes())) {
                encode(floats, importance, bytes);
            }
            let fit = |block: &[u8]| self.scales().iter().all(|at| half(block, *at).is_finite());
            if !bytes.chunks_exact(self.block_bytes()).all(fit) {
                fits.store(false, Ordering::Relaxed);
            }
        });
        if !is_finite.into_inner() {
            check_finite(tensor, values)?;
        }
        if !fits.into_inner() {
            return Err(PackError::Range { tensor: tensor.to_owned(), format: self.name() });
        }
        Ok(bytes)
    }
}

fn check_importance(tensor: &str, importance: Option<&[f32]>, columns: usize) -> Result<(), PackError> {
    let Some(importance) = importance else { return Ok(()) };
    if importance.len() != columns {
        let found = importance.len();
        return Err(PackError::Length { tensor: tensor.to_owned(), part: "the importance", expected: columns, found });
    }
    match importance.iter().position(|value| !value.is_finite() || *value < 0.0) {
        Some(index) => Err(PackError::Importance { tensor: tensor.to_owned(), index, value: importance[index] }),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const COLUMNS: usize = 512;

    fn packed() -> impl Iterator<Item = GgmlType> {
        GgmlType::ALL.into_iter().filter(|kind| kind.is_packed() && *kind != GgmlType::MXFP4)
    }

    /// The largest error of any weight, as a part of the largest weight of its block, for weights of either sign.
    fn bound(kind: GgmlType) -> f32 {
        match kind {
            GgmlType::Q2K => 0.7,
            GgmlType::Q3K => 0.4,
            GgmlType::Q4_0 | GgmlType::Q4K | GgmlType::IQ4NL | GgmlType::IQ4XS => 0.2,
            GgmlType::Q4_1 => 0.15,
            GgmlType::Q5_0 | GgmlType::Q5_1 | GgmlType::Q5K => 0.1,
            GgmlType::Q6K => 0.05,
            _ => 0.01,
        }
    }

    fn there_and_back(kind: GgmlType, values: &[f32], importance: Option<&[f32]>) -> Vec<f32> {
        let dims = [values.len() / COLUMNS, COLUMNS];
        kind.dequantize(&kind.quantize_weighted("w", values, dims, importance).unwrap())
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]

        #[test]
        fn no_weight_is_further_off_than_its_bits_allow(
            values in prop::collection::vec(-1.0f32..1.0, 2 * COLUMNS),
            importance in prop::collection::vec(0.5f32..2.0, COLUMNS),
            exponent in 0i32..8,
        ) {
            let scale = 2f32.powi(exponent);
            let scaled: Vec<f32> = values.iter().map(|x| x * scale).collect();
            for kind in packed() {
                for importance in [None, Some(importance.as_slice())] {
                    let found = there_and_back(kind, &values, importance);
                    let block = kind.block_elements();
                    for (at, (found, values)) in found.chunks(block).zip(values.chunks(block)).enumerate() {
                        let largest = values.iter().fold(0.0f32, |largest, x| largest.max(x.abs()));
                        let off = found.iter().zip(values).fold(0.0f32, |off, (a, b)| off.max((a - b).abs()));
                        prop_assert!(off <= bound(kind) * largest, "{}, block {at}: {off} of {largest}", kind.name());
                    }
                    // A power of two changes no bit but the exponents of scales.
                    let found: Vec<f32> = found.iter().map(|x| x * scale).collect();
                    prop_assert_eq!(&there_and_back(kind, &scaled, importance), &found, "{}", kind.name());
                }
            }
        }
    }

    #[test]
    fn more_bits_have_smaller_errors_and_importance_moves_them() {
        let values: Vec<f32> = (0..8 * COLUMNS).map(|at| (at as f32 * 0.37).sin() * (at as f32 * 0.011).cos()).collect();
        // Every fourth column matters a hundred times as much.
        let importance: Vec<f32> = (0..COLUMNS).map(|at| if at % 4 == 0 { 100.0 } else { 1.0 }).collect();
        let error = |kind, given: Option<&[f32]>, weights: &[f32]| {
            let found = there_and_back(kind, &values, given);
            let weights = weights.iter().cycle();
            found.iter().zip(&values).zip(weights).fold(0.0f32, |sum, ((a, b), w)| sum + w * (a - b) * (a - b))
        };
        let plain = |kind| error(kind, None, &[1.0]);
        for pair in [GgmlType::Q2K, GgmlType::Q3K, GgmlType::Q4K, GgmlType::Q5K, GgmlType::Q6K, GgmlType::Q8_0].windows(2) {
            assert!(plain(pair[1]) < 0.6 * plain(pair[0]), "{pair:?}");
        }
        for kind in packed().filter(|kind| *kind != GgmlType::Q8_0) {
            let (without, with) = (error(kind, None, &importance), error(kind, Some(&importance), &importance));
            assert!(with < 0.97 * without, "{}: {with} with importance, {without} without", kind.name());
        }
    }

    #[test]
    fn zeros_and_empty_matrices_stay_what_they_are() {
        for kind in packed() {
            assert_eq!(there_and_back(kind, &[0.0; COLUMNS], None), [0.0; COLUMNS], "{}", kind.name());
            assert_eq!(there_and_back(kind, &[0.0; COLUMNS], Some(&[1.0; COLUMNS])), [0.0; COLUMNS], "{}", kind.name());
            assert!(kind.quantize("w", &[0.0f32; 0], [0, COLUMNS]).unwrap().is_empty());
            assert!(kind.quantize("w", &[0.0f32; 0], [4, 0]).unwrap().is_empty());
        }
    }
}

//! A tensor in a file: where its elements lie, checked against the bytes that there are.

use std::ops::Range;

use safetensors::Dtype;

/// A tensor whose elements all lie in a range of the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct View {
    pub dtype: Dtype,
    pub shape: Vec<usize>,
    /// For each dimension, how many bytes lie between neighbours.
    strides: Vec<usize>,
    /// The bytes from the first element to the last.
    pub range: Range<usize>,
}

impl View {
    /// The view of a storage, which is the bytes of `entry`, from its element `offset` on.
    ///
    /// # Errors
    /// If an element lies outside of the storage, or there are more elements than a file of `file` bytes can stand for.
    pub(super) fn new(
        dtype: Dtype,
        shape: Vec<usize>,
        strides: &[usize],
        offset: usize,
        entry: &Range<usize>,
        file: usize,
    ) -> Result<Self, String> {
        if shape.len() != strides.len() {
            return Err(format!("{} dimensions have {} strides", shape.len(), strides.len()));
        }
        let size = dtype.bitsize() / 8;
        let count = shape.iter().try_fold(1usize, |count, dim| count.checked_mul(*dim));
        // With strides of 0, few bytes stand for any number of elements.
        let count =
            count.filter(|count| *count <= file).ok_or_else(|| format!("the shape {shape:?} is larger than the file"))?;
        let strides = strides.iter().map(|stride| stride.checked_mul(size)).collect::<Option<Vec<usize>>>();
        let strides = strides.ok_or("its strides are too large")?;
        if count == 0 {
            return Ok(Self { dtype, shape, strides, range: entry.start..entry.start });
        }
        let reach = shape
            .iter()
            .zip(&strides)
            .try_fold(size, |reach, (dim, stride)| (dim - 1).checked_mul(*stride).and_then(|step| reach.checked_add(step)));
        let start = offset.checked_mul(size).and_then(|offset| entry.start.checked_add(offset));
        let range = start.zip(reach).and_then(|(start, reach)| Some(start..start.checked_add(reach)?));
        let range = range.filter(|range| range.end <= entry.end);
        let range = range.ok_or_else(|| {
            format!("shape {shape:?}, strides and offset {offset} reach beyond the {} bytes of its storage", entry.len())
        })?;
        Ok(Self { dtype, shape, strides, range })
    }

    /// Whether the elements lie one after the other.
    pub(super) fn is_contiguous(&self) -> bool {
        let mut expected = self.dtype.bitsize() / 8;
        self.shape.iter().zip(&self.strides).rev().all(|(dim, stride)| {
            let fits = *dim <= 1 || *stride == expected;
            expected = expected.saturating_mul((*dim).max(1));
            fits
        })
    }

    /// The elements in row-major order, from the bytes of the range.
    pub(super) fn gathered(&self, bytes: &[u8]) -> Vec<u8> {
        let size = self.dtype.bitsize() / 8;
        let count: usize = self.shape.iter().product();
        let mut elements = Vec::with_capacity(count * size);
        let (Some((columns, step)), true) = (self.shape.iter().zip(&self.strides).next_back(), count > 0) else {
            elements.extend_from_slice(bytes);
            return elements;
        };
        let outer = self.shape.len() - 1;
        let mut index = vec![0; outer];
        loop {
            let row: usize = index.iter().zip(&self.strides).map(|(at, stride)| at * stride).sum();
            (0..*columns).for_each(|column| elements.extend_from_slice(&bytes[row + column * step..][..size]));
            // The next index, the last dimension fastest.
            let Some(at) = (0..outer).rev().find(|at| index[*at] + 1 < self.shape[*at]) else { return elements };
            index[at] += 1;
            index[at + 1..].fill(0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A view of the 24 bytes 0, 1, … 23 of a file.
    fn view(shape: &[usize], strides: &[usize], offset: usize) -> Result<View, String> {
        View::new(Dtype::U8, shape.to_vec(), strides, offset, &(0..24), 24)
    }

    #[test]
    fn elements_are_gathered_in_row_major_order() {
        let bytes: Vec<u8> = (0..24).collect();
        let read = |view: &View| view.gathered(&bytes[view.range.clone()]);
        let transposed = view(&[4, 2], &[1, 4], 3).unwrap();
        assert_eq!((read(&transposed), transposed.is_contiguous()), (vec![3, 7, 4, 8, 5, 9, 6, 10], false));
        let permuted = view(&[2, 3, 4], &[1, 8, 2], 0).unwrap();
        let expected: Vec<u8> =
            (0..2).flat_map(|i| (0..3).flat_map(move |j| (0..4).map(move |k| i + 8 * j + 2 * k))).collect();
        assert_eq!(read(&permuted), expected);
        let expanded = view(&[3, 2], &[0, 1], 5).unwrap();
        assert_eq!(read(&expanded), [5, 6, 5, 6, 5, 6]);
        let scalar = view(&[], &[], 7).unwrap();
        assert_eq!((read(&scalar), scalar.is_contiguous()), (vec![7], true));
        let empty = view(&[0, 5], &[5, 1], 0).unwrap();
        assert_eq!((read(&empty), empty.range.len()), (vec![], 0));
        // A dimension of one element may have any stride.
        assert!(view(&[1, 4], &[9, 1], 2).unwrap().is_contiguous());
    }

    #[test]
    fn elements_outside_of_the_storage_are_refused() {
        for (shape, strides, offset) in [
            (&[25][..], &[1][..], 0),
            (&[24], &[1], 1),
            (&[2, 2], &[23, 1], 0),
            (&[1 << 40], &[0], 0),
            (&[usize::MAX, 2], &[1, 1], 0),
            (&[2, 2], &[usize::MAX, 1], 0),
            (&[2], &[1], usize::MAX),
            (&[2], &[], 0),
        ] {
            assert!(view(shape, strides, offset).is_err(), "{shape:?} {strides:?} {offset}");
        }
    }
}

//! A histogram of lengths.

use serde::Serialize;

/// The lengths of examples, in tokens.
#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize)]
pub struct Lengths {
    /// The shortest.
    pub least: usize,
    /// As many examples are shorter as are longer.
    pub median: usize,
    /// Nine of ten examples are not longer.
    pub most_of_ten: usize,
    /// 99 of a hundred examples are not longer.
    pub most_of_hundred: usize,
    /// The longest.
    pub most: usize,
    /// The largest length of each bar, and the number of examples in it.
    pub bars: Vec<(usize, usize)>,
}

/// The most bars of a histogram.
const BARS: usize = 12;

impl Lengths {
    /// Of these lengths, in any order.
    pub(super) fn of(mut lengths: Vec<usize>) -> Self {
        lengths.sort_unstable();
        let (Some(least), Some(most)) = (lengths.first().copied(), lengths.last().copied()) else {
            return Self::default();
        };
        let share = |of_hundred: usize| lengths[((lengths.len() * of_hundred).div_ceil(100)).clamp(1, lengths.len()) - 1];
        // A round width, so that the bounds can be read.
        let width = most.div_ceil(BARS).next_power_of_two();
        let mut bars: Vec<(usize, usize)> = (1..=most.div_ceil(width).max(1)).map(|bar| (bar * width, 0)).collect();
        for length in &lengths {
            bars[length.saturating_sub(1) / width].1 += 1;
        }
        let (median, most_of_ten, most_of_hundred) = (share(50), share(90), share(99));
        Self { least, median, most_of_ten, most_of_hundred, most, bars }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_length_is_in_the_bar_that_covers_it() {
        let lengths = Lengths::of((1..=100).rev().collect());
        let Lengths { least, median, most_of_ten, most_of_hundred, most, bars } = lengths;
        assert_eq!((least, median, most_of_ten, most_of_hundred, most), (1, 50, 90, 99, 100));
        assert_eq!(bars, [(16, 16), (32, 16), (48, 16), (64, 16), (80, 16), (96, 16), (112, 4)]);
        let one = Lengths::of(vec![7]);
        assert_eq!((one.median, one.bars.iter().map(|bar| bar.1).sum::<usize>()), (7, 1));
        assert_eq!(Lengths::of(Vec::new()), Lengths::default());
    }
}

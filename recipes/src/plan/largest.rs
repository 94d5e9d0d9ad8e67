//! The largest sizes that fit.

use anyhow::Result;

use super::Planned;
use crate::config::TrainConfig;

/// More rows than anyone trains on at a time.
const MOST_ROWS: usize = 1 << 16;

/// The largest `batch_size` that fits into so many bytes.
pub(super) fn batch_size(planned: &Planned<'_>, available: u64) -> Result<usize> {
    let storage = planned.storage()?;
    largest(MOST_ROWS, |batch_size| {
        let config = TrainConfig { batch_size, ..planned.config.clone() };
        let of_batch = |tokens: usize| tokens.div_ceil(planned.config.batch_size).saturating_mul(batch_size);
        let (tokens, without_gradients) = (planned.tokens.map(of_batch), planned.without_gradients.map(of_batch));
        Ok(Planned { config: &config, tokens, without_gradients, ..*planned }.memory_with(&storage)?.total() <= available)
    })
}

/// The largest `max_seq_length` that fits into so many bytes.
pub(super) fn max_seq_length(planned: &Planned<'_>, available: u64) -> Result<usize> {
    let storage = planned.storage()?;
    largest(planned.model.max_position_embeddings, |max_seq_length| {
        let config = TrainConfig { max_seq_length, ..planned.config.clone() };
        Ok(Planned { config: &config, tokens: None, without_gradients: None, ..*planned }.memory_with(&storage)?.total()
            <= available)
    })
}

/// The largest `rank` that fits into so many bytes, up to the model's width.
pub(super) fn rank(planned: &Planned<'_>, available: u64) -> Result<usize> {
    let storage = planned.storage()?;
    largest(planned.model.hidden_size, |rank| {
        let config = TrainConfig { rank: rank.max(1), ..planned.config.clone() };
        Ok(Planned { config: &config, ..*planned }.memory_with(&storage)?.total() <= available)
    })
}

/// The largest number up to `most` for which the test holds, if it holds for all below it; 0 if for none.
fn largest(most: usize, fits: impl Fn(usize) -> Result<bool>) -> Result<usize> {
    let (mut below, mut above) = (0, most + 1);
    while above - below > 1 {
        let middle = below + (above - below) / 2;
        if fits(middle)? {
            below = middle;
        } else {
            above = middle;
        }
    }
    Ok(below)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_largest_number_is_found() {
        for limit in [0, 1, 2, 63, 64, 99, 100] {
            assert_eq!(largest(100, |number| Ok(number <= limit)).unwrap(), limit);
        }
        assert_eq!(largest(100, |_| Ok(true)).unwrap(), 100);
    }
}

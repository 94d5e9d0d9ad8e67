//! The order of threadgroup memory.

use cubecl_cpp::ComputeKernel;
use cubecl_cpp::metal::MslDialect;
use cubecl_cpp::shared::SharedMemory;

/// Lays the threadgroup memory of a kernel out in the order of its names, and returns the new text; `None` if it already was.
///
/// cubecl 0.10 takes it from a `HashMap` and a `HashSet` (`cubecl_opt::SharedLiveness`): names and offsets change from process to
/// process, so that a cache of compiled kernels, such as macOS's own, misses the text. Memories that share bytes, because one is
/// freed before the other is used, keep their offsets.
pub(crate) fn ordered(kernel: &mut ComputeKernel<MslDialect>) -> Option<String> {
    order(&mut kernel.body.shared_memories).then(|| kernel.to_string())
}

/// Whether the layout changed.
fn order(memories: &mut [SharedMemory<MslDialect>]) -> bool {
    let before = memories.to_vec();
    memories.sort_by_key(SharedMemory::offset);
    let apart = memories.windows(2).all(|pair| pair[0].offset() + pair[0].size() <= pair[1].offset());
    memories.sort_by_key(index);
    if apart {
        let mut next = 0usize;
        for memory in memories.iter_mut() {
            let offset = next.next_multiple_of(memory.align().max(1));
            next = offset + memory.size();
            place(memory, offset);
        }
    }
    memories != before
}

fn index(memory: &SharedMemory<MslDialect>) -> u32 {
    match memory {
        SharedMemory::Array { index, .. } | SharedMemory::Value { index, .. } => *index,
    }
}

fn place(memory: &mut SharedMemory<MslDialect>, to: usize) {
    match memory {
        SharedMemory::Array { offset, .. } | SharedMemory::Value { offset, .. } => *offset = to,
    }
}

#[cfg(test)]
mod tests {
    use cubecl_cpp::shared::{Elem, Item};

    use super::*;

    fn array(index: u32, length: usize, align: usize, offset: usize) -> SharedMemory<MslDialect> {
        SharedMemory::Array { index, item: Item::scalar(Elem::F32, false), length, align, offset }
    }

    #[test]
    fn memories_lie_in_the_order_of_their_names() {
        let expected = [array(3, 3, 4, 0), array(5, 8, 16, 16), array(9, 1, 4, 48)];
        let mut found = [array(9, 1, 4, 0), array(5, 8, 16, 16), array(3, 3, 4, 48)];
        assert!(order(&mut found));
        assert_eq!(found, expected);
        assert!(!order(&mut found));
        let mut found = [array(5, 8, 16, 0), array(9, 1, 4, 32), array(3, 3, 4, 36)];
        assert!(order(&mut found));
        assert_eq!(found, expected);
    }

    #[test]
    fn memories_that_share_bytes_stay_where_they_are() {
        let mut found = [array(9, 4, 4, 8), array(5, 8, 4, 0), array(3, 3, 4, 32)];
        assert!(order(&mut found));
        assert_eq!(found, [array(3, 3, 4, 32), array(5, 8, 4, 0), array(9, 4, 4, 8)]);
    }
}

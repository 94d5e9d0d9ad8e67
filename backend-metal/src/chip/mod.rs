//! Apple's chips: what is known about each, which one this machine has, and how much of its memory a run may use.

mod memory;
mod probe;
mod table;

pub use memory::{MemoryBudget, working_set};
pub use probe::{Machine, has_tensor_operations, machine};
pub use table::{CHIPS, Chip, Generation, MATRIX_OPERATIONS, chip};

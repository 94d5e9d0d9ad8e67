//! Which way to compute products is the fastest on a device: measured there, and kept for later runs.
//!
//! [`measure`] tries the candidates of one class of products, [`table`] is the file with what was chosen, [`choose`] decides for a run.

mod choose;
mod key;
mod measure;
mod repay;
mod synthetic;
mod table;
mod text;

pub use choose::{ChosenProducts, RunProducts, chosen, for_resumed, for_run};
pub use key::TuningKey;
pub use measure::{Measured, Outcome, TunedClass, measure};
pub use repay::Effort;
pub use synthetic::synthetic_step;
pub use table::{ProductTable, keep_in};
pub use text::{describe, summary, to_json};

//! A training run.
//!
//! [`PreparedRun::new`] opens model and data; [`train`] loads them onto the device and starts the loop, [`TrainingRun::steps`], inside
//! burn-train. The loop is in `run.rs`, to be read from top to bottom; `learner.rs` connects it to burn-train.

mod awake;
mod card;
mod changes;
mod checkpoint;
mod evaluate;
mod events;
mod facts;
mod fingerprint;
mod learner;
mod lock;
mod metrics;
mod mixture;
mod plan;
mod pools;
mod prepare;
mod rows;
mod run;
mod run_folder;
mod samples;
mod saved_config;
mod schedule;
mod start;
mod step_lines;
mod timings;
mod validation;
mod validation_lines;
mod watch;
mod weights;

pub use checkpoint::{RunCheckpoint, TrainerState};
pub use evaluate::{Evaluation, evaluate};
pub use events::Events;
pub use facts::{FACTS, RowFacts, RunFacts};
pub use fingerprint::Fingerprint;
pub use learner::{Driver, SharedTrainer};
pub use lock::RunLock;
pub use metrics::{MetricsFile, StepMetrics};
pub use mixture::{DataPart, data_parts};
pub use plan::{Plan, Shapes, Steps};
pub use prepare::PreparedRun;
pub use rows::RowAccess;
pub use run::{End, TrainingRun};
pub use samples::{SAMPLES, Sample};
pub use schedule::Schedule;
pub use start::{Summary, train};
pub use step_lines::{StepFile, StepLine};
pub use timings::{TimingSums, Timings};
pub use validation_lines::{ValidationLine, ValidationsFile};
pub use weights::WeightWriter;

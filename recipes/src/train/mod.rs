//! The training loop: burn-train's learner with a strategy that counts optimizer steps.

mod checkpoint;
mod evaluate;
mod loss_scale;
mod metrics;
mod model;
mod optimizer;
mod run;
mod run_folder;
mod schedule;
mod strategy;

use burn::backend::Autodiff;
use burn::backend::autodiff::checkpoint::strategy::BalancedCheckpointing;

pub use checkpoint::{Checkpoint, TrainerState, write_folder};
pub use evaluate::{Evaluation, evaluate};
pub use loss_scale::LossScale;
pub use metrics::{MetricsFile, StepMetrics, peak_bytes};
pub use model::{StepItem, StepOutput, TrainedModel, batch_loss};
pub use optimizer::{AdamW, Numbers};
pub use run::{Prepared, Summary, train};
pub use schedule::Schedule;
pub use strategy::{End, Events, Plan, StepStrategy, squared_gradient_norm};

/// What training runs on: burn's autodiff, which does not keep what is cheap to compute anew, such as norms and activations.
pub type Training<B> = Autodiff<B, BalancedCheckpointing>;

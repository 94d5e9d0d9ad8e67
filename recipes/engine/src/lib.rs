#![doc = include_str!("../README.md")]
#![warn(missing_docs)]

pub mod batch;
pub mod broken;
pub mod bytes;
pub mod checkpointing;
pub mod device;
pub mod dtype;
pub mod failure;
mod gradient_sums;
pub mod guard;
pub mod hint;
pub mod kernel_cache;
pub mod kernel_case;
pub mod kernel_run;
pub mod loss_scale;
pub mod objective;
pub mod optimizer;
pub mod runner;
pub mod step;
pub mod timing;
pub mod trainer;
pub mod weights;

pub use batch::{Batch, IGNORE, Targets, bucket};
pub use broken::is_broken;
pub use bytes::gib;
pub use checkpointing::Checkpointing;
pub use device::{Adapter, BackendDevice, Device, TrainedPart, Weights, cpu};
pub use failure::{failure, out_of_memory};
pub use hint::{Hinted, with_hint};
pub use kernel_cache::KernelCache;
pub use kernel_case::{Computed, KernelCase, Layer, Matrix, Operation, Update, numbers};
pub use loss_scale::{LossScale, Verdict};
pub use objective::{LossSums, Objective};
pub use optimizer::{AdamW, AdamWConfig, MomentType, Moments, Norm};
pub use runner::{ModelRunner, Runner};
pub use step::{StepGradients, StepItem, Training, batch_loss, gradients, squared_gradient_norm, token_losses};
pub use timing::StepTimes;
pub use trainer::{HostTensor, ModelTrainer, Numbers, Trainer};
pub use weights::DeviceTensors;

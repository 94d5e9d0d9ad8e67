//! The door between what is generic over a burn backend and what is not.
//!
//! Behind it, once a backend: a model on a device with its optimizer, [`ModelTrainer`], and a model that answers, [`ModelRunner`].
//! In front of it, compiled once: everything that holds them as [`Trainer`], [`Runner`] and [`Device`], such as the training loop,
//! the data and the command line of `burnish-recipes`. `burnish-backends` opens a device by the name of its backend.

#![warn(missing_docs)]

pub mod batch;
pub mod bytes;
pub mod device;
pub mod dtype;
pub mod failure;
pub mod guard;
pub mod hint;
pub mod loss_scale;
pub mod objective;
pub mod optimizer;
pub mod runner;
pub mod step;
pub mod trainer;
pub mod weights;

pub use batch::{Batch, IGNORE};
pub use bytes::gib;
pub use device::{Adapter, BackendDevice, Device, TrainedPart, Weights};
pub use failure::failure;
pub use hint::{Hinted, with_hint};
pub use loss_scale::{LossScale, Verdict};
pub use objective::Objective;
pub use optimizer::{AdamW, AdamWConfig, Moments};
pub use runner::{ModelRunner, Runner};
pub use step::{StepGradients, StepItem, Training, batch_loss, gradients, squared_gradient_norm, token_losses};
pub use trainer::{HostTensor, ModelTrainer, Numbers, Trainer};
pub use weights::DeviceTensors;

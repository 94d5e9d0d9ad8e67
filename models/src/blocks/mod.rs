//! The building blocks of decoders.

mod attention;
mod block;
mod experts;
mod feed_forward;
mod mlp;
mod norm;
mod projections;
mod stream;

pub use attention::{Attention, Sinks};
pub use block::{Block, BlockState};
pub use experts::{Expert, Experts};
pub use feed_forward::FeedForward;
pub use mlp::Mlp;
pub use norm::Norm;
pub use projections::Projections;
pub use stream::Stream;

//! Operations that a test breaks.

use std::sync::OnceLock;

use burn::tensor::backend::Backend;

use crate::adamw8bit::AdamW8bitUpdate;
use crate::attention::Statistics;
use crate::lora_linear::LoraGradients;

/// The result of an operation, which a test makes wrong by `BURNISH_BREAK=operation:<name>`. Never in a build without the feature
/// `breakable`.
pub(crate) fn unless_broken<T: Breakable>(operation: &str, result: T) -> T {
    if cfg!(feature = "breakable") && is_broken(operation) { result.broken() } else { result }
}

fn is_broken(operation: &str) -> bool {
    static BROKEN: OnceLock<Vec<String>> = OnceLock::new();
    let broken = BROKEN.get_or_init(|| {
        let parts = std::env::var("BURNISH_BREAK").unwrap_or_default();
        parts.split(',').filter_map(|part| part.strip_prefix("operation:")).map(str::to_owned).collect()
    });
    broken.iter().any(|name| name == operation)
}

/// What operations return.
pub(crate) trait Breakable {
    /// The same, but wrong.
    #[must_use]
    fn broken(self) -> Self;
}

impl<T: Breakable> Breakable for Option<T> {
    fn broken(self) -> Self {
        self.map(T::broken)
    }
}

impl<T: Breakable> Breakable for Vec<T> {
    fn broken(self) -> Self {
        self.into_iter().map(T::broken).collect()
    }
}

impl<T: Breakable, const N: usize> Breakable for [T; N] {
    fn broken(self) -> Self {
        self.map(T::broken)
    }
}

impl<A: Breakable, B: Breakable> Breakable for (A, B) {
    fn broken(self) -> Self {
        (self.0.broken(), self.1.broken())
    }
}

impl<B: Backend<FloatTensorPrimitive: Breakable>> Breakable for Statistics<B> {
    fn broken(self) -> Self {
        Self { output: self.output.broken(), ..self }
    }
}

impl<B: Backend<FloatTensorPrimitive: Breakable>> Breakable for LoraGradients<B> {
    fn broken(self) -> Self {
        Self { x: self.x.broken(), lora_a: self.lora_a.broken(), lora_b: self.lora_b.broken() }
    }
}

impl<B: Backend<FloatTensorPrimitive: Breakable>> Breakable for AdamW8bitUpdate<B> {
    fn broken(self) -> Self {
        Self { parameter: self.parameter.broken(), ..self }
    }
}

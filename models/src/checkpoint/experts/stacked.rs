//! The tensors of all experts, from those of each: as transformers stores models whose experts it never has apart.

use std::collections::BTreeMap;
use std::path::PathBuf;

use super::view::{Make, Source, View};
use super::{Place, Projection, SINKS};
use crate::checkpoint::Checkpoint;
use crate::config::{ModelConfig, Stacking};
use crate::error::Result;

/// A checkpoint with the experts of each layer in one tensor, and with sinks as transformers calls them.
pub type Stacked<'a> = View<AllExperts<'a>>;

/// Makes the tensors of all experts.
pub struct AllExperts<'a> {
    inner: &'a dyn Checkpoint,
    experts: usize,
}

/// The tensors of each expert, whose names begin so.
#[derive(Debug, Clone)]
pub struct OfEach {
    start: String,
    place: Place,
}

impl<'a> Stacked<'a> {
    /// The checkpoint as transformers stores it; `None` where it stores each expert apart, or the model has none.
    pub fn of(inner: &'a dyn Checkpoint, config: &ModelConfig) -> Option<Self> {
        let experts = config.experts.as_ref().filter(|experts| experts.stacking == Stacking::Columns)?;
        let mut names = BTreeMap::new();
        for name in inner.names() {
            let (stored, source) = if let Some((start, place)) = Place::of(&name) {
                (place.stacked(start), Source::Made(OfEach { start: start.to_owned(), place: Place { expert: 0, ..place } }))
            } else {
                let own = name.strip_suffix(".weight").filter(|own| own.ends_with(SINKS)).unwrap_or(&name);
                (own.to_owned(), Source::Renamed(name.clone()))
            };
            names.insert(stored, source);
        }
        Some(Self { names, make: AllExperts { inner, experts: experts.count } })
    }
}

impl AllExperts<'_> {
    /// The tensors of one expert that are parts of a stacked one.
    fn parts(start: &str, place: Place, expert: usize) -> Vec<String> {
        let kind = if place.is_bias { "bias" } else { "weight" };
        let projections: &[&str] =
            if place.projection == Projection::Down { &["down_proj"] } else { &["gate_proj", "up_proj"] };
        projections.iter().map(|projection| format!("{start}{expert}.{projection}.{kind}")).collect()
    }

    /// The elements of the experts' tensors, `[experts, in, out]`, or `[experts, out]` of biases; gate and up alternate.
    fn stacked(&self, start: &str, place: Place) -> Result<Vec<f32>> {
        let mut values = Vec::new();
        for expert in 0..self.experts {
            let names = Self::parts(start, place, expert);
            let parts: Vec<Vec<f32>> = names.iter().map(|name| self.inner.read_f32(name)).collect::<Result<_>>()?;
            let columns = if place.is_bias { 1 } else { self.columns(&names) };
            let rows = parts.iter().map(|part| part.len() / columns).min().unwrap_or_default();
            if values.is_empty() {
                values.reserve_exact(self.experts * parts.len() * rows * columns);
            }
            for column in 0..columns {
                for row in 0..rows {
                    values.extend(parts.iter().map(|part| part[row * columns + column]));
                }
            }
        }
        Ok(values)
    }

    /// Elements of a row of an expert's matrix.
    fn columns(&self, names: &[String]) -> usize {
        let shape = names.first().and_then(|name| self.inner.shape(name));
        shape.and_then(|shape| shape.last().copied()).unwrap_or(1).max(1)
    }
}

impl Make for AllExperts<'_> {
    type Key = OfEach;

    fn inner(&self) -> &dyn Checkpoint {
        self.inner
    }

    fn shape(&self, OfEach { start, place }: &OfEach) -> Option<Vec<usize>> {
        let names = Self::parts(start, *place, 0);
        let shape = self.inner.shape(names.first()?)?;
        let outputs = shape[0] * names.len();
        Some([&[self.experts][..], &shape[1..], &[outputs]].concat())
    }

    fn floats(&self, _name: &str, OfEach { start, place }: &OfEach) -> Result<Vec<f32>> {
        self.stacked(start, *place)
    }

    fn file_of(&self, OfEach { start, place }: &OfEach) -> Option<PathBuf> {
        self.inner.file_of(Self::parts(start, *place, 0).first()?)
    }
}

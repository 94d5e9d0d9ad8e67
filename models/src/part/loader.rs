//! From declared parts to layers on the device.

use burnish_kernels::FusedBackend;

use super::{Part, Role};
use crate::blocks::Norm;
use crate::config::ModelConfig;
use crate::error::{ModelError, Result};
use crate::linear::Linear;
use crate::loader::Loader;
use crate::weight::Weight;

/// Loads the parts of one block, or those outside of blocks, by their roles.
pub struct PartLoader<'a, 'b, B: FusedBackend> {
    /// Whose parts they are.
    pub config: &'a ModelConfig,
    loader: &'a mut Loader<'b, B>,
    layer: Option<usize>,
}

impl<'a, 'b, B: FusedBackend> PartLoader<'a, 'b, B> {
    /// Of a block, or with `None` outside of blocks.
    pub fn new(config: &'a ModelConfig, loader: &'a mut Loader<'b, B>, layer: Option<usize>) -> Self {
        Self { config, loader, layer }
    }

    /// Whether the family declares the role.
    pub fn has(&self, role: Role) -> bool {
        self.config.family.part(role).is_some()
    }

    /// A linear layer with its bias.
    ///
    /// # Errors
    /// When the family declares none of that role, or it can't be read.
    pub fn linear(&mut self, role: Role) -> Result<Linear<B>> {
        let (name, shape) = self.find(role)?;
        self.loader.linear(&name, shape[0], shape[1], role.has_bias(self.config))
    }

    /// A matrix, with its checkpoint name.
    ///
    /// # Errors
    /// As [`PartLoader::linear`].
    pub fn matrix(&mut self, role: Role) -> Result<(String, Weight<B, 2>)> {
        let (name, shape) = self.find(role)?;
        let name = format!("{name}.weight");
        let weight = self.loader.matrix(&name, shape[0], shape[1])?;
        Ok((name, weight))
    }

    /// A norm.
    ///
    /// # Errors
    /// As [`PartLoader::linear`].
    pub fn norm(&mut self, role: Role) -> Result<Norm<B>> {
        let (name, shape) = self.find(role)?;
        let (name, offset) = (format!("{name}.weight"), self.config.family.norm_offset);
        let weight = self.loader.norm(&name, shape[0], offset)?;
        Ok(Norm::new(name, weight, offset, self.config.rms_norm_eps))
    }

    /// A norm that not every family has.
    ///
    /// # Errors
    /// When it is declared and can't be read.
    pub fn optional_norm(&mut self, role: Role) -> Result<Option<Norm<B>>> {
        self.has(role).then(|| self.norm(role)).transpose()
    }

    fn find(&self, role: Role) -> Result<(String, Vec<usize>)> {
        let part: &Part = self.config.family.part(role).ok_or_else(|| ModelError::Config {
            reason: format!("the family of `{}` declares no {role:?}", self.config.model_type),
        })?;
        Ok((part.checkpoint_name(self.layer), role.shape(self.config)))
    }
}

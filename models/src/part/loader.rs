//! Loads the parts that a family declares.

use burn::tensor::Tensor;
use burnish_kernels::FusedBackend;

use super::{Part, Role, StackedParameter, of_layer, with_expert};
use crate::blocks::Norm;
use crate::config::ModelConfig;
use crate::error::{ModelError, Result};
use crate::linear::Linear;
use crate::loader::Loader;
use crate::weight::MatrixWeight;

/// Loads the parts of one block, or the parts outside blocks, by their roles.
pub struct PartLoader<'a, 'b, B: FusedBackend> {
    /// The configuration of the model.
    pub config: &'a ModelConfig,
    loader: &'a mut Loader<'b, B>,
    layer: Option<usize>,
}

impl<'a, 'b, B: FusedBackend> PartLoader<'a, 'b, B> {
    /// For the parts of the block `layer`, or, if it is `None`, for the parts outside blocks.
    pub fn new(config: &'a ModelConfig, loader: &'a mut Loader<'b, B>, layer: Option<usize>) -> Self {
        Self { config, loader, layer }
    }

    /// Whether the family declares a part with that role.
    pub fn has(&self, role: Role) -> bool {
        self.config.family.part(role).is_some()
    }

    /// The parameters that hold the experts of the block.
    pub fn stacked_parameters(&self) -> Vec<StackedParameter> {
        self.layer.map(|layer| of_layer(self.config, layer)).unwrap_or_default()
    }

    /// A linear layer, with a bias if it has one.
    ///
    /// # Errors
    /// If the family declares no part with that role, or it can't be read.
    pub fn linear(&mut self, role: Role) -> Result<Linear<B>> {
        let (name, shape) = self.find(role)?;
        self.loader.linear(&name, shape[0], shape[1], role.has_bias(self.config))
    }

    /// A linear layer of one expert.
    ///
    /// # Errors
    /// As [`PartLoader::linear`].
    pub fn expert(&mut self, role: Role, expert: usize) -> Result<Linear<B>> {
        let (name, shape) = self.find(role)?;
        self.loader.linear(&with_expert(&name, expert), shape[0], shape[1], role.has_bias(self.config))
    }

    /// The router, in f32.
    ///
    /// # Errors
    /// As [`PartLoader::linear`].
    pub fn router(&mut self) -> Result<Linear<B>> {
        let (name, shape) = self.find(Role::Router)?;
        self.loader.router(&name, shape[0], shape[1], Role::Router.has_bias(self.config))
    }

    /// The sinks of attention, in f32, with their checkpoint name; `None` if the family declares none.
    ///
    /// # Errors
    /// If they are declared and can't be read.
    pub fn sinks(&mut self) -> Result<Option<(String, Tensor<B, 1>)>> {
        if !self.has(Role::Sinks) {
            return Ok(None);
        }
        let (name, shape) = self.find(Role::Sinks)?;
        let name = format!("{name}.weight");
        let weight = self.loader.sinks(&name, shape[0])?;
        Ok(Some((name, weight)))
    }

    /// The embedding or the head, with its checkpoint name.
    ///
    /// # Errors
    /// As [`PartLoader::linear`].
    pub fn matrix(&mut self, role: Role) -> Result<(String, MatrixWeight<B>)> {
        let (name, shape) = self.find(role)?;
        let name = format!("{name}.weight");
        let weight = self.loader.embedding(&name, shape[0], shape[1])?;
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

    /// A norm; `None` if the family declares no part with that role.
    ///
    /// # Errors
    /// If it is declared and can't be read.
    pub fn optional_norm(&mut self, role: Role) -> Result<Option<Norm<B>>> {
        self.has(role).then(|| self.norm(role)).transpose()
    }

    fn find(&self, role: Role) -> Result<(String, Vec<usize>)> {
        let part: &Part = self.config.family.part(role).ok_or_else(|| ModelError::Config {
            reason: format!("the family of `{}` declares no part with the role {role:?}", self.config.model_type),
        })?;
        Ok((part.checkpoint_name(self.layer), role.shape(self.config)))
    }
}

//! How the tensors of a model are stored on a device, decided before they are read.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

use burnish_kernels::packed::{PackError, PackedKind};

use crate::checkpoint::Checkpoint;
use crate::config::ModelConfig;
use crate::error::{ModelError, Result};
use crate::float_type::FloatType;
use crate::load_options::LoadOptions;
use crate::part::{Role, declared_tensors};
use crate::quantization::Quantization;

/// How a matrix gets to the device.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Form {
    /// As floats.
    Dense {
        /// Why, if it should be packed.
        because: Option<String>,
    },
    /// In the blocks that the checkpoint has.
    Blocks(PackedKind),
    /// Quantised while it is loaded.
    Quantised(PackedKind),
}

impl Form {
    /// The form of a matrix.
    ///
    /// # Errors
    /// [`ModelError::Format`] with file and tensor if the matrix can't be packed as the options say.
    pub(crate) fn of(checkpoint: &dyn Checkpoint, name: &str, dims: [usize; 2], quantization: Quantization) -> Result<Self> {
        let blocks = if quantization.keeps_blocks() { checkpoint.packed_kind(name) } else { None };
        let floats = checkpoint.float_type(name).unwrap_or_default();
        let (kind, form): (_, fn(PackedKind) -> Self) = match (blocks, quantization.kind(floats)) {
            (Some(kind), _) => (kind, Self::Blocks),
            (None, Some(kind)) => (kind, Self::Quantised),
            (None, None) => return Ok(Self::Dense { because: None }),
        };
        match (kind.planes(name, dims), kind) {
            (Ok(_), _) => Ok(form(kind)),
            // Its blocks run over the flattened matrix, so that it exists, but devices read rows.
            (Err(PackError::Group { columns, group, .. }), PackedKind::Nf4 { .. }) => {
                let because = format!("expected rows that blocks of {group} divide, got rows of {columns}");
                Ok(Self::Dense { because: Some(because) })
            }
            (Err(PackError::Planes { format, .. }), _) => {
                Ok(Self::Dense { because: Some(format!("devices don't compute with {format}")) })
            }
            (Err(error), _) => Err(refused(checkpoint, name, &error)),
        }
    }
}

/// [`ModelError::Format`] for the file of a tensor.
pub(crate) fn refused(checkpoint: &dyn Checkpoint, name: &str, error: &PackError) -> ModelError {
    ModelError::format(checkpoint.file_of(name).unwrap_or_else(|| PathBuf::from("checkpoint")), error.to_string())
}

/// The kinds of a model's tensors on the device, with their bytes. It displays as a line for users.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Storage {
    /// By the name of the kind, such as `f16` or `nf4`.
    pub kinds: BTreeMap<String, Stored>,
    /// For each reason, the matrices that stay dense although they should be packed.
    pub dense: BTreeMap<String, Vec<String>>,
    /// The matrices that stay in the blocks of the file.
    pub blocks: Vec<String>,
}

/// Tensors of one kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Stored {
    /// How many there are.
    pub tensors: usize,
    /// The bytes of all of them.
    pub bytes: u64,
}

impl Storage {
    /// How a checkpoint would be stored; no tensor is read.
    ///
    /// # Errors
    /// [`ModelError::Format`] with file and tensor if a matrix can't be packed as the options say.
    pub fn of(config: &ModelConfig, checkpoint: &dyn Checkpoint, options: LoadOptions) -> Result<Self> {
        let mut storage = Self::default();
        for tensor in declared_tensors(config) {
            let elements: usize = tensor.shape.iter().product();
            let float = if tensor.part.role.is_single() { FloatType::F32 } else { options.dtype };
            let dense = (float.name(), elements * float.size());
            let (kind, bytes) = match <[usize; 2]>::try_from(tensor.shape) {
                Ok(dims) if !options.trainable => {
                    let quantization = match tensor.part.role {
                        Role::Embedding | Role::Head => options.of_embedding(),
                        Role::Router => Quantization::None,
                        _ => options.quantization,
                    };
                    let form = Form::of(checkpoint, &tensor.name, dims, quantization)?;
                    if matches!(form, Form::Blocks(_)) {
                        storage.blocks.push(tensor.name.clone());
                    }
                    match form {
                        Form::Dense { because } => {
                            if let Some(because) = because {
                                storage.dense.entry(because).or_default().push(tensor.name);
                            }
                            dense
                        }
                        Form::Blocks(kind) | Form::Quantised(kind) => {
                            let planes = kind.planes(&tensor.name, dims);
                            (kind.name(), planes.map_or(0, |planes| planes.words() * size_of::<u32>()))
                        }
                    }
                }
                _ => dense,
            };
            storage.add(kind, bytes);
        }
        Ok(storage)
    }

    /// Counts a tensor.
    pub(crate) fn add(&mut self, kind: &str, bytes: usize) {
        let stored = self.kinds.entry(kind.to_owned()).or_default();
        stored.tensors += 1;
        stored.bytes += bytes as u64;
    }

    /// Reads the blocks of every matrix that stays as the file has it, so that damaged ones are found before anything is written.
    ///
    /// # Errors
    /// [`ModelError::Format`] with file and tensor.
    pub fn check_blocks(&self, checkpoint: &dyn Checkpoint) -> Result<()> {
        self.blocks.iter().try_for_each(|name| checkpoint.read_packed(name).map(drop))
    }

    /// The bytes of all tensors.
    pub fn bytes(&self) -> u64 {
        self.kinds.values().map(|stored| stored.bytes).sum()
    }

    /// Whether any matrix is packed.
    pub fn is_packed(&self) -> bool {
        self.kinds.keys().any(|kind| !["f32", "f16", "bf16"].contains(&kind.as_str()))
    }

    /// A line for each reason why matrices stay dense although they should be packed.
    pub fn notes(&self) -> impl Iterator<Item = String> {
        self.dense.iter().map(|(reason, names)| {
            let others = match names.len() - 1 {
                0 => String::new(),
                more => format!(" and {more} more"),
            };
            format!("{}{others}: not packed: {reason}", names[0])
        })
    }
}

impl fmt::Display for Storage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut kinds: Vec<(&String, &Stored)> = self.kinds.iter().collect();
        kinds.sort_by_key(|(_, stored)| std::cmp::Reverse(stored.bytes));
        for (index, (kind, stored)) in kinds.into_iter().enumerate() {
            let comma = if index == 0 { "" } else { ", " };
            write!(f, "{comma}{:.1} MiB in {kind}", stored.bytes as f64 / f64::from(1 << 20))?;
        }
        Ok(())
    }
}

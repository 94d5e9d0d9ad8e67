//! Moments in a checkpoint: f32 ones as `<parameter>.exp_avg` and `<parameter>.exp_avg_sq`, those in eight bits as codes
//! `<parameter>.state1` and `<parameter>.state2` with the scales of their blocks, `<parameter>.absmax1` and `<parameter>.absmax2`.
//! These are the names of torch and of bitsandbytes.

use std::collections::BTreeMap;

use anyhow::{Result, bail};
use burn::tensor::backend::Backend;
use burn::tensor::{DType, Tensor, TensorData};
use burnish_kernels::packed::codebook::{Codebook, DYNAMIC_BLOCK, SIGNED, UNSIGNED};
use burnish_kernels::{FusedBackend, Moment8bit};
use burnish_models::{Checkpoint, ModelError};
use safetensors::Dtype;

use super::moments::{MomentType, Moments};

/// Names of the first and of the second moment.
const FLOATS: [&str; 2] = ["exp_avg", "exp_avg_sq"];
const CODES: [&str; 2] = ["state1", "state2"];
const SCALES: [&str; 2] = ["absmax1", "absmax2"];

/// The map of each moment.
fn maps() -> [&'static Codebook; 2] {
    [&SIGNED, &UNSIGNED]
}

/// Moments on a device that are read like a checkpoint; a tensor is copied to the host only when it is read.
pub(crate) struct SavedMoments<B: FusedBackend>(BTreeMap<String, (Vec<usize>, Saved<B>)>);

enum Saved<B: FusedBackend> {
    Floats(Tensor<B, 1>),
    Codes(Moment8bit<B>),
    Scales(Moment8bit<B>),
}

impl<B: FusedBackend> SavedMoments<B> {
    /// The moments of parameters, by name and shape.
    pub fn new(moments: impl IntoIterator<Item = (String, Vec<usize>, Moments<B>)>) -> Self {
        let mut all = BTreeMap::new();
        for (name, shape, moments) in moments {
            let blocks = vec![shape.iter().product::<usize>().div_ceil(DYNAMIC_BLOCK)];
            match moments {
                Moments::F32(moments) => {
                    for (kind, moment) in FLOATS.iter().zip(moments) {
                        all.insert(format!("{name}.{kind}"), (shape.clone(), Saved::Floats(moment)));
                    }
                }
                Moments::EightBit(moments) => {
                    for ((codes, scales), moment) in CODES.iter().zip(SCALES).zip(moments) {
                        all.insert(format!("{name}.{codes}"), (shape.clone(), Saved::Codes(moment.clone())));
                        all.insert(format!("{name}.{scales}"), (blocks.clone(), Saved::Scales(moment)));
                    }
                }
            }
        }
        Self(all)
    }

    fn get(&self, name: &str) -> burnish_models::Result<&(Vec<usize>, Saved<B>)> {
        self.0.get(name).ok_or_else(|| ModelError::Mismatch { problems: vec![format!("{name}: missing")] })
    }
}

impl<B: FusedBackend> Checkpoint for SavedMoments<B> {
    fn names(&self) -> Vec<String> {
        self.0.keys().cloned().collect()
    }

    fn shape(&self, name: &str) -> Option<Vec<usize>> {
        self.0.get(name).map(|(shape, _)| shape.clone())
    }

    fn read_f32(&self, name: &str) -> burnish_models::Result<Vec<f32>> {
        let (shape, saved) = self.get(name)?;
        match saved {
            Saved::Floats(tensor) => {
                let mut values: Vec<f32> = tensor.to_data().iter::<f32>().collect();
                values.truncate(shape.iter().product());
                Ok(values)
            }
            Saved::Scales(moment) => Ok(moment.scales(shape.iter().product())),
            Saved::Codes(_) => Err(ModelError::Mismatch { problems: vec![format!("{name}: expected floats, got U8")] }),
        }
    }

    fn integer_dtype(&self, name: &str) -> Option<Dtype> {
        matches!(self.0.get(name)?.1, Saved::Codes(_)).then_some(Dtype::U8)
    }

    fn read_bytes(&self, name: &str) -> burnish_models::Result<Vec<u8>> {
        let (shape, saved) = self.get(name)?;
        match saved {
            Saved::Codes(moment) => Ok(moment.codes(shape.iter().product())),
            Saved::Floats(_) | Saved::Scales(_) => Ok(self.read_f32(name)?.into_iter().flat_map(f32::to_le_bytes).collect()),
        }
    }
}

/// Reads the moments of a parameter. Those of the other type are converted.
///
/// # Errors
/// When they are missing or have another shape than the parameter.
pub(crate) fn read_moments<B: FusedBackend>(
    checkpoint: &dyn Checkpoint,
    name: &str,
    shape: &[usize],
    kind: MomentType,
    device: &B::Device,
) -> Result<Moments<B>> {
    let reader = Reader { checkpoint, name, shape };
    let has_codes = checkpoint.shape(&format!("{name}.{}", CODES[0])).is_some();
    match (has_codes, kind) {
        (false, MomentType::F32) => Ok(Moments::F32(flat::<B>(reader.floats()?, device))),
        (true, MomentType::F32) => {
            let values = pairs(reader.codes()?, |map, (codes, scales)| {
                let mut values = vec![0.0; codes.len()];
                let blocks = values.chunks_mut(DYNAMIC_BLOCK).zip(codes.chunks(DYNAMIC_BLOCK)).zip(scales);
                blocks.for_each(|((values, codes), scale)| map.dequantize(codes, scale, values));
                values
            });
            Ok(Moments::F32(flat::<B>(values, device)))
        }
        (true, MomentType::EightBit) => Ok(Moments::EightBit(pairs(reader.codes()?, |map, (codes, scales)| {
            Moment8bit::from_codes(map, codes, scales, device)
        }))),
        (false, MomentType::EightBit) => Ok(Moments::EightBit(pairs(reader.floats()?, |map, values| {
            let mut codes = vec![0; values.len()];
            let blocks = values.chunks(DYNAMIC_BLOCK).zip(codes.chunks_mut(DYNAMIC_BLOCK));
            let scales = blocks.map(|(values, codes)| map.quantize(values, codes, Codebook::nearest)).collect();
            Moment8bit::from_codes(map, codes, scales, device)
        }))),
    }
}

/// Calls `f` with each moment and its map.
fn pairs<T, U>([first, second]: [T; 2], f: impl Fn(&Codebook, T) -> U) -> [U; 2] {
    let [signed, unsigned] = maps();
    [f(signed, first), f(unsigned, second)]
}

fn flat<B: Backend>(values: [Vec<f32>; 2], device: &B::Device) -> [Tensor<B, 1>; 2] {
    values.map(|values| {
        let count = values.len();
        Tensor::from_data(TensorData::new(values, [count]), (device, DType::F32))
    })
}

/// Reads both moments of a parameter.
struct Reader<'a> {
    checkpoint: &'a dyn Checkpoint,
    name: &'a str,
    shape: &'a [usize],
}

impl Reader<'_> {
    fn floats(&self) -> Result<[Vec<f32>; 2]> {
        let [first, second] = FLOATS.map(|kind| self.read(kind, self.shape));
        Ok([first?, second?])
    }

    fn codes(&self) -> Result<[(Vec<u8>, Vec<f32>); 2]> {
        let blocks = [self.shape.iter().product::<usize>().div_ceil(DYNAMIC_BLOCK)];
        let [first, second] = [0, 1].map(|moment| -> Result<_> {
            let name = self.checked(CODES[moment], self.shape)?;
            if self.checkpoint.integer_dtype(&name) != Some(Dtype::U8) {
                bail!("`{name}` should be U8");
            }
            Ok((self.checkpoint.read_bytes(&name)?, self.read(SCALES[moment], &blocks)?))
        });
        Ok([first?, second?])
    }

    fn read(&self, kind: &str, shape: &[usize]) -> Result<Vec<f32>> {
        Ok(self.checkpoint.read_f32(&self.checked(kind, shape)?)?)
    }

    /// The name of a tensor that has this shape.
    fn checked(&self, kind: &str, shape: &[usize]) -> Result<String> {
        let name = format!("{}.{kind}", self.name);
        match self.checkpoint.shape(&name) {
            Some(found) if found == shape => Ok(name),
            Some(found) => bail!("`{name}` should have the shape {shape:?}, got {found:?}"),
            None => bail!("`{name}` is missing"),
        }
    }
}

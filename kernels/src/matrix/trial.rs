//! Products of a device's own classes, computed by each of its candidates.

use std::time::Instant;

use burn::tensor::{DType, TensorData, TensorMetadata};
use burn_cubecl::tensor::CubeTensor;
use cubecl::future::block_on;
use cubecl::server::Handle;

use super::call::Call;
use super::candidate::Candidate;
use super::chosen::{Noted, noted};
use super::known::{COLUMNS, Known, ROWS, numbers, repeated, scale};
use super::plan::Extents;
use super::sketch::Sketch;
use crate::packed::cube::dequantize;
use crate::products::ProductTrial;
use crate::runtime::KernelRuntime;

/// Tokens fewer than the class has in a second check: the last tiles are then not whole.
const FEWER: usize = 3;

/// Most elements of a `B` that is tried: beyond, a copy would not fit beside a model.
const MOST_ELEMENTS: usize = 1 << 28;

/// The classes of the products that were noted on a device, by name.
pub(crate) fn trials<R: KernelRuntime>(device: &R::Device) -> Vec<Box<dyn ProductTrial>> {
    let mut all: Vec<Trial<R>> = noted::<R>(device).into_iter().filter_map(Trial::new).collect();
    all.sort_by(|one, other| one.class.cmp(&other.class));
    all.into_iter().map(|trial| Box::new(trial) as Box<dyn ProductTrial>).collect()
}

struct Trial<R: KernelRuntime> {
    class: String,
    sketch: Sketch<R>,
    runs: usize,
    candidates: Vec<Candidate>,
    names: Vec<String>,
    inputs: Option<Inputs>,
}

/// The operands on the device, and the results of all tokens and of [`FEWER`] less.
struct Inputs {
    buffers: [Option<Handle>; 4],
    known: [Option<Known>; 2],
}

impl<R: KernelRuntime> Trial<R> {
    fn new(Noted { class, sketch, runs }: Noted<R>) -> Option<Self> {
        let Extents { n, k, .. } = sketch.extents;
        if n * k > MOST_ELEMENTS {
            return None;
        }
        // Buffers that are never read: the candidates depend on shapes and dtypes.
        let [of_a, of_b, of_more] = sketch.dtypes;
        let [a, b, more_a, more_b] = sketch.shapes().map(|[rows, columns]| rows * columns);
        let buffer = |elements: usize, dtype: DType| (elements > 0).then(|| sketch.client.empty(elements * dtype.size()));
        let dense = if sketch.packed.is_some() { None } else { buffer(b, of_b) };
        let buffers = [buffer(a, of_a), dense, buffer(more_a, of_a), buffer(more_b, of_more)];
        let candidates = Call::new(sketch.product(buffers, 0)?)?.candidates();
        let names = candidates.iter().map(Candidate::to_string).collect();
        Some(Self { class: class.to_string(), sketch, runs, candidates, names, inputs: None })
    }

    fn tokens(&self) -> usize {
        if self.sketch.transposed_a { self.sketch.extents.k } else { self.sketch.extents.m }
    }

    /// The operands and the results, made at the first use.
    fn inputs(&mut self) -> Result<&Inputs, String> {
        let inputs = match self.inputs.take() {
            Some(inputs) => inputs,
            None => self.make_inputs()?,
        };
        Ok(self.inputs.insert(inputs))
    }

    fn make_inputs(&self) -> Result<Inputs, String> {
        let Sketch { client, extents: Extents { m, n, k }, more_k, alpha, dtypes, .. } = &self.sketch;
        let [of_a, of_b, of_more] = *dtypes;
        let columns = match &self.sketch.packed {
            None => numbers(COLUMNS * k, 2),
            Some((planes, words)) => {
                let weights = read(dequantize(planes, words.clone(), 0..planes.dims[0], of_a))?;
                if self.sketch.transposed_b { weights } else { transposed(&weights, *k, *n) }
            }
        };
        let mean = (columns.iter().map(|value| value * value).sum::<f32>() / columns.len().max(1) as f32).sqrt();
        let alone = scale(1, alpha.abs() as f32 / 0.58);
        let scaled = |values: Vec<f32>, factor: f32| values.into_iter().map(|value| value * factor).collect::<Vec<_>>();
        let rows = scaled(numbers(ROWS * k, 1), scale(*k, mean) * alone);
        let (more_rows, more_columns) =
            (scaled(numbers(ROWS * more_k, 3), scale(*more_k, 0.58) * alone), numbers(COLUMNS * more_k, 4));
        let upload = |lines: &[f32], dtype: DType, depth: usize, count: usize, interleaved: bool| {
            let data = TensorData::new(lines.to_vec(), [lines.len()]).convert_dtype(dtype);
            client.create_from_slice(&repeated(data.as_bytes(), dtype.size(), depth, count, interleaved))
        };
        let (transposed_a, transposed_b) = (self.sketch.transposed_a, self.sketch.transposed_b);
        let dense = self.sketch.packed.is_none();
        let buffers = [
            Some(upload(&rows, of_a, *k, *m, transposed_a)),
            dense.then(|| upload(&columns, of_b, *k, *n, !transposed_b)),
            (*more_k > 0).then(|| upload(&more_rows, of_a, *more_k, *m, false)),
            (*more_k > 0).then(|| upload(&more_columns, of_more, *more_k, *n, !transposed_b)),
        ];
        let mut pairs = vec![(&*rows, &*columns, *k)];
        if *more_k > 0 {
            pairs.push((&*more_rows, &*more_columns, *more_k));
        }
        let known = |terms: usize| Known::new(&pairs, *alpha as f32, terms);
        let fewer = (self.tokens() > 16).then(|| known(if transposed_a { k - FEWER } else { *k }));
        Ok(Inputs { buffers, known: [Some(known(*k)), fewer] })
    }

    /// The product by a candidate, of fewer tokens.
    fn compute(&mut self, candidate: usize, fewer: usize) -> Result<CubeTensor<R>, String> {
        let candidate = self.candidates[candidate];
        let buffers = self.inputs()?.buffers.clone();
        let call = self.sketch.product(buffers, fewer).and_then(Call::new);
        Ok(call.ok_or("the device can't compute it")?.by(candidate))
    }

    fn wait(&self) -> Result<(), String> {
        block_on(self.sketch.client.sync()).map_err(|error| error.to_string())
    }
}

impl<R: KernelRuntime> ProductTrial for Trial<R> {
    fn class(&self) -> &str {
        &self.class
    }

    fn extents(&self) -> [usize; 3] {
        let Extents { m, n, k } = self.sketch.extents;
        [m, n, k + self.sketch.more_k]
    }

    fn runs(&self) -> usize {
        self.runs
    }

    fn candidates(&self) -> &[String] {
        &self.names
    }

    fn check(&mut self, candidate: usize) -> Result<(), String> {
        for (index, fewer) in [0, FEWER].into_iter().enumerate() {
            if self.inputs()?.known[index].is_none() {
                continue;
            }
            let found = read(self.compute(candidate, fewer)?)?;
            let (n, dtype) = (self.sketch.extents.n, self.sketch.dtypes[0]);
            if let Some(known) = &self.inputs()?.known[index] {
                known.check(&found, n, dtype)?;
            }
        }
        Ok(())
    }

    fn seconds(&mut self, candidate: usize, launches: usize) -> Result<f64, String> {
        self.inputs()?;
        self.wait()?;
        let start = Instant::now();
        for _ in 0..launches {
            drop(self.compute(candidate, 0)?);
        }
        self.wait()?;
        Ok(start.elapsed().as_secs_f64() / launches.max(1) as f64)
    }
}

/// A tensor's elements.
fn read<R: KernelRuntime>(tensor: CubeTensor<R>) -> Result<Vec<f32>, String> {
    let (shape, dtype) = (tensor.shape(), tensor.dtype);
    let bytes = tensor.client.read_one(tensor.handle).map_err(|error| error.to_string())?;
    TensorData::from_bytes(bytes, shape, dtype).convert_dtype(DType::F32).into_vec().map_err(|error| format!("{error:?}"))
}

/// A row-major matrix `[rows, columns]` with its columns one after the other.
fn transposed(values: &[f32], rows: usize, columns: usize) -> Vec<f32> {
    (0..columns).flat_map(|column| (0..rows).map(move |row| values[row * columns + column])).collect()
}

//! Known products, which tensor operations must compute before they are used.

use std::any::TypeId;
use std::collections::HashMap;
use std::sync::{LazyLock, Mutex, PoisonError};

use burn::tensor::{DType, TensorData};
use burn_cubecl::tensor::CubeTensor;
use cubecl::client::ComputeClient;
use cubecl::device::{Device, DeviceId};

use super::super::call::Call;
use super::super::known::{numbers, scale};
use super::super::product::{More, Product};
use super::plan::{UNIT_STEP, UnitTiles};
use crate::flex::matrix::{Matrix, product};
use crate::packed::{Affine, Packed};
use crate::products::tried;
use crate::runtime::KernelRuntime;
use crate::tolerance::Tolerance;

/// The verdict on each shape of tiles, by runtime and device.
static VERDICTS: LazyLock<Mutex<HashMap<(TypeId, DeviceId, UnitTiles), bool>>> = LazyLock::new(Mutex::default);

/// What the products compute in.
const DTYPE: DType = DType::F16;
/// Terms of the second pair of operands.
const RANK: usize = 8;

/// Whether a device computes tiles of that shape by tensor operations, and computes them right. The first call compiles and runs known
/// products, on a thread of its own, so that their errors are not those of the caller's work.
pub(in crate::matrix) fn trusted<R: KernelRuntime>(device: &R::Device, tiles: UnitTiles) -> bool {
    if !R::has_tensor_operations(device) {
        return false;
    }
    let mut verdicts = VERDICTS.lock().unwrap_or_else(PoisonError::into_inner);
    *verdicts.entry((TypeId::of::<R>(), device.to_id(), tiles)).or_insert_with(|| {
        let own = device.clone();
        let checked = tried(|| std::thread::spawn(move || Check::<R>::new(own).all(tiles)).join());
        let checked = checked.unwrap_or_else(|_| Err("the known product panicked".to_owned()));
        let UnitTiles { m, n, .. } = tiles;
        match &checked {
            Ok(()) => tracing::info!("tensor operations of {m}x{n} computed the known products"),
            Err(reason) => tracing::warn!("tensor operations of {m}x{n} are not used: {reason}"),
        }
        checked.is_ok()
    })
}

struct Check<R: KernelRuntime> {
    client: ComputeClient<R>,
    device: R::Device,
}

/// How operands are stored, and whether there is a second pair.
#[derive(Debug, Clone, Copy)]
struct Form {
    transposed_a: bool,
    transposed_b: bool,
    more: bool,
}

impl<R: KernelRuntime> Check<R> {
    fn new(device: R::Device) -> Self {
        Self { client: R::client(&device), device }
    }

    /// Products of more than one tile each way, neither whole, over more terms than one step has: forward, backward and over rows, then those
    /// of packed weights.
    fn all(&self, tiles: UnitTiles) -> Result<(), String> {
        let (m, n) = (tiles.m + 5, tiles.n + 24);
        let form = |transposed_a, transposed_b, more| Form { transposed_a, transposed_b, more };
        self.dense(tiles, [m, n, UNIT_STEP + 8], form(false, true, true))?;
        self.dense(tiles, [m, n, UNIT_STEP + 9], form(false, false, false))?;
        self.dense(tiles, [m, n, UNIT_STEP + 9], form(true, false, false))?;
        for bits in [4, 8] {
            self.packed(tiles, m, [n, 2 * UNIT_STEP], bits, form(false, true, true))?;
            self.packed(tiles, m, [UNIT_STEP + 8, 3 * UNIT_STEP], bits, form(false, false, false))?;
        }
        Ok(())
    }

    /// A matrix on the device, and the same rounded as it is there.
    fn matrix(&self, values: &[f32], shape: [usize; 2]) -> (CubeTensor<R>, Vec<f32>) {
        let data = TensorData::new(values.to_vec(), shape).convert_dtype(DTYPE);
        let handle = self.client.create_from_slice(data.as_bytes());
        let tensor = CubeTensor::new_contiguous(self.client.clone(), self.device.clone(), shape.into(), handle, DTYPE);
        (tensor, data.iter::<f32>().collect())
    }

    fn dense(&self, tiles: UnitTiles, extents: [usize; 3], form: Form) -> Result<(), String> {
        let [_, n, k] = extents;
        let shape = if form.transposed_b { [n, k] } else { [k, n] };
        let (b, values) = self.matrix(&numbers(n * k, 2), shape);
        let product = |a| Product { transposed_b: form.transposed_b, ..Product::new(a, b) };
        self.compare(tiles, extents, form, (product, &values), "dense")
    }

    /// With a matrix `[out, in]` of few bits.
    fn packed(&self, tiles: UnitTiles, m: usize, dims: [usize; 2], bits: usize, form: Form) -> Result<(), String> {
        let failed = |error: crate::packed::PackError| error.to_string();
        let halves: Vec<half::f16> = numbers(dims[0] * dims[1], 2).into_iter().map(half::f16::from_f32).collect();
        let packed = Packed::Affine(Affine::quantize("known", &halves, dims, bits, 64).map_err(failed)?);
        let (planes, words) = packed.to_planes("known").map_err(failed)?;
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_ne_bytes()).collect();
        let handle = self.client.create_from_slice(&bytes);
        let shape = [words.len()].into();
        let b = CubeTensor::new_contiguous(self.client.clone(), self.device.clone(), shape, handle, DType::I32);
        let values = TensorData::new(packed.dequantize(), dims).convert_dtype(DTYPE).iter::<f32>().collect::<Vec<_>>();
        let extents = if form.transposed_b { [m, dims[0], dims[1]] } else { [m, dims[1], dims[0]] };
        let product = |a| Product { transposed_b: form.transposed_b, ..Product::packed(a, planes, b) };
        self.compare(tiles, extents, form, (product, &values), &format!("int{bits}"))
    }

    fn compare(
        &self,
        tiles: UnitTiles,
        [m, n, k]: [usize; 3],
        form: Form,
        (with_a, b): (impl FnOnce(CubeTensor<R>) -> Product<R>, &[f32]),
        name: &str,
    ) -> Result<(), String> {
        // Sums are about 1, and elements of a packed matrix about as large as others.
        let scaled = |count, seed, terms| {
            let factor = scale(terms, 0.58);
            numbers(count, seed).into_iter().map(|value| value * factor).collect::<Vec<_>>()
        };
        let (a, left) = self.matrix(&scaled(m * k, 1, k), if form.transposed_a { [k, m] } else { [m, k] });
        let left = Matrix::new(&left, if form.transposed_a { k } else { m }, if form.transposed_a { m } else { k });
        let left = if form.transposed_a { left.transposed() } else { left };
        let right = |values, k| {
            if form.transposed_b { Matrix::new(values, n, k).transposed() } else { Matrix::new(values, k, n) }
        };
        let alpha = 0.75;
        let mut expected = product(left, right(b, k), alpha);
        let mut asked = Product { transposed_a: form.transposed_a, alpha: f64::from(alpha), ..with_a(a) };
        if form.more {
            let (more_a, left) = self.matrix(&scaled(m * RANK, 3, RANK), [m, RANK]);
            let shape = if form.transposed_b { [n, RANK] } else { [RANK, n] };
            let (more_b, values) = self.matrix(&numbers(n * RANK, 4), shape);
            let second = product(Matrix::new(&left, m, RANK), right(&values, RANK), alpha);
            expected.iter_mut().zip(second).for_each(|(sum, second)| *sum += second);
            asked.more = Some(More { a: more_a, b: more_b });
        }
        let call = Call::new(asked).ok_or("the device has no route for f16")?;
        let found = call.on_units(tiles, None);
        let shape = [m, n];
        let bytes = self.client.read_one(found.handle).map_err(|error| error.to_string())?;
        let found: Vec<f32> = TensorData::from_bytes(bytes, shape, DTYPE).iter::<f32>().collect();
        Tolerance::of(DTYPE).check(&format!("{name} {form:?} of {m} x {n} x {k}"), &found, &expected)
    }
}

//! The GPU kernels: a cube a row.

use burn::tensor::{DType, TensorMetadata};
use burn_cubecl::CubeRuntime;
use burn_cubecl::tensor::CubeTensor;
use cubecl::prelude::*;

use crate::cube::launch::{contiguous, cubes, empty, empty_like, vector_size};
use crate::cube::reduce::{cube_sum, vector_sum};
use crate::cube::rows::{RowPlan, WEIGHT_CUBES};

/// Reads a row and takes its mean away; returns `1 / sqrt(var + ε)`.
#[cube]
fn centre<F: Float, N: Size>(
    x: &Array<Vector<F, N>>,
    held: &mut Array<Vector<f32, N>>,
    start: usize,
    features: f32,
    epsilon: f32,
    #[comptime] plan: RowPlan,
) -> f32 {
    let mut sum = 0.0f32;
    #[unroll]
    for i in 0..plan.held {
        let at = UNIT_POS as usize + i * plan.units;
        if at < plan.vectors {
            let value = Vector::<f32, N>::cast_from(x[start + at]);
            held[i] = value;
            sum += vector_sum::<N>(value);
        }
    }
    let mean = cube_sum(sum, plan.units, plan.planes) / features;
    let mut squares = 0.0f32;
    #[unroll]
    for i in 0..plan.held {
        let at = UNIT_POS as usize + i * plan.units;
        if at < plan.vectors {
            let centred = held[i] - Vector::<f32, N>::new(mean);
            held[i] = centred;
            squares += vector_sum::<N>(centred * centred);
        }
    }
    (cube_sum(squares, plan.units, plan.planes) / features + epsilon).inverse_sqrt()
}

#[cube(launch_unchecked)]
fn forward_kernel<F: Float, N: Size>(
    x: &Array<Vector<F, N>>,
    weight: &Array<Vector<F, N>>,
    bias: &Array<Vector<F, N>>,
    y: &mut Array<Vector<F, N>>,
    rows: u32,
    features: f32,
    epsilon: f32,
    #[comptime] plan: RowPlan,
    #[define(F)] _dtype: StorageType,
) {
    let row = CUBE_POS;
    if row < rows as usize {
        let start = row * plan.vectors;
        let mut held = Array::<Vector<f32, N>>::new(plan.held);
        let inverse = centre::<F, N>(x, &mut held, start, features, epsilon, plan);
        #[unroll]
        for i in 0..plan.held {
            let at = UNIT_POS as usize + i * plan.units;
            if at < plan.vectors {
                let scaled = held[i] * Vector::<f32, N>::new(inverse) * Vector::<f32, N>::cast_from(weight[at]);
                y[start + at] = Vector::<F, N>::cast_from(scaled + Vector::<f32, N>::cast_from(bias[at]));
            }
        }
    }
}

#[cube(launch_unchecked)]
fn backward_kernel<F: Float, N: Size>(
    x: &Array<Vector<F, N>>,
    weight: &Array<Vector<F, N>>,
    grad: &Array<Vector<F, N>>,
    dx: &mut Array<Vector<F, N>>,
    dw: &mut Array<Vector<f32, N>>,
    db: &mut Array<Vector<f32, N>>,
    rows: u32,
    features: f32,
    epsilon: f32,
    #[comptime] weight_gradients: bool,
    #[comptime] plan: RowPlan,
    #[define(F)] _dtype: StorageType,
) {
    let mut weight_sums = Array::<Vector<f32, N>>::new(plan.held);
    let mut bias_sums = Array::<Vector<f32, N>>::new(plan.held);
    #[unroll]
    for i in 0..plan.held {
        weight_sums[i] = Vector::<f32, N>::new(0.0f32);
        bias_sums[i] = Vector::<f32, N>::new(0.0f32);
    }
    let mut row = CUBE_POS;
    while row < rows as usize {
        let start = row * plan.vectors;
        let mut held = Array::<Vector<f32, N>>::new(plan.held);
        let mut scaled = Array::<Vector<f32, N>>::new(plan.held);
        let inverse = centre::<F, N>(x, &mut held, start, features, epsilon, plan);
        let mut sum = 0.0f32;
        let mut products = 0.0f32;
        #[unroll]
        for i in 0..plan.held {
            let at = UNIT_POS as usize + i * plan.units;
            if at < plan.vectors {
                let normalised = held[i] * Vector::<f32, N>::new(inverse);
                let slope = Vector::<f32, N>::cast_from(grad[start + at]);
                let through = slope * Vector::<f32, N>::cast_from(weight[at]);
                held[i] = normalised;
                scaled[i] = through;
                sum += vector_sum::<N>(through);
                products += vector_sum::<N>(through * normalised);
                if comptime!(weight_gradients) {
                    weight_sums[i] += slope * normalised;
                    bias_sums[i] += slope;
                }
            }
        }
        let mean = cube_sum(sum, plan.units, plan.planes) / features;
        let along = cube_sum(products, plan.units, plan.planes) / features;
        #[unroll]
        for i in 0..plan.held {
            let at = UNIT_POS as usize + i * plan.units;
            if at < plan.vectors {
                let straight = scaled[i] - Vector::<f32, N>::new(mean) - held[i] * Vector::<f32, N>::new(along);
                dx[start + at] = Vector::<F, N>::cast_from(straight * Vector::<f32, N>::new(inverse));
            }
        }
        row += CUBE_COUNT;
    }
    if comptime!(weight_gradients) {
        let start = CUBE_POS * plan.vectors;
        #[unroll]
        for i in 0..plan.held {
            let at = UNIT_POS as usize + i * plan.units;
            if at < plan.vectors {
                dw[start + at] = weight_sums[i];
                db[start + at] = bias_sums[i];
            }
        }
    }
}

pub(crate) fn forward<R: CubeRuntime>(
    x: CubeTensor<R>,
    weight: CubeTensor<R>,
    bias: CubeTensor<R>,
    epsilon: f64,
) -> CubeTensor<R> {
    let (x, weight, bias) = (contiguous(x), contiguous(weight), contiguous(bias));
    let shape = x.shape();
    let (rows, features) = (shape[0], shape[1]);
    let size = vector_size(&[&x, &weight, &bias], features);
    let plan = RowPlan::new(&x, features / size);
    let y = empty_like(&x);
    let (client, dtype) = (x.client.clone(), x.dtype);
    // SAFETY: every index is below the rows and vectors that the tensors were made with.
    unsafe {
        forward_kernel::launch_unchecked::<R>(
            &client,
            cubes(rows),
            CubeDim::new_1d(plan.units as u32),
            size,
            x.into_array_arg(),
            weight.into_array_arg(),
            bias.into_array_arg(),
            y.clone().into_array_arg(),
            rows as u32,
            features as f32,
            epsilon as f32,
            plan,
            dtype.into(),
        );
    }
    y
}

/// `dx`, and the gradients of weight and bias in partial sums `[cubes, features]`, f32.
pub(crate) fn backward<R: CubeRuntime>(
    x: CubeTensor<R>,
    weight: CubeTensor<R>,
    grad: CubeTensor<R>,
    epsilon: f64,
    weight_gradients: bool,
) -> (CubeTensor<R>, Option<[CubeTensor<R>; 2]>) {
    let (x, weight, grad) = (contiguous(x), contiguous(weight), contiguous(grad));
    let shape = x.shape();
    let (rows, features) = (shape[0], shape[1]);
    let size = vector_size(&[&x, &weight, &grad], features);
    let plan = RowPlan::new(&x, features / size);
    let dx = empty_like(&x);
    let count = if weight_gradients { rows.min(WEIGHT_CUBES) } else { rows };
    // Bindings are fixed: where no sums are wanted, there is a vector that nothing writes.
    let sums_shape = if weight_gradients { vec![count, features] } else { vec![1, size] };
    let sums = [(); 2].map(|()| empty(&x, sums_shape.clone(), DType::F32));
    let [dw, db] = sums.clone();
    let (client, dtype) = (x.client.clone(), x.dtype);
    // SAFETY: every index is below the rows, cubes and vectors that the tensors were made with.
    unsafe {
        backward_kernel::launch_unchecked::<R>(
            &client,
            cubes(count),
            CubeDim::new_1d(plan.units as u32),
            size,
            x.into_array_arg(),
            weight.into_array_arg(),
            grad.into_array_arg(),
            dx.clone().into_array_arg(),
            dw.into_array_arg(),
            db.into_array_arg(),
            rows as u32,
            features as f32,
            epsilon as f32,
            weight_gradients,
            plan,
            dtype.into(),
        );
    }
    (dx, weight_gradients.then_some(sums))
}

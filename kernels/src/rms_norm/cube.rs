//! The GPU kernels: a cube a row.

use burn::tensor::TensorMetadata;
use burn_cubecl::CubeRuntime;
use burn_cubecl::tensor::CubeTensor;
use cubecl::prelude::*;

use crate::cube::launch::{contiguous, cubes, empty, empty_like, vector_size};
use crate::cube::reduce::{cube_sum, vector_sum};
use crate::cube::rows::{RowPlan, WEIGHT_CUBES};

#[cube(launch_unchecked)]
fn forward_kernel<F: Float, N: Size>(
    x: &Array<Vector<F, N>>,
    residual: &Array<Vector<F, N>>,
    weight: &Array<Vector<F, N>>,
    y: &mut Array<Vector<F, N>>,
    sum: &mut Array<Vector<F, N>>,
    rows: u32,
    features: f32,
    epsilon: f32,
    #[comptime] adds: bool,
    #[comptime] plan: RowPlan,
    #[define(F)] _dtype: StorageType,
) {
    let row = CUBE_POS;
    if row < rows as usize {
        let start = row * plan.vectors;
        let mut held = Array::<Vector<f32, N>>::new(plan.held);
        let mut squares = 0.0f32;
        #[unroll]
        for i in 0..plan.held {
            let at = UNIT_POS as usize + i * plan.units;
            if at < plan.vectors {
                let mut value = Vector::<f32, N>::cast_from(x[start + at]);
                if comptime!(adds) {
                    // The sum is rounded to its dtype before it is normalised, as it is where the two are apart.
                    let added = Vector::<F, N>::cast_from(value + Vector::<f32, N>::cast_from(residual[start + at]));
                    sum[start + at] = added;
                    value = Vector::<f32, N>::cast_from(added);
                }
                held[i] = value;
                squares += vector_sum::<N>(value * value);
            }
        }
        let total = cube_sum(squares, plan.units, plan.planes);
        let inverse = (total / features + epsilon).inverse_sqrt();
        #[unroll]
        for i in 0..plan.held {
            let at = UNIT_POS as usize + i * plan.units;
            if at < plan.vectors {
                let scaled = held[i] * Vector::<f32, N>::new(inverse) * Vector::<f32, N>::cast_from(weight[at]);
                y[start + at] = Vector::<F, N>::cast_from(scaled);
            }
        }
    }
}

#[cube(launch_unchecked)]
fn backward_kernel<F: Float, N: Size>(
    x: &Array<Vector<F, N>>,
    weight: &Array<Vector<F, N>>,
    grad: &Array<Vector<F, N>>,
    residual: &Array<Vector<F, N>>,
    dx: &mut Array<Vector<F, N>>,
    dw: &mut Array<Vector<f32, N>>,
    rows: u32,
    features: f32,
    epsilon: f32,
    #[comptime] adds: bool,
    #[comptime] weight_gradient: bool,
    #[comptime] plan: RowPlan,
    #[define(F)] _dtype: StorageType,
) {
    let mut sums = Array::<Vector<f32, N>>::new(plan.held);
    #[unroll]
    for i in 0..plan.held {
        sums[i] = Vector::<f32, N>::new(0.0f32);
    }
    let mut row = CUBE_POS;
    while row < rows as usize {
        let start = row * plan.vectors;
        let mut held = Array::<Vector<f32, N>>::new(plan.held);
        let mut scaled = Array::<Vector<f32, N>>::new(plan.held);
        let mut squares = 0.0f32;
        let mut products = 0.0f32;
        #[unroll]
        for i in 0..plan.held {
            let at = UNIT_POS as usize + i * plan.units;
            if at < plan.vectors {
                let value = Vector::<f32, N>::cast_from(x[start + at]);
                let slope = Vector::<f32, N>::cast_from(grad[start + at]) * Vector::<f32, N>::cast_from(weight[at]);
                held[i] = value;
                scaled[i] = slope;
                squares += vector_sum::<N>(value * value);
                products += vector_sum::<N>(value * slope);
            }
        }
        let squares = cube_sum(squares, plan.units, plan.planes);
        let products = cube_sum(products, plan.units, plan.planes);
        let inverse = (squares / features + epsilon).inverse_sqrt();
        let factor = products * inverse * inverse / features;
        #[unroll]
        for i in 0..plan.held {
            let at = UNIT_POS as usize + i * plan.units;
            if at < plan.vectors {
                let mut value = (scaled[i] - held[i] * Vector::<f32, N>::new(factor)) * Vector::<f32, N>::new(inverse);
                if comptime!(adds) {
                    value += Vector::<f32, N>::cast_from(residual[start + at]);
                }
                dx[start + at] = Vector::<F, N>::cast_from(value);
                if comptime!(weight_gradient) {
                    let slope = Vector::<f32, N>::cast_from(grad[start + at]);
                    sums[i] += slope * held[i] * Vector::<f32, N>::new(inverse);
                }
            }
        }
        row += CUBE_COUNT;
    }
    if comptime!(weight_gradient) {
        let start = CUBE_POS * plan.vectors;
        #[unroll]
        for i in 0..plan.held {
            let at = UNIT_POS as usize + i * plan.units;
            if at < plan.vectors {
                dw[start + at] = sums[i];
            }
        }
    }
}

/// The norm of `x`.
pub(crate) fn forward<R: CubeRuntime>(x: CubeTensor<R>, weight: CubeTensor<R>, epsilon: f64) -> CubeTensor<R> {
    launch_forward(x, None, weight, epsilon).1
}

/// `x + residual`, and its norm.
pub(crate) fn add_forward<R: CubeRuntime>(
    x: CubeTensor<R>,
    residual: CubeTensor<R>,
    weight: CubeTensor<R>,
    epsilon: f64,
) -> (CubeTensor<R>, CubeTensor<R>) {
    launch_forward(x, Some(residual), weight, epsilon)
}

/// The sum, of no meaning without a residual, and the norm.
fn launch_forward<R: CubeRuntime>(
    x: CubeTensor<R>,
    residual: Option<CubeTensor<R>>,
    weight: CubeTensor<R>,
    epsilon: f64,
) -> (CubeTensor<R>, CubeTensor<R>) {
    let (x, weight) = (contiguous(x), contiguous(weight));
    let residual = residual.map(contiguous);
    let shape = x.shape();
    let (rows, features) = (shape[0], shape[1]);
    let mut tensors = vec![&x, &weight];
    tensors.extend(residual.as_ref());
    let size = vector_size(&tensors, features);
    let plan = RowPlan::new(&x, features / size);
    let y = empty_like(&x);
    let (client, dtype) = (x.client.clone(), x.dtype);
    let adds = residual.is_some();
    // A kernel's bindings are fixed: what is not there is bound to something that is.
    let residual_argument = residual.unwrap_or_else(|| x.clone());
    let sum = if adds { empty_like(&x) } else { empty(&x, [size], dtype) };
    // SAFETY: every index is below the rows and vectors that the tensors were made with.
    unsafe {
        forward_kernel::launch_unchecked::<R>(
            &client,
            cubes(rows),
            CubeDim::new_1d(plan.units as u32),
            size,
            x.into_array_arg(),
            residual_argument.into_array_arg(),
            weight.into_array_arg(),
            y.clone().into_array_arg(),
            sum.clone().into_array_arg(),
            rows as u32,
            features as f32,
            epsilon as f32,
            adds,
            plan,
            dtype.into(),
        );
    }
    (sum, y)
}

/// `dx`, plus `residual` where one is given; and the weight's gradient in partial sums `[cubes, features]`, f32.
pub(crate) fn backward<R: CubeRuntime>(
    x: CubeTensor<R>,
    weight: CubeTensor<R>,
    grad: CubeTensor<R>,
    residual: Option<CubeTensor<R>>,
    epsilon: f64,
    weight_gradient: bool,
) -> (CubeTensor<R>, Option<CubeTensor<R>>) {
    let (x, weight, grad) = (contiguous(x), contiguous(weight), contiguous(grad));
    let residual = residual.map(contiguous);
    let shape = x.shape();
    let (rows, features) = (shape[0], shape[1]);
    let mut tensors = vec![&x, &weight, &grad];
    tensors.extend(residual.as_ref());
    let size = vector_size(&tensors, features);
    let plan = RowPlan::new(&x, features / size);
    let dx = empty_like(&x);
    let count = if weight_gradient { rows.min(WEIGHT_CUBES) } else { rows };
    let partial = weight_gradient.then(|| empty(&x, [count, features], burn::tensor::DType::F32));
    let (client, dtype) = (x.client.clone(), x.dtype);
    let adds = residual.is_some();
    let residual_argument = residual.unwrap_or_else(|| x.clone());
    let partial_argument = partial.clone().unwrap_or_else(|| empty(&x, [size], burn::tensor::DType::F32));
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
            residual_argument.into_array_arg(),
            dx.clone().into_array_arg(),
            partial_argument.into_array_arg(),
            rows as u32,
            features as f32,
            epsilon as f32,
            adds,
            weight_gradient,
            plan,
            dtype.into(),
        );
    }
    (dx, partial)
}

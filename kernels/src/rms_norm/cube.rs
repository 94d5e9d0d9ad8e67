//! The GPU kernels: one cube for each row.

use burn::tensor::TensorMetadata;
use burn_cubecl::CubeRuntime;
use burn_cubecl::tensor::CubeTensor;
use cubecl::launching;
use cubecl::prelude::*;

use crate::cube::BackendOn;
use crate::cube::launch::{contiguous, cubes, empty, empty_like, same_float, vector_size};
use crate::cube::reduce::{cube_sum, cube_sums, vector_sum};
use crate::cube::results;
use crate::cube::rows::{self, RowPlan, WEIGHT_CUBES, exists, index_of, read_row, row_of};
use crate::primitive::{raw, typed};

/// Most rows, as in decoding, whose sum and norm share a buffer: one allocation less on the host.
const SHARED_ROWS: usize = 8;

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
        let mut values = row_of::<F, N>(plan);
        let mut residuals = row_of::<F, N>(plan);
        let mut weights = row_of::<F, N>(plan);
        read_row(x, &mut values, row, plan);
        if comptime!(adds) {
            read_row(residual, &mut residuals, row, plan);
        }
        read_row(weight, &mut weights, 0usize, plan);
        let start = row * plan.vectors;
        let mut squares = 0.0f32;
        #[unroll]
        for i in 0..plan.held {
            if comptime!(adds) {
                // The sum is rounded to its dtype before it is normalised, as by two separate operations.
                let added = Vector::<f32, N>::cast_from(values[i]) + Vector::<f32, N>::cast_from(residuals[i]);
                values[i] = Vector::<F, N>::cast_from(added);
                if exists(i, plan) {
                    sum[start + index_of(i, plan)] = values[i];
                }
            }
            let value = Vector::<f32, N>::cast_from(values[i]);
            squares += vector_sum::<N>(value * value);
        }
        let total = cube_sum(squares, plan.threads, plan.planes);
        let inverse = (total / features + epsilon).inverse_sqrt();
        #[unroll]
        for i in 0..plan.held {
            let value = Vector::<f32, N>::cast_from(values[i]);
            let scaled = value * Vector::<f32, N>::new(inverse) * Vector::<f32, N>::cast_from(weights[i]);
            if exists(i, plan) {
                y[start + index_of(i, plan)] = Vector::<F, N>::cast_from(scaled);
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
    let rows = rows as usize;
    let mut weights = row_of::<F, N>(plan);
    read_row(weight, &mut weights, 0usize, plan);
    let mut values = row_of::<F, N>(plan);
    let mut slopes = row_of::<F, N>(plan);
    let mut residuals = row_of::<F, N>(plan);
    let mut sums = row_of::<f32, N>(plan);
    let mut row = CUBE_POS;
    while row < rows {
        let start = row * plan.vectors;
        read_row(x, &mut values, row, plan);
        read_row(grad, &mut slopes, row, plan);
        if comptime!(adds) {
            read_row(residual, &mut residuals, row, plan);
        }
        let mut squares = 0.0f32;
        let mut products = 0.0f32;
        #[unroll]
        for i in 0..plan.held {
            let value = Vector::<f32, N>::cast_from(values[i]);
            let scaled = Vector::<f32, N>::cast_from(slopes[i]) * Vector::<f32, N>::cast_from(weights[i]);
            squares += vector_sum::<N>(value * value);
            products += vector_sum::<N>(value * scaled);
        }
        let (squares, products) = cube_sums(squares, products, plan.threads, plan.planes);
        let inverse = (squares / features + epsilon).inverse_sqrt();
        let factor = products * inverse * inverse / features;
        #[unroll]
        for i in 0..plan.held {
            let value = Vector::<f32, N>::cast_from(values[i]);
            let slope = Vector::<f32, N>::cast_from(slopes[i]);
            let scaled = slope * Vector::<f32, N>::cast_from(weights[i]);
            let mut gradient = (scaled - value * Vector::<f32, N>::new(factor)) * Vector::<f32, N>::new(inverse);
            if comptime!(adds) {
                gradient += Vector::<f32, N>::cast_from(residuals[i]);
            }
            if exists(i, plan) {
                dx[start + index_of(i, plan)] = Vector::<F, N>::cast_from(gradient);
            }
            if comptime!(weight_gradient) {
                sums[i] += slope * value * Vector::<f32, N>::new(inverse);
            }
        }
        row += CUBE_COUNT;
    }
    if comptime!(weight_gradient) {
        let start = CUBE_POS * plan.vectors;
        #[unroll]
        for i in 0..plan.held {
            if exists(i, plan) {
                dw[start + index_of(i, plan)] = sums[i];
            }
        }
    }
}

/// The norm of `x`.
pub(crate) fn forward<R: CubeRuntime, B: BackendOn<R>>(
    x: CubeTensor<R>,
    weight: CubeTensor<R>,
    epsilon: f64,
) -> CubeTensor<R> {
    if !same_float(&[&x, &weight]) || !rows::fits(x.shape()[1]) {
        return super::reference::<B>(x, weight, epsilon);
    }
    launch_forward(x, None, weight, epsilon).1
}

/// `x + residual`, and its norm.
pub(crate) fn add_forward<R: CubeRuntime, B: BackendOn<R>>(
    x: CubeTensor<R>,
    residual: CubeTensor<R>,
    weight: CubeTensor<R>,
    epsilon: f64,
) -> (CubeTensor<R>, CubeTensor<R>) {
    if !same_float(&[&x, &residual, &weight]) || !rows::fits(x.shape()[1]) {
        return super::reference_add::<B>(x, residual, weight, epsilon);
    }
    launch_forward(x, Some(residual), weight, epsilon)
}

/// Gradients for `x`, plus `residual` where there is one, and for the weight where asked for.
pub(crate) fn backward<R: CubeRuntime, B: BackendOn<R>>(
    x: CubeTensor<R>,
    weight: CubeTensor<R>,
    grad: CubeTensor<R>,
    residual: Option<CubeTensor<R>>,
    epsilon: f64,
    weight_gradient: bool,
) -> (CubeTensor<R>, Option<CubeTensor<R>>) {
    let residual_fits = residual.as_ref().is_none_or(|residual| same_float(&[&x, residual]));
    if !residual_fits || !same_float(&[&x, &weight, &grad]) || !rows::fits(x.shape()[1]) {
        return super::reference_backward::<B>(x, weight, grad, residual, epsilon, weight_gradient);
    }
    let dtype = weight.dtype;
    let (dx, partial) = launch_backward(x, weight, grad, residual, epsilon, weight_gradient);
    (dx, partial.map(|partial| raw(typed::<B, 2>(partial).sum_dim(0).squeeze_dim::<1>(0).cast(dtype))))
}

/// The sum, which is meaningless without a residual, and the norm.
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
    let plan = RowPlan::new(&x, features, size);
    let (client, dtype) = (x.client.clone(), x.dtype);
    let adds = residual.is_some();
    let (sum, y) = if adds && rows <= SHARED_ROWS {
        let (both, begins) = results::empty(&x, rows, &[features; 2]);
        let mut results = results::split(&both, rows, &[features; 2], &begins).into_iter();
        results.next().zip(results.next()).unwrap_or_else(|| (empty_like(&x), empty_like(&x)))
    } else if adds {
        // Of more rows, each result can be freed alone.
        (empty_like(&x), empty_like(&x))
    } else {
        (empty(&x, [size], dtype), empty_like(&x))
    };
    // A kernel always has the same bindings, so another tensor replaces an absent one.
    let residual_argument = residual.unwrap_or_else(|| x.clone());
    // SAFETY: every index is below the rows and vectors that the tensors were made with.
    unsafe {
        forward_kernel::launch_unchecked::<R>(
            &launching(&client),
            cubes(rows),
            CubeDim::new_1d(plan.threads as u32),
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

/// `dx`, plus `residual` where there is one; and the weight's gradient in partial sums `[cubes, features]`, f32.
fn launch_backward<R: CubeRuntime>(
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
    let plan = RowPlan::new(&x, features, size);
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
            &launching(&client),
            cubes(count),
            CubeDim::new_1d(plan.threads as u32),
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

//! The GPU kernels: one cube for each row.

use burn::tensor::{DType, TensorMetadata};
use burn_cubecl::CubeRuntime;
use burn_cubecl::tensor::CubeTensor;
use cubecl::launching;
use cubecl::prelude::*;

use crate::cube::BackendOn;
use crate::cube::launch::{contiguous, cubes, empty, empty_like, same_float, vector_size};
use crate::cube::reduce::{cube_sum, cube_sums, vector_sum};
use crate::cube::rows::{self, RowPlan, WEIGHT_CUBES, exists, index_of, read_row, row_of};
use crate::primitive::{raw, typed};

/// Subtracts the mean of a row, and returns `1 / sqrt(var + ε)`. Beyond the row, both `values` and `centred` are zeros.
#[cube]
fn centre<F: Float, N: Size>(
    values: &Array<Vector<F, N>>,
    centred: &mut Array<Vector<f32, N>>,
    features: f32,
    epsilon: f32,
    #[comptime] plan: RowPlan,
) -> f32 {
    let mut sum = 0.0f32;
    #[unroll]
    for i in 0..plan.held {
        sum += vector_sum::<N>(Vector::<f32, N>::cast_from(values[i]));
    }
    let mean = cube_sum(sum, plan.threads, plan.planes) / features;
    let mut squares = 0.0f32;
    #[unroll]
    for i in 0..plan.held {
        let mut apart = Vector::<f32, N>::new(0.0f32);
        if exists(i, plan) {
            apart = Vector::<f32, N>::cast_from(values[i]) - Vector::<f32, N>::new(mean);
        }
        centred[i] = apart;
        squares += vector_sum::<N>(apart * apart);
    }
    (cube_sum(squares, plan.threads, plan.planes) / features + epsilon).inverse_sqrt()
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
        let mut values = row_of::<F, N>(plan);
        let mut weights = row_of::<F, N>(plan);
        let mut biases = row_of::<F, N>(plan);
        read_row(x, &mut values, row, plan);
        read_row(weight, &mut weights, 0usize, plan);
        read_row(bias, &mut biases, 0usize, plan);
        let mut centred = Array::<Vector<f32, N>>::new(plan.held);
        let inverse = centre::<F, N>(&values, &mut centred, features, epsilon, plan);
        #[unroll]
        for i in 0..plan.held {
            let scaled = centred[i] * Vector::<f32, N>::new(inverse) * Vector::<f32, N>::cast_from(weights[i]);
            if exists(i, plan) {
                let moved = scaled + Vector::<f32, N>::cast_from(biases[i]);
                y[row * plan.vectors + index_of(i, plan)] = Vector::<F, N>::cast_from(moved);
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
    let mut weights = row_of::<F, N>(plan);
    read_row(weight, &mut weights, 0usize, plan);
    let mut values = row_of::<F, N>(plan);
    let mut slopes = row_of::<F, N>(plan);
    let mut weight_sums = row_of::<f32, N>(plan);
    let mut bias_sums = row_of::<f32, N>(plan);
    let mut row = CUBE_POS;
    while row < rows as usize {
        read_row(x, &mut values, row, plan);
        read_row(grad, &mut slopes, row, plan);
        let mut normalised = Array::<Vector<f32, N>>::new(plan.held);
        let inverse = centre::<F, N>(&values, &mut normalised, features, epsilon, plan);
        let mut sum = 0.0f32;
        let mut products = 0.0f32;
        #[unroll]
        for i in 0..plan.held {
            normalised[i] *= Vector::<f32, N>::new(inverse);
            let slope = Vector::<f32, N>::cast_from(slopes[i]);
            let through = slope * Vector::<f32, N>::cast_from(weights[i]);
            sum += vector_sum::<N>(through);
            products += vector_sum::<N>(through * normalised[i]);
            if comptime!(weight_gradients) {
                weight_sums[i] += slope * normalised[i];
                bias_sums[i] += slope;
            }
        }
        let (sum, products) = cube_sums(sum, products, plan.threads, plan.planes);
        let (mean, along) = (sum / features, products / features);
        #[unroll]
        for i in 0..plan.held {
            let through = Vector::<f32, N>::cast_from(slopes[i]) * Vector::<f32, N>::cast_from(weights[i]);
            let straight = through - Vector::<f32, N>::new(mean) - normalised[i] * Vector::<f32, N>::new(along);
            if exists(i, plan) {
                let gradient = straight * Vector::<f32, N>::new(inverse);
                dx[row * plan.vectors + index_of(i, plan)] = Vector::<F, N>::cast_from(gradient);
            }
        }
        row += CUBE_COUNT;
    }
    if comptime!(weight_gradients) {
        let start = CUBE_POS * plan.vectors;
        #[unroll]
        for i in 0..plan.held {
            if exists(i, plan) {
                dw[start + index_of(i, plan)] = weight_sums[i];
                db[start + index_of(i, plan)] = bias_sums[i];
            }
        }
    }
}

/// The norm of `x`.
pub(crate) fn forward<R: CubeRuntime, B: BackendOn<R>>(
    x: CubeTensor<R>,
    weight: CubeTensor<R>,
    bias: CubeTensor<R>,
    epsilon: f64,
) -> CubeTensor<R> {
    if !same_float(&[&x, &weight, &bias]) || !rows::fits(x.shape()[1]) {
        return super::reference::<B>(x, weight, bias, epsilon);
    }
    let (x, weight, bias) = (contiguous(x), contiguous(weight), contiguous(bias));
    let shape = x.shape();
    let (rows, features) = (shape[0], shape[1]);
    let size = vector_size(&[&x, &weight, &bias], features);
    let plan = RowPlan::new(&x, features, size);
    let y = empty_like(&x);
    let (client, dtype) = (x.client.clone(), x.dtype);
    // SAFETY: every index is below the rows and vectors that the tensors were made with.
    unsafe {
        forward_kernel::launch_unchecked::<R>(
            &launching(&client),
            cubes(rows),
            CubeDim::new_1d(plan.threads as u32),
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

/// Gradients for `x` and, where asked for, weight and bias.
pub(crate) fn backward<R: CubeRuntime, B: BackendOn<R>>(
    x: CubeTensor<R>,
    weight: CubeTensor<R>,
    grad: CubeTensor<R>,
    epsilon: f64,
    weight_gradients: bool,
) -> (CubeTensor<R>, Option<[CubeTensor<R>; 2]>) {
    if !same_float(&[&x, &weight, &grad]) || !rows::fits(x.shape()[1]) {
        return super::reference_backward::<B>(x, weight, grad, epsilon, weight_gradients);
    }
    let dtype = weight.dtype;
    let sum = |partial| raw(typed::<B, 2>(partial).sum_dim(0).squeeze_dim::<1>(0).cast(dtype));
    let (dx, partial) = launch_backward(x, weight, grad, epsilon, weight_gradients);
    (dx, partial.map(|partial| partial.map(sum)))
}

/// `dx`, and the gradients of weight and bias in partial sums `[cubes, features]`, f32.
fn launch_backward<R: CubeRuntime>(
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
    let plan = RowPlan::new(&x, features, size);
    let dx = empty_like(&x);
    let count = if weight_gradients { rows.min(WEIGHT_CUBES) } else { rows };
    // A kernel's bindings are fixed: without gradients of the weights, vectors are bound that it never writes.
    let sums_shape = if weight_gradients { vec![count, features] } else { vec![1, size] };
    let sums = [(); 2].map(|()| empty(&x, sums_shape.clone(), DType::F32));
    let [dw, db] = sums.clone();
    let (client, dtype) = (x.client.clone(), x.dtype);
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

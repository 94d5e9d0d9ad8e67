//! The GPU kernels: each thread handles a few vectors at once; the backward recomputes the activation.

use burn::tensor::TensorMetadata;
use burn_cubecl::CubeRuntime;
use burn_cubecl::tensor::CubeTensor;
use cubecl::launching;
use cubecl::prelude::*;

use super::Activation;
use crate::cube::BackendOn;
use crate::cube::launch::{contiguous, cubes, empty_like, result_like, same_float, vector_size, vectors_in};

const THREADS: usize = 256;
/// Bytes of each operand that a thread reads: with narrow vectors, it loads several at once. Measured on an H200.
const BYTES: usize = 16;

/// `f(gate) · up` of two sums, both rounded to `F` first, as separate launches would.
#[cube]
pub(crate) fn gated_sums<F: Float>(gate: f32, up: f32, #[comptime] kind: Activation) -> F {
    let gate = Vector::<f32, Const<1>>::cast_from(Vector::<F, Const<1>>::cast_from(gate));
    let (active, _slope) = activation::<Const<1>>(gate, kind);
    let value = active * Vector::<f32, Const<1>>::cast_from(Vector::<F, Const<1>>::cast_from(up));
    F::cast_from(value[0])
}

/// `f(z)` and `f'(z)` of the gate's activation.
#[cube]
pub(crate) fn activation<N: Size>(z: Vector<f32, N>, #[comptime] kind: Activation) -> (Vector<f32, N>, Vector<f32, N>) {
    let one = Vector::<f32, N>::new(1.0f32);
    match comptime!(kind) {
        Activation::Silu => {
            let s = one / (one + Vector::exp(z * Vector::<f32, N>::new(-1.0f32)));
            (z * s, s * (one + z * (one - s)))
        }
        Activation::GeluTanh => {
            // tanh(u) = 2σ(2u) - 1, with u = √(2/π) (z + 0.044715 z³).
            let root = Vector::<f32, N>::new(0.797_884_56f32);
            let cubic = Vector::<f32, N>::new(0.044_715f32);
            let u = root * (z + cubic * z * z * z);
            let two = Vector::<f32, N>::new(2.0f32);
            let t = two / (one + Vector::exp(u * Vector::<f32, N>::new(-2.0f32))) - one;
            let half = Vector::<f32, N>::new(0.5f32);
            let slope = root * (one + Vector::<f32, N>::new(3.0f32) * cubic * z * z);
            (half * z * (one + t), half * (one + t) + half * z * (one - t * t) * slope)
        }
    }
}

/// Reads this thread's vectors, from number `first` on and as far apart as a cube has threads; zeros beyond `count`.
#[cube]
fn read<F: Float, N: Size>(
    source: &Array<Vector<F, N>>,
    held: &mut Array<Vector<F, N>>,
    first: usize,
    count: u32,
    #[comptime] vectors: usize,
) {
    #[unroll]
    for i in 0..vectors {
        let at = first + comptime!(i * THREADS);
        held[i] = Vector::<F, N>::new(F::new(0.0));
        if at < count as usize {
            held[i] = source[at];
        }
    }
}

#[cube(launch_unchecked)]
fn forward_kernel<F: Float, N: Size>(
    gate: &Array<Vector<F, N>>,
    up: &Array<Vector<F, N>>,
    y: &mut Array<Vector<F, N>>,
    count: u32,
    #[comptime] vectors: usize,
    #[comptime] kind: Activation,
    #[define(F)] _dtype: StorageType,
) {
    let first = CUBE_POS * comptime!(THREADS * vectors) + UNIT_POS as usize;
    let mut gates = Array::<Vector<F, N>>::new(vectors);
    let mut ups = Array::<Vector<F, N>>::new(vectors);
    read(gate, &mut gates, first, count, vectors);
    read(up, &mut ups, first, count, vectors);
    #[unroll]
    for i in 0..vectors {
        let at = first + comptime!(i * THREADS);
        let (value, _slope) = activation::<N>(Vector::<f32, N>::cast_from(gates[i]), kind);
        let value = value * Vector::<f32, N>::cast_from(ups[i]);
        if at < count as usize {
            y[at] = Vector::<F, N>::cast_from(value);
        }
    }
}

#[cube(launch_unchecked)]
fn backward_kernel<F: Float, N: Size>(
    gate: &Array<Vector<F, N>>,
    up: &Array<Vector<F, N>>,
    grad: &Array<Vector<F, N>>,
    d_gate: &mut Array<Vector<F, N>>,
    d_up: &mut Array<Vector<F, N>>,
    count: u32,
    #[comptime] vectors: usize,
    #[comptime] kind: Activation,
    #[define(F)] _dtype: StorageType,
) {
    let first = CUBE_POS * comptime!(THREADS * vectors) + UNIT_POS as usize;
    let mut gates = Array::<Vector<F, N>>::new(vectors);
    let mut ups = Array::<Vector<F, N>>::new(vectors);
    let mut grads = Array::<Vector<F, N>>::new(vectors);
    read(gate, &mut gates, first, count, vectors);
    read(up, &mut ups, first, count, vectors);
    read(grad, &mut grads, first, count, vectors);
    #[unroll]
    for i in 0..vectors {
        let at = first + comptime!(i * THREADS);
        let (value, slope) = activation::<N>(Vector::<f32, N>::cast_from(gates[i]), kind);
        let grad = Vector::<f32, N>::cast_from(grads[i]);
        let through = grad * Vector::<f32, N>::cast_from(ups[i]) * slope;
        if at < count as usize {
            d_gate[at] = Vector::<F, N>::cast_from(through);
            d_up[at] = Vector::<F, N>::cast_from(grad * value);
        }
    }
}

/// `f(gate) · up`.
pub(crate) fn forward<R: CubeRuntime, B: BackendOn<R>>(
    gate: CubeTensor<R>,
    up: CubeTensor<R>,
    kind: Activation,
) -> CubeTensor<R> {
    if !same_float(&[&gate, &up]) {
        return super::reference::<B>(gate, up, kind);
    }
    let (gate, up) = (contiguous(gate), contiguous(up));
    let elements = gate.shape().num_elements();
    let size = vector_size(&[&gate, &up], elements);
    let y = empty_like(&gate);
    let (client, dtype, count, held) = (gate.client.clone(), gate.dtype, elements / size, vectors_in(BYTES, &gate, size));
    // SAFETY: all three hold `count` vectors, and no thread goes beyond.
    unsafe {
        forward_kernel::launch_unchecked::<R>(
            &launching(&client),
            cubes(count.div_ceil(THREADS * held)),
            CubeDim::new_1d(THREADS as u32),
            size,
            gate.into_array_arg(),
            up.into_array_arg(),
            y.clone().into_array_arg(),
            count as u32,
            held,
            kind,
            dtype.into(),
        );
    }
    y
}

/// Gradients for `gate` and `up`.
pub(crate) fn backward<R: CubeRuntime, B: BackendOn<R>>(
    gate: CubeTensor<R>,
    up: CubeTensor<R>,
    grad: CubeTensor<R>,
    kind: Activation,
) -> (CubeTensor<R>, CubeTensor<R>) {
    if !same_float(&[&gate, &up, &grad]) {
        return super::reference_backward::<B>(gate, up, grad, kind);
    }
    let (gate, up, grad) = (contiguous(gate), contiguous(up), contiguous(grad));
    let elements = gate.shape().num_elements();
    let size = vector_size(&[&gate, &up, &grad], elements);
    // In place where nothing else needs gate and up: they are the widest tensors of a block.
    let in_place = gate.can_mut() && up.can_mut();
    let ((d_gate, gate_target), (d_up, up_target)) = (result_like(&gate, 0, in_place), result_like(&up, 1, in_place));
    let (client, dtype, count, held) = (gate.client.clone(), gate.dtype, elements / size, vectors_in(BYTES, &gate, size));
    // SAFETY: all five hold `count` vectors, no thread goes beyond, and each reads its own before it writes them.
    unsafe {
        backward_kernel::launch_unchecked::<R>(
            &launching(&client),
            cubes(count.div_ceil(THREADS * held)),
            CubeDim::new_1d(THREADS as u32),
            size,
            gate.into_array_arg(),
            up.into_array_arg(),
            grad.into_array_arg(),
            gate_target,
            up_target,
            count as u32,
            held,
            kind,
            dtype.into(),
        );
    }
    (d_gate, d_up)
}

//! Sums and maxima over the threads of a cube.

use burn_cubecl::CubeRuntime;
use cubecl::client::ComputeClient;
use cubecl::ir::features::Plane;
use cubecl::prelude::*;

/// How the planes of a device reduce.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Planes {
    /// They cannot.
    Unsupported,
    /// Over a number of threads that only a running kernel knows.
    Varying,
    /// Over that many threads.
    Of(usize),
}

impl Planes {
    /// Those of a device.
    pub fn of<R: CubeRuntime>(client: &ComputeClient<R>) -> Self {
        let hardware = &client.properties().hardware;
        match (hardware.plane_size_min, hardware.plane_size_max) {
            _ if !client.features().plane.contains(Plane::Ops) => Self::Unsupported,
            (least, most) if least == most => Self::Of(least as usize),
            _ => Self::Varying,
        }
    }

    fn supported(self) -> bool {
        self != Self::Unsupported
    }

    /// Threads of a plane, where that is known.
    pub fn size(self) -> Option<u32> {
        match self {
            Self::Of(threads) => Some(threads as u32),
            Self::Unsupported | Self::Varying => None,
        }
    }
}

/// Whether this thread is its plane's first.
#[cube]
fn leads(#[comptime] planes: Planes) -> bool {
    match comptime!(planes.size()) {
        Some(size) => UNIT_POS % size == 0,
        None => UNIT_POS_PLANE == 0,
    }
}

/// The number of this thread's plane.
#[cube]
fn plane_position(#[comptime] planes: Planes) -> u32 {
    match comptime!(planes.size()) {
        Some(size) => UNIT_POS / size,
        None => PLANE_POS,
    }
}

/// The number of planes in a cube of `threads`, at compile time where it is known, so that loops over them are unrolled.
#[cube]
fn plane_count(#[comptime] threads: usize, #[comptime] planes: Planes) -> u32 {
    match comptime!(planes.size()) {
        Some(size) => comptime!((threads as u32).div_ceil(size)).runtime(),
        None => (CUBE_DIM + PLANE_DIM - 1) / PLANE_DIM,
    }
}

/// The sum of `value` over all threads of the cube, returned to each of them. `threads` is a power of two.
///
/// Every thread must call it. It ends with a barrier, so that the next call may reuse the memory.
#[cube]
pub(crate) fn cube_sum(value: f32, #[comptime] threads: usize, #[comptime] planes: Planes) -> f32 {
    let mut shared = SharedMemory::<f32>::new(threads);
    let mut total = 0.0f32;
    if comptime!(planes.supported()) {
        let sum = plane_sum(value);
        if leads(planes) {
            shared[plane_position(planes) as usize] = sum;
        }
        sync_cube();
        let count = plane_count(threads, planes);
        for plane in 0..count {
            total += shared[plane as usize];
        }
    } else {
        shared[UNIT_POS as usize] = value;
        sync_cube();
        let mut left = comptime!(threads as u32 / 2).runtime();
        while left > 0 {
            if UNIT_POS < left {
                let other = shared[(UNIT_POS + left) as usize];
                shared[UNIT_POS as usize] += other;
            }
            sync_cube();
            left /= 2;
        }
        total += shared[0];
    }
    sync_cube();
    total
}

/// Two sums at once; as [`cube_sum`].
#[cube]
pub(crate) fn cube_sums(first: f32, second: f32, #[comptime] threads: usize, #[comptime] planes: Planes) -> (f32, f32) {
    let mut shared = SharedMemory::<f32>::new(comptime!(2 * threads));
    let mut first_total = 0.0f32;
    let mut second_total = 0.0f32;
    if comptime!(planes.supported()) {
        let first_sum = plane_sum(first);
        let second_sum = plane_sum(second);
        if leads(planes) {
            let own = plane_position(planes) * 2;
            shared[own as usize] = first_sum;
            shared[(own + 1) as usize] = second_sum;
        }
        sync_cube();
        let count = plane_count(threads, planes);
        for plane in 0..count {
            first_total += shared[(plane * 2) as usize];
            second_total += shared[(plane * 2 + 1) as usize];
        }
    } else {
        let own = UNIT_POS * 2;
        shared[own as usize] = first;
        shared[(own + 1) as usize] = second;
        sync_cube();
        // Each adds both sums of the thread that is `left` away.
        let mut left = comptime!(threads as u32 / 2).runtime();
        while left > 0 {
            if UNIT_POS < left {
                let other = own + left * 2;
                let first_other = shared[other as usize];
                let second_other = shared[(other + 1) as usize];
                shared[own as usize] += first_other;
                shared[(own + 1) as usize] += second_other;
            }
            sync_cube();
            left /= 2;
        }
        first_total += shared[0];
        second_total += shared[1];
    }
    sync_cube();
    (first_total, second_total)
}

/// The largest `value` over all threads of the cube; as [`cube_sum`].
#[cube]
pub(crate) fn cube_max(value: f32, #[comptime] threads: usize, #[comptime] planes: Planes) -> f32 {
    let mut shared = SharedMemory::<f32>::new(threads);
    if comptime!(planes.supported()) {
        let largest = plane_max(value);
        if leads(planes) {
            shared[plane_position(planes) as usize] = largest;
        }
        sync_cube();
        let mut total = shared[0];
        let count = plane_count(threads, planes);
        for plane in 1..count {
            total = max(total, shared[plane as usize]);
        }
        sync_cube();
        total
    } else {
        shared[UNIT_POS as usize] = value;
        sync_cube();
        let mut left = comptime!(threads as u32 / 2).runtime();
        while left > 0 {
            if UNIT_POS < left {
                let other = shared[(UNIT_POS + left) as usize];
                let own = shared[UNIT_POS as usize];
                shared[UNIT_POS as usize] = max(own, other);
            }
            sync_cube();
            left /= 2;
        }
        let total = shared[0];
        sync_cube();
        total
    }
}

/// The sum of the elements of a vector.
#[cube]
pub(crate) fn vector_sum<N: Size>(value: Vector<f32, N>) -> f32 {
    let size = value.size().comptime();
    let mut sum = 0.0f32;
    #[unroll]
    for i in 0..size {
        sum += value[i];
    }
    sum
}

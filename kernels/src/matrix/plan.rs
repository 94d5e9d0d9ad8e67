//! Which kernel computes a product, and with which tiles: data, chosen from what the device says of itself.

use burn::tensor::DType;
use burn_cubecl::CubeRuntime;
use cubecl::client::ComputeClient;
use cubecl::ir::features::MmaConfig;
use cubecl::ir::{ElemType, FloatKind, StorageType};

/// Units of a plane that the kernels of matrix units are written for.
pub(crate) const PLANE: usize = 32;

/// The tiles of a product on matrix units.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Tiles {
    /// Rows, columns and depth of what a cube works on at a time.
    pub m: usize,
    /// Columns.
    pub n: usize,
    /// Depth.
    pub k: usize,
    /// Planes along the rows.
    pub planes_m: usize,
    /// Planes along the columns.
    pub planes_n: usize,
    /// Shape of a fragment.
    pub fragment: Fragment,
    /// Copies of the tiles in shared memory: with two, the next is filled while one is used.
    pub stages: usize,
}

/// The shape of a matrix unit's operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Fragment {
    /// Rows of the result.
    pub m: usize,
    /// Columns of the result.
    pub n: usize,
    /// Terms of a sum.
    pub k: usize,
}

/// Elements that a row in shared memory is longer than its tile, so that rows begin in different banks.
pub(crate) const PADDING: usize = 8;

impl Tiles {
    /// Units of a cube.
    pub(crate) fn units(&self) -> usize {
        self.planes_m * self.planes_n * PLANE
    }

    /// Fragments of a plane along rows and columns.
    pub(crate) fn fragments(&self) -> (usize, usize) {
        (self.m / self.planes_m / self.fragment.m, self.n / self.planes_n / self.fragment.n)
    }

    /// Fragments side by side in the scratch that results leave through.
    pub(crate) fn strip(&self) -> usize {
        self.fragments().1.min(32 / self.fragment.n).max(1)
    }

    /// Bytes of shared memory, on fragments or on the registers of matrix units.
    pub(crate) fn shared_bytes(&self, element: usize, registers: bool) -> usize {
        let tile = |along: usize| (along * (self.k + PADDING)).max(self.k * (along + PADDING));
        let scratch = self.planes_m * self.planes_n * self.fragment.m * self.fragment.n * self.strip() * 4;
        (tile(self.m) + tile(self.n)) * element * self.stages + if registers { 0 } else { scratch }
    }
}

/// How products of a dtype are computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Route {
    /// On matrix units of that shape.
    MatrixUnits(Fragment),
    /// On the lanes.
    Lanes,
    /// By burn's own product: the device has matrix units that our kernels can't use for this dtype.
    Stock,
}

/// The route of a dtype on a device.
pub(crate) fn route<R: CubeRuntime>(client: &ComputeClient<R>, dtype: DType) -> Route {
    let hardware = &client.properties().hardware;
    let configurations = &client.features().matmul.cmma;
    if configurations.is_empty() {
        return Route::Lanes;
    }
    if hardware.plane_size_min != PLANE as u32 || hardware.plane_size_max != PLANE as u32 {
        return Route::Stock;
    }
    let element: StorageType = dtype.into();
    let result: StorageType = ElemType::Float(FloatKind::F32).into();
    let shapes = [Fragment { m: 16, n: 16, k: 16 }, Fragment { m: 8, n: 8, k: 8 }];
    let has = |shape: &Fragment| {
        configurations.contains(&MmaConfig {
            a_type: element,
            b_type: element,
            cd_type: result,
            m: shape.m as u32,
            n: shape.n as u32,
            k: shape.k as u32,
        })
    };
    shapes.into_iter().find(has).map_or(Route::Stock, Route::MatrixUnits)
}

/// Whether kernels may see the registers of matrix units, and load them by `ldmatrix`.
pub(crate) fn has_registers<R: CubeRuntime>(client: &ComputeClient<R>, dtype: DType) -> bool {
    let features = &client.features().matmul;
    let element: StorageType = dtype.into();
    let configuration = MmaConfig {
        a_type: element,
        b_type: element,
        cd_type: ElemType::Float(FloatKind::F32).into(),
        m: super::registers::M as u32,
        n: super::registers::N as u32,
        k: super::registers::K as u32,
    };
    let reads = client.features().copy_async && features.ldmatrix.contains(&element);
    dtype.size() == 2 && features.mma.contains(&configuration) && reads
}

/// Rows, columns and depth of a tile, planes along rows and columns, and stages.
type Shape = (usize, usize, usize, usize, usize, usize);

/// Tiles on the registers of matrix units, from the largest to the smallest. Measured on an H100, bf16, at the shapes of
/// Llama-3.2-1B: wide tiles read least from the cache, and win where they are many and deep enough.
fn register_shapes(processors: usize, [m, n, k]: [usize; 3]) -> Vec<Shape> {
    if n <= 16 {
        return vec![(64, 16, 64, 4, 1, 4), (32, 16, 32, 2, 1, 2)];
    }
    if m <= 16 {
        return vec![(16, 64, 64, 1, 4, 4), (16, 32, 32, 1, 2, 2)];
    }
    let mut shapes = vec![(128, 128, 64, 2, 2, 3), (128, 64, 64, 2, 2, 3), (64, 64, 64, 2, 2, 3), (32, 32, 32, 2, 2, 3)];
    if m.div_ceil(128) * n.div_ceil(256) >= 2 * processors && k >= 1024 {
        shapes.insert(0, (128, 256, 64, 2, 4, 3));
    }
    shapes
}

/// Tiles on fragments, from the largest to the smallest.
fn fragment_shapes(fragment: Fragment, [m, n, _]: [usize; 3]) -> Vec<Shape> {
    let large = [(128, 128, 32, 2, 2, 2), (128, 64, 32, 2, 2, 2), (64, 64, 32, 2, 2, 2)];
    let small = [(64, 64, 32, 2, 2, 1), (32, 32, 32, 2, 2, 1)];
    if n <= 16 {
        vec![(64, 16, 64, 4, 1, 2), (32, 16, 32, 2, 1, 1)]
    } else if m <= 16 {
        vec![(16, 64, 64, 1, 4, 2), (16, 32, 32, 1, 2, 1)]
    } else if fragment.m == 16 {
        large.into_iter().chain(small).collect()
    } else {
        small.to_vec()
    }
}

/// Tiles for a product of that shape: the first that the product fills and the device holds.
pub(crate) fn tiles<R: CubeRuntime>(
    client: &ComputeClient<R>,
    fragment: Fragment,
    registers: bool,
    element: usize,
    [m, n, k]: [usize; 3],
) -> Tiles {
    let hardware = &client.properties().hardware;
    let shapes = if registers {
        let processors = hardware.num_streaming_multiprocessors.unwrap_or(1) as usize;
        register_shapes(processors, [m, n, k])
    } else {
        fragment_shapes(fragment, [m, n, k])
    };
    let limit = hardware.max_shared_memory_size;
    let made = shapes.into_iter().map(|(m, n, k, planes_m, planes_n, stages)| Tiles {
        m,
        n,
        k,
        planes_m,
        planes_n,
        fragment,
        stages,
    });
    let all: Vec<Tiles> = made.filter(|tiles| tiles.shared_bytes(element, registers) <= limit).collect();
    let fitting = |tiles: &&Tiles| tiles.m <= m.next_multiple_of(16) && tiles.n <= n.next_multiple_of(16);
    all.iter().find(fitting).or(all.last()).copied().unwrap_or(Tiles {
        m: fragment.m,
        n: fragment.n,
        k: fragment.k,
        planes_m: 1,
        planes_n: 1,
        fragment,
        stages: 1,
    })
}

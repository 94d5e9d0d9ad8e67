//! Which kernel computes a product, and with which tiles: data, chosen from what the device reports.

use burn::tensor::DType;
use burn_cubecl::CubeRuntime;
use burn_cubecl::tensor::CubeTensor;
use cubecl::client::ComputeClient;
use cubecl::ir::features::MmaConfig;
use cubecl::ir::{ElemType, FloatKind, StorageType};

use super::registers;

/// Threads of a plane in the kernels on matrix units.
pub(crate) const PLANE: usize = 32;

/// The extents of a product `[m, k] · [k, n]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Extents {
    /// Rows of the result.
    pub m: usize,
    /// Columns of the result.
    pub n: usize,
    /// Terms of a sum.
    pub k: usize,
}

/// The tiles of a product on matrix units.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Tiles {
    /// Rows of a cube's tile of the result.
    pub m: usize,
    /// Its columns.
    pub n: usize,
    /// Terms that a cube adds in one step.
    pub k: usize,
    /// Planes along the rows.
    pub planes_m: usize,
    /// Planes along the columns.
    pub planes_n: usize,
    /// Shape of a fragment.
    pub fragment: Fragment,
    /// Copies of the tiles in shared memory: with two, the next one is filled while the other is used.
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

/// A plane's fragments of the result.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct FragmentGrid {
    /// Fragments along the rows.
    pub m: usize,
    /// Fragments along the columns.
    pub n: usize,
}

/// Padding of a row in shared memory, in elements, so that rows begin in different banks.
pub(crate) const PADDING: usize = 8;

impl Tiles {
    /// Threads of a cube.
    pub(crate) fn threads(&self) -> usize {
        self.planes_m * self.planes_n * PLANE
    }

    /// Fragments of a plane.
    pub(super) fn fragments(&self) -> FragmentGrid {
        FragmentGrid { m: self.m / self.planes_m / self.fragment.m, n: self.n / self.planes_n / self.fragment.n }
    }

    /// Fragments side by side in the scratch memory that results are written through.
    pub(crate) fn strip(&self) -> usize {
        self.fragments().n.min(32 / self.fragment.n).max(1)
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
    /// By plain multiply-adds of the threads.
    Threads,
    /// By burn's own product: the device has matrix units that our kernels can't use for this dtype.
    Stock,
}

/// How a product with a packed `B` is computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum PackedRoute {
    /// Each tile is dequantised on its way to shared memory, once for every row of tiles.
    Tiles,
    /// The matrix is dequantised into a scratch, and multiplied as a dense one.
    Scratch,
}

/// Most rows of `A` for which tiles are dequantised on the registers of matrix units. That work is repeated for every 128 rows, and
/// there competes with the products for the shared memory; the scratch is written once. Measured on an H200: a checkpointed NF4 step
/// of Llama-3.2-1B, whose feed-forward has slices of 1024 rows, takes 273 ms by the scratch and took 354 ms by tiles.
const MOST_ROWS_OF_TILES: usize = 256;

/// The route of a product of `a` and a packed matrix.
pub(crate) fn packed_route<R: CubeRuntime>(a: &CubeTensor<R>) -> PackedRoute {
    let in_registers = has_registers(&a.client, a.dtype);
    match route(&a.client, a.dtype) {
        Route::Stock => PackedRoute::Scratch,
        Route::MatrixUnits(_) if in_registers && a.meta.shape()[0] > MOST_ROWS_OF_TILES => PackedRoute::Scratch,
        Route::MatrixUnits(_) | Route::Threads => PackedRoute::Tiles,
    }
}

/// The route of a dtype on a device.
pub(crate) fn route<R: CubeRuntime>(client: &ComputeClient<R>, dtype: DType) -> Route {
    let hardware = &client.properties().hardware;
    let configurations = &client.features().matmul.cmma;
    if configurations.is_empty() {
        return Route::Threads;
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

/// Whether kernels can access the registers of matrix units, and load them by `ldmatrix`.
pub(crate) fn has_registers<R: CubeRuntime>(client: &ComputeClient<R>, dtype: DType) -> bool {
    let features = &client.features().matmul;
    let element: StorageType = dtype.into();
    let configuration = MmaConfig {
        a_type: element,
        b_type: element,
        cd_type: ElemType::Float(FloatKind::F32).into(),
        m: registers::M as u32,
        n: registers::N as u32,
        k: registers::K as u32,
    };
    let reads = client.features().copy_async && features.ldmatrix.contains(&element);
    dtype.size() == 2 && features.mma.contains(&configuration) && reads
}

/// Tiles of `m · n · k` for `planes_m · planes_n` planes.
const fn shape([m, n, k]: [usize; 3], [planes_m, planes_n]: [usize; 2], stages: usize, fragment: Fragment) -> Tiles {
    Tiles { m, n, k, planes_m, planes_n, fragment, stages }
}

/// Tiles on the registers of matrix units, from the largest to the smallest. Measured on an H100, bf16, at the shapes of
/// Llama-3.2-1B: wide tiles read least from the cache, and win where they are many and deep enough.
fn register_tiles(processors: usize, fragment: Fragment, extents: Extents) -> Vec<Tiles> {
    let of = |extents, planes, stages| shape(extents, planes, stages, fragment);
    let Extents { m, n, k } = extents;
    if n <= 16 {
        return vec![of([64, 16, 64], [4, 1], 4), of([32, 16, 32], [2, 1], 2)];
    }
    if m <= 16 {
        return vec![of([16, 64, 64], [1, 4], 4), of([16, 32, 32], [1, 2], 2)];
    }
    let mut all: Vec<Tiles> = [[128, 128, 64], [128, 64, 64], [64, 64, 64], [32, 32, 32]]
        .into_iter()
        .map(|extents| of(extents, [2, 2], 3))
        .collect();
    // Nearly two waves of cubes: the last one is nearly full.
    if 10 * m.div_ceil(128) * n.div_ceil(256) >= 19 * processors && k >= 1024 {
        all.insert(0, of([128, 256, 64], [2, 4], 3));
    }
    all
}

/// Tiles on fragments, from the largest to the smallest.
fn fragment_tiles(fragment: Fragment, extents: Extents) -> Vec<Tiles> {
    let of = |extents, planes, stages| shape(extents, planes, stages, fragment);
    let small = [[64, 64, 32], [32, 32, 32]].map(|extents| of(extents, [2, 2], 1));
    if extents.n <= 16 {
        vec![of([64, 16, 64], [4, 1], 2), of([32, 16, 32], [2, 1], 1)]
    } else if extents.m <= 16 {
        vec![of([16, 64, 64], [1, 4], 2), of([16, 32, 32], [1, 2], 1)]
    } else if fragment.m == 16 {
        let large = [[128, 128, 32], [128, 64, 32], [64, 64, 32]].map(|extents| of(extents, [2, 2], 2));
        large.into_iter().chain(small).collect()
    } else {
        small.to_vec()
    }
}

/// Every shape of tiles that a device has memory for, beside so many bytes, from the largest to the smallest.
pub(super) fn shapes<R: CubeRuntime>(
    client: &ComputeClient<R>,
    fragment: Fragment,
    in_registers: bool,
    element: usize,
    extents: Extents,
    reserved: usize,
) -> Vec<Tiles> {
    let hardware = &client.properties().hardware;
    let of = |extents, planes, stages| shape(extents, planes, stages, fragment);
    let narrow = extents.n <= 16 || extents.m <= 16;
    let mut all = if in_registers {
        let mut all = register_tiles(1, fragment, Extents { k: 1024, ..extents });
        all.extend((!narrow).then(|| of([128, 64, 32], [2, 2], 4)));
        all
    } else {
        let mut all = fragment_tiles(fragment, extents);
        if fragment.m == 8 && !narrow {
            // Those of MLX for small chips, and with two SIMD-groups.
            all.extend([of([64, 32, 32], [2, 2], 1), of([64, 64, 16], [1, 2], 1), of([32, 64, 32], [1, 2], 1)]);
        }
        all
    };
    all.retain(|tiles| tiles.shared_bytes(element, in_registers) + reserved <= hardware.max_shared_memory_size);
    all
}

/// Tiles for a product of these extents: the first that the product fills and the device has memory for, beside so many bytes.
pub(super) fn tiles<R: CubeRuntime>(
    client: &ComputeClient<R>,
    fragment: Fragment,
    in_registers: bool,
    element: usize,
    extents: Extents,
    reserved: usize,
) -> Tiles {
    let hardware = &client.properties().hardware;
    let mut all = if in_registers {
        let processors = hardware.num_streaming_multiprocessors.unwrap_or(1) as usize;
        register_tiles(processors, fragment, extents)
    } else {
        fragment_tiles(fragment, extents)
    };
    all.retain(|tiles| tiles.shared_bytes(element, in_registers) + reserved <= hardware.max_shared_memory_size);
    let filled = |tiles: &&Tiles| tiles.m <= extents.m.next_multiple_of(16) && tiles.n <= extents.n.next_multiple_of(16);
    let smallest = || shape([fragment.m, fragment.n, fragment.k], [1, 1], 1, fragment);
    all.iter().find(filled).or(all.last()).copied().unwrap_or_else(smallest)
}

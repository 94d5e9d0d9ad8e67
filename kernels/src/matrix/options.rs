//! The candidates that a device has for a product.

use super::call::Call;
use super::candidate::{BAND, Candidate, Method, Tiled};
use super::direct::DirectTiles;
use super::packed::table_bytes;
use super::plan::{Extents, Fragment, Route, shapes};
use super::units::{UNIT_STEP, UNIT_TILES, UnitTiles, trusted};
use crate::runtime::KernelRuntime;

/// Fewest terms of a part that are worth a launch more.
const MIN_PART: usize = 128;
/// Most bytes of partial sums.
const MOST_PARTIAL: usize = 32 << 20;
/// Rows of tiles from which other bands than the usual are tried.
const MANY_TILES: usize = 2 * BAND;

impl<R: KernelRuntime> Call<R> {
    /// The candidates for this product, the default first, then those that differ from what the plan does.
    pub fn candidates(&self) -> Vec<Candidate> {
        let mut all = vec![Candidate::DEFAULT, Candidate::new(Method::Library), Candidate::new(Method::Scratch)];
        if let Route::MatrixUnits(fragment) = self.route {
            all.extend(self.on_tiles(fragment));
            all.extend(direct(fragment));
            all.extend(
                self.thin_candidates().into_iter().map(|(tiles, parts)| Candidate { method: Method::Thin(tiles), parts }),
            );
            all.extend(self.on_tensor_operations());
        } else {
            // The plan's own method, where no library takes the product.
            all.push(Candidate::new(Method::Threads));
            all.extend(self.splits(self.thread_cubes(), 1).map(|parts| Candidate { method: Method::Threads, parts }));
        }
        let by_library = self.takes(Candidate::new(Method::Library));
        all.retain(|candidate| self.takes(*candidate) && (by_library || !self.is_planned(*candidate)));
        // The plan asks the library first.
        all.retain(|candidate| candidate.method != Method::Library);
        all
    }

    /// Whether the plan does the same on our kernels.
    fn is_planned(&self, candidate: Candidate) -> bool {
        if let Some(tiles) = self.planned_thin() {
            return candidate == Candidate::new(Method::Thin(tiles));
        }
        match (candidate, self.route) {
            (Candidate { method: Method::Tiled(tiled), parts: None }, Route::MatrixUnits(fragment)) => {
                tiled == self.tiles(fragment)
            }
            (Candidate { method: Method::Threads, parts: None }, Route::Threads) => true,
            _ => false,
        }
    }

    fn thread_cubes(&self) -> usize {
        let Extents { m, n, .. } = self.extents;
        m.div_ceil(super::threads::TILE) * n.div_ceil(super::threads::TILE)
    }

    /// Tiles in shared memory: every shape, and of the plan's own shape other bands, direct writes and other parts.
    fn on_tiles(&self, fragment: Fragment) -> Vec<Candidate> {
        let (a, planned) = (&self.product.a, self.tiles(fragment));
        let reserved = self.product.planes.map_or(0, |planes| table_bytes(planes.code()));
        let shapes = shapes(&a.client, fragment, planned.in_registers, a.dtype.size(), self.extents, reserved);
        let Extents { m, n, .. } = self.extents;
        let fits = |tiled: &Tiled| tiled.tiles.m < 2 * m.max(16) && tiled.tiles.n < 2 * n.max(16);
        let mut all: Vec<Tiled> = shapes.into_iter().map(|tiles| Tiled { tiles, ..planned }).filter(fits).collect();
        if m.div_ceil(planned.tiles.m) >= MANY_TILES {
            all.extend([1, 2, 4 * BAND].map(|band| Tiled { band, ..planned }));
        }
        if fragment.m == 8 && !planned.in_registers {
            let lanes = all.iter().map(|tiled| Tiled { lanes: true, ..*tiled }).filter(|tiled| tiled.band == BAND);
            all.extend(lanes.collect::<Vec<_>>());
        }
        let cubes = m.div_ceil(planned.tiles.m) * n.div_ceil(planned.tiles.n);
        let split = self.splits(cubes, planned.tiles.k).map(|parts| Candidate { method: Method::Tiled(planned), parts });
        all.into_iter().map(|tiled| Candidate::new(Method::Tiled(tiled))).chain(split).collect()
    }

    /// Tensor operations: every shape of tiles that the result fills, and of the first other parts.
    fn on_tensor_operations(&self) -> Vec<Candidate> {
        let Extents { m, n, .. } = self.extents;
        let fits = |tiles: &UnitTiles| tiles.m < 2 * m.max(64) && tiles.n < 2 * n.max(64);
        let takes = |tiles: &UnitTiles| self.takes(Candidate::new(Method::Units(*tiles)));
        let works = |tiles: &UnitTiles| trusted::<R>(&self.product.a.device, *tiles);
        let all: Vec<UnitTiles> = UNIT_TILES.into_iter().filter(fits).filter(takes).filter(works).collect();
        let split = all.first().filter(|_| self.product.planes.is_none()).into_iter().flat_map(|tiles| {
            let method = Method::Units(*tiles);
            self.splits(tiles.cubes(m, n), UNIT_STEP).map(move |parts| Candidate { method, parts })
        });
        all.iter().map(|tiles| Candidate::new(Method::Units(*tiles))).chain(split).collect()
    }

    /// Other numbers of parts than the plan's, for results that are small enough.
    fn splits(&self, cubes: usize, step: usize) -> impl Iterator<Item = Option<usize>> + use<R> {
        let Extents { m, n, k } = self.extents;
        let planned = self.parts(cubes, step, None).count;
        let mut counts = vec![1, planned / 4, planned / 2, 2 * planned, 4 * planned];
        counts.retain(|count| {
            let fits = *count <= 1 || (k / count >= MIN_PART && count * m * n * size_of::<f32>() <= MOST_PARTIAL);
            *count >= 1 && *count != planned && fits
        });
        counts.dedup();
        counts.into_iter().map(Some)
    }
}

/// Fragments straight from the operands, for 8 × 8 matrix units, whose loads take any stride.
fn direct(fragment: Fragment) -> Vec<Candidate> {
    if fragment.m != 8 {
        return Vec::new();
    }
    let tiles = |m, n, planes_m, planes_n| DirectTiles { m, n, planes_m, planes_n, fragment };
    let all = [tiles(32, 32, 1, 1), tiles(32, 32, 2, 2), tiles(16, 32, 1, 4), tiles(32, 16, 4, 1)];
    all.into_iter().map(|tiles| Candidate::new(Method::Direct(tiles))).collect()
}

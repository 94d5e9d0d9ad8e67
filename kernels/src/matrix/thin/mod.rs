//! Products with a thin operand, such as those of an adapter: bound by the reading of the wide one, which is read once, straight into
//! the registers of matrix units.
//!
//! A sum has the same terms in any order. So each thread reads whole vectors, and both operands number the terms as the vectors bring
//! them: no shared memory, and no barrier but that of the last sum over the planes of a cube.

mod columns;
mod fragments;
mod launch;
mod plan;
mod rows;

pub(super) use plan::ThinTiles;

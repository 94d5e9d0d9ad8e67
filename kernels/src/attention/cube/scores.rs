//! What a score is, and which keys a query sees: shared by all kernels.

use cubecl::prelude::*;

use crate::attention::AttentionOptions;

/// Stands for the score of a hidden key.
pub(super) const HIDDEN: f32 = -1.0e30;

/// What the kernels are compiled for beside their tiles.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Sight {
    /// A query sees its own segment only.
    pub segments: bool,
    /// A query sees the nearest keys only.
    pub window: bool,
    /// Scores are capped.
    pub softcap: bool,
}

impl Sight {
    pub(super) fn new(segments: bool, keys: usize, options: AttentionOptions) -> Self {
        let window = options.sliding_window.is_some_and(|window| window < keys);
        Self { segments, window, softcap: options.softcap.is_some() }
    }
}

/// The extents of query and key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Extents {
    pub batch: usize,
    pub queries: usize,
    pub keys: usize,
    pub heads: usize,
    pub key_value_heads: usize,
    pub head_dim: usize,
}

impl Extents {
    /// Of a query `[batch, queries, heads, head_dim]` and a key `[batch, keys, key_value_heads, head_dim]`.
    pub(super) fn of(query: &[usize], key: &[usize]) -> Self {
        let (batch, queries, heads, head_dim) = (query[0], query[1], query[2], query[3]);
        Self { batch, queries, keys: key[1], heads, key_value_heads: key[2], head_dim }
    }

    /// The sizes of a call as a launch takes them.
    pub(super) fn sizes<R: Runtime>(self, options: AttentionOptions) -> SizesLaunch<R> {
        SizesLaunch::new(
            self.queries as u32,
            self.keys as u32,
            self.heads as u32,
            self.key_value_heads as u32,
            options.sliding_window.unwrap_or(self.keys).min(self.keys) as u32,
            options.scale as f32,
            options.softcap.unwrap_or(1.0) as f32,
        )
    }
}

/// The sizes of a call.
#[derive(CubeType, CubeLaunch, Clone, Copy)]
pub(super) struct Sizes {
    pub queries: u32,
    pub keys: u32,
    pub heads: u32,
    pub key_value_heads: u32,
    /// Most keys that a query sees.
    pub window: u32,
    pub scale: f32,
    pub cap: f32,
}

/// What hides keys from the queries of a batch row.
#[derive(CubeType, Clone, Copy)]
pub(super) struct Mask {
    /// Where the row's segment ids begin.
    pub ids: u32,
    pub sizes: Sizes,
}

/// One head of a tensor `[batch, length, heads, head_dim]`, in vectors.
#[derive(CubeType, Clone, Copy)]
pub(super) struct Head {
    /// The first vector.
    pub offset: u32,
    /// Positions.
    pub length: u32,
    /// Vectors from one position to the next.
    pub stride: u32,
}

/// The queries of a cube, and the keys that they may see.
#[derive(CubeType, Clone, Copy)]
pub(super) struct QueryBlock {
    pub batch: u32,
    pub head: u32,
    /// The first query.
    pub first: u32,
    pub queries: Head,
    pub keys: Head,
    pub mask: Mask,
    /// Where the statistics of the head begin.
    pub statistics: u32,
}

/// This cube's `rows` queries, each of `vectors`. The last rows see the most keys: they come first.
#[cube]
pub(super) fn query_block(sizes: Sizes, #[comptime] rows: usize, #[comptime] vectors: usize) -> QueryBlock {
    let (head, batch) = (CUBE_POS_Y, CUBE_POS_Z);
    let (rows, vectors) = comptime!((rows as u32, vectors as u32));
    let key_value_head = head / (sizes.heads / sizes.key_value_heads);
    let query_stride = sizes.heads * vectors;
    let key_stride = sizes.key_value_heads * vectors;
    QueryBlock {
        batch,
        head,
        first: (sizes.queries.div_ceil(rows) - CUBE_POS_X - 1) * rows,
        queries: Head {
            offset: batch * sizes.queries * query_stride + head * vectors,
            length: sizes.queries,
            stride: query_stride,
        },
        keys: Head {
            offset: batch * sizes.keys * key_stride + key_value_head * vectors,
            length: sizes.keys,
            stride: key_stride,
        },
        mask: Mask { ids: batch * sizes.keys, sizes },
        statistics: (batch * sizes.heads + head) * sizes.queries,
    }
}

/// The score of a product, and its slope.
#[cube]
pub(super) fn score(product: f32, sizes: &Sizes, #[comptime] sight: Sight) -> (f32, f32) {
    let scaled = product * sizes.scale;
    if comptime!(sight.softcap) {
        // tanh(x) = 1 - 2 / (e²ˣ + 1), which neither overflows nor needs the device's own tanh.
        let x = scaled / sizes.cap;
        let bounded = f32::clamp(x, -15.0f32, 15.0f32);
        let t = 1.0f32 - 2.0f32 / (f32::exp(2.0f32 * bounded) + 1.0f32);
        (t * sizes.cap, sizes.scale * (1.0f32 - t * t))
    } else {
        (scaled, sizes.scale)
    }
}

/// Whether the query `row` sees the key `column`; queries are the last positions of the keys.
#[cube]
pub(super) fn sees<I: Int>(segments: &Array<I>, mask: &Mask, row: u32, column: u32, #[comptime] sight: Sight) -> bool {
    let sizes = mask.sizes;
    let position = row + sizes.keys - sizes.queries;
    let mut seen = column <= position && row < sizes.queries;
    if comptime!(sight.window) {
        seen = seen && position < column + sizes.window;
    }
    if comptime!(sight.segments) {
        // Read only where the position exists.
        if seen {
            seen = segments[(mask.ids + position) as usize] == segments[(mask.ids + column) as usize];
        }
    }
    seen
}

/// The keys that queries `first` to before `end` may see: the first, and the one after the last.
#[cube]
pub(super) fn key_range(first: u32, end: u32, sizes: &Sizes, #[comptime] sight: Sight) -> (u32, u32) {
    let past = sizes.keys - sizes.queries;
    let last = min(past + end, sizes.keys);
    let mut begin = 0u32;
    if comptime!(sight.window) {
        if past + first + 1 > sizes.window {
            begin = past + first + 1 - sizes.window;
        }
    }
    (begin, last)
}

/// The queries that may see keys `first` to before `end`: the first, and the one after the last.
#[cube]
pub(super) fn query_range(first: u32, end: u32, sizes: &Sizes, #[comptime] sight: Sight) -> (u32, u32) {
    let past = sizes.keys - sizes.queries;
    let mut begin = 0u32;
    if first > past {
        begin = first - past;
    }
    let mut last = sizes.queries;
    if comptime!(sight.window) {
        let beyond = end + sizes.window;
        if beyond > past {
            last = min(last, beyond - past);
        } else {
            last = 0u32;
        }
    }
    (begin, last)
}

/// Whether keys up to before `keys_end` share no segment with queries from position `query` on, which all come later. Each
/// segment is one run of positions, so comparing neighbours is enough.
#[cube]
pub(super) fn foreign<I: Int>(
    segments: &Array<I>,
    mask: &Mask,
    keys_end: u32,
    query: u32,
    #[comptime] sight: Sight,
) -> bool {
    let mut apart = false;
    if comptime!(sight.segments) {
        if keys_end <= query {
            apart = segments[(mask.ids + keys_end - 1) as usize] != segments[(mask.ids + query) as usize];
        }
    }
    apart
}

/// The first tile of keys from `column` on that queries from `first` on may see, or one at or past `end`.
#[cube]
pub(super) fn next_keys<I: Int>(
    segments: &Array<I>,
    mask: &Mask,
    column: u32,
    end: u32,
    first: u32,
    columns: u32,
    #[comptime] sight: Sight,
) -> u32 {
    let mut next = column;
    if comptime!(sight.segments) {
        if next < end && foreign::<I>(segments, mask, min(next + columns, end), first, sight) {
            // Where one tile is foreign, so are all before it: halving finds the last one.
            let mut low = 1u32;
            let mut high = (end - column).div_ceil(columns);
            while low < high {
                let middle = low + (high - low) / 2;
                if foreign::<I>(segments, mask, min(column + (middle + 1) * columns, end), first, sight) {
                    low = middle + 1;
                } else {
                    high = middle;
                }
            }
            next = column + low * columns;
        }
    }
    next
}

/// The first tile of queries from `column` on that may see keys before `keys_end`, or one at or past `end`.
#[cube]
pub(super) fn next_queries<I: Int>(
    segments: &Array<I>,
    mask: &Mask,
    column: u32,
    end: u32,
    keys_end: u32,
    #[comptime] sight: Sight,
) -> u32 {
    let mut next = column;
    if comptime!(sight.segments) {
        // Both sides of `&&` are evaluated: past the end the last query is read instead. Where one tile is foreign, so are all after it.
        if next < end && foreign::<I>(segments, mask, keys_end, min(next, end - 1), sight) {
            next = end;
        }
    }
    next
}

/// Whether each of `rows` queries from `row` on sees each of `columns` keys from `column` on.
#[cube]
pub(super) fn all_seen<I: Int>(
    segments: &Array<I>,
    mask: &Mask,
    row: u32,
    rows: u32,
    column: u32,
    columns: u32,
    #[comptime] sight: Sight,
) -> bool {
    let sizes = mask.sizes;
    let position = row + sizes.keys - sizes.queries;
    let mut all = column + columns <= position + 1 && row + rows <= sizes.queries;
    if comptime!(sight.window) {
        all = all && position + rows <= column + sizes.window;
    }
    if comptime!(sight.segments) {
        // Each segment is one run of positions: where both ends are in one, so is everything between.
        if all {
            all = segments[(mask.ids + column) as usize] == segments[(mask.ids + position + rows - 1) as usize];
        }
    }
    all
}

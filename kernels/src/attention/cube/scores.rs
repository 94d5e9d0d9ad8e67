//! What a score is, and who sees whom: shared by all kernels.

use cubecl::prelude::*;

use crate::attention::AttentionOptions;

/// Scores below it are hidden.
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

/// The sizes of a call.
#[derive(CubeType, CubeLaunch, Clone, Copy)]
pub(super) struct Sizes {
    pub queries: u32,
    pub keys: u32,
    pub heads: u32,
    /// Key-value heads.
    pub pairs: u32,
    /// Keys that a query sees at most.
    pub window: u32,
    pub scale: f32,
    pub cap: f32,
}

/// The sizes as a launch takes them, of queries, keys, heads and key-value heads.
pub(super) fn sizes<R: Runtime>([queries, keys, heads, pairs]: [usize; 4], options: AttentionOptions) -> SizesLaunch<R> {
    SizesLaunch::new(
        queries as u32,
        keys as u32,
        heads as u32,
        pairs as u32,
        options.sliding_window.unwrap_or(keys).min(keys) as u32,
        options.scale as f32,
        options.softcap.unwrap_or(1.0) as f32,
    )
}

/// Where the queries of a cube lie, and the keys that they may see, in vectors.
#[derive(CubeType, Clone, Copy)]
pub(super) struct QueryPlace {
    pub batch: u32,
    pub head: u32,
    /// The first query.
    pub first: u32,
    /// The head's first vector.
    pub query_offset: u32,
    /// Vectors from one query to the next.
    pub query_stride: u32,
    /// The key-value head's first vector.
    pub key_offset: u32,
    /// Vectors from one key to the next.
    pub key_stride: u32,
    /// The first of the batch's segment ids.
    pub base: u32,
    /// The head's first statistics.
    pub statistics: u32,
}

/// The place of this cube's `rows` queries, of so many vectors each. The last rows see the most keys: they begin first.
#[cube]
pub(super) fn query_place(sizes: &Sizes, #[comptime] rows: usize, #[comptime] vectors: usize) -> QueryPlace {
    let (head, batch) = (CUBE_POS_Y, CUBE_POS_Z);
    let (rows, vectors) = comptime!((rows as u32, vectors as u32));
    let pair = head / (sizes.heads / sizes.pairs);
    let query_stride = sizes.heads * vectors;
    let key_stride = sizes.pairs * vectors;
    QueryPlace {
        batch,
        head,
        first: (sizes.queries.div_ceil(rows) - CUBE_POS_X - 1) * rows,
        query_offset: batch * sizes.queries * query_stride + head * vectors,
        query_stride,
        key_offset: batch * sizes.keys * key_stride + pair * vectors,
        key_stride,
        base: batch * sizes.keys,
        statistics: (batch * sizes.heads + head) * sizes.queries,
    }
}

/// The score of a product, and its slope.
#[cube]
pub(super) fn score(product: f32, sizes: &Sizes, #[comptime] sight: Sight) -> (f32, f32) {
    let scaled = product * sizes.scale;
    if comptime!(sight.softcap) {
        // tanh(x) = 1 - 2 / (e²ˣ + 1), which neither overflows nor needs the device's own.
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
pub(super) fn sees<I: Int>(
    segments: &Array<I>,
    base: u32,
    row: u32,
    column: u32,
    sizes: &Sizes,
    #[comptime] sight: Sight,
) -> bool {
    let position = row + sizes.keys - sizes.queries;
    let mut seen = column <= position && row < sizes.queries;
    if comptime!(sight.window) {
        seen = seen && position < column + sizes.window;
    }
    if comptime!(sight.segments) {
        // Read only where the position exists.
        if seen {
            seen = segments[(base + position) as usize] == segments[(base + column) as usize];
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

/// The queries that may see keys `first` to before `end`.
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

/// Whether keys `keys` to before `keys_end` share no segment with queries from `query` on, which all come later. Segments are
/// runs, so that the neighbours decide.
#[cube]
pub(super) fn foreign<I: Int>(segments: &Array<I>, base: u32, keys_end: u32, query: u32, #[comptime] sight: Sight) -> bool {
    let mut apart = false;
    if comptime!(sight.segments) {
        if keys_end <= query {
            apart = segments[(base + keys_end - 1) as usize] != segments[(base + query) as usize];
        }
    }
    apart
}

/// The first tile from `column` on that queries from `first` on may see, or one at or past `end`.
#[cube]
pub(super) fn next_keys<I: Int>(
    segments: &Array<I>,
    base: u32,
    column: u32,
    end: u32,
    first: u32,
    columns: u32,
    #[comptime] sight: Sight,
) -> u32 {
    let mut next = column;
    if comptime!(sight.segments) {
        while next < end && foreign::<I>(segments, base, min(next + columns, end), first, sight) {
            next += columns;
        }
    }
    next
}

/// The first tile of queries from `column` on that may see keys before `keys_end`, or one at or past `end`.
#[cube]
pub(super) fn next_queries<I: Int>(
    segments: &Array<I>,
    base: u32,
    column: u32,
    end: u32,
    keys_end: u32,
    columns: u32,
    #[comptime] sight: Sight,
) -> u32 {
    let mut next = column;
    if comptime!(sight.segments) {
        // Both sides of an "and" are computed: past the end the last query stands in.
        while next < end && foreign::<I>(segments, base, keys_end, min(next, end - 1), sight) {
            next += columns;
        }
    }
    next
}

/// Whether each of `rows` queries from `row` on sees each of `columns` keys from `column` on.
#[cube]
pub(super) fn all_seen<I: Int>(
    segments: &Array<I>,
    base: u32,
    row: u32,
    rows: u32,
    column: u32,
    columns: u32,
    sizes: &Sizes,
    #[comptime] sight: Sight,
) -> bool {
    let position = row + sizes.keys - sizes.queries;
    let mut all = column + columns <= position + 1 && row + rows <= sizes.queries;
    if comptime!(sight.window) {
        all = all && position + rows <= column + sizes.window;
    }
    if comptime!(sight.segments) {
        // Segments are runs: where the ends are alike, so is what lies between.
        if all {
            all = segments[(base + column) as usize] == segments[(base + position + rows - 1) as usize];
        }
    }
    all
}

// The product of 64 own rows and 64 rows of a tile, over the head.
__device__ __forceinline__ void scores(float (&d)[32], u32 own, u32 tile) {
    u64 a = describe(own), b = describe(tile);
#pragma unroll
    for (int k = 0; k < HD / 16; k++) {
        const u64 at = (k / 4) * (TILE >> 4) + (k % 4) * 2;
        if (k == 0) begin_product(d, a, b); else multiply(d, a + at, b + at);
    }
}
// Adds the product of weights and 64 rows of a tile.
__device__ __forceinline__ void add(float (&d)[PARTS][32], const u32 (&weights)[16], u32 tile) {
    u64 b = describe(tile);
#pragma unroll
    for (int k = 0; k < 4; k++)
#pragma unroll
        for (int part = 0; part < PARTS; part++) multiply(d[part], weights + 4 * k, b + part * (TILE >> 4) + k * 128);
}
__device__ __forceinline__ void zero(float (&d)[PARTS][32]) {
#pragma unroll
    for (int part = 0; part < PARTS; part++)
#pragma unroll
        for (int i = 0; i < 32; i++) d[part][i] = 0.0f;
}
// Writes two rows of a warp's sums, each times its factor.
__device__ __forceinline__ void write(const float (&d)[PARTS][32], float factor, float other, u32 *out, u32 row, u32 length, u64 offset, u32 stride) {
    const u32 lane = threadIdx.x & 31;
#pragma unroll
    for (int half = 0; half < 2; half++) {
        if (row + 8 * half < length) {
            u32 *to = out + (offset + (u64)(row + 8 * half) * stride) / 2 + (lane & 3);
            const float own = half ? other : factor;
#pragma unroll
            for (int part = 0; part < PARTS; part++)
#pragma unroll
                for (int j = 0; j < 8; j++) to[part * 32 + j * 4] = pack(d[part][4 * j + 2 * half] * own, d[part][4 * j + 2 * half + 1] * own);
        }
    }
}
// Whether a query at a position sees a key, ignoring segments.
__device__ __forceinline__ bool near(const Info &info, u32 position, u32 key) {
    bool seen = key <= position && position < info.keys;
#if WINDOW
    seen = seen && position < key + info.window;
#endif
    return seen;
}
// What queries at 64 positions see of 64 keys: 0 nothing, 1 some, 2 all of them. Their segments may be `apart`, or `one`.
__device__ __forceinline__ int sight(const Info &info, u32 position, u32 key, bool apart, bool one) {
    if (position + 63 < key || key >= info.keys || position >= info.keys || apart) return 0;
    bool all = key + 63 <= position && position + 64 <= info.keys && one;
#if WINDOW
    if (position >= key + 63 + info.window) return 0;
    all = all && position + 63 < key + info.window;
#endif
    return 1 + all;
}
#if SEGMENTS
// The first position of a position's segment, which is one run of positions.
__device__ __forceinline__ u32 segment_first(const int *ids, u32 position, u32 length) {
    u32 low = 0, high = min(position, length - 1);
    const int own = ids[high];
    while (low < high) {
        const u32 middle = (low + high) / 2;
        if (ids[middle] == own) high = middle; else low = middle + 1;
    }
    return low;
}
// The last one.
__device__ __forceinline__ u32 segment_last(const int *ids, u32 position, u32 length) {
    u32 low = min(position, length - 1), high = length - 1;
    const int own = ids[low];
    while (low < high) {
        const u32 middle = (low + high + 1) / 2;
        if (ids[middle] == own) low = middle; else high = middle - 1;
    }
    return low;
}
#endif

#define OWN (GROUPS * PARTS * TILE)
#define START \
    extern __shared__ unsigned char shared[]; \
    u32 base = (u32)__cvta_generic_to_shared(shared); \
    base = (base + 1023) & ~1023u; \
    unsigned char *generic = shared + (base - (u32)__cvta_generic_to_shared(shared)); \
    const u32 group = __shfl_sync(~0u, threadIdx.x >> 7, 0), thread = threadIdx.x & 127, lane = threadIdx.x & 31; \
    const u32 own_row = (thread >> 5) * 16 + lane / 4; \
    const u32 past = info.keys - info.queries; \
    (void)generic;

// A block's queries of one head, and the tiles of keys that they may see: the last rows see the most keys, and come first.
#define QUERY_BLOCK(WIDE) \
    const u32 batch = blockIdx.x / info.heads, head = blockIdx.x % info.heads, key_value_head = head / (info.heads / info.key_value_heads); \
    const u32 first = (gridDim.y - 1 - blockIdx.y) * (GROUPS * 64), last = min(first + GROUPS * 64, info.queries); \
    [[maybe_unused]] const int *ids = segments + batch * info.keys; \
    const u32 end = (past + last + (WIDE) - 1) / (WIDE); \
    u32 begin = 0; \
    if (WINDOW && past + first + 1 > info.window) begin = past + first + 1 - info.window; \
    SEGMENTS_BEGIN \
    begin /= (WIDE);
#if SEGMENTS
#define SEGMENTS_BEGIN begin = max(begin, segment_first(ids, first, info.keys));
// Where the segments begin of this thread's queries, and of the warpgroup's first and last query.
#define SEGMENTS_OF_ROWS \
    const u32 begin_one = segment_first(ids, row + past, info.keys), begin_other = segment_first(ids, row + 8 + past, info.keys); \
    const u32 begin_low = segment_first(ids, position, info.keys), begin_high = segment_first(ids, position + 63, info.keys);
#define SIGHT(KEY) sight(info, position, KEY, (KEY) + 63 < begin_low, begin_high <= (KEY))
#else
#define SEGMENTS_BEGIN
#define SEGMENTS_OF_ROWS
#define SIGHT(KEY) sight(info, position, KEY, false, true)
#endif

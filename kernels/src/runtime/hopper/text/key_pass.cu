// dK = dSᵀ Q and dV = Pᵀ dO, over all query heads of a key-value head.
#define KEY_STAGE (2 * PARTS * TILE + 1024)
extern "C" __global__ void __launch_bounds__(GROUPS * 128, 1) key_pass(
    const __grid_constant__ Map query, const __grid_constant__ Map key, const __grid_constant__ Map value, const __grid_constant__ Map grad,
    const void *, const void *, const void *, const void *, const int *__restrict__ segments, const float *__restrict__ log_sums,
    const float *__restrict__ deltas, u32 *__restrict__ d_key, u32 *__restrict__ d_value,
    const void *, const void *, const void *, const void *, const __grid_constant__ Info info) {
    START
    const u32 own_key = base, own_value = base + OWN, stages = base + 2 * OWN, full = stages + STAGES * KEY_STAGE, empty = full + 8 * STAGES, own = empty + 8 * STAGES;
    const u32 batch = blockIdx.x / info.key_value_heads, key_value_head = blockIdx.x % info.key_value_heads;
    const u32 members = info.heads / info.key_value_heads;
    const u32 first = blockIdx.y * (GROUPS * 64), last = min(first + GROUPS * 64, info.keys);
    [[maybe_unused]] const int *ids = segments + batch * info.keys;
    if (threadIdx.x == 0) {
        for (int i = 0; i < STAGES; i++) {
            barrier_init(full + 8 * i, 129);
            barrier_init(empty + 8 * i, GROUPS * 4);
        }
        barrier_init(own, 1);
        asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
    }
    __syncthreads();
    // Tiles of queries.
    const u32 begin = first > past ? (first - past) / 64 : 0;
    u32 end = info.queries;
#if WINDOW
    end = last + info.window > past ? min(end, last + info.window - past) : 0;
#endif
#if SEGMENTS
    end = min(end, segment_last(ids, last - 1, info.keys) + 1);
#endif
    end = (end + 63) / 64;
    const u32 tiles = end > begin ? end - begin : 0, total = tiles * members;
    if (threadIdx.x == 0) {
        barrier_expect(own, 2 * OWN);
        for (int i = 0; i < GROUPS; i++) {
            copy_head(own_key + i * PARTS * TILE, &key, own, key_value_head, first + 64 * i, batch);
            copy_head(own_value + i * PARTS * TILE, &value, own, key_value_head, first + 64 * i, batch);
        }
    }
    // The next tile to copy.
    u32 next_tile = begin, next_head = key_value_head * members;
#define COPY_NEXT(NEXT) \
    { \
        const u32 slot = (NEXT) % STAGES, to = stages + slot * KEY_STAGE, barrier = full + 8 * slot; \
        barrier_wait(empty + 8 * slot, ((NEXT) / STAGES & 1) ^ 1); \
        const u32 at = next_tile * 64 + (thread & 63); \
        const u32 from = (batch * info.heads + next_head) * info.queries + min(at, info.queries - 1); \
        if (thread == 0) { \
            barrier_expect(barrier, 2 * PARTS * TILE); \
            copy_head(to, &query, barrier, next_head, next_tile * 64, batch); \
            copy_head(to + PARTS * TILE, &grad, barrier, next_head, next_tile * 64, batch); \
        } \
        copy_word(to + 2 * PARTS * TILE + thread * 4, (thread < 64 ? log_sums : deltas) + from, at < info.queries); \
        arrive_when_copied(barrier); \
        if (++next_tile == end) { next_tile = begin; next_head++; } \
    }
    if (group == 0)
        for (u32 i = 0; i < min(total, STAGES - 2); i++) COPY_NEXT(i)
    __syncwarp();
    float key_sums[PARTS][32], value_sums[PARTS][32];
    zero(key_sums);
    zero(value_sums);
    const float factor = info.scale * LOG2E;
    const u32 key_first = first + group * 64;
#if SEGMENTS
    // Where the segments end of this thread's keys, and of the warpgroup's first and last key.
    const u32 end_one = segment_last(ids, key_first + own_row, info.keys), end_other = segment_last(ids, key_first + own_row + 8, info.keys);
    const u32 end_low = segment_last(ids, key_first, info.keys), end_high = segment_last(ids, key_first + 63, info.keys);
#endif
    u32 tile = begin, i = 0;
    barrier_wait(own, 0);
    const u32 key_tile = own_key + group * PARTS * TILE, value_tile = own_value + group * PARTS * TILE;
    if (total > 0) do {
        if (group == 0 && i + STAGES - 2 < total) COPY_NEXT(i + STAGES - 2)
        __syncwarp();
        const u32 at = stages + i % STAGES * KEY_STAGE, previous = empty + 8 * ((i - 1) % STAGES);
        const u32 position = tile * 64 + past;
#if SEGMENTS
        const int seen = sight(info, position, key_first, position > end_high, position + 63 <= end_low);
#else
        const int seen = sight(info, position, key_first, false, true);
#endif
        barrier_wait(full + 8 * (i % STAGES), i / STAGES & 1);
        if (seen == 0) {
            product_wait<0>();
            if (i > 0 && lane == 0) barrier_arrive(previous);
        } else {
            float s[32], d[32];
            u32 weights[16], slopes[16];
            product_wait<1>();
            product_fence();
            scores(s, key_tile, at);
            product_commit();
            scores(d, value_tile, at + PARTS * TILE);
            product_commit();
            product_wait<2>();
            if (i > 0 && lane == 0) barrier_arrive(previous);
            const float2 *statistics = (const float2 *)(generic + (at - base) + 2 * PARTS * TILE) + (lane & 3);
            product_wait<1>();
#pragma unroll
            for (int j = 0; j < 8; j++) {
                const float2 l = statistics[4 * j];
                const float one = l.x * LOG2E, other = l.y * LOG2E;
                s[4 * j] = exp2_quick(fmaf(s[4 * j], factor, -one));
                s[4 * j + 1] = exp2_quick(fmaf(s[4 * j + 1], factor, -other));
                s[4 * j + 2] = exp2_quick(fmaf(s[4 * j + 2], factor, -one));
                s[4 * j + 3] = exp2_quick(fmaf(s[4 * j + 3], factor, -other));
            }
            if (seen == 1) {
                const u32 key_one = key_first + own_row;
#pragma unroll
                for (int e = 0; e < 32; e++) {
                    const u32 query_position = position + (e / 4) * 8 + (lane & 3) * 2 + (e & 1);
                    bool hidden = !near(info, query_position, key_one + (e & 2) * 4);
#if SEGMENTS
                    hidden = hidden || query_position > ((e & 2) ? end_other : end_one);
#endif
                    if (hidden) s[e] = 0.0f;
                }
            }
#pragma unroll
            for (int e = 0; e < 16; e++) weights[e] = pack(s[2 * e], s[2 * e + 1]);
            product_fence();
            add(value_sums, weights, at + PARTS * TILE);
            product_commit();
            product_wait<1>();
#pragma unroll
            for (int j = 0; j < 8; j++) {
                const float2 delta = statistics[32 + 4 * j];
                slopes[2 * j] = pack(s[4 * j] * (d[4 * j] - delta.x), s[4 * j + 1] * (d[4 * j + 1] - delta.y));
                slopes[2 * j + 1] = pack(s[4 * j + 2] * (d[4 * j + 2] - delta.x), s[4 * j + 3] * (d[4 * j + 3] - delta.y));
            }
            product_fence();
            add(key_sums, slopes, at);
            product_commit();
        }
        if (++tile == end) tile = begin;
        if (++i == total) product_wait<0>();
    } while (i < total);
    const u32 stride = info.key_value_heads * HD, row = key_first + own_row;
    const u64 offset = (u64)batch * info.keys * stride + key_value_head * HD;
    write(key_sums, info.scale, info.scale, d_key, row, info.keys, offset, stride);
    write(value_sums, 1.0f, 1.0f, d_value, row, info.keys, offset, stride);
}

// dQ = dS K.
#define QUERY_STAGE (2 * PARTS * TILE)
extern "C" __global__ void __launch_bounds__(GROUPS * 128, 1) query_pass(
    const __grid_constant__ Map query, const __grid_constant__ Map key, const __grid_constant__ Map value, const __grid_constant__ Map grad,
    const void *, const void *, const void *, const void *, const int *__restrict__ segments, const float *__restrict__ log_sums,
    const float *__restrict__ deltas, u32 *__restrict__ d_query,
    const void *, const void *, const void *, const void *, const __grid_constant__ Info info) {
    START
    const u32 own_query = base, own_grad = base + OWN, stages = base + 2 * OWN, full = stages + STAGES * QUERY_STAGE, empty = full + 8 * STAGES, own = empty + 8 * STAGES;
    QUERY_BLOCK(64)
    if (threadIdx.x == 0) {
        for (int i = 0; i < STAGES; i++) {
            barrier_init(full + 8 * i, 1);
            barrier_init(empty + 8 * i, GROUPS * 4);
        }
        barrier_init(own, 1);
        asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
        barrier_expect(own, 2 * OWN);
        for (int i = 0; i < GROUPS; i++) {
            copy_head(own_query + i * PARTS * TILE, &query, own, head, first + 64 * i, batch);
            copy_head(own_grad + i * PARTS * TILE, &grad, own, head, first + 64 * i, batch);
        }
    }
    __syncthreads();
    u32 next = begin, next_slot = 0, next_parity = 1;
#define COPY_KEYS \
    { \
        const u32 to = stages + next_slot * QUERY_STAGE, barrier = full + 8 * next_slot; \
        barrier_wait(empty + 8 * next_slot, next_parity); \
        barrier_expect(barrier, 2 * PARTS * TILE); \
        copy_head(to, &key, barrier, key_value_head, next * 64, batch); \
        copy_head(to + PARTS * TILE, &value, barrier, key_value_head, next * 64, batch); \
        next++; \
        if (++next_slot == STAGES) { next_slot = 0; next_parity ^= 1; } \
    }
    if (threadIdx.x == 0)
        while (next < end && next < begin + STAGES - 2) COPY_KEYS
    __syncwarp();
    float sums[PARTS][32];
    zero(sums);
    const float factor = info.scale * LOG2E;
    const u32 query_first = first + group * 64, row = query_first + own_row, position = query_first + past;
    SEGMENTS_OF_ROWS
    const float *own_log_sums = log_sums + (u64)(batch * info.heads + head) * info.queries, *own_deltas = deltas + (u64)(batch * info.heads + head) * info.queries;
    const u32 row_one = min(row, info.queries - 1), row_other = min(row + 8, info.queries - 1);
    const float one = own_log_sums[row_one] * LOG2E, other = own_log_sums[row_other] * LOG2E;
    const float delta_one = own_deltas[row_one], delta_other = own_deltas[row_other];
    u32 slot = 0, parity = 0, pending = 0;
    barrier_wait(own, 0);
    const u32 query_tile = own_query + group * PARTS * TILE, grad_tile = own_grad + group * PARTS * TILE;
    u32 tile = begin;
    do {
        if (threadIdx.x == 0 && next < end) COPY_KEYS
        __syncwarp();
        const u32 at = stages + slot * QUERY_STAGE, release = empty + 8 * slot;
        const int seen = SIGHT(tile * 64);
        barrier_wait(full + 8 * slot, parity);
        if (seen == 0) {
            product_wait<0>();
            if (lane == 0) {
                if (pending) barrier_arrive(pending);
                barrier_arrive(release);
            }
            pending = 0;
        } else {
            float s[32], d[32];
            u32 slopes[16];
            product_fence();
            scores(s, query_tile, at);
            product_commit();
            scores(d, grad_tile, at + PARTS * TILE);
            product_commit();
            product_wait<2>();
            if (pending && lane == 0) barrier_arrive(pending);
            pending = release;
            product_wait<1>();
#pragma unroll
            for (int i = 0; i < 32; i++) s[i] = exp2_quick(fmaf(s[i], factor, -((i & 2) ? other : one)));
            if (seen == 1) {
#pragma unroll
                for (int i = 0; i < 32; i++) {
                    const u32 key_position = tile * 64 + (i / 4) * 8 + (lane & 3) * 2 + (i & 1);
                    bool hidden = !near(info, row + past + (i & 2) * 4, key_position);
#if SEGMENTS
                    hidden = hidden || key_position < ((i & 2) ? begin_other : begin_one);
#endif
                    if (hidden) s[i] = 0.0f;
                }
            }
            product_wait<0>();
#pragma unroll
            for (int i = 0; i < 16; i++) {
                const float delta = (i & 1) ? delta_other : delta_one;
                slopes[i] = pack(s[2 * i] * (d[2 * i] - delta), s[2 * i + 1] * (d[2 * i + 1] - delta));
            }
            product_fence();
            add(sums, slopes, at);
            product_commit();
        }
        if (++slot == STAGES) { slot = 0; parity ^= 1; }
    } while (++tile < end);
    product_wait<0>();
    const u32 stride = info.heads * HD;
    write(sums, info.scale, info.scale, d_query, row, info.queries, (u64)batch * info.queries * stride + head * HD, stride);
}

// O = softmax(Q Kᵀ) V, and the logarithm of each row's sum.
#define FORWARD_STAGE (2 * HALVES * PARTS * TILE)
extern "C" __global__ void __launch_bounds__(GROUPS * 128, 1) forward(
    const __grid_constant__ Map query, const __grid_constant__ Map key, const __grid_constant__ Map value,
    const void *, const void *, const void *, const int *__restrict__ segments, u32 *__restrict__ out, float *__restrict__ log_sums,
    const void *, const void *, const void *, const __grid_constant__ Info info) {
    START
    const u32 own_query = base, stages = base + OWN, full = stages + STAGES * FORWARD_STAGE, empty = full + 8 * STAGES, own = empty + 8 * STAGES;
    QUERY_BLOCK(HALVES * 64)
    if (threadIdx.x == 0) {
        for (int i = 0; i < STAGES; i++) {
            barrier_init(full + 8 * i, 1);
            barrier_init(empty + 8 * i, GROUPS * 4);
        }
        barrier_init(own, 1);
        asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
        barrier_expect(own, OWN);
        for (int i = 0; i < GROUPS; i++) copy_head(own_query + i * PARTS * TILE, &query, own, head, first + 64 * i, batch);
    }
    __syncthreads();
    u32 next = begin, next_slot = 0, next_parity = 1;
#define COPY_BOTH \
    { \
        const u32 to = stages + next_slot * FORWARD_STAGE, barrier = full + 8 * next_slot; \
        barrier_wait(empty + 8 * next_slot, next_parity); \
        barrier_expect(barrier, FORWARD_STAGE); \
        for (u32 h = 0; h < HALVES; h++) { \
            copy_head(to + h * PARTS * TILE, &key, barrier, key_value_head, (next * HALVES + h) * 64, batch); \
            copy_head(to + (HALVES + h) * PARTS * TILE, &value, barrier, key_value_head, (next * HALVES + h) * 64, batch); \
        } \
        next++; \
        if (++next_slot == STAGES) { next_slot = 0; next_parity ^= 1; } \
    }
    if (threadIdx.x == 0)
        while (next < end && next < begin + STAGES - 2) COPY_BOTH
    __syncwarp();
    float sums[PARTS][32];
    zero(sums);
    const float factor = info.scale * LOG2E;
    const u32 query_first = first + group * 64, row = query_first + own_row, position = query_first + past;
    SEGMENTS_OF_ROWS
    float top_one = HIDDEN, top_other = HIDDEN, total_one = 0.0f, total_other = 0.0f;
    u32 slot = 0, parity = 0, pending = 0;
    barrier_wait(own, 0);
    const u32 query_tile = own_query + group * PARTS * TILE;
    u32 tile = begin;
    do {
        if (threadIdx.x == 0 && next < end) COPY_BOTH
        __syncwarp();
        const u32 at = stages + slot * FORWARD_STAGE, release = empty + 8 * slot;
        int seen[HALVES], any = 0;
#pragma unroll
        for (int h = 0; h < HALVES; h++) {
            seen[h] = SIGHT((tile * HALVES + h) * 64);
            any |= seen[h];
        }
        barrier_wait(full + 8 * slot, parity);
        float s[HALVES][32];
        if (any) {
            product_fence();
#pragma unroll
            for (int h = 0; h < HALVES; h++) scores(s[h], query_tile, at + h * PARTS * TILE);
            product_commit();
        }
        product_wait<0>();
        if (pending && lane == 0) barrier_arrive(pending);
        pending = release;
        if (any) {
            float new_one = top_one, new_other = top_other;
#pragma unroll
            for (int h = 0; h < HALVES; h++) {
                if (seen[h] != 2) {
#pragma unroll
                    for (int i = 0; i < 32; i++) {
                        const u32 key_position = (tile * HALVES + h) * 64 + (i / 4) * 8 + (lane & 3) * 2 + (i & 1);
                        bool hidden = !near(info, row + past + (i & 2) * 4, key_position);
#if SEGMENTS
                        hidden = hidden || key_position < ((i & 2) ? begin_other : begin_one);
#endif
                        if (hidden) s[h][i] = HIDDEN;
                    }
                }
#pragma unroll
                for (int i = 0; i < 32; i += 4) {
                    new_one = fmaxf(new_one, fmaxf(s[h][i], s[h][i + 1]));
                    new_other = fmaxf(new_other, fmaxf(s[h][i + 2], s[h][i + 3]));
                }
            }
            new_one = fmaxf(new_one, __shfl_xor_sync(~0u, new_one, 1));
            new_other = fmaxf(new_other, __shfl_xor_sync(~0u, new_other, 1));
            new_one = fmaxf(new_one, __shfl_xor_sync(~0u, new_one, 2));
            new_other = fmaxf(new_other, __shfl_xor_sync(~0u, new_other, 2));
            const float shrink_one = exp2_quick((top_one - new_one) * factor), shrink_other = exp2_quick((top_other - new_other) * factor);
            top_one = new_one;
            top_other = new_other;
            total_one *= shrink_one;
            total_other *= shrink_other;
            // A row that has seen no key yet adds nothing: HIDDEN * factor - HIDDEN * factor is not 0, because only one product is rounded.
            const float less_one = top_one > HIDDEN ? top_one * factor : 0.0f, less_other = top_other > HIDDEN ? top_other * factor : 0.0f;
            u32 weights[HALVES][16];
#pragma unroll
            for (int h = 0; h < HALVES; h++) {
#pragma unroll
                for (int i = 0; i < 32; i++) {
                    s[h][i] = exp2_quick(fmaf(s[h][i], factor, -((i & 2) ? less_other : less_one)));
                    if (i & 2) total_other += s[h][i]; else total_one += s[h][i];
                }
#pragma unroll
                for (int i = 0; i < 16; i++) weights[h][i] = pack(s[h][2 * i], s[h][2 * i + 1]);
            }
#pragma unroll
            for (int part = 0; part < PARTS; part++)
#pragma unroll
                for (int i = 0; i < 32; i++) sums[part][i] *= (i & 2) ? shrink_other : shrink_one;
            product_fence();
#pragma unroll
            for (int h = 0; h < HALVES; h++) add(sums, weights[h], at + (HALVES + h) * PARTS * TILE);
            product_commit();
        }
        if (++slot == STAGES) { slot = 0; parity ^= 1; }
    } while (++tile < end);
    product_wait<0>();
    total_one += __shfl_xor_sync(~0u, total_one, 1);
    total_other += __shfl_xor_sync(~0u, total_other, 1);
    total_one = fmaxf(total_one + __shfl_xor_sync(~0u, total_one, 2), 1.0e-30f);
    total_other = fmaxf(total_other + __shfl_xor_sync(~0u, total_other, 2), 1.0e-30f);
    const u32 stride = info.heads * HD;
    write(sums, 1.0f / total_one, 1.0f / total_other, out, row, info.queries, (u64)batch * info.queries * stride + head * HD, stride);
    if ((lane & 3) == 0) {
        float *to = log_sums + (u64)(batch * info.heads + head) * info.queries;
        if (row < info.queries) to[row] = top_one * info.scale + logf(total_one);
        if (row + 8 < info.queries) to[row + 8] = top_other * info.scale + logf(total_other);
    }
}

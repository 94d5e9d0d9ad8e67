// What the kernels are compiled for is defined before: HD elements of a head (64 or 128), BF16 (1) or f16 (0), GROUPS warpgroups of 64
// rows each in a block, STAGES of tiles in shared memory, a power of two, HALVES tiles of keys in a stage of the forward, and whether
// SEGMENTS and a WINDOW hide keys.
//
// Arguments come in cubecl's order: maps of tensors, the tensors of the maps, other tensors, sizes.
typedef unsigned int u32;
typedef unsigned long long u64;
struct Info { u32 queries, keys, heads, key_value_heads, window; float scale; };
// A tensor map, which the driver encodes.
struct __align__(64) Map { u64 words[16]; };
#if BF16
#define TYPE "bf16"
#else
#define TYPE "f16"
#endif
#define PARTS (HD / 64)
#define TILE 8192
#define LOG2E 1.4426950408889634f
#define LN2 0.6931471805599453f
#define HIDDEN -1.0e30f

__device__ __forceinline__ void barrier_init(u32 barrier, u32 count) {
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(barrier), "r"(count) : "memory");
}
__device__ __forceinline__ void barrier_expect(u32 barrier, u32 bytes) {
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(barrier), "r"(bytes) : "memory");
}
__device__ __forceinline__ void barrier_arrive(u32 barrier) {
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(barrier) : "memory");
}
__device__ __forceinline__ void barrier_wait(u32 barrier, u32 parity) {
    u32 done = 0;
    do {
        asm volatile("{\n.reg .pred p;\nmbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2;\nselp.u32 %0, 1, 0, p;\n}\n"
                     : "=r"(done) : "r"(barrier), "r"(parity) : "memory");
    } while (!done);
}
// Begins the copy of 64 positions of a head, 64 elements of each.
__device__ __forceinline__ void copy(u32 to, const Map *map, u32 barrier, u32 element, u32 head, u32 position, u32 batch) {
    asm volatile("cp.async.bulk.tensor.4d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%3, %4, %5, %6}], [%2];"
                 ::"r"(to), "l"(map), "r"(barrier), "r"(element), "r"(head), "r"(position), "r"(batch) : "memory");
}
__device__ __forceinline__ void copy_head(u32 to, const Map *map, u32 barrier, u32 head, u32 position, u32 batch) {
#pragma unroll
    for (u32 part = 0; part < PARTS; part++) copy(to + part * TILE, map, barrier, part * 64, head, position, batch);
}
__device__ __forceinline__ void copy_word(u32 to, const float *from, bool exists) {
    asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;" ::"r"(to), "l"(from), "r"(exists ? 4 : 0) : "memory");
}
__device__ __forceinline__ void arrive_when_copied(u32 barrier) {
    asm volatile("cp.async.mbarrier.arrive.noinc.shared::cta.b64 [%0];" ::"r"(barrier) : "memory");
}
__device__ __forceinline__ void product_fence() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
__device__ __forceinline__ void product_commit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
template <int N> __device__ __forceinline__ void product_wait() { asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(N) : "memory"); }
// Describes tiles of rows of 128 bytes, swizzled over those.
__device__ __forceinline__ u64 describe(u32 address) { return (1ull << 62) | (64ull << 32) | (1ull << 16) | ((address & 0x3ffff) >> 4); }
__device__ __forceinline__ float exp2_quick(float x) { float y; asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x)); return y; }
__device__ __forceinline__ u32 pack(float low, float high) {
    u32 two;
#if BF16
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(two) : "f"(high), "f"(low));
#else
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(two) : "f"(high), "f"(low));
#endif
    return two;
}

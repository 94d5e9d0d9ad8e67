// Runs the kernels that cubecl writes for CUDA on the CPU: one cube at a time, one fiber per thread.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <ucontext.h>
#include <vector>

#include <cuda_runtime.h>
#include <cuda_bf16.h>
#include <cuda_fp16.h>

#undef __shared__
#define __shared__
#undef __global__
#define __global__
#undef __launch_bounds__
#define __launch_bounds__(...)

namespace {

constexpr int WARP = 32;
constexpr size_t STACK = 2 << 20;
constexpr long PATIENCE = 20'000'000; // rounds without progress before a deadlock is reported
alignas(128) unsigned char shared_memory[256 << 10];

[[noreturn]] void fail(const char *what) {
    fprintf(stderr, "cuda_on_cpu: %s\n", what);
    abort();
}

// An asynchronous copy of `size` bytes: `bytes` of them come from the source, the rest are zeros.
struct Copy {
    void *to;
    const void *from;
    int size, bytes;
    void land() const {
        memcpy(to, from, bytes);
        memset((char *)to + bytes, 0, size - bytes);
    }
};

// Where threads wait for each other.
struct Meeting {
    int members = 0, arrived = 0, turn = 0;
    void open() { arrived = 0, turn++; }
};
struct Warp {
    Meeting meeting;
    uint64_t slots[WARP];
    uint32_t registers[WARP][6];
};
struct Fiber {
    ucontext_t context;
    char *stack;
    bool done;
    uint3 index;
    int lane;
    Warp *warp;
    std::vector<Copy> copies; // started, not yet committed
};

std::vector<Fiber> fibers;
std::vector<Warp> warps;
Meeting cube;
Fiber *current;
ucontext_t scheduler;
long turns;
bool eager;
dim3 cpu_blockDim, cpu_gridDim;
uint3 cpu_blockIdx;
#define cpu_threadIdx (current->index)

void yield() {
    if (++turns > PATIENCE) fail("threads wait for each other without end");
    Fiber *self = current;
    swapcontext(&self->context, &scheduler);
}

void meet(Meeting &meeting) {
    int turn = meeting.turn;
    if (++meeting.arrived == meeting.members) {
        turns = 0;
        meeting.open();
    } else {
        while (meeting.turn == turn) yield();
    }
}

void leave(Meeting &meeting) {
    meeting.members--;
    if (meeting.arrived && meeting.arrived == meeting.members) meeting.open();
}

void sync_warp() { meet(current->warp->meeting); }
#define __syncwarp sync_warp
#define __syncthreads() meet(cube)

// Exchanges a value between all lanes.
template <class T> struct Given {
    T of[WARP];
    explicit Given(T own) {
        Warp &warp = *current->warp;
        memcpy(&warp.slots[current->lane], &own, sizeof own);
        sync_warp();
        for (int lane = 0; lane < WARP; lane++) memcpy(&of[lane], &warp.slots[lane], sizeof own);
        sync_warp();
    }
};

template <class T> T __shfl_xor_sync(unsigned, T value, int mask) { return Given<T>(value).of[current->lane ^ mask]; }
template <class T> T __shfl_sync(unsigned, T value, int lane) { return Given<T>(value).of[lane % WARP]; }
template <class T> T __shfl_down_sync(unsigned, T value, int by) {
    int lane = current->lane + by;
    return Given<T>(value).of[lane < WARP ? lane : current->lane];
}
template <class T> T __shfl_up_sync(unsigned, T value, int by) {
    int lane = current->lane - by;
    return Given<T>(value).of[lane >= 0 ? lane : current->lane];
}
unsigned __ballot_sync(unsigned, int value) {
    Given<int> given(value);
    unsigned bits = 0;
    for (int lane = 0; lane < WARP; lane++) bits |= unsigned(given.of[lane] != 0) << lane;
    return bits;
}
int __all_sync(unsigned mask, int value) { return __ballot_sync(mask, value) == ~0u; }
int __any_sync(unsigned mask, int value) { return __ballot_sync(mask, value) != 0; }

template <class T> T atomicAdd(T *to, T value) {
    T old = *to;
    *to += value;
    return old;
}
uint32_t __umulhi(uint32_t a, uint32_t b) { return uint64_t(a) * b >> 32; }
template <class A, class B> auto min(A a, B b) { return a < b ? a : b; }
template <class A, class B> auto max(A a, B b) { return a > b ? a : b; }
// C's own is of integers alone.
using std::abs;
float __fdividef(float a, float b) { return a / b; }
float rsqrt(float x) { return 1 / sqrtf(x); }
#define __expf expf
#define __logf logf

// `ldmatrix` of four 8 × 8 matrices: lane 8 i + j names row j of matrix i.
template <bool TURNED> void load_matrices(uint32_t *registers, const void *row) {
    if (uintptr_t(row) % 16) fail("a row of a matrix is not aligned");
    Given<const void *> rows(row);
    int group = current->lane / 4, pair = current->lane % 4 * 2;
    for (int matrix = 0; matrix < 4; matrix++) {
        uint16_t two[2];
        for (int e = 0; e < 2; e++) {
            auto elements = (const uint16_t *)rows.of[matrix * 8 + (TURNED ? pair + e : group)];
            two[e] = elements[TURNED ? group : pair + e];
        }
        memcpy(&registers[matrix], two, sizeof two);
    }
    sync_warp();
}

template <class E> float element(uint32_t two, int which) {
    uint16_t bits = two >> (16 * which);
    E value;
    memcpy(&value, &bits, sizeof bits);
    return float(value);
}

// `mma.m16n8k16`, in the layout of the PTX manual.
template <class E> void multiply_matrices(const uint32_t *a, const uint32_t *b, const float *c, float *d) {
    Warp &warp = *current->warp;
    uint32_t *own = warp.registers[current->lane];
    memcpy(own, a, 4 * sizeof *a);
    memcpy(own + 4, b, 2 * sizeof *b);
    sync_warp();
    float sums[4];
    for (int i = 0; i < 4; i++) {
        int row = current->lane / 4 + i / 2 * 8, column = current->lane % 4 * 2 + i % 2;
        sums[i] = c[i];
        for (int k = 0; k < 16; k++) {
            uint32_t left = warp.registers[row % 8 * 4 + k % 8 / 2][row / 8 + k / 8 * 2];
            uint32_t right = warp.registers[column * 4 + k % 8 / 2][4 + k / 8];
            sums[i] += element<E>(left, k % 2) * element<E>(right, k % 2);
        }
    }
    sync_warp();
    memcpy(d, sums, sizeof sums);
}

} // namespace

namespace cuda {
enum thread_scope { thread_scope_block };

struct Phase {
    int expected, missing;
    long number;
    std::vector<Copy> copies; // of threads that arrived; completed at the end of the phase
};
inline std::map<void *, Phase> phases;

template <thread_scope> struct barrier {
    uint64_t place;
    using arrival_token = long;
    long arrive() {
        Phase &phase = phases.at(this);
        long number = phase.number;
        if (--phase.missing == 0) {
            turns = 0;
            for (const Copy &copy : phase.copies) copy.land();
            phase.copies.clear();
            phase.missing = phase.expected;
            phase.number++;
        }
        return number;
    }
    void wait(long token) const {
        const Phase &phase = phases.at((void *)this);
        while (phase.number == token) yield();
    }
    void wait_parity(uint32_t parity) const {
        const Phase &phase = phases.at((void *)this);
        while (phase.number % 2 == long(parity)) yield();
    }
    void arrive_and_wait() { wait(arrive()); }
};
template <thread_scope S> void init(barrier<S> *barrier, int expected) { phases[barrier] = {expected, expected, 0, {}}; }
} // namespace cuda

namespace cooperative_groups {
struct thread_block {};
inline thread_block this_thread_block() { return {}; }
} // namespace cooperative_groups

namespace {

template <size_t SIZE> void __cp_async_shared_global(const void *from, void *to, int bytes = SIZE) {
    if (bytes < 0 || bytes > int(SIZE) || uintptr_t(to) % SIZE || uintptr_t(from) % SIZE) fail("a copy is not aligned");
    Copy copy{to, from, int(SIZE), bytes};
    if (eager) copy.land();
    else current->copies.push_back(copy);
}
void __cp_async_arrive(cuda::barrier<cuda::thread_scope_block> &barrier) {
    auto &landing = cuda::phases.at(&barrier).copies;
    landing.insert(landing.end(), current->copies.begin(), current->copies.end());
    current->copies.clear();
}

void live(void (*body)(void **), void **arguments) {
    body(arguments);
    current->done = true;
    leave(current->warp->meeting);
    leave(cube);
    yield();
}

void run_cube(void (*body)(void **), void **arguments, const unsigned *block) {
    int count = fibers.size();
    warps = std::vector<Warp>((count + WARP - 1) / WARP);
    cube = {count};
    cuda::phases.clear();
    memset(shared_memory, 0xff, sizeof shared_memory);
    for (int i = 0; i < count; i++) {
        Fiber &fiber = fibers[i];
        fiber.done = false;
        fiber.copies.clear();
        fiber.index = make_uint3(i % block[0], i / block[0] % block[1], i / block[0] / block[1]);
        fiber.lane = i % WARP;
        fiber.warp = &warps[i / WARP];
        fiber.warp->meeting.members++;
        getcontext(&fiber.context);
        fiber.context.uc_stack.ss_sp = fiber.stack;
        fiber.context.uc_stack.ss_size = STACK;
        makecontext(&fiber.context, (void (*)())live, 2, body, arguments);
    }
    static uint32_t order = 1;
    turns = 0;
    for (bool any = true; any;) {
        any = false;
        // Each round starts with another thread.
        order = order * 1664525u + 1013904223u;
        for (int i = 0; i < count; i++) {
            current = &fibers[(order + i) % count];
            if (current->done) continue;
            any = true;
            swapcontext(&scheduler, &current->context);
        }
    }
}

void run_grid(void (*body)(void **), const unsigned *grid, const unsigned *block, void **arguments) {
    eager = getenv("EAGER_COPIES") != nullptr;
    cpu_gridDim = dim3(grid[0], grid[1], grid[2]);
    cpu_blockDim = dim3(block[0], block[1], block[2]);
    size_t count = size_t(block[0]) * block[1] * block[2];
    while (fibers.size() > count) free(fibers.back().stack), fibers.pop_back();
    while (fibers.size() < count) fibers.push_back({.stack = (char *)malloc(STACK)});
    for (unsigned z = 0; z < grid[2]; z++)
        for (unsigned y = 0; y < grid[1]; y++)
            for (unsigned x = 0; x < grid[0]; x++) {
                cpu_blockIdx = make_uint3(x, y, z);
                run_cube(body, arguments, block);
            }
}

} // namespace

// Fragments, of which each lane has a full copy.
namespace nvcuda::wmma {
struct matrix_a {};
struct matrix_b {};
struct accumulator {};
struct row_major {};
struct col_major {};
enum layout_t { mem_row_major, mem_col_major };
namespace precision {
struct tf32 {};
} // namespace precision
inline float __float_to_tf32(float value) {
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    bits = (bits + 0x1000) & ~0x1fffu; // keeps 10 bits of mantissa
    memcpy(&value, &bits, sizeof bits);
    return value;
}

template <class Use, int M, int N, int K, class T, class Layout = row_major> struct fragment {
    static constexpr int ROWS = std::is_same_v<Use, matrix_b> ? K : M;
    static constexpr int COLUMNS = std::is_same_v<Use, matrix_a> ? K : N;
    static constexpr layout_t LAYOUT = std::is_same_v<Layout, col_major> ? mem_col_major : mem_row_major;
    static constexpr int num_elements = ROWS * COLUMNS;
    float x[num_elements];
};
template <class F> void fill_fragment(F &fragment, float value) {
    for (float &element : fragment.x) element = value;
}
inline int at(int row, int column, unsigned stride, layout_t layout) {
    return layout == mem_col_major ? column * stride + row : row * stride + column;
}
template <class F, class T> void load_matrix_sync(F &fragment, const T *from, unsigned stride, layout_t layout = F::LAYOUT) {
    sync_warp();
    for (int i = 0; i < F::ROWS; i++)
        for (int j = 0; j < F::COLUMNS; j++) fragment.x[i * F::COLUMNS + j] = float(from[at(i, j, stride, layout)]);
    sync_warp();
}
template <class F, class T> void store_matrix_sync(T *to, const F &fragment, unsigned stride, layout_t layout) {
    sync_warp();
    for (int i = 0; current->lane == 0 && i < F::ROWS; i++)
        for (int j = 0; j < F::COLUMNS; j++) to[at(i, j, stride, layout)] = T(fragment.x[i * F::COLUMNS + j]);
    sync_warp();
}
template <class D, class A, class B, class C> void mma_sync(D &d, const A &a, const B &b, const C &c) {
    D sums;
    for (int i = 0; i < D::ROWS; i++)
        for (int j = 0; j < D::COLUMNS; j++) {
            float &sum = sums.x[i * D::COLUMNS + j];
            sum = c.x[i * D::COLUMNS + j];
            for (int k = 0; k < A::COLUMNS; k++) sum += a.x[i * A::COLUMNS + k] * b.x[k * B::COLUMNS + j];
        }
    d = sums;
}
} // namespace nvcuda::wmma

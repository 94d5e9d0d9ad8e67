// Executes a kernel on the CPU: each GPU thread is a fiber, SIMD-groups have 32 lanes, threadgroups run one after another. The
// kernel is compiled with clang's thread instrumentation. Its callbacks (`__tsan_*`) are here, and see every access to memory.
#include <dlfcn.h>
#include <sys/mman.h>
#include <algorithm>
#include <array>
#include <random>
#include <vector>
#include "abi.h"
#include "fiber.h"
#include "shadow.h"
#include "../shim/metal_simdgroup_layout"

struct Uint3 { uint32_t x, y, z; };

/// The inputs of a GPU thread, named after their MSL attributes; `metal_stdlib` of the shim has the same struct.
struct ThreadInputs {
  Uint3 thread_position_in_grid, threads_per_threadgroup, threadgroups_per_grid, thread_position_in_threadgroup, threadgroup_position_in_grid;
  uint32_t thread_index_in_threadgroup, thread_index_in_simdgroup, threads_per_simdgroup, simdgroup_index_in_threadgroup;
};

extern "C" int msl_element(int threads, int e);

namespace {
constexpr size_t STACK_BYTES = 256 << 10, THREADGROUP_BYTES = 32 << 10;
constexpr uint32_t LANES = 32, MEM_DEVICE = 1, MEM_THREADGROUP = 2;
constexpr uint32_t MEETING = 1u << 31;  // flag of a wait that is no barrier: it is not counted, and orders no memory
constexpr size_t MAX_VALUE_BYTES = 16;  // bytes of a lane's argument to a SIMD-group function

enum class State { Ready, AtBarrier, AtSimd, Done };

struct Fiber {
  void* stack_pointer;
  State state;
  uintptr_t site;      // of the barrier or SIMD-group function at which it waits
  uint32_t flags;      // of that barrier
  const void* in;      // its argument to a SIMD-group function
  size_t size;
  uint32_t active;     // lanes that took part
  ThreadInputs inputs;
};

struct Machine {
  Launch* launch = nullptr;
  uintptr_t library = 0;  // where the kernel's code was loaded
  std::vector<Fiber> fibers;
  Fiber* current = nullptr;
  void* scheduler = nullptr;
  char* stacks = nullptr;
  size_t stack_count = 0;
  std::vector<void*> pointers;
  alignas(16) char threadgroup[THREADGROUP_BYTES];
  uint32_t threadgroup_used = 0;
  std::vector<std::array<char, LANES * MAX_VALUE_BYTES>> brought;  // each lane's argument to the SIMD-group function at which it waits
  std::vector<float> tiles[2];  // both operands of the tensor operation that runs
  Touched touched;
  // Races.
  Shadow device;
  Cell local[THREADGROUP_BYTES / GRANULE];
  uint32_t number = 0, group = 0, groups_run = 0;
  uint32_t epoch[2] = {0, 0};                       // barriers passed that order device, threadgroup memory
  std::vector<uint32_t> simd_epoch[2];
  struct { char* at = nullptr; uint32_t size = 0; char value[16]; Fault fault; } pending;  // a second write of the same value is no race
};
Machine machine;

uint64_t library_offset(uintptr_t site) { return site ? site - machine.library : 0; }

uint32_t index_of(const Fiber* fiber) { return static_cast<uint32_t>(fiber - machine.fibers.data()); }

bool failed() { return machine.launch->fault.code != NONE; }

void suspend(State state) {
  Fiber* fiber = machine.current;
  fiber->state = state;
  msl_switch(&fiber->stack_pointer, machine.scheduler);
}

/// Reports the first fault; the fiber that caused it never continues.
void fail(Fault fault) {
  if (!failed()) {
    const ThreadInputs& inputs = machine.current->inputs;
    fault.thread = inputs.thread_index_in_threadgroup;
    fault.group[0] = inputs.threadgroup_position_in_grid.x;
    fault.group[1] = inputs.threadgroup_position_in_grid.y;
    fault.group[2] = inputs.threadgroup_position_in_grid.z;
    machine.launch->fault = fault;
  }
  for (;;) suspend(State::Done);
}

Fault fault_at(uint32_t code, uintptr_t site) {
  Fault fault{};
  fault.code = code;
  fault.site = library_offset(site);
  return fault;
}

struct Place { Space space; uint32_t buffer; int64_t offset; };

/// Whether an address is on the running thread's own stack.
bool is_own(const char* address) {
  const char* stack = machine.stacks + index_of(machine.current) * STACK_BYTES;
  return address >= stack && address < stack + STACK_BYTES;
}

Place place_of(const char* address, uint32_t size) {
  const Launch& launch = *machine.launch;
  static uint64_t last = 0;
  const auto within = [&](uint64_t i) {
    const char* start = reinterpret_cast<const char*>(launch.buffers[i].start);
    return address >= start && address + size <= start + launch.buffers[i].bytes;
  };
  const auto found = [&](uint64_t i) {
    last = i;
    return Place{DEVICE, static_cast<uint32_t>(i), address - reinterpret_cast<const char*>(launch.buffers[i].start)};
  };
  if (last < launch.buffer_count && within(last)) return found(last);
  for (uint64_t i = 0; i < launch.buffer_count; i++) if (within(i)) return found(i);
  if (address >= machine.threadgroup && address + size <= machine.threadgroup + machine.threadgroup_used)
    return {THREADGROUP, 0, address - machine.threadgroup};
  // Outside of all buffers: report the nearest one.
  Place nearest{ELSEWHERE, 0, 0};
  int64_t distance = INT64_MAX;
  for (uint64_t i = 0; i < launch.buffer_count; i++) {
    const char* start = reinterpret_cast<const char*>(launch.buffers[i].start);
    const int64_t offset = address - start, bytes = static_cast<int64_t>(launch.buffers[i].bytes);
    const int64_t away = offset < 0 ? -offset : offset - bytes + 1;
    if (away < distance) { distance = away; nearest = {ELSEWHERE, static_cast<uint32_t>(i), offset}; }
  }
  const int64_t offset = address - machine.threadgroup;
  if (offset >= 0 && offset < static_cast<int64_t>(THREADGROUP_BYTES)) nearest = {ELSEWHERE, UINT32_MAX, offset};
  return nearest;
}

/// Whether an address is one of the kernel's own constants.
bool is_constant(const char* address) {
  Dl_info info;
  return dladdr(address, &info) && reinterpret_cast<uintptr_t>(info.dli_fbase) == machine.library;
}

/// Two writes of the same address are a race unless both wrote the same value.
void settle() {
  auto& pending = machine.pending;
  if (!pending.at) return;
  const bool same = memcmp(pending.at, pending.value, pending.size) == 0;
  pending.at = nullptr;
  if (!same && !failed()) machine.launch->fault = pending.fault;
}

void check_race(char* address, uint32_t size, bool is_write, bool atomic, uintptr_t site, const Place& place) {
  const bool local = place.space == THREADGROUP;
  const uint32_t thread = machine.current->inputs.thread_index_in_threadgroup, kind = local ? 1 : 0;
  Access now;
  // Each threadgroup has its own threadgroup memory.
  now.launch = local ? machine.groups_run : machine.number;
  now.group = machine.group;
  now.thread = static_cast<uint16_t>(thread);
  now.atomic = atomic;
  now.epoch = machine.epoch[kind];
  now.simd_epoch = machine.simd_epoch[kind][thread / LANES];
  now.site = static_cast<uint32_t>(library_offset(site));
  const uintptr_t start = reinterpret_cast<uintptr_t>(address), end = start + size;
  for (uintptr_t granule = start & ~(GRANULE - 1); granule < end; granule += GRANULE) {
    const uintptr_t from = std::max(granule, start) - granule, to = std::min(granule + GRANULE, end) - granule;
    now.mask = static_cast<uint8_t>(((1u << to) - 1) & ~((1u << from) - 1));
    Cell& cell = local ? machine.local[(granule - reinterpret_cast<uintptr_t>(machine.threadgroup)) / GRANULE] : machine.device.at(granule);
    if (const Access* other = conflict(cell, now, is_write)) {
      Fault fault{};
      fault.code = RACE;
      fault.space = place.space;
      fault.buffer = place.buffer;
      fault.size = size;
      fault.offset = place.offset;
      fault.site = now.site;
      fault.other_site = other->site;
      fault.other_thread = other->thread;
      fault.other_is_write = other == &cell.write;
      fault.is_write = is_write;
      fault.detail = other->group != now.group;
      if (!(is_write && other == &cell.write && size <= sizeof machine.pending.value)) fail(fault);
      const ThreadInputs& inputs = machine.current->inputs;
      fault.thread = thread;
      fault.group[0] = inputs.threadgroup_position_in_grid.x;
      fault.group[1] = inputs.threadgroup_position_in_grid.y;
      fault.group[2] = inputs.threadgroup_position_in_grid.z;
      machine.pending.fault = fault;
      machine.pending.size = size;
      memcpy(machine.pending.value, address, size);
      machine.pending.at = address;
    }
    record(cell, now, is_write);
  }
}

/// Called before every access of the kernel to memory.
void touch(void* pointer, uint32_t size, bool is_write, bool atomic, uintptr_t site) {
  if (!machine.current) return;
  settle();
  char* address = static_cast<char*>(pointer);
  if (is_own(address)) return;
  const Place place = place_of(address, size);
  Counters& counters = machine.launch->counters;
  switch (place.space) {
    case ELSEWHERE: {
      if (!is_write && is_constant(address)) return;
      Fault fault = fault_at(is_write ? WRITE_OUTSIDE : READ_OUTSIDE, site);
      fault.buffer = place.buffer;
      fault.offset = place.offset;
      fault.size = size;
      fail(fault);
      return;
    }
    case DEVICE: {
      (is_write ? counters.bytes_written : counters.bytes_read) += size;
      uint64_t& unique = is_write ? counters.unique_bytes_written : counters.unique_bytes_read;
      unique += machine.touched.note(reinterpret_cast<uintptr_t>(address), size, is_write, machine.number);
      break;
    }
    case THREADGROUP: (is_write ? counters.threadgroup_bytes_written : counters.threadgroup_bytes_read) += size; break;
  }
  if (machine.launch->find_races) check_race(address, size, is_write, atomic, site, place);
}

/// Passes `in` to the SIMD-group and waits for the others. Returns each lane's argument; only those of lanes that took part are
/// valid, and only until the next call.
const char* meet(const void* in, size_t size, uint32_t flags, uintptr_t site) {
  Fiber* fiber = machine.current;
  fiber->site = site;
  fiber->in = in;
  fiber->size = size;
  fiber->flags = flags;
  suspend(State::AtSimd);
  return machine.brought[fiber->inputs.thread_index_in_threadgroup / LANES].data();
}

void start_fiber() {
  Fiber* fiber = machine.current;
  machine.launch->entry(&fiber->inputs, machine.pointers.data());
  for (;;) suspend(State::Done);
}

/// Lets the lanes that wait at the earliest SIMD-group function exchange their values; returns whether there were any.
bool exchange(size_t begin, size_t end) {
  auto& fibers = machine.fibers;
  uintptr_t site = UINTPTR_MAX;
  for (size_t i = begin; i < end; i++) if (fibers[i].state == State::AtSimd) site = std::min(site, fibers[i].site);
  if (site == UINTPTR_MAX) return false;
  uint32_t active = 0, flags = 0;
  for (size_t i = begin; i < end; i++)
    if (fibers[i].state == State::AtSimd && fibers[i].site == site) { active |= 1u << (i - begin); flags = fibers[i].flags; }
  char* brought = machine.brought[begin / LANES].data();
  for (size_t i = begin; i < end; i++) {
    if (!(active >> (i - begin) & 1)) continue;
    Fiber& fiber = fibers[i];
    if (fiber.size) memcpy(brought + (i - begin) * fiber.size, fiber.in, fiber.size);
    fiber.active = active;
    fiber.state = State::Ready;
  }
  if (flags & MEM_DEVICE) machine.simd_epoch[0][begin / LANES]++;
  if (flags & MEM_THREADGROUP) machine.simd_epoch[1][begin / LANES]++;
  machine.launch->counters.simd_operations++;
  return true;
}

/// Lets all threads pass their barrier, or reports why they can't; returns false if the threadgroup has ended or has a fault.
bool pass_barrier() {
  auto& fibers = machine.fibers;
  size_t done = 0, waiting = 0;
  const Fiber* first = nullptr;
  for (auto& fiber : fibers) {
    done += fiber.state == State::Done;
    if (fiber.state != State::AtBarrier) continue;
    waiting++;
    if (!first) first = &fiber;
    if (fiber.site != first->site) {
      machine.current = &fiber;
      Fault fault = fault_at(DIFFERENT_BARRIERS, fiber.site);
      fault.other_site = library_offset(first->site);
      fault.thread = index_of(&fiber);
      fault.other_thread = index_of(first);
      machine.launch->fault = fault;
      return false;
    }
  }
  if (done == fibers.size()) return false;
  if (done) {
    Fault fault = fault_at(BARRIER_NOT_REACHED, first->site);
    fault.thread = index_of(first);
    fault.detail = static_cast<uint32_t>(done);
    machine.launch->fault = fault;
    return false;
  }
  for (auto& fiber : fibers) fiber.state = State::Ready;
  if (first->flags & MEM_DEVICE) machine.epoch[0]++;
  if (first->flags & MEM_THREADGROUP) machine.epoch[1]++;
  if (!(first->flags & MEETING)) machine.launch->counters.barriers++;
  return waiting > 0;
}

void run_group(std::mt19937& random) {
  auto& fibers = machine.fibers;
  std::vector<uint32_t> order(fibers.size());
  for (uint32_t i = 0; i < order.size(); i++) order[i] = machine.launch->order == 1 ? static_cast<uint32_t>(order.size()) - 1 - i : i;
  memset(machine.threadgroup, 0xff, sizeof machine.threadgroup);  // undefined at first: NaN
  machine.threadgroup_used = 0;
  do {
    bool moved;
    do {
      if (machine.launch->order > 1) std::shuffle(order.begin(), order.end(), random);
      for (uint32_t i : order) {
        if (fibers[i].state != State::Ready) continue;
        machine.current = &fibers[i];
        msl_switch(&machine.scheduler, fibers[i].stack_pointer);
        settle();
        if (failed()) return;
      }
      moved = false;
      for (size_t begin = 0; begin < fibers.size(); begin += LANES) moved |= exchange(begin, std::min(fibers.size(), begin + LANES));
    } while (moved);
  } while (pass_barrier());
}

void prepare(const uint32_t* dim, const uint32_t* count, Uint3 group) {
  auto& fibers = machine.fibers;
  for (uint32_t i = 0; i < fibers.size(); i++) {
    const Uint3 thread{i % dim[0], i / dim[0] % dim[1], i / (dim[0] * dim[1])};
    Fiber& fiber = fibers[i];
    fiber.inputs = ThreadInputs{
        {group.x * dim[0] + thread.x, group.y * dim[1] + thread.y, group.z * dim[2] + thread.z},
        {dim[0], dim[1], dim[2]}, {count[0], count[1], count[2]}, thread, group, i, i % LANES, LANES, i / LANES};
    fiber.state = State::Ready;
    fiber.stack_pointer = fresh_stack(machine.stacks + (i + 1) * STACK_BYTES, start_fiber);
  }
}
#include "tensor.h"
}  // namespace

extern "C" {
// ---- functions that the shim calls
void msl_arithmetic(uint64_t operations) { machine.launch->counters.arithmetic += operations; }

__attribute__((noinline)) void msl_barrier(uint32_t flags) {
  machine.current->site = reinterpret_cast<uintptr_t>(__builtin_return_address(0));
  machine.current->flags = flags;
  suspend(State::AtBarrier);
}

/// Passes `in` to the SIMD-group and waits; then `all` has the value of each active lane. Returns which lanes are active.
__attribute__((noinline)) uint32_t msl_simd(const void* in, uint64_t size, void* all, uint32_t* lane, uint32_t flags) {
  *lane = machine.current->inputs.thread_index_in_simdgroup;
  const char* brought = meet(in, size, flags, reinterpret_cast<uintptr_t>(__builtin_return_address(0)));
  if (size) memcpy(all, brought, LANES * size);
  return machine.current->active;
}

/// Adds the product of two 8x8 matrices to a third. A lane passes two elements of each, and receives two of the sums. Returns which
/// lanes are active: the sums are right if all are.
__attribute__((noinline)) uint32_t msl_multiply(const float* left, const float* right, float* sums) {
  const float in[4] = {left[0], left[1], right[0], right[1]};
  float brought[LANES][4];
  memcpy(brought, meet(in, sizeof in, 0, reinterpret_cast<uintptr_t>(__builtin_return_address(0))), sizeof brought);
  const uint32_t lane = machine.current->inputs.thread_index_in_simdgroup, row = msl_row(lane), column = msl_column(lane);
  if (lane == 0) machine.launch->counters.matrix_operations++;
  for (uint32_t j = 0; j < 2; j++)
    for (uint32_t k = 0; k < 8; k++) sums[j] += brought[msl_lane(row, k)][k % 2] * brought[msl_lane(k, column)][2 + j];
  return machine.current->active;
}

/// The element of a matrix, in row-major order, that is number `e` of a thread in a cooperative tensor. No GPU has this layout.
int msl_element(int threads, int e) {
  const int thread = static_cast<int>(machine.current->inputs.thread_index_in_threadgroup) % threads;
  return (e - 1) * threads + (7 * thread + 5 * e) % threads;
}

/// Adds the product of two tiles to a thread's sums of a cooperative tensor, or replaces them. All threads of the threadgroup must call it.
__attribute__((noinline)) void msl_matmul(const Product* product, float* sums, int capacity, int accumulate) {
  multiply(*product, sums, capacity, accumulate != 0, reinterpret_cast<uintptr_t>(__builtin_return_address(0)));
}

__attribute__((noinline)) void* msl_threadgroup(uint32_t bytes) {
  if (bytes > THREADGROUP_BYTES) {
    Fault fault = fault_at(THREADGROUP_MEMORY, reinterpret_cast<uintptr_t>(__builtin_return_address(0)));
    fault.size = bytes;
    fail(fault);
  }
  machine.threadgroup_used = std::max(machine.threadgroup_used, bytes);
  return machine.threadgroup;
}

__attribute__((noinline)) void msl_fault(uint32_t code, uint32_t detail) {
  Fault fault = fault_at(code, reinterpret_cast<uintptr_t>(__builtin_return_address(0)));
  fault.detail = detail;
  fail(fault);
}

/// Checks the access of an atomic operation. Fibers are never interrupted, so the operation itself can be a plain one.
__attribute__((noinline)) void msl_atomic(void* address, uint32_t size, uint32_t is_write) {
  const uintptr_t site = reinterpret_cast<uintptr_t>(__builtin_return_address(0));
  touch(address, size, false, true, site);
  if (is_write) touch(address, size, true, true, site);
}

// ---- clang's instrumentation
#define ON_ACCESS(name, bytes)                                                                                             \
  void __tsan_read##name(void* p) { touch(p, bytes, false, false, reinterpret_cast<uintptr_t>(__builtin_return_address(0))); } \
  void __tsan_write##name(void* p) { touch(p, bytes, true, false, reinterpret_cast<uintptr_t>(__builtin_return_address(0))); }
ON_ACCESS(1, 1) ON_ACCESS(2, 2) ON_ACCESS(4, 4) ON_ACCESS(8, 8) ON_ACCESS(16, 16)
#define ON_UNALIGNED(bytes)                                                                                                            \
  void __tsan_unaligned_read##bytes(void* p) { touch(p, bytes, false, false, reinterpret_cast<uintptr_t>(__builtin_return_address(0))); } \
  void __tsan_unaligned_write##bytes(void* p) { touch(p, bytes, true, false, reinterpret_cast<uintptr_t>(__builtin_return_address(0))); }
ON_UNALIGNED(2) ON_UNALIGNED(4) ON_UNALIGNED(8) ON_UNALIGNED(16)
void __tsan_init() {}

void touch_range(void* p, size_t bytes, bool is_write, uintptr_t site) {
  for (size_t at = 0; at < bytes; at += 16) touch(static_cast<char*>(p) + at, static_cast<uint32_t>(std::min<size_t>(16, bytes - at)), is_write, false, site);
}
void* __tsan_memcpy(void* to, void* from, size_t bytes) {
  const uintptr_t site = reinterpret_cast<uintptr_t>(__builtin_return_address(0));
  touch_range(from, bytes, false, site);
  touch_range(to, bytes, true, site);
  settle();
  return memcpy(to, from, bytes);
}
void* __tsan_memmove(void* to, void* from, size_t bytes) {
  const uintptr_t site = reinterpret_cast<uintptr_t>(__builtin_return_address(0));
  touch_range(from, bytes, false, site);
  touch_range(to, bytes, true, site);
  settle();
  return memmove(to, from, bytes);
}
void* __tsan_memset(void* to, int value, size_t bytes) {
  touch_range(to, bytes, true, reinterpret_cast<uintptr_t>(__builtin_return_address(0)));
  settle();
  return memset(to, value, bytes);
}

/// Runs a launch to its end or to its first fault.
void msl_run(Launch* launch) {
  machine.launch = launch;
  Dl_info info;
  machine.library = dladdr(reinterpret_cast<void*>(launch->entry), &info) ? reinterpret_cast<uintptr_t>(info.dli_fbase) : 0;
  machine.number++;
  machine.group = 0;
  machine.touched.trim();
  machine.device.trim();
  machine.pending.at = nullptr;
  const uint32_t *dim = launch->dim, *count = launch->count;
  const size_t threads = static_cast<size_t>(dim[0]) * dim[1] * dim[2];
  machine.fibers.resize(threads);
  if (threads > machine.stack_count) {
    if (machine.stacks) munmap(machine.stacks, machine.stack_count * STACK_BYTES);
    machine.stacks = static_cast<char*>(mmap(nullptr, threads * STACK_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    machine.stack_count = threads;
  }
  machine.pointers.clear();
  for (uint64_t i = 0; i < launch->buffer_count; i++) machine.pointers.push_back(launch->buffers[i].start);
  const size_t simdgroups = (threads + LANES - 1) / LANES;
  machine.brought.resize(simdgroups);
  for (auto& epochs : machine.simd_epoch) epochs.assign(simdgroups, 0);
  std::mt19937 random(launch->order);
  for (uint32_t z = 0; z < count[2] && !failed(); z++)
    for (uint32_t y = 0; y < count[1] && !failed(); y++)
      for (uint32_t x = 0; x < count[0] && !failed(); x++) {
        machine.group++;
        machine.groups_run++;
        prepare(dim, count, {x, y, z});
        run_group(random);
        machine.current = nullptr;
        if (failed() && (launch->fault.code == BARRIER_NOT_REACHED || launch->fault.code == DIFFERENT_BARRIERS)) {
          launch->fault.group[0] = x;
          launch->fault.group[1] = y;
          launch->fault.group[2] = z;
        }
      }
}
}

#if defined(__linux__) && __clang_major__ >= 17
extern "C" __attribute__((weak)) __bf16 __truncsfbf2(float value) {  // absent from libgcc 12
  uint32_t bits;
  memcpy(&bits, &value, 4);
  const uint16_t rounded = value != value ? static_cast<uint16_t>(bits >> 16 | 0x40) : static_cast<uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
  __bf16 result;
  memcpy(&result, &rounded, 2);
  return result;
}
#endif

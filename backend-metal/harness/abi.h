// What Rust and the harness exchange: `emulator/kernel.rs` has the same layout.
#pragma once
#include <cstdint>

/// One buffer of a launch.
struct Buffer {
  uint8_t* start;
  uint64_t bytes;
};

enum FaultCode : uint32_t {
  NONE = 0,
  READ_OUTSIDE = 1,
  WRITE_OUTSIDE = 2,
  RACE = 3,
  BARRIER_NOT_REACHED = 4,
  DIFFERENT_BARRIERS = 5,
  INACTIVE_LANE = 6,
  PARTIAL_SIMDGROUP = 7,
  FRAGMENT_INDEX = 8,
  THREADGROUP_MEMORY = 9,
  TENSOR_OPERATION = 10,
};

enum Space : uint32_t { ELSEWHERE = 0, DEVICE = 1, THREADGROUP = 2 };

/// A fault. Sites are offsets into the kernel's library, 0 where there is none.
struct Fault {
  uint32_t code, space, buffer, size;
  int64_t offset;
  uint64_t site, other_site;
  uint32_t thread, other_thread, group[3], other_is_write, is_write, detail;
};

struct Counters {
  uint64_t bytes_read, bytes_written, unique_bytes_read, unique_bytes_written;
  uint64_t threadgroup_bytes_read, threadgroup_bytes_written;
  uint64_t arithmetic, matrix_operations, barriers, simd_operations;
};

struct Launch {
  void (*entry)(const void*, void* const*);
  uint32_t dim[3], count[3];
  uint32_t order;      // of the threads: 0 is ascending, 1 descending, else a seed to shuffle by
  uint32_t find_races;
  const Buffer* buffers;
  uint64_t buffer_count;
  Fault fault;
  Counters counters;
};

// Records which thread accessed which memory, to find unordered accesses.
#pragma once
#include <cstring>
#include "pages.h"

/// One access to a granule of two bytes, the smallest unit that threads share in half precision.
struct Access {
  uint32_t launch = 0, group = 0;
  uint16_t thread = 0;
  uint8_t mask = 0, atomic = 0;
  uint32_t epoch = 0, simd_epoch = 0;
  uint32_t site = 0;
};

/// The last write and the last read of a granule.
struct Cell {
  Access write, read;
  bool many_readers = false, readers_of_many_simdgroups = false;
};

constexpr uintptr_t GRANULE = 2;

/// Cells by address.
class Shadow {
  struct Page { Cell cells[PAGE_BYTES / GRANULE]; };
  Pages<Page> pages;

 public:
  Cell& at(uintptr_t address) { return pages.of(address).cells[address % PAGE_BYTES / GRANULE]; }
  void trim() { pages.trim(4096); }
};

/// Whether two accesses of different threads are ordered, by a barrier of their threadgroup or of their SIMD-group.
inline bool ordered(const Access& before, const Access& now) {
  if (before.launch != now.launch) return true;
  if (before.group != now.group) return false;
  if (before.thread == now.thread || before.epoch != now.epoch) return true;
  return before.thread / 32 == now.thread / 32 && before.simd_epoch != now.simd_epoch;
}

/// The access that `now` races with, if any. It returns pairs of writes too, although equal values are no race.
inline const Access* conflict(const Cell& cell, const Access& now, bool is_write) {
  const auto against = [&](const Access& other) {
    return (other.mask & now.mask) && !(other.atomic && now.atomic) && !ordered(other, now);
  };
  if (against(cell.write)) return &cell.write;
  if (!is_write || !(cell.read.mask & now.mask) || (cell.read.atomic && now.atomic)) return nullptr;
  const Access& read = cell.read;
  if (!ordered(read, now)) return &read;
  const bool same_interval = read.launch == now.launch && read.group == now.group && read.epoch == now.epoch;
  if (!same_interval || !cell.many_readers) return nullptr;
  // Several threads have read. Only the last one is recorded by number; its order says nothing about that of the others.
  const bool simd_orders = !cell.readers_of_many_simdgroups && read.thread / 32 == now.thread / 32 && read.simd_epoch != now.simd_epoch;
  return simd_orders ? nullptr : &read;
}

/// Records an access.
inline void record(Cell& cell, const Access& now, bool is_write) {
  if (is_write) {
    cell.write = now;
    return;
  }
  const Access& read = cell.read;
  const bool same_interval = read.launch == now.launch && read.group == now.group && read.epoch == now.epoch && read.mask;
  // Earlier reads of the same SIMD-group, which a barrier orders before this read: an access that races with them races with this.
  const bool ordered_by_simd =
      !cell.readers_of_many_simdgroups && read.thread / 32 == now.thread / 32 && read.simd_epoch != now.simd_epoch;
  if (!same_interval || ordered_by_simd || !(read.mask & now.mask)) {
    cell.many_readers = cell.readers_of_many_simdgroups = false;
  } else if (read.thread != now.thread) {
    cell.many_readers = true;
    cell.readers_of_many_simdgroups |= read.thread / 32 != now.thread / 32;
  }
  cell.read = now;
}

// A tensor operation of all SIMD-groups of a threadgroup. Part of `harness.cpp`, within its namespace.

/// One operand: lines of terms. The shim has the same structs.
struct Operand {
  const void* data;
  int kind;  // 0 half, 1 float, 2 bfloat
  int lines, depth, line_stride, depth_stride;
};
struct Product {
  Operand left, right;
  int m, n, k, groups, wrong;
};

float element_of(const Operand& operand, int64_t at) {
  uint16_t bits;
  switch (operand.kind) {
    case 0: return static_cast<float>(static_cast<const _Float16*>(operand.data)[at]);
    case 1: return static_cast<const float*>(operand.data)[at];
    default: {
      memcpy(&bits, static_cast<const char*>(operand.data) + 2 * at, 2);
      const uint32_t wide = static_cast<uint32_t>(bits) << 16;
      float value;
      memcpy(&value, &wide, 4);
      return value;
    }
  }
}

/// Waits for all threads of the threadgroup.
void gather(uintptr_t site) {
  machine.current->site = site;
  machine.current->flags = MEETING;
  suspend(State::AtBarrier);
}

/// Reads the running thread's share of a tile. Each element is read, and checked, once; what is outside of the operand is 0.
void read_tile(const Operand& operand, int lines, int depth, std::vector<float>& tile, uintptr_t site) {
  tile.resize(static_cast<size_t>(lines) * depth);
  const uint32_t bytes = operand.kind == 1 ? 4 : 2;
  const int64_t threads = static_cast<int64_t>(machine.fibers.size());
  // From the last thread on: a thread that wrote the tile in the usual order reads what others wrote, so that a missing barrier is a race.
  for (int64_t i = threads - 1 - index_of(machine.current); i < static_cast<int64_t>(tile.size()); i += threads) {
    const int64_t line = i / depth, term = i % depth, at = line * operand.line_stride + term * operand.depth_stride;
    tile[i] = 0;
    if (line >= operand.lines || term >= operand.depth) continue;
    touch(static_cast<char*>(const_cast<void*>(operand.data)) + at * bytes, bytes, false, false, site);
    tile[i] = element_of(operand, at);
  }
}

void multiply(const Product& product, float* sums, int capacity, bool accumulate, uintptr_t site) {
  const int threads = product.groups * static_cast<int>(LANES), depth = product.k < 0 ? product.left.depth : product.k;
  const bool whole = threads == static_cast<int>(machine.fibers.size());
  if (!whole || depth < 0 || (product.k < 0 && product.left.depth != product.right.depth)) {
    Fault fault = fault_at(TENSOR_OPERATION, site);
    fault.detail = whole ? static_cast<uint32_t>(product.right.depth) : static_cast<uint32_t>(threads);
    fail(fault);
  }
  gather(site);  // until the tiles of the last operation are no longer needed
  read_tile(product.left, product.m, depth, machine.tiles[0], site);
  read_tile(product.right, product.n, depth, machine.tiles[1], site);
  gather(site);
  if (index_of(machine.current) == 0)
    machine.launch->counters.matrix_operations += (static_cast<uint64_t>(product.m) * product.n * depth + 511) / 512;
  for (int e = 1; e < capacity; e++) {
    const int at = msl_element(threads, e);
    if (at >= product.m * product.n) continue;
    const int row = at / product.n, column = at % product.n;
    const float *left = machine.tiles[0].data() + static_cast<size_t>(row) * depth, *right = machine.tiles[1].data() + static_cast<size_t>(column) * depth;
    float sum = accumulate ? sums[e] : 0;
    const int terms = product.wrong && row % 8 == 3 ? depth - 1 : depth;
    for (int term = 0; term < terms; term++) sum += left[term] * right[term];
    sums[e] = sum;
  }
}

// matmul2d of Metal's tensor operations, at the level of tiles: which thread holds which elements of a cooperative tensor is nobody's
// business, and differs here from any GPU's. A tile may reach beyond its tensors: what is outside counts as 0, and is not read.
// Source: the comments of Apple's `MPPTensorOpsMatMul2d.h`.
#pragma once
#include <metal_tensor>

// One operand as the harness reads it; `harness.cpp` has the same structs.
struct msl_operand {
  const void* data;
  int kind;  // 0 half, 1 float, 2 bfloat
  int lines, depth, line_stride, depth_stride;
};
struct msl_product {
  msl_operand left, right;
  int m, n, k, groups, wrong;
};
extern "C" MSL_MEETING void msl_matmul(const msl_product* product, float* sums, int capacity, int accumulate);
extern "C" int msl_element(int threads, int e);

namespace mpp {
namespace tensor_ops {
struct matmul2d_descriptor {
  enum class mode { multiply, multiply_accumulate };
  int m, n, k;
  bool transpose_left, transpose_right, relaxed_precision;
  mode matmul_mode;
  constexpr matmul2d_descriptor(int m, int n, int k = metal::dynamic_extent, bool transpose_left = false, bool transpose_right = false,
                                bool relaxed_precision = false, mode matmul_mode = mode::multiply)
      : m(m), n(n), k(k), transpose_left(transpose_left), transpose_right(transpose_right), relaxed_precision(relaxed_precision),
        matmul_mode(matmul_mode) {}
  // In Apple's library the descriptor itself is the argument of a template, which C++17 can't express.
  constexpr operator ulong() const {
    return ulong(m) << 48 | ulong(n) << 32 | ulong(k + 1) << 8 | (transpose_left ? 1 : 0) | (transpose_right ? 2 : 0) |
           (matmul_mode == mode::multiply_accumulate ? 4 : 0);
  }
};

template <typename T> struct msl_kind;
template <> struct msl_kind<half> { static constexpr int value = 0; };
template <> struct msl_kind<float> { static constexpr int value = 1; };
template <> struct msl_kind<bfloat> { static constexpr int value = 2; };
#if defined(__OPENCL_CPP_VERSION__)
template <> struct msl_kind<device half> { static constexpr int value = 0; };
template <> struct msl_kind<device float> { static constexpr int value = 1; };
template <> struct msl_kind<device bfloat> { static constexpr int value = 2; };
template <> struct msl_kind<threadgroup half> { static constexpr int value = 0; };
template <> struct msl_kind<threadgroup float> { static constexpr int value = 1; };
template <> struct msl_kind<threadgroup bfloat> { static constexpr int value = 2; };
#endif

/// Each thread has `Capacity` elements of an M x N matrix, of which the first is none.
template <typename T, int M, int N, int Threads> struct cooperative_tensor {
  static constexpr int capacity = (M * N + Threads - 1) / Threads + 1;
  T element[capacity];
  ushort get_capacity() const { return capacity; }
  T& operator[](int e) {
    if (e < 0 || e >= capacity) msl_fault(8, uint(e));
    return element[e < 0 || e >= capacity ? 0 : e];
  }
  bool is_valid_element(int e) const { return e > 0 && e < capacity && msl_element(Threads, e) < M * N; }
  metal::array<int, 2> get_multidimensional_index(int e) const {
    const int at = is_valid_element(e) ? msl_element(Threads, e) : 0;
    return metal::array<int, 2>{at % N, at / N};
  }
};

template <typename T> struct msl_operand_of;
template <typename E, typename X> struct msl_operand_of<metal::tensor<E, X, metal::tensor_inline>> { typedef E element; };

#if defined(__OPENCL_CPP_VERSION__)
template <typename T> struct msl_operand_of<thread T> : msl_operand_of<T> {};
#endif

template <ulong Descriptor, typename Scope> class matmul2d;
template <ulong Descriptor, int Groups> class matmul2d<Descriptor, metal::execution_simdgroups<Groups>> {
  static constexpr int m = int(Descriptor >> 48), n = int(Descriptor >> 32 & 0xffff), k = int(Descriptor >> 8 & 0xffffff) - 1;
  static constexpr bool left_transposed = (Descriptor & 1) != 0, right_transposed = (Descriptor & 2) != 0;

 public:
  template <typename Left, typename Right, typename T> cooperative_tensor<T, m, n, Groups * 32> get_destination_cooperative_tensor() const {
    (void)msl_kind<typename msl_operand_of<Left>::element>::value;
    (void)msl_kind<typename msl_operand_of<Right>::element>::value;
    cooperative_tensor<T, m, n, Groups * 32> sums;
#if !defined(__OPENCL_CPP_VERSION__)
    __builtin_memset(&sums, 0xff, sizeof sums);  // undefined at first: NaN
#endif
    return sums;
  }
  template <typename L, typename R, typename X, typename T>
  MSL_MEETING inline __attribute__((always_inline)) void run(thread metal::tensor<L, X, metal::tensor_inline>& left,
                                                             thread metal::tensor<R, X, metal::tensor_inline>& right,
                                                             thread cooperative_tensor<T, m, n, Groups * 32>& sums) const {
    msl_product product;
    product.left.kind = msl_kind<L>::value;
    product.right.kind = msl_kind<R>::value;
#if !defined(__OPENCL_CPP_VERSION__)
    product.left.data = left.data;
    product.right.data = right.data;
#endif
    const int left_line = left_transposed ? 0 : 1, right_line = right_transposed ? 1 : 0;
    product.left.lines = left.extent[left_line];
    product.left.depth = left.extent[1 - left_line];
    product.left.line_stride = left.stride[left_line];
    product.left.depth_stride = left.stride[1 - left_line];
    product.right.lines = right.extent[right_line];
    product.right.depth = right.extent[1 - right_line];
    product.right.line_stride = right.stride[right_line];
    product.right.depth_stride = right.stride[1 - right_line];
    product.m = m;
    product.n = n;
    product.k = k;
    product.groups = Groups;
#if defined(MSL_WRONG_UNITS)
    product.wrong = 1;
#else
    product.wrong = 0;
#endif
    float values[cooperative_tensor<T, m, n, Groups * 32>::capacity];
    for (int e = 0; e < cooperative_tensor<T, m, n, Groups * 32>::capacity; e++) values[e] = float(sums.element[e]);
    msl_matmul(&product, values, cooperative_tensor<T, m, n, Groups * 32>::capacity, (Descriptor & 4) != 0);
    for (int e = 0; e < cooperative_tensor<T, m, n, Groups * 32>::capacity; e++) sums.element[e] = T(values[e]);
  }
};
}
}

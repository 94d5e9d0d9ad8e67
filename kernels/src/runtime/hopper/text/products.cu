// Products of a warpgroup: 64 rows, 64 columns, 16 terms.

#define KEPT(d) \
    "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]), "+f"(d[4]), "+f"(d[5]), "+f"(d[6]), "+f"(d[7]), \
    "+f"(d[8]), "+f"(d[9]), "+f"(d[10]), "+f"(d[11]), "+f"(d[12]), "+f"(d[13]), "+f"(d[14]), "+f"(d[15]), \
    "+f"(d[16]), "+f"(d[17]), "+f"(d[18]), "+f"(d[19]), "+f"(d[20]), "+f"(d[21]), "+f"(d[22]), "+f"(d[23]), \
    "+f"(d[24]), "+f"(d[25]), "+f"(d[26]), "+f"(d[27]), "+f"(d[28]), "+f"(d[29]), "+f"(d[30]), "+f"(d[31])
#define FRESH(d) \
    "=f"(d[0]), "=f"(d[1]), "=f"(d[2]), "=f"(d[3]), "=f"(d[4]), "=f"(d[5]), "=f"(d[6]), "=f"(d[7]), \
    "=f"(d[8]), "=f"(d[9]), "=f"(d[10]), "=f"(d[11]), "=f"(d[12]), "=f"(d[13]), "=f"(d[14]), "=f"(d[15]), \
    "=f"(d[16]), "=f"(d[17]), "=f"(d[18]), "=f"(d[19]), "=f"(d[20]), "=f"(d[21]), "=f"(d[22]), "=f"(d[23]), \
    "=f"(d[24]), "=f"(d[25]), "=f"(d[26]), "=f"(d[27]), "=f"(d[28]), "=f"(d[29]), "=f"(d[30]), "=f"(d[31])
#define SUMS \
    "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, " \
    "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31}"
#define MULTIPLY "wgmma.mma_async.sync.aligned.m64n64k16.f32." TYPE "." TYPE " " SUMS

// The product of two tiles whose rows are along the terms.
__device__ __forceinline__ void begin_product(float (&d)[32], u64 a, u64 b) {
    asm volatile(MULTIPLY ", %32, %33, 0, 1, 1, 0, 0;\n" : FRESH(d) : "l"(a), "l"(b));
}
// Adds it.
__device__ __forceinline__ void multiply(float (&d)[32], u64 a, u64 b) {
    asm volatile(MULTIPLY ", %32, %33, 1, 1, 1, 0, 0;\n" : KEPT(d) : "l"(a), "l"(b));
}
// Adds the product of weights in registers and a tile whose rows are across the terms.
__device__ __forceinline__ void multiply(float (&d)[32], const u32 *a, u64 b) {
    asm volatile(MULTIPLY ", {%32, %33, %34, %35}, %36, 1, 1, 1, 1;\n" : KEPT(d) : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b));
}

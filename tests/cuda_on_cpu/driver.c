// The driver functions that cubecl-cuda calls, for one simulated H100 in host memory. All calls are synchronous.
#include <dlfcn.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef int Result;
typedef unsigned long long Pointer;
enum { HANDLE = 1 };

Result cuInit(unsigned flags) { return 0; }
Result cuDriverGetVersion(int *version) { return *version = 13000, 0; }
Result cuGetErrorName(int error, const char **name) { return *name = "error", 0; }
Result cuGetErrorString(int error, const char **text) { return *text = "error", 0; }

Result cuDeviceGet(int *device, int ordinal) { return *device = 0, 0; }
Result cuDeviceGetCount(int *count) { return *count = 1, 0; }
Result cuDeviceGetName(char *name, int length, int device) { return snprintf(name, length, "CPU"), 0; }
Result cuDeviceTotalMem_v2(size_t *bytes, int device) { return *bytes = 80ull << 30, 0; }
Result cuMemGetInfo_v2(size_t *free_bytes, size_t *total) { return *free_bytes = *total = 80ull << 30, 0; }

// By the numbers of CUdevice_attribute.
Result cuDeviceGetAttribute(int *value, int attribute, int device) {
    const char *processors = getenv("CUDA_ON_CPU_PROCESSORS");
    switch (attribute) {
    case 1: *value = 1024; break;                                    // threads of a block
    case 2: case 3: *value = 1024; break;                            // block's x and y
    case 4: *value = 64; break;                                      // block's z
    case 5: *value = 2147483647; break;                              // grid's x
    case 6: case 7: *value = 65535; break;                           // grid's y and z
    case 8: *value = 49152; break;                                   // shared memory of a block
    case 10: *value = 32; break;                                     // warp
    case 16: *value = processors ? atoi(processors) : 132; break;    // multiprocessors
    case 75: *value = 9; break;                                      // compute capability
    case 76: *value = 0; break;
    case 97: *value = 232448; break;                                 // shared memory that a block may ask for
    default: *value = 1;
    }
    return 0;
}

Result cuDevicePrimaryCtxRetain(void **context, int device) { return *context = (void *)HANDLE, 0; }
Result cuCtxSetCurrent(void *context) { return 0; }
Result cuCtxGetCurrent(void **context) { return *context = (void *)HANDLE, 0; }
Result cuStreamCreate(void **stream, unsigned flags) { return *stream = (void *)HANDLE, 0; }
Result cuStreamSynchronize(void *stream) { return 0; }
Result cuStreamWaitEvent(void *stream, void *event, unsigned flags) { return 0; }
Result cuStreamDestroy_v2(void *stream) { return 0; }
Result cuEventCreate(void **event, unsigned flags) { return *event = (void *)HANDLE, 0; }
Result cuEventRecord(void *event, void *stream) { return 0; }
Result cuEventSynchronize(void *event) { return 0; }
Result cuEventQuery(void *event) { return 0; }
Result cuEventElapsedTime(float *ms, void *from, void *to) { return *ms = 1, 0; }
Result cuEventElapsedTime_v2(float *ms, void *from, void *to) { return *ms = 1, 0; }
Result cuEventDestroy_v2(void *event) { return 0; }

static Result allocate(void **to, size_t bytes) { return posix_memalign(to, 512, bytes ? bytes : 1) ? 2 : 0; }
Result cuMemAlloc_v2(Pointer *to, size_t bytes) { return allocate((void **)to, bytes); }
Result cuMemAllocAsync(Pointer *to, size_t bytes, void *stream) { return allocate((void **)to, bytes); }
Result cuMemAllocHost_v2(void **to, size_t bytes) { return allocate(to, bytes); }
Result cuMemHostAlloc(void **to, size_t bytes, unsigned flags) { return allocate(to, bytes); }
Result cuMemFree_v2(Pointer memory) { return free((void *)memory), 0; }
Result cuMemFreeAsync(Pointer memory, void *stream) { return free((void *)memory), 0; }
Result cuMemFreeHost(void *memory) { return free(memory), 0; }
Result cuMemcpyHtoDAsync_v2(Pointer to, const void *from, size_t bytes, void *stream) { return memcpy((void *)to, from, bytes), 0; }
Result cuMemcpyDtoHAsync_v2(void *to, Pointer from, size_t bytes, void *stream) { return memcpy(to, (void *)from, bytes), 0; }

// CUDA_MEMCPY2D; memory of type 1 is the host's.
struct Side { size_t x, y; int type; const void *host; Pointer device; void *array; size_t pitch; };
struct Copy { struct Side from, to; size_t width, height; };
Result cuMemcpy2DAsync_v2(const struct Copy *copy, void *stream) {
    const struct Side *from = &copy->from, *to = &copy->to;
    const char *source = from->type == 1 ? from->host : (const char *)from->device;
    char *target = to->type == 1 ? (char *)to->host : (char *)to->device;
    for (size_t row = 0; row < copy->height; row++)
        memcpy(target + (to->y + row) * to->pitch + to->x, source + (from->y + row) * from->pitch + from->x, copy->width);
    return 0;
}

// A module is the path of a library that `compiler.c` made.
Result cuModuleLoadData(void **module, const void *image) {
    *module = dlopen(image, RTLD_NOW | RTLD_LOCAL);
    if (!*module) fprintf(stderr, "cuda_on_cpu: %s\n", dlerror());
    return *module ? 0 : 200;
}
Result cuModuleUnload(void *module) { return 0; }
Result cuModuleGetFunction(void **function, void *module, const char *name) {
    *function = dlsym(module, "launch_on_cpu");
    return *function ? 0 : 500;
}
Result cuFuncSetAttribute(void *function, int attribute, int value) { return 0; }

Result cuLaunchKernel(void *function, unsigned grid_x, unsigned grid_y, unsigned grid_z, unsigned x, unsigned y, unsigned z,
                      unsigned shared, void *stream, void **arguments, void **extra) {
    const unsigned grid[3] = {grid_x, grid_y, grid_z}, block[3] = {x, y, z};
    ((void (*)(const unsigned *, const unsigned *, void **))function)(grid, block, arguments);
    return 0;
}

// Wraps the driver's library: forwards all calls, and times launches with events. See `run`.
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef int Result;
typedef void *Handle;

enum { MOST_FUNCTIONS = 4096 };

static struct { Handle function; char *name; } functions[MOST_FUNCTIONS];
static int function_count;

typedef struct { Handle function; unsigned x, y, block; Handle begin, end; } Launch;
typedef struct { Launch first; long count; double ms, gap; } Group;

static Launch *launches;
static long launched, from, until;

static void *driver(const char *name) {
    static void *library;
    if (!library) library = dlopen("libcuda.so.1", RTLD_NOW);
    return dlsym(library, name);
}

static const char *name_of(Handle function) {
    for (int i = function_count - 1; i >= 0; i--)
        if (functions[i].function == function) return functions[i].name;
    return "?";
}

static int by_time(const void *a, const void *b) {
    double difference = ((const Group *)b)->ms - ((const Group *)a)->ms;
    return (difference > 0) - (difference < 0);
}

static void report(void) {
    Result (*synchronize)(void) = driver("cuCtxSynchronize");
    Result (*elapsed)(float *, Handle, Handle) = driver("cuEventElapsedTime");
    synchronize();
    long count = until - from;
    int groups = 0;
    Group *group = calloc(count, sizeof *group);
    double busy = 0;
    float span = 0;
    for (long i = 0; i < count; i++) {
        Launch *launch = launches + i;
        float ms = 0, gap = 0;
        elapsed(&ms, launch->begin, launch->end);
        if (i > 0) elapsed(&gap, launches[i - 1].end, launch->begin);
        int at = 0;
        while (at < groups && (group[at].first.function != launch->function || group[at].first.x != launch->x ||
                               group[at].first.y != launch->y))
            at++;
        if (at == groups) group[groups++].first = *launch;
        group[at].count++;
        group[at].ms += ms;
        group[at].gap += gap;
        busy += ms;
    }
    elapsed(&span, launches[0].begin, launches[count - 1].end);
    qsort(group, groups, sizeof *group, by_time);
    fprintf(stderr, "%ld launches: %.3f ms of %.3f\n      ms  count       us   gap us        cubes  units  kernel\n", count, busy, span);
    for (int i = 0; i < groups; i++) {
        Group *g = group + i;
        char cubes[32];
        snprintf(cubes, sizeof cubes, "%ux%u", g->first.x, g->first.y);
        fprintf(stderr, "%8.3f %6ld %8.2f %8.2f %12s %6u  %s\n", g->ms, g->count, 1e3 * g->ms / g->count, 1e3 * g->gap / g->count,
                cubes, g->first.block, name_of(g->first.function));
    }
    free(group);
}

Result cuModuleGetFunction(Handle *function, Handle module, const char *name) {
    Result (*next)(Handle *, Handle, const char *) = driver("cuModuleGetFunction");
    Result result = next(function, module, name);
    if (function_count < MOST_FUNCTIONS) {
        functions[function_count].function = *function;
        functions[function_count++].name = strdup(name);
    }
    return result;
}

Result cuLaunchKernel(Handle function, unsigned x, unsigned y, unsigned z, unsigned block_x, unsigned block_y, unsigned block_z,
                      unsigned shared, Handle stream, Handle *parameters, Handle *extra) {
    static Result (*launch)(Handle, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, Handle, Handle *, Handle *);
    static Result (*create)(Handle *, unsigned), (*record)(Handle, Handle);
    if (!launch) {
        create = driver("cuEventCreate");
        record = driver("cuEventRecord");
        from = atol(getenv("PROFILE_FROM"));
        until = from + atol(getenv("PROFILE_COUNT"));
        launches = calloc(until - from, sizeof *launches);
        launch = driver("cuLaunchKernel");
    }
    long index = launched++;
    Launch *one = index >= from && index < until ? launches + index - from : NULL;
    if (index == until) report();
    if (one) {
        *one = (Launch){function, x, y, block_x * block_y * block_z};
        create(&one->begin, 0);
        create(&one->end, 0);
        record(one->begin, stream);
    }
    Result result = launch(function, x, y, z, block_x, block_y, block_z, shared, stream, parameters, extra);
    if (one) record(one->end, stream);
    return result;
}

// NVRTC's interface, implemented with `translate.py`; the PTX it returns is the path of a shared library.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef int Result;
static char *source, *library;

Result nvrtcVersion(int *major, int *minor) { return *major = 13, *minor = 0, 0; }
Result nvrtcCreateProgram(void **program, const char *text, const char *name, int count, const char *const *headers,
                          const char *const *names) {
    free(source);
    source = strdup(text);
    *program = source;
    return 0;
}
Result nvrtcDestroyProgram(void **program) { return 0; }

Result nvrtcCompileProgram(void *program, int count, const char *const *options) {
    unsigned long hash = 14695981039346656037ul; // FNV-1a
    for (const char *byte = source; *byte; byte++) hash = (hash ^ (unsigned char)*byte) * 1099511628211ul;
    const char *cache = getenv("CUDA_ON_CPU_CACHE"), *here = getenv("CUDA_ON_CPU");
    char *text, *command;
    free(library);
    asprintf(&library, "%s/%lx.so", cache, hash);
    asprintf(&text, "%s/%lx.cu", cache, hash);
    FILE *file = fopen(text, "w");
    if (!file) return 1;
    fputs(source, file);
    fclose(file);
    // Without our libraries in its way.
    asprintf(&command, "env -u LD_LIBRARY_PATH python3 '%s/translate.py' '%s' '%s'", here, text, library);
    int failed = system(command);
    free(command);
    free(text);
    return failed ? 6 : 0;
}

Result nvrtcGetPTXSize(void *program, size_t *size) { return *size = strlen(library) + 1, 0; }
Result nvrtcGetPTX(void *program, char *ptx) { return strcpy(ptx, library), 0; }
Result nvrtcGetProgramLogSize(void *program, size_t *size) { return *size = 1, 0; }
Result nvrtcGetProgramLog(void *program, char *log) { return *log = 0, 0; }

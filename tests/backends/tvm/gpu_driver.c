// What TVM's CUDA runtime calls, on a machine without a GPU: memory is that of the host, launches
// are told, and those of a graph are told when the graph is launched.
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

typedef unsigned u32;
typedef struct {
    u32 grid[3], block[3], shared;
    void *stream, *attributes;
    u32 count;
} launch_config;
typedef void told(int graph, const char *name, const u32 *sizes, void **parameters);
typedef struct { char name[256]; u32 most_shared; } function;

told *teller;
int graphs, recorded = -1, asked_shared;

int cuModuleLoadData(void **module, const char *code) {
    *module = (void *)code;
    return memcmp(code, "\177ELF", 4) != 0;
}
int cuModuleUnload(void *module) { return module == 0; }
int cuModuleGetFunction(function **made, void *module, const char *name) {
    if (!module || strlen(name) > 255) return 1;
    *made = calloc(1, sizeof **made);
    strcpy((*made)->name, name);
    return 0;
}
int cuFuncSetAttribute(function *f, int which, int value) {
    f->most_shared = (u32)value;
    return which != 8;
}
int cuLaunchKernelEx(const launch_config *how, function *f, void **parameters, void **extra) {
    u32 sizes[7];
    memcpy(sizes, how->grid, 12), memcpy(sizes + 3, how->block, 12), sizes[6] = how->shared;
    if (extra || (how->shared >= 48 << 10 && f->most_shared < how->shared)) return 2;
    teller(recorded, f->name, sizes, parameters);
    return 0;
}
int cuGetErrorName(int status, const char **name) { return *name = "refused", status == 0; }
int cuGetErrorString(int status, const char **said) { return *said = "refused", status == 0; }
int cuDeviceGetName(char *name, int length, int device) { return strncpy(name, "none", (size_t)length), device; }
int cuTensorMapEncodeTiled(void) { return 1; }

int cudaStreamBeginCapture(void *stream, int mode) { return recorded = graphs++, 0; }
int cudaStreamEndCapture(void *stream, void **graph) {
    *graph = (void *)(intptr_t)(recorded + 1);
    recorded = -1;
    return 0;
}
int cudaGraphInstantiate(void **made, void *graph, unsigned long long flags) { return *made = graph, 0; }
int cudaGraphLaunch(void *graph, void *stream) {
    teller((int)(intptr_t)graph - 1, 0, 0, 0);
    return 0;
}
int cudaGraphDestroy(void *graph) { return 0; }
int cudaGraphExecDestroy(void *graph) { return 0; }

int cudaMalloc(void **made, size_t bytes) {
    *made = aligned_alloc(256, (bytes + 255) / 256 * 256);
    return !*made || !memset(*made, 0xff, bytes);  // NaN
}
int cudaFree(void *memory) { return free(memory), 0; }
int cudaMallocHost(void **made, size_t bytes) { return cudaMalloc(made, bytes); }
int cudaFreeHost(void *memory) { return cudaFree(memory); }
int cudaMemcpyAsync(void *to, const void *from, size_t bytes, int kind, void *stream) {
    return memcpy(to, from, bytes), recorded >= 0;
}
int cudaMemcpyPeerAsync(void) { return 1; }
int cudaMemGetInfo(size_t *left, size_t *all) { return *left = *all = 1 << 30, 0; }
int cudaGetDeviceCount(int *count) { return *count = 1, 0; }
int cudaGetDevice(int *device) { return *device = 0; }
int cudaSetDevice(int device) { return device; }
int cudaDeviceGetAttribute(int *value, int which, int device) { return *value = 9, device; }
int cudaGetDeviceProperties(void *properties, int device) { return device; }
const char *cudaGetErrorName(int status) { return "refused"; }
const char *cudaGetErrorString(int status) { return "refused"; }
int cudaGetLastError(void) { return 0; }
int cudaPeekAtLastError(void) { return 0; }
int cudaEventCreate(void **event) { return *event = &graphs, 0; }
int cudaEventDestroy(void *event) { return 0; }
int cudaEventElapsedTime(float *ms, void *from, void *to) { return *ms = 0, 0; }
int cudaEventRecord(void *event, void *stream) { return 0; }
int cudaEventSynchronize(void *event) { return 0; }
int cudaStreamCreate(void **stream) { return *stream = &graphs, 0; }
int cudaStreamCreateWithFlags(void **stream, u32 flags) { return *stream = &graphs, 0; }
int cudaStreamDestroy(void *stream) { return 0; }
int cudaStreamSynchronize(void *stream) { return recorded >= 0; }
int cudaStreamWaitEvent(void *stream, void *event, u32 flags) { return 0; }

/* A sampling as docs/attention.md has it: reads weights.bin and x.bin, STEPS times x [1, TOKENS, WIDTH], and writes y.bin. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "model.h"

enum { SIZE = TOKENS * WIDTH, MOST = 1 << 24 };
static _Alignas(64) char weights[MOST];
static float x[SIZE], y[SIZE];
static int32_t first[BLOCKS], second[BLOCKS];

static void *get(void *self, uint64_t bytes) { return malloc(bytes); }
static void put(void *self, void *memory) { free(memory); }
static int fail(const char *why) { return fprintf(stderr, "%s\n", why), 1; }

int main(void) {
    FILE *file = fopen("weights.bin", "rb");
    const size_t bytes = fread(weights, 1, MOST, file);
    const model_host host = {get, put, NULL, NULL};
    model_model *m;
    char message[1024];
    fclose(file);
    if (model_create(weights, bytes, &host, &m, message, sizeof message)) return fail(message);
    FILE *from = fopen("x.bin", "rb"), *to = fopen("y.bin", "wb");
    int32_t *blocks = first, *next = second;
    memset(blocks, -1, sizeof first);
    for (int64_t step = 0; step < STEPS; step++) {
        if (fread(x, sizeof *x, SIZE, from) != SIZE) return fail("x.bin is short");
        const model_tensor in[] = {
            {.data = x, .dims = {1, TOKENS, WIDTH}, .rank = 3},
            {.type = model_INT64, .data = &step, .dims = {1}, .rank = 1},
            {.type = model_INT32, .data = blocks, .dims = {BLOCKS}, .rank = 1},
        };
        model_tensor out[2] = {0};
        if (model_plan(m, in, out)) return fail(model_error(m));
        out[0].data = y, out[1].data = next;
        if (model_run(m, in, out)) return fail(model_error(m));
        int32_t *found = next; next = blocks; blocks = found;
        fwrite(y, sizeof *y, SIZE, to);
    }
    fclose(from), fclose(to);
    model_destroy(m);
    return 0;
}

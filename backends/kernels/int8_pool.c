/* Step kind int8_maxpool: the largest byte of a window; padding is less than any.
   Attributes: kernel 2, strides 2, pads 4, dilations 2. */
#include "int8_step.h"

enum { ATTRIBUTES = 2 + INT8_WINDOW, MOST_TAPS = 128, SMALL = 16, BAND_BYTES = 20 * 1024, TASKS = 32 };

typedef struct { int8_window window; i64 taps; } pool;

typedef struct {
  const pool *kernel;
  const sc_host *host;
  const sc_tensor *x, *y;
  sc_int8_planes planes;
  i64 rows, tasks, bytes;        /* output rows of a band; bytes of its planes */
  i32 failed;
} job;

static void destroy(void *state, const sc_host *host) { host->free(host->self, state); }

static const char *create(const sc_step_spec *s, const sc_host *host, void **state)
{
  *state = 0;
  if (s->inputs != 1 || s->outputs != 1 || s->constant_count || s->attribute_count != ATTRIBUTES)
    return "an int8_maxpool has one input, one output, no constants and 10 attributes";
  const i64 *kernel = s->attributes;
  for (int i = 0; i < 2; i++)
    if (kernel[i] < 1 || kernel[i] > INT8_KERNEL) return "a side of the kernel is outside 1..64";
  if (kernel[0] * kernel[1] > MOST_TAPS) return "the kernel has more than 128 taps";
  pool k = {.taps = kernel[0] * kernel[1]};
  const char *wrong = int8_read_window(s->attributes + 2, kernel, &k.window);
  if (wrong) return wrong;
  pool *made = *state = host->alloc(host->self, sizeof *made);
  if (!made) return int8_no_memory;
  *made = k;
  return 0;
}

static const char *infer(const void *state, const sc_tensor *const *in, sc_tensor *const *out)
{
  const pool *k = state;
  const char *wrong = int8_check_image(in[0]);
  return wrong ? wrong : int8_infer_window(&k->window, in[0], int8_groups(in[0]->dims[1]), in[0]->dims[1], out[0]);
}

/* One row of outputs, `size` bytes at a time; the last ones may overlap those before. */
#define DEFINE_ROW(name, size)                                                            \
  static void name(const x8 *const *taps, i64 count, i64 from, x8 *y, i64 bytes)          \
  {                                                                                       \
    typedef x8 lanes __attribute__((vector_size(size), aligned(1), may_alias));           \
    typedef signed char mask __attribute__((vector_size(size)));                          \
    for (i64 at = 0;; at = at + 2 * size <= bytes ? at + size : bytes - size) {           \
      mask most = (mask)*(const lanes *)(taps[0] + from + at);                            \
      for (i64 t = 1; t < count; t++) {                                                   \
        mask x = (mask)*(const lanes *)(taps[t] + from + at);                             \
        mask more = (mask)((lanes)x > (lanes)most);                                       \
        most = (x & more) | (most & ~more);                                               \
      }                                                                                   \
      *(lanes *)(y + at) = (lanes)most;                                                   \
      if (at + size == bytes) return;                                                     \
    }                                                                                     \
  }
DEFINE_ROW(row_wide, VB)
DEFINE_ROW(row_small, SMALL)
DEFINE_ROW(row_pixel, 4)

static void run_group(const job *j, i64 plane, x8 *packed, const x8 *const *taps)
{
  i64 height = j->y->dims[2], width = j->y->dims[3], bytes = 4 * width;
  const x8 *x = (const x8 *)j->x->data + plane * j->planes.height * j->planes.width * 4;
  for (i64 top = 0; top < height; top += j->rows) {
    i64 rows = clip(height - top, 1, j->rows);
    SC(sc_int8_pack)(&j->planes, packed, x, top, rows);
    x8 *y = (x8 *)j->y->data + (plane * height + top) * bytes;
    for (i64 r = 0; r < rows; r++, y += bytes)
      (bytes >= VB ? row_wide : bytes >= SMALL ? row_small : row_pixel)(taps, j->kernel->taps, r * j->planes.columns * 4, y, bytes);
  }
}

static void task_groups(void *data, u64 i)
{
  job *j = data;
  i64 all = int8_groups(j->x->dims[1]) * j->x->dims[0], from = all * (i64)i / j->tasks, end = all * ((i64)i + 1) / j->tasks;
  int slot;
  float *packed = sc_scratch_get(j->host, j->bytes / 4, &slot);
  if (!packed) {
    __atomic_store_n(&j->failed, 1, __ATOMIC_RELAXED);
    return;
  }
  const x8 *taps[MOST_TAPS];
  const i64 *kernel = j->kernel->window.kernel;
  for (i64 t = 0; t < j->kernel->taps; t++)
    taps[t] = (x8 *)packed + int8_tap(&j->kernel->window, &j->planes, 0, t / kernel[1], t % kernel[1]);
  for (i64 plane = from; plane < end; plane++) run_group(j, plane, (x8 *)packed, taps);
  sc_scratch_put(j->host, slot, packed);
}

static int run(void *state, const sc_tensor *const *in, sc_tensor *const *out, const sc_call *call)
{
  const pool *k = state;
  job j = {.kernel = k, .host = call->host, .x = in[0], .y = out[0]};
  int8_planes(&k->window, in[0], out[0], 0, int8_fill(0), BAND_BYTES, &j.planes, &j.rows);
  if (j.planes.plane > 0x7fffffff / 64) return SC_TOO_LARGE;
  j.bytes = j.planes.phases * j.planes.variants * j.planes.plane;
  j.tasks = clip(int8_groups(in[0]->dims[1]) * in[0]->dims[0], 0, TASKS);
  int status = int8_parallel(call, task_groups, j.tasks, &j);
  return status ? status : j.failed ? SC_MEMORY : SC_OK;
}

HIDDEN const sc_step_kind SC(sc_step_int8_maxpool) = {"int8_maxpool", create, destroy, infer, run};

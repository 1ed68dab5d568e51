/* Steps on images in plain layout: pooling, and taking off dimensions. */
#include "pack.h"
#include "step.h"
#include "vecmath.h"

/* ---- pooling: attributes max, kernel 2, strides 2, pads 4, whether pads count ---- */
enum { MAX, KERNEL, STRIDE = 3, PADS = 5, COUNT_PADS = 9, POOL_ATTRIBUTES };
typedef struct { i64 a[POOL_ATTRIBUTES]; } pool;

static const char *create_pool(const sc_step_spec *spec, const sc_host *host, void **state)
{
  if (spec->attribute_count != POOL_ATTRIBUTES || spec->constant_count || spec->inputs != 1 || spec->outputs != 1)
    return "a malformed step";
  const i64 *a = spec->attributes;
  for (int i = 0; i < 2; i++) {
    if (a[KERNEL + i] < 1 || a[KERNEL + i] > 1024 || a[STRIDE + i] < 1 || a[STRIDE + i] > 1024) return "a malformed window";
    for (int side = 0; side < 4; side += 2)
      if (a[PADS + i + side] < 0 || (a[PADS + i + side] && a[PADS + i + side] >= a[KERNEL + i])) return "a malformed window";
  }
  pool *p = *state = sc_get(host, sizeof *p);
  for (int i = 0; p && i < POOL_ATTRIBUTES; i++) p->a[i] = a[i];
  return p ? 0 : "out of memory";
}

static void destroy_state(void *state, const sc_host *host) { sc_drop(host, state); }

static const char *infer_pool(const void *state, const sc_tensor *const *in, sc_tensor *const *out)
{
  const i64 *a = ((const pool *)state)->a;
  if (!sc_is_plain(in[0]) || in[0]->rank != 4) return "its input is not a float32 image [N, C, H, W]";
  *out[0] = *in[0];
  for (int i = 0; i < 2; i++) {
    i64 size = sc_out_size(in[0]->dims[2 + i], a[PADS + i], a[PADS + 2 + i], a[KERNEL + i], a[STRIDE + i], 1);
    if (size < 1) return "the image is smaller than the window";
    out[0]->dims[2 + i] = size;
  }
  return 0;
}

typedef struct {
  const pool *p;
  const sc_host *host;
  const sc_tensor *x, *y;
  i64 planes, parts;
  int failed;
} pool_job;

/* How many positions from `at` on a window of `size` covers: those of the image, or, where pads count, of it and its pads. */
static i64 covered(const i64 *a, int axis, i64 at, i64 image)
{
  i64 size = a[KERNEL + axis];
  if (a[COUNT_PADS]) return clip(at + size, at, image + a[PADS + 2 + axis]) - at;
  return clip(at + size, 0, image) - clip(at, 0, image);
}

INLINE vf joined(vf a, vf b, const int max) { return max ? select_vf(b <= a, a, b) : a + b; }

/* The rows [from, end) of a plane as one, column by column. */
INLINE void join_rows(const float *x, i64 width, i64 from, i64 end, float *to, const int max)
{
  for (i64 c = 0; c < width; c += VL) {
    vf v = load_some(x + from * width + c, width - c, 0.f);
    for (i64 r = from + 1; r < end; r++) v = joined(v, load_some(x + r * width + c, width - c, 0.f), max);
    store_some(to + c, v, width - c);
  }
}

/* Windows of a row, `step` apart: its first is at `x`, which goes on for a vector behind the last. `share`: of the sums. */
INLINE void join_columns(const float *x, i64 size, i64 step, float *y, i64 count, const float *share, float rows, const int max)
{
  for (i64 c = 0; c < count; c += VL) {
    vf v = splat(max ? -__builtin_inff() : 0.f);
    if (step <= 2)
      for (i64 k = 0; k < size; k++) v = joined(v, step == 2 ? every_second(x + 2 * c + k) : load(x + c + k), max);
    else for (int lane = 0; lane < VL && c + lane < count; lane++)
      for (i64 k = 0; k < size; k++) {
        float u = x[(c + lane) * step + k];
        v[lane] = !max ? v[lane] + u : u <= v[lane] ? v[lane] : u;
      }
    store_some(y + c, max ? v : v * (load(share + c) * rows), count - c);
  }
}

INLINE void pool_plane(const pool_job *j, const float *x, float *y, float *row, float *share, const int max)
{
  const i64 *a = j->p->a, *in = j->x->dims + 2, *out = j->y->dims + 2;
  for (i64 r = 0; r < out[0]; r++) {
    i64 top = r * a[STRIDE] - a[PADS], from = clip(top, 0, in[0]), end = clip(top + a[KERNEL], 0, in[0]);
    join_rows(x, in[1], from, end, row + a[PADS + 1], max);
    join_columns(row, a[KERNEL + 1], a[STRIDE + 1], y + r * out[1], out[1], share, 1.f / (float)covered(a, 0, top, in[0]), max);
  }
}

/* Floats of a row with its pads, and of the shares of a row of results. */
static i64 row_floats(const pool_job *j)
{
  const i64 *a = j->p->a;
  return j->x->dims[3] + a[PADS + 1] + a[PADS + 3] + a[KERNEL + 1] + a[STRIDE + 1] + 2 * VL;
}

static void task_pool(void *data, u64 part)
{
  pool_job *j = data;
  const i64 *a = j->p->a, *in = j->x->dims + 2, *out = j->y->dims + 2;
  i64 from = j->planes * (i64)part / j->parts, end = j->planes * ((i64)part + 1) / j->parts, floats = row_floats(j);
  int slot;
  float *row = sc_scratch_get(j->host, floats + out[1] + VL, &slot), *share = row + floats;
  if (!row) {
    __atomic_store_n(&j->failed, 1, __ATOMIC_RELAXED);
    return;
  }
  for (i64 i = 0; i < floats; i++) row[i] = a[MAX] ? -__builtin_inff() : 0.f;
  for (i64 c = 0; c < out[1]; c++) share[c] = 1.f / (float)covered(a, 1, c * a[STRIDE + 1] - a[PADS + 1], in[1]);
  for (i64 c = out[1]; c < out[1] + VL; c++) share[c] = 0.f;
  for (i64 plane = from; plane < end; plane++) {
    const float *x = (const float *)j->x->data + plane * in[0] * in[1];
    float *y = (float *)j->y->data + plane * out[0] * out[1];
    if (a[MAX]) pool_plane(j, x, y, row, share, 1);
    else pool_plane(j, x, y, row, share, 0);
  }
  sc_scratch_put(j->host, slot, row);
}

static int run_pool(void *state, const sc_tensor *const *in, sc_tensor *const *out, const sc_call *call)
{
  pool_job j = {.p = state, .host = call->host, .x = in[0], .y = out[0], .planes = in[0]->dims[0] * in[0]->dims[1]};
  j.parts = clip(j.planes, 1, STEP_TASKS);
  int status = sc_run_tasks(call, task_pool, j.parts, &j);
  return status ? status : j.failed ? SC_MEMORY : SC_OK;
}

/* ---- flatten: [N, ...] as [N, the rest], or as images of one pixel, [N, the rest, 1, 1]; attribute: the rank, 2 or 4 ---- */
static const char *create_flatten(const sc_step_spec *spec, const sc_host *host, void **state)
{
  if (spec->attribute_count != 1 || spec->constant_count || spec->inputs != 1 || spec->outputs != 1) return "a malformed step";
  if (spec->attributes[0] != 2 && spec->attributes[0] != 4) return "its result has another rank than 2 or 4";
  i64 *rank = *state = sc_get(host, sizeof *rank);
  if (rank) *rank = spec->attributes[0];
  return rank ? 0 : "out of memory";
}

static const char *infer_flatten(const void *state, const sc_tensor *const *in, sc_tensor *const *out)
{
  if (!sc_is_plain(in[0]) || in[0]->rank < 2) return "its input is not a plain float32 tensor";
  *out[0] = (sc_tensor){.type = SC_F32, .layout = SC_PLAIN, .rank = (i32)*(const i64 *)state,
                        .dims = {in[0]->dims[0], sc_product(in[0]->dims, 1, in[0]->rank), 1, 1}};
  return 0;
}

static int run_flatten(void *state, const sc_tensor *const *in, sc_tensor *const *out, const sc_call *call)
{
  (void)state, (void)call;
  copy_floats(out[0]->data, in[0]->data, sc_product(in[0]->dims, 0, in[0]->rank));
  return SC_OK;
}

HIDDEN const sc_step_kind SC(sc_step_pool) = {"pooling", create_pool, destroy_state, infer_pool, run_pool};
HIDDEN const sc_step_kind SC(sc_step_flatten) = {"Flatten", create_flatten, destroy_state, infer_flatten, run_flatten};

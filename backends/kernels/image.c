/* Steps on images in plain layout: pooling, and taking off dimensions. */
#include "pack.h"
#include "step.h"
#include "vecmath.h"

/* ---- pooling: attributes max, kernel 2, strides 2, pads 4, whether pads count; a kernel of 0 is the whole image ---- */
enum { MAX, KERNEL, STRIDE = 3, PADS = 5, COUNT_PADS = 9, POOL_ATTRIBUTES };
typedef struct { i64 a[POOL_ATTRIBUTES]; } pool;

static const char *create_pool(const sc_step_spec *spec, const sc_host *host, void **state)
{
  if (spec->attribute_count != POOL_ATTRIBUTES || spec->constant_count || spec->inputs != 1 || spec->outputs != 1)
    return "a malformed step";
  const i64 *a = spec->attributes;
  for (int i = 0; i < 2; i++) {
    if (a[KERNEL + i] < 0 || a[KERNEL + i] > 1024 || a[STRIDE + i] < 1 || a[STRIDE + i] > 1024) return "a malformed window";
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
    i64 size = 1;
    if (a[KERNEL + i]) size = sc_out_size(in[0]->dims[2 + i], a[PADS + i], a[PADS + 2 + i], a[KERNEL + i], a[STRIDE + i], 1);
    else if (in[0]->dims[2 + i] < 1) size = -1;
    if (size < 1) return "the image is smaller than the window";
    out[0]->dims[2 + i] = size;
  }
  return 0;
}

typedef struct { const pool *p; const sc_tensor *x, *y; i64 planes, parts; } pool_job;

static float mean_of(const float *x, i64 n)
{
  vf lanes = splat(0.f);
  float sum = 0.f;
  i64 i = 0;
  for (; i + VL <= n; i += VL) lanes += load(x + i);
  for (; i < n; i++) sum += x[i];
  return (sum + sum_of(lanes)) / (float)n;
}

static float window(const pool *p, const float *x, const i64 *size, i64 row, i64 column)
{
  const i64 *a = p->a;
  i64 top = row * a[STRIDE] - a[PADS], left = column * a[STRIDE + 1] - a[PADS + 1];
  i64 from = clip(top, 0, size[0]), end = clip(top + a[KERNEL], 0, size[0]);
  i64 first = clip(left, 0, size[1]), last = clip(left + a[KERNEL + 1], 0, size[1]);
  float out = a[MAX] ? -__builtin_inff() : 0.f;
  for (i64 r = from; r < end; r++)
    for (i64 c = first; c < last; c++) {
      float v = x[r * size[1] + c];
      if (!a[MAX]) out += v;
      else if (!(v <= out)) out = v;
    }
  if (a[MAX]) return out;
  i64 count = (end - from) * (last - first);
  if (a[COUNT_PADS]) /* windows that begin inside the pads but reach beyond them count what lies within */
    count = (clip(top + a[KERNEL], top, size[0] + a[PADS + 2]) - top) * (clip(left + a[KERNEL + 1], left, size[1] + a[PADS + 3]) - left);
  return out / (float)count;
}

/* ---- maxima of small windows: of rows first, then along one ---- */
enum { COLUMNS = 16 * VL, WIDEST = 16 };

INLINE vf most(vf a, vf b) { return select_vf(a > b, a, b); }

/* Columns [left, left + n) of input rows [from, end) as the largest of each; what lies outside of the image is -inf. */
static void largest_rows(float *out, const float *x, i64 width, i64 from, i64 end, i64 left, i64 n)
{
  i64 first = clip(-left, 0, n), last = clip(width - left, first, n);
  for (i64 i = 0; i < n; i++) out[i] = -__builtin_inff();
  for (i64 r = from; r < end; r++) {
    const float *row = x + r * width + left;
    i64 i = first;
    for (; i + VL <= last; i += VL) store(out + i, most(load(row + i), load(out + i)));
    for (; i < last; i++) out[i] = row[i] > out[i] ? row[i] : out[i];
  }
}

/* STEP: the stride along a row. */
INLINE void largest_of_plane(const int STEP, const pool *p, const float *x, const i64 *in, float *y, const i64 *out)
{
  float row[STEP * COLUMNS + WIDEST + VL];
  const i64 *a = p->a;
  for (i64 r = 0; r < out[0]; r++, y += out[1]) {
    i64 top = r * a[STRIDE] - a[PADS], from = clip(top, 0, in[0]), end = clip(top + a[KERNEL], 0, in[0]);
    for (i64 c = 0; c < out[1]; c += COLUMNS) {
      i64 n = clip(out[1] - c, 0, COLUMNS);
      largest_rows(row, x, in[1], from, end, c * STEP - a[PADS + 1], STEP * ceil_div(n, VL) * VL + WIDEST + VL);
      for (i64 i = 0; i < n; i += VL) {
        vf v = splat(-__builtin_inff());
        for (i64 k = 0; k < a[KERNEL + 1]; k++) v = most(STEP == 1 ? load(row + i + k) : every_second(row + 2 * i + k), v);
        store_some(y + c + i, v, n - i);
      }
    }
  }
}

/* Whether the maxima of a plane are done. */
static int largest(const pool *p, const float *x, const i64 *in, float *y, const i64 *out)
{
  const i64 *a = p->a;
  if (!a[MAX] || !a[KERNEL] || a[KERNEL + 1] < 1 || a[KERNEL + 1] > WIDEST || a[STRIDE + 1] > 2) return 0;
  if (a[STRIDE + 1] == 1) largest_of_plane(1, p, x, in, y, out);
  else largest_of_plane(2, p, x, in, y, out);
  return 1;
}

static void task_pool(void *data, u64 part)
{
  const pool_job *j = data;
  const i64 *a = j->p->a, *in = j->x->dims + 2, *out = j->y->dims + 2;
  i64 from = j->planes * (i64)part / j->parts, end = j->planes * ((i64)part + 1) / j->parts;
  for (i64 plane = from; plane < end; plane++) {
    const float *x = (const float *)j->x->data + plane * in[0] * in[1];
    float *y = (float *)j->y->data + plane * out[0] * out[1];
    if (!a[KERNEL] && !a[KERNEL + 1] && !a[MAX]) *y = mean_of(x, in[0] * in[1]);
    else if (!largest(j->p, x, in, y, out))
      for (i64 r = 0; r < out[0]; r++)
        for (i64 c = 0; c < out[1]; c++) y[r * out[1] + c] = window(j->p, x, in, r, c);
  }
}

static int run_pool(void *state, const sc_tensor *const *in, sc_tensor *const *out, const sc_call *call)
{
  pool_job j = {state, in[0], out[0], in[0]->dims[0] * in[0]->dims[1], 0};
  j.parts = clip(j.planes, 1, STEP_TASKS);
  return sc_run_tasks(call, task_pool, j.parts, &j);
}

/* ---- flatten: [N, ...] as [N, the rest] ---- */
static const char *create_flatten(const sc_step_spec *spec, const sc_host *host, void **state)
{
  (void)host, (void)state;
  return spec->attribute_count || spec->constant_count || spec->inputs != 1 || spec->outputs != 1 ? "a malformed step" : 0;
}

static const char *infer_flatten(const void *state, const sc_tensor *const *in, sc_tensor *const *out)
{
  (void)state;
  if (!sc_is_plain(in[0]) || in[0]->rank < 2) return "its input is not a plain float32 tensor";
  *out[0] = (sc_tensor){.type = SC_F32, .layout = SC_PLAIN, .rank = 2,
                        .dims = {in[0]->dims[0], sc_product(in[0]->dims, 1, in[0]->rank)}};
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

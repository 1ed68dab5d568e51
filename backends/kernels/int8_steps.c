/* The smaller int8 step kinds, on bytes in layout C4.
   int8_quantize    floats [N, C, ...] in layout plain to bytes. Attributes: bits of the float32 scale, zero point.
   int8_dequantize  bytes to floats in layout plain. Attributes: bits of the float32 scale, zero point, rank: of Y, 4 or,
                    where H = W = 1, 2.
   int8_add         clamp(round(A * a + B * b + constant)). Attributes: bits of the float32 a, b and constant, least and
                    largest byte.
   int8_mean        the mean over H and W, clamp(round((sum - H * W * x_zero) * multiplier / (H * W)) + y_zero).
                    Attributes: bits of the float32 multiplier, zero points of X and Y. */
#include "int8_step.h"

enum { PIXELS = 16 * 1024, BYTES = 64 * 1024 }; /* that one task takes */

typedef struct {
  float scale[3];
  i64 zero[2], low, high, rank;
} step;

static void destroy(void *state, const sc_host *host) { host->free(host->self, state); }

static int read_float(i64 bits, float *out)
{
  i32 low = (i32)bits;
  __builtin_memcpy(out, &low, 4);
  return *out - *out == 0.f;
}

/* `floats` finite numbers, then integers; null or what is wrong. */
static const char *make(const sc_step_spec *s, const sc_host *host, i64 inputs, i64 attributes, int floats, step **out)
{
  if (s->inputs != inputs || s->outputs != 1 || s->constant_count || s->attribute_count != attributes)
    return "the step has another number of inputs, outputs, constants or attributes than its kind";
  step *k = *out = host->alloc(host->self, sizeof *k);
  if (!k) return int8_no_memory;
  *k = (step){.high = 255, .rank = 4};
  for (int i = 0; i < floats; i++)
    if (!read_float(s->attributes[i], &k->scale[i])) return "a scale is not finite";
  for (i64 i = floats; i < attributes; i++)
    if (s->attributes[i] < 0 || s->attributes[i] > 255) return "a zero point or bound is outside 0..255";
  return 0;
}

typedef struct {
  const step *step;
  const sc_tensor *a, *b, *y;
  i64 pixels, parts, groups;
} job;

static i64 pixels_of(const sc_tensor *t)
{
  i64 n = 1;
  for (int i = 2; i < t->rank; i++) n *= t->dims[i];
  return n;
}

static void c4_of(const sc_tensor *like, sc_tensor *y)
{
  *y = (sc_tensor){.type = SC_U8, .layout = SC_C4, .rank = 4, .dims = {like->dims[0], like->dims[1], 1, 1}};
  for (int i = 2; i < like->rank; i++) y->dims[i] = like->dims[i];
}

/* Tasks over (image and group of channels) x parts of the pixels. */
static int run_groups(job *j, const sc_tensor *shape, void (*task)(void *, u64), const sc_call *call)
{
  j->pixels = pixels_of(shape), j->groups = int8_groups(shape->dims[1]);
  j->parts = clip(ceil_div(j->pixels, PIXELS), 1, j->pixels + 1);
  i64 count = shape->dims[0] * j->groups * j->parts;
  return count ? int8_parallel(call, task, count, j) : SC_OK;
}

typedef struct { i64 image, group, from, end; } span;
static span span_of(const job *j, u64 i)
{
  i64 part = (i64)i % j->parts, at = (i64)i / j->parts;
  return (span){at / j->groups, at % j->groups, j->pixels * part / j->parts, j->pixels * (part + 1) / j->parts};
}

/* ---- quantize ---- */
static const char *quantize_create(const sc_step_spec *s, const sc_host *host, void **state)
{
  const char *wrong = make(s, host, 1, 2, 1, (step **)state);
  if (wrong) return wrong;
  step *k = *state;
  k->zero[0] = s->attributes[1];
  float inverse = 1.f / k->scale[0];
  return k->scale[0] > 0.f && inverse - inverse == 0.f ? 0 : "the scale is not positive, or too small";
}

static const char *quantize_infer(const void *state, const sc_tensor *const *in, sc_tensor *const *out)
{
  (void)state;
  if (in[0]->type != SC_F32 || in[0]->layout != SC_PLAIN || (in[0]->rank != 4 && in[0]->rank != 2))
    return "X is not floats [N, C] or [N, C, H, W] in layout plain";
  c4_of(in[0], out[0]);
  return 0;
}

/* x / scale as division rounds it, kept between low and high (which NaN becomes): a product with the inverse, then with
   what that leaves. ONNX divides, and pixels of pictures often lie on ties. */
INLINE vf divided(vf x, float scale, float inverse, vf low, vf high)
{
  vf q = at_most(at_least(x * inverse, low), high);
  q += (x - q * scale) * inverse;
  return at_most(select_vf(q > low, q, low), high);
}

static void quantize_task(void *data, u64 i)
{
  const job *j = data;
  const span at = span_of(j, i);
  i64 channels = j->a->dims[1], last = channels - 4 * at.group - 1;
  const float *x = (const float *)j->a->data + (at.image * channels + 4 * at.group) * j->pixels;
  const float *row[4];
  for (i64 c = 0; c < 4; c++) row[c] = x + (c <= last ? c : last) * j->pixels; /* beyond the last: anything, its weights are zero */
  i32 *y = (i32 *)j->y->data + (at.image * j->groups + at.group) * j->pixels;
  const float scale = j->step->scale[0], inverse = 1.f / scale;
  const i32 zero = (i32)j->step->zero[0] - SC_X_BIAS;
  const vf low = splat((float)(0 - SC_X_BIAS - zero)), high = splat((float)(255 - SC_X_BIAS - zero));
  i64 p = at.from;
  for (; p + VL <= at.end; p += VL) {
    vi bytes[4];
    UNROLL for (int c = 0; c < 4; c++) {
      if (c > last) {
        bytes[c] = bytes[0];
        continue;
      }
      bytes[c] = ((vi)(divided(load(row[c] + p), scale, inverse, low, high) + splat(SC_ROUND_MAGIC)) + zero) & 0xff;
    }
    *(vi_at *)(y + p) = bytes[0] | bytes[1] << 8 | bytes[2] << 16 | bytes[3] << 24;
  }
  for (; p < at.end; p++) {
    u32 pixel = 0;
    for (int c = 0; c < 4; c++) pixel |= (u32)(unsigned char)byte_of(row[c][p] / scale, zero, 0 - SC_X_BIAS, 255 - SC_X_BIAS) << 8 * c;
    y[p] = (i32)pixel;
  }
}

static int quantize_run(void *state, const sc_tensor *const *in, sc_tensor *const *out, const sc_call *call)
{
  job j = {.step = state, .a = in[0], .y = out[0]};
  return run_groups(&j, in[0], quantize_task, call);
}

/* ---- dequantize ---- */
static const char *dequantize_create(const sc_step_spec *s, const sc_host *host, void **state)
{
  const char *wrong = make(s, host, 1, 3, 1, (step **)state);
  if (wrong) return wrong;
  step *k = *state;
  k->zero[0] = s->attributes[1], k->rank = s->attributes[2];
  return k->rank == 4 || k->rank == 2 ? 0 : "the rank of Y is neither 2 nor 4";
}

static const char *dequantize_infer(const void *state, const sc_tensor *const *in, sc_tensor *const *out)
{
  const step *k = state;
  const char *wrong = int8_check_image(in[0]);
  if (wrong) return wrong;
  if (k->rank == 2 && pixels_of(in[0]) != 1) return "X has more than one pixel, Y none";
  *out[0] = *in[0];
  out[0]->type = SC_F32, out[0]->layout = SC_PLAIN, out[0]->rank = (i32)k->rank;
  return 0;
}

static void dequantize_task(void *data, u64 i)
{
  const job *j = data;
  const span at = span_of(j, i);
  i64 channels = j->a->dims[1], left = clip(channels - 4 * at.group, 1, 4);
  const i32 *x = (const i32 *)j->a->data + (at.image * j->groups + at.group) * j->pixels;
  float *y = (float *)j->y->data + (at.image * channels + 4 * at.group) * j->pixels;
  const float scale = j->step->scale[0];
  const i32 zero = (i32)j->step->zero[0] - SC_X_BIAS;
  for (i64 c = 0; c < left; c++, y += j->pixels) {
    const i32 up = 24 - 8 * (i32)c;
    i64 p = at.from;
    for (; p + VL <= at.end; p += VL) {
      vi bytes = load_bits(x + p) << up;
      bytes = SC_X_BIAS ? bytes >> 24 : bytes >> 24 & 0xff;
      store(y + p, __builtin_convertvector(bytes - zero, vf) * scale);
    }
    for (; p < at.end; p++) y[p] = (float)((x8)(x[p] >> 8 * c) - zero) * scale;
  }
}

static int dequantize_run(void *state, const sc_tensor *const *in, sc_tensor *const *out, const sc_call *call)
{
  job j = {.step = state, .a = in[0], .y = out[0]};
  return run_groups(&j, in[0], dequantize_task, call);
}

/* ---- add ---- */
static const char *add_create(const sc_step_spec *s, const sc_host *host, void **state)
{
  const char *wrong = make(s, host, 2, 5, 3, (step **)state);
  if (wrong) return wrong;
  step *k = *state;
  k->low = s->attributes[3], k->high = s->attributes[4];
  k->scale[2] += SC_X_BIAS * (k->scale[0] + k->scale[1]) - SC_X_BIAS;
  return k->low > k->high ? "the least byte is larger than the largest" : 0;
}

static const char *add_infer(const void *state, const sc_tensor *const *in, sc_tensor *const *out)
{
  (void)state;
  const char *wrong = int8_check_image(in[0]);
  if (!wrong) wrong = int8_check_image(in[1]);
  if (wrong) return wrong;
  for (int i = 0; i < 4; i++)
    if (in[0]->dims[i] != in[1]->dims[i]) return "A and B have different shapes";
  c4_of(in[0], out[0]);
  return 0;
}

static void add_task(void *data, u64 i)
{
  const job *j = data;
  i64 from = j->pixels * (i64)i / j->parts, end = j->pixels * ((i64)i + 1) / j->parts;
  const x8 *a = j->a->data, *b = j->b->data;
  x8 *y = j->y->data;
  const step *k = j->step;
  const float low = (float)(k->low - SC_X_BIAS), high = (float)(k->high - SC_X_BIAS);
  typedef x8 bytes __attribute__((vector_size(VL)));
  for (; from + VL <= end; from += VL) {
    bytes av, bv;
    __builtin_memcpy(&av, a + from, VL);
    __builtin_memcpy(&bv, b + from, VL);
    vf v = __builtin_convertvector(av, vf) * k->scale[0] + __builtin_convertvector(bv, vf) * k->scale[1] + k->scale[2];
    vi out = (vi)(at_most(at_least(v, splat(low)), splat(high)) + splat(SC_ROUND_MAGIC));
    bytes yv = __builtin_convertvector(out, bytes);
    __builtin_memcpy(y + from, &yv, VL);
  }
  for (; from < end; from++)
    y[from] = byte_of((float)a[from] * k->scale[0] + (float)b[from] * k->scale[1] + k->scale[2], 0, (i32)k->low - SC_X_BIAS,
                      (i32)k->high - SC_X_BIAS);
}

static int add_run(void *state, const sc_tensor *const *in, sc_tensor *const *out, const sc_call *call)
{
  job j = {.step = state, .a = in[0], .b = in[1], .y = out[0]};
  j.pixels = in[0]->dims[0] * int8_groups(in[0]->dims[1]) * pixels_of(in[0]) * 4;
  j.parts = clip(ceil_div(j.pixels, BYTES), 1, j.pixels + 1);
  return int8_parallel(call, add_task, j.parts, &j);
}

/* ---- mean ---- */
static const char *mean_create(const sc_step_spec *s, const sc_host *host, void **state)
{
  const char *wrong = make(s, host, 1, 3, 1, (step **)state);
  if (!wrong) ((step *)*state)->zero[0] = s->attributes[1], ((step *)*state)->zero[1] = s->attributes[2];
  return wrong;
}

static const char *mean_infer(const void *state, const sc_tensor *const *in, sc_tensor *const *out)
{
  (void)state;
  const char *wrong = int8_check_image(in[0]);
  if (wrong) return wrong;
  if (pixels_of(in[0]) > 1 << 23 || pixels_of(in[0]) < 1) return "X has no pixels or too many for sums of 32 bits";
  c4_of(in[0], out[0]);
  out[0]->dims[2] = out[0]->dims[3] = 1;
  return 0;
}

static void mean_task(void *data, u64 i)
{
  const job *j = data;
  i64 pixels = pixels_of(j->a), all = j->pixels, from = all * (i64)i / j->parts, end = all * ((i64)i + 1) / j->parts;
  const float scale = j->step->scale[0] / (float)pixels;
  const i32 zero = (i32)j->step->zero[1] - SC_X_BIAS;
  typedef x8 bytes __attribute__((vector_size(16)));
  typedef i32 sums __attribute__((vector_size(64)));
  for (i64 g = from; g < end; g++) {
    const x8 *x = (const x8 *)j->a->data + g * pixels * 4;
    x8 *y = (x8 *)j->y->data + g * 4;
    sums total = {0};
    i64 p = 0;
    for (; p + 4 <= pixels; p += 4) {
      bytes four;
      __builtin_memcpy(&four, x + 4 * p, 16);
      total += __builtin_convertvector(four, sums);
    }
    for (; p < pixels; p++)
      for (int c = 0; c < 4; c++) total[c] += x[4 * p + c];
    for (int c = 0; c < 4; c++) {
      i32 sum = total[c] + total[4 + c] + total[8 + c] + total[12 + c] - (i32)(pixels * (j->step->zero[0] - SC_X_BIAS));
      y[c] = byte_of((float)sum * scale, zero, 0 - SC_X_BIAS, 255 - SC_X_BIAS);
    }
  }
}

static int mean_run(void *state, const sc_tensor *const *in, sc_tensor *const *out, const sc_call *call)
{
  job j = {.step = state, .a = in[0], .y = out[0]};
  j.pixels = in[0]->dims[0] * int8_groups(in[0]->dims[1]);
  j.parts = clip(ceil_div(j.pixels * pixels_of(in[0]), PIXELS), 1, j.pixels + 1);
  return int8_parallel(call, mean_task, j.parts, &j);
}

HIDDEN const sc_step_kind SC(sc_step_int8_quantize) = {"int8_quantize", quantize_create, destroy, quantize_infer, quantize_run};
HIDDEN const sc_step_kind SC(sc_step_int8_dequantize) = {"int8_dequantize", dequantize_create, destroy, dequantize_infer, dequantize_run};
HIDDEN const sc_step_kind SC(sc_step_int8_add) = {"int8_add", add_create, destroy, add_infer, add_run};
HIDDEN const sc_step_kind SC(sc_step_int8_mean) = {"int8_mean", mean_create, destroy, mean_infer, mean_run};

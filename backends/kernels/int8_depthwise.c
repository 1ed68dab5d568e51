/* Step kind int8_depthwise: a depthwise convolution of bytes.
   Attributes: as int8_conv. Constants: values i8 [C, kh, kw], bias i32 [C], multiplier f32 [C]. */
#include "int8_step.h"

enum { VALUES, BIAS, MULTIPLIER, CONSTANTS };
enum { ATTRIBUTES = INT8_WINDOW + INT8_QUANT };
enum {
  MOST_TAPS = 128,
  BAND_BYTES = 20 * 1024,        /* of packed planes: what the first-level cache holds */
  TASKS = 32                     /* aim for so many tasks */
};

typedef struct {
  const sc_int8_cores *cores;
  int8_window window;
  i64 channels, groups, taps;    /* taps: padded to a multiple of four */
  i64 zipped;                    /* times four rows of taps that all columns share, or 0 */
  i64 paired;                    /* two rows of outputs share them */
  i32 *weights[2];               /* per group of channels, four taps and channel: a dword of four taps */
  sc_requant out;
  void *memory;
  i32 fill;
} depthwise;

typedef struct {
  const depthwise *kernel;
  const sc_host *host;
  const sc_tensor *x, *y;
  sc_int8_planes planes;
  i64 rows, tasks;
  i64 bytes;                     /* of the packed planes, with room for a vector, and a row, beyond */
  i32 failed;
} job;

static void destroy(void *state, const sc_host *host)
{
  depthwise *k = state;
  if (k->memory) host->free(host->self, k->memory);
  host->free(host->self, k);
}

/* How many times four rows of taps are zipped: 0 where the window has another form than those made for it. */
static i64 times_zipped(const int8_window *w)
{
  i64 times = ceil_div(w->kernel[1], 4), below = w->stride[0] == 1;
  int known = (w->kernel[1] == 3 || w->kernel[1] == 5) && w->stride[0] == w->stride[1] && w->stride[0] <= 2 &&
              w->dilation[0] == 1 && w->dilation[1] == 1;
  return known && w->kernel[0] + below <= 4 * times ? times : 0;
}

/* Where tap (kh, kw) of the row of outputs `below` the first stands among the taps. */
static i64 place_of(const depthwise *k, i64 kh, i64 kw, i64 below)
{
  return k->zipped ? 4 * k->zipped * kw + kh + below : kh * k->window.kernel[1] + kw;
}

static void read_weights(depthwise *k, const signed char *values, int8_row *rows)
{
  const i64 *kernel = k->window.kernel, size = 4 * k->groups * k->taps;
  for (i64 i = 0; i < 4 * k->groups; i++) rows[i] = (int8_row){0, 0};
  for (i64 below = 0; below <= k->paired; below++) {
    signed char *to = (signed char *)k->weights[below];
    for (i64 i = 0; i < size; i++) to[i] = 0;
    for (i64 c = 0; c < k->channels; c++)
      for (i64 i = 0; i < kernel[0] * kernel[1]; i++) {
        signed char v = values[c * kernel[0] * kernel[1] + i];
        i64 t = place_of(k, i / kernel[1], i % kernel[1], below);
        to[c / 4 * 4 * k->taps + t / 4 * 16 + c % 4 * 4 + t % 4] = v;
        if (!below) int8_count(&rows[c], v);
      }
  }
}

static const char *create(const sc_step_spec *s, const sc_host *host, void **state)
{
  *state = 0;
  if (s->inputs != 1 || s->outputs != 1 || s->constant_count != CONSTANTS || s->attribute_count != ATTRIBUTES)
    return "an int8_depthwise has one input, one output, 3 constants and 12 attributes";
  const sc_constant *values = &s->constants[VALUES];
  if (!int8_constant(values, SC_I8, 3)) return "values is not int8 [C, kh, kw]";
  for (int i = 0; i < 3; i++)
    if (values->dims[i] < 1 || values->dims[i] > (i ? INT8_KERNEL : INT8_LARGEST)) return "values has an empty or huge dimension";
  i64 area = values->dims[1] * values->dims[2];
  if (area > MOST_TAPS) return "the kernel has more than 128 taps";
  int8_window window;
  const char *wrong = int8_read_window(s->attributes, values->dims + 1, &window);
  if (!wrong) wrong = int8_check_quant(s->attributes + INT8_WINDOW);
  if (!wrong) wrong = int8_check_requant(&s->constants[BIAS], &s->constants[MULTIPLIER], values->dims[0]);
  if (wrong) return wrong;
  depthwise *k = host->alloc(host->self, sizeof *k);
  if (!k) return int8_no_memory;
  *k = (depthwise){.cores = int8_pick_cores(), .window = window, .channels = values->dims[0], .groups = int8_groups(values->dims[0])};
  k->zipped = times_zipped(&window), k->paired = k->zipped && window.stride[0] == 1;
  k->taps = k->zipped ? 4 * k->zipped * window.kernel[1] : ceil_div(area, 4) * 4;
  *state = k;
  arena a = {.size = 0};
  i64 weights_at = reserve(&a, 4 * k->groups * k->taps), below_at = reserve(&a, 4 * k->groups * k->taps * k->paired), bias_at = reserve(&a, k->groups * 16);
  i64 multiplier_at = reserve(&a, k->groups * 16), rows_at = reserve(&a, k->groups * 4 * (i64)sizeof(int8_row));
  char *m = k->memory = host->alloc(host->self, (u64)a.size);
  if (!m) return int8_no_memory;
  k->weights[0] = (i32 *)(m + weights_at), k->weights[1] = k->paired ? (i32 *)(m + below_at) : 0;
  k->out = (sc_requant){(i32 *)(m + bias_at), (float *)(m + multiplier_at), 0, 0, 0};
  const i64 *quant = s->attributes + INT8_WINDOW;
  k->fill = int8_fill(quant[0]);
  int8_row *rows = (int8_row *)(m + rows_at);
  read_weights(k, values->data, rows);
  return int8_requant(&k->out, &s->constants[BIAS], &s->constants[MULTIPLIER], rows, 4 * k->groups, quant);
}

static const char *infer(const void *state, const sc_tensor *const *in, sc_tensor *const *out)
{
  const depthwise *k = state;
  if (in[0]->rank == 4 && in[0]->dims[1] != k->channels) return "X has another number of channels than the weight";
  return int8_infer_window(&k->window, in[0], k->groups, k->channels, out[0]);
}

/* The taps in the packed planes; of the first column of each phase alone where columns share them. */
static void place_taps(const job *j, const x8 *packed, const x8 **taps)
{
  const depthwise *k = j->kernel;
  const i64 *kernel = k->window.kernel, phases = k->window.stride[1];
  for (i64 t = 0; t < MOST_TAPS; t++) taps[t] = packed;
  for (i64 kw = 0; kw < (k->zipped ? phases : kernel[1]); kw++)
    for (i64 kh = 0; kh < kernel[0] + k->paired; kh++) {
      i64 at = k->zipped ? (kh / 4 * phases + kw) * 4 + kh % 4 : place_of(k, kh, kw, 0);
      taps[at] = packed + int8_tap(&k->window, &j->planes, 0, kh, kw);
    }
}

/* Rows too narrow for vectors are computed as one, with what lies between them, and then pulled together. */
static void run_narrow(const job *j, const sc_int8_window *window, x8 *rows)
{
  sc_int8_window w = *window;
  w.y = rows, w.rows = 1, w.weights[1] = 0, w.pixels = (window->rows - 1) * j->planes.columns + window->pixels;
  j->kernel->cores->window(&w);
  dword *y = (dword *)window->y, *from = (dword *)rows;
  for (i64 r = 0; r < window->rows; r++, y += window->pixels, from += j->planes.columns)
    for (i64 i = 0; i < window->pixels; i++) y[i] = from[i];
}

/* All bands of one group of four channels of one image. */
static void run_group(const job *j, i64 image, i64 group, x8 *packed, const x8 *const *taps)
{
  const depthwise *k = j->kernel;
  i64 plane = image * k->groups + group, height = j->y->dims[2], width = j->y->dims[3];
  const x8 *x = (const x8 *)j->x->data + plane * j->planes.height * j->planes.width * 4;
  sc_int8_window w = {.taps = taps, .weights = {k->weights[0] + group * k->taps, k->paired ? k->weights[1] + group * k->taps : 0},
                      .groups = k->taps / 4, .columns = k->zipped ? (i32)k->window.kernel[1] : 0,
                      .stride = (i32)k->window.stride[1], .bias = k->out.bias + 4 * group, .multiplier = k->out.multiplier + 4 * group,
                      .zero = k->out.zero, .low = k->out.low, .high = k->out.high, .pixels = width,
                      .step = j->planes.columns * 4};
  for (i64 top = 0; top < height; top += j->rows) {
    w.rows = clip(height - top, 1, j->rows);
    w.y = (x8 *)j->y->data + (plane * height + top) * width * 4;
    SC(sc_int8_pack)(&j->planes, packed, x, top, w.rows);
    if (2 * width <= VL) run_narrow(j, &w, packed + j->bytes);
    else k->cores->window(&w);
  }
}

static void task_groups(void *data, u64 i)
{
  job *j = data;
  i64 all = j->kernel->groups * j->x->dims[0], from = all * (i64)i / j->tasks, end = all * ((i64)i + 1) / j->tasks;
  int slot;
  float *packed = sc_scratch_get(j->host, 2 * j->bytes / 4, &slot);
  if (!packed) {
    __atomic_store_n(&j->failed, 1, __ATOMIC_RELAXED);
    return;
  }
  const x8 *taps[MOST_TAPS];
  place_taps(j, (x8 *)packed, taps);
  for (i64 g = from; g < end; g++) run_group(j, g / j->kernel->groups, g % j->kernel->groups, (x8 *)packed, taps);
  sc_scratch_put(j->host, slot, packed);
}

static int run(void *state, const sc_tensor *const *in, sc_tensor *const *out, const sc_call *call)
{
  const depthwise *k = state;
  job j = {.kernel = k, .host = call->host, .x = in[0], .y = out[0]};
  int8_planes(&k->window, in[0], out[0], 0, k->fill, BAND_BYTES, &j.planes, &j.rows);
  if (j.planes.plane > 0x7fffffff / 64) return SC_TOO_LARGE;
  j.bytes = j.planes.phases * j.planes.variants * j.planes.plane + 2 * (j.planes.columns * 4 + VB);
  j.tasks = clip(k->groups * in[0]->dims[0], 0, TASKS);
  int status = int8_parallel(call, task_groups, j.tasks, &j);
  return status ? status : j.failed ? SC_MEMORY : SC_OK;
}

HIDDEN const sc_step_kind SC(sc_step_int8_depthwise) = {"int8_depthwise", create, destroy, infer, run};

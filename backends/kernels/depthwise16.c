/* The step kind depthwise16. */
#include "depthwise16.h"
#include "tile.h"
#include "tile16.h"

enum { SMALL = 1 << 14, MOST = VB == 64 ? 14 : 6, MAX_K = 1 << 10 };

/* ---- the weight ---- */
static const char *read_weight(const sc_constant *w, const sc_constant *b, const sc_host *host, sc_depthwise16 *d)
{
  if (w->type != SC_F32 || w->rank != 4 || w->dims[1] != 1) return "the weight must be float32 [C, 1, kh, kw]";
  for (int i = 0; i < 4; i += i ? 1 : 2)
    if (w->dims[i] < 1 || w->dims[i] > (i ? MAX_K : MAX_FLOATS / WIDE / MAX_K)) return "its weight is empty or too large";
  i64 channels = w->dims[0], taps = w->dims[2] * w->dims[3];
  if (channels > MAX_FLOATS / WIDE / taps || w->count != channels * taps) return "its weight is empty or too large";
  if (b->type != SC_F32 || b->rank != 1 || b->dims[0] != channels || b->count != channels) return "the bias must be float32 [C]";
  d->channels = channels, d->groups = ceil_div(channels, WIDE);
  d->weights = sc_get(host, d->groups * taps * WIDE * 4), d->bias = sc_get(host, d->groups * WIDE * 4);
  if (!d->weights || !d->bias) return "there is no memory for its weight";
  for (i64 c = 0; c < d->groups * WIDE; c++) {
    d->bias[c] = c < channels ? ((const float *)b->data)[c] : 0.f;
    for (i64 t = 0; t < taps; t++)
      d->weights[(c / WIDE * taps + t) * WIDE + c % WIDE] = c < channels ? ((const float *)w->data)[c * taps + t] : 0.f;
  }
  return 0;
}

const char *SC(sc_depthwise16_create)(const sc_step_spec *spec, const i64 *attributes, i64 first, const sc_host *host,
                                      sc_depthwise16 *d)
{
  *d = (sc_depthwise16){0};
  if (spec->constant_count < first + 2) return "a weight and a bias are needed";
  if (attributes[8] < 0 || attributes[8] >= SC_ACTIVATIONS) return "unknown activation";
  d->activation = (i32)attributes[8];
  const sc_constant *w = spec->constants + first;
  const char *wrong = read_weight(w, w + 1, host, d);
  return wrong ? wrong : SC(sc_window16)(attributes, w->dims + 2, &d->window);
}

void SC(sc_depthwise16_free)(sc_depthwise16 *d, const sc_host *host)
{
  sc_drop(host, d->weights);
  sc_drop(host, d->bias);
}

const char *SC(sc_depthwise16_infer)(const sc_depthwise16 *d, const sc_tensor *x, sc_tensor *y)
{
  sc_pad16 w = d->window;
  const char *wrong = SC(sc_size16)(&w, x);
  if (wrong) return wrong;
  if (x->layout != SC_C16) return "its input must be in layout C16";
  if (x->dims[1] != d->channels) return "its input has another number of channels than the weight";
  *y = *x;
  y->data = 0, y->dims[2] = w.out[0], y->dims[3] = w.out[1];
  return 0;
}

/* ---- pixels ---- */
/* Some pixels of one output row. */
typedef struct {
  const float *x;                /* input of the first pixel through the first tap that is used */
  const float *weights, *bias;   /* of that tap */
  float *y;
  i64 rows, columns;             /* taps that are used */
  i64 x_row, w_row, apart, step; /* floats between kernel rows of x and of weights, kernel columns, pixels */
  float low, high;
} sc_taps;

/* Q pixels; K: kernel columns, S: stride, both zero when they are known only now; then also dilation may differ from one. */
INLINE void pixels(const int Q, const int K, const int S, const sc_taps *t)
{
  const i64 apart = K ? WIDE : t->apart, step = S ? S * WIDE : t->step;
  vf acc[MOST][WIDE_VECTORS];
  UNROLL for (int n = 0; n < WIDE_VECTORS; n++) {
    vf bias = load(t->bias + n * VL);
    UNROLL for (int q = 0; q < Q; q++) acc[q][n] = bias;
  }
#define COLUMN(j)                                                                                          \
  {                                                                                                        \
    vf w[WIDE_VECTORS];                                                                                    \
    UNROLL for (int n = 0; n < WIDE_VECTORS; n++) w[n] = load(w_row + (j) * WIDE + n * VL);                \
    UNROLL for (int q = 0; q < Q; q++) UNROLL for (int n = 0; n < WIDE_VECTORS; n++)                       \
      acc[q][n] += w[n] * load(row + (j) * apart + q * step + n * VL);                                     \
  }
  const float *row = t->x, *w_row = t->weights;
  for (i64 i = 0; i < t->rows; i++, row += t->x_row, w_row += t->w_row) {
    UNROLL for (int j = 0; j < K; j++) COLUMN(j)
    for (i64 j = 0; !K && j < t->columns; j++) COLUMN(j)
  }
#undef COLUMN
  const vf low = splat(t->low), high = splat(t->high);
  UNROLL for (int q = 0; q < Q; q++) UNROLL for (int n = 0; n < WIDE_VECTORS; n++)
    store(t->y + q * WIDE + n * VL, at_most(at_least(acc[q][n], low), high));
}

/* Numbers of pixels there is code for, the most first. */
#if VB == 64
#define RUNS(X, K, S) X(14, K, S) X(12, K, S) X(8, K, S) X(5, K, S) X(3, K, S) X(1, K, S)
#else
#define RUNS(X, K, S) X(6, K, S) X(5, K, S) X(3, K, S) X(1, K, S)
#endif
#define KINDS(X) RUNS(X, 3, 1) RUNS(X, 3, 2) RUNS(X, 5, 1) RUNS(X, 5, 2) RUNS(X, 0, 0)
#define DEFINE_PIXELS(Q, K, S) static void pixels_##Q##_##K##_##S(const sc_taps *t) { pixels(Q, K, S, t); }
KINDS(DEFINE_PIXELS)
#define ENTRY(Q, K, S) [K / 2][S][Q] = pixels_##Q##_##K##_##S,
static void (*const table[3][3][MOST + 1])(const sc_taps *) = {KINDS(ENTRY)};
#define LENGTH(Q, K, S) Q,
static const i32 lengths[] = {RUNS(LENGTH, 0, 0)};

static i64 best_length(i64 width)
{
  i64 best = 1, least = 3 * width;
  for (u64 i = 0; i < sizeof lengths / sizeof *lengths; i++) {
    i64 q = lengths[i], cost = ceil_div(width, q) * (q + 2);
    if (q <= width && cost < least) best = q, least = cost;
  }
  return best;
}

/* ---- rows ---- */
/* The taps [first, end) of n that fall into [0, size), where tap 0 is at `at` and the next one `apart` further. */
typedef struct { i64 first, end; } range;
static range inside(i64 at, i64 n, i64 apart, i64 size)
{
  i64 first = clip(ceil_div(-at, apart), 0, n);
  return (range){first, clip(ceil_div(size - at, apart), first, n)};
}

/* Pixels [from, end) of a row, which use the same columns of the kernel. t is for column 0 of X and of the kernel. */
static void run_pixels(const sc_pad16 *w, sc_taps t, i64 from, i64 end, i64 length)
{
  range c = inside(from * w->stride[1] - w->pad[1], w->kernel[1], w->dilation[1], w->size[1]);
  i64 whole = c.end - c.first == w->kernel[1] && w->dilation[1] == 1, s = w->stride[1], k = w->kernel[1];
  int fast = whole && (k == 3 || k == 5) && s <= 2;
  void (*run)(const sc_taps *) = table[fast ? k / 2 : 0][fast ? s : 0][length];
  const float *x = t.x + (c.first * w->dilation[1] - w->pad[1]) * WIDE;
  float *y = t.y;
  t.weights += c.first * WIDE, t.columns = c.end - c.first;
  for (i64 p = from; p < end; p += length) {
    i64 at = p > end - length ? end - length : p;
    t.x = x + at * t.step, t.y = y + at * WIDE;
    run(&t);
  }
}

void SC(sc_depthwise16_rows)(const sc_depthwise16 *d, const sc_pad16 *w, i64 group, const float *x, float *y, i64 top, i64 rows)
{
  const float inf = __builtin_inff();
  const i64 taps = w->kernel[0] * w->kernel[1], width = w->out[1], line = w->size[1] * WIDE, s = w->stride[1];
  const int clamp = d->activation == SC_RELU || d->activation == SC_RELU6;
  /* Whole: pixels of which every tap lies in X. */
  i64 from = clip(ceil_div(w->pad[1], s), 0, width);
  i64 end = clip(ceil_div(w->size[1] + w->pad[1] - (w->kernel[1] - 1) * w->dilation[1], s), from, width);
  i64 length = from < end ? best_length(end - from) : 1;
  sc_taps t = {.bias = d->bias + group * WIDE, .x_row = line * w->dilation[0], .w_row = w->kernel[1] * WIDE,
               .apart = w->dilation[1] * WIDE, .step = s * WIDE, .low = clamp ? 0.f : -inf,
               .high = d->activation == SC_RELU6 ? 6.f : inf};
  for (i64 r = top; r < top + rows; r++, y += width * WIDE) {
    i64 at = r * w->stride[0] - w->pad[0];
    range in = inside(at, w->kernel[0], w->dilation[0], w->size[0]);
    t.rows = in.end - in.first, t.y = y;
    t.x = x + (at + in.first * w->dilation[0]) * line, t.weights = d->weights + (group * taps + in.first * w->kernel[1]) * WIDE;
    for (i64 p = 0; p < from; p++) run_pixels(w, t, p, p + 1, 1);
    if (from < end) run_pixels(w, t, from, end, length);
    for (i64 p = end; p < width; p++) run_pixels(w, t, p, p + 1, 1);
    if (d->activation > SC_RELU6) SC(sc_activate)(y, width * WIDE, d->activation);
    i64 lanes = d->channels - group * WIDE;
    for (i64 i = 0; d->activation == SC_SIGMOID && i < width * WIDE; i++) if (i % WIDE >= lanes) y[i] = 0.f;
  }
}

/* ---- the step ---- */
typedef struct {
  const sc_depthwise16 *d;
  sc_pad16 window;
  const float *x;
  float *y;
  i64 planes, parts, tasks;
} job;

/* A share of the planes of all images, or a part of the rows of one. */
static void task(void *data, u64 i)
{
  const job *j = data;
  const sc_pad16 *w = &j->window;
  i64 share = (i64)i / j->parts, part = (i64)i % j->parts, shares = j->tasks / j->parts;
  i64 top = w->out[0] * part / j->parts, rows = w->out[0] * (part + 1) / j->parts - top;
  for (i64 p = j->planes * share / shares; p < j->planes * (share + 1) / shares; p++)
    SC(sc_depthwise16_rows)(j->d, w, p % j->d->groups, j->x + p * w->size[0] * w->size[1] * WIDE,
                            j->y + (p * w->out[0] + top) * w->out[1] * WIDE, top, rows);
}

int SC(sc_depthwise16_run)(const sc_depthwise16 *d, const sc_tensor *x, float *y, const sc_call *call)
{
  job j = {.d = d, .window = d->window, .x = x->data, .y = y, .planes = x->dims[0] * d->groups};
  if (SC(sc_size16)(&j.window, x)) return SC_TOO_LARGE;
  if (j.planes < 1) return SC_OK;
  i64 work = j.planes * j.window.out[0] * j.window.out[1] * d->window.kernel[0] * d->window.kernel[1] * WIDE_VECTORS;
  i64 tasks = clip(work / SMALL, 1, STEP_TASKS), shares = clip(tasks, 1, j.planes);
  j.parts = clip(tasks / shares, 1, j.window.out[0]), j.tasks = shares * j.parts;
  if (j.tasks > 1) return sc_run_tasks(call, task, j.tasks, &j);
  task(&j, 0);
  return SC_OK;
}

/* Attributes: strides, pads, dilations, activation. Constants: W [C, 1, kh, kw] and the bias. */
static const char *create(const sc_step_spec *spec, const sc_host *host, void **state)
{
  *state = 0;
  if (spec->attribute_count != 9 || spec->constant_count != 2) return "it has nine attributes and two constants";
  if (spec->inputs != 1 || spec->outputs != 1) return "it has one input and one output";
  sc_depthwise16 *d = sc_get(host, sizeof *d);
  *state = d;
  return d ? SC(sc_depthwise16_create)(spec, spec->attributes, 0, host, d) : "there is no memory for it";
}

static void destroy(void *state, const sc_host *host)
{
  SC(sc_depthwise16_free)(state, host);
  sc_drop(host, state);
}

static const char *infer(const void *state, const sc_tensor *const *in, sc_tensor *const *out)
{
  return SC(sc_depthwise16_infer)(state, in[0], out[0]);
}

static int run(void *state, const sc_tensor *const *in, sc_tensor *const *out, const sc_call *call)
{
  return SC(sc_depthwise16_run)(state, in[0], out[0]->data, call);
}

extern const sc_step_kind SC(sc_step_depthwise16);
HIDDEN const sc_step_kind SC(sc_step_depthwise16) = {"depthwise16", create, destroy, infer, run};

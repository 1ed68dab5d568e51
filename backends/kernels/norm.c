/* Layer normalisation and softmax over the last axis: rows that stay in cache, in parallel. */
#include "t64.h"
#include "vecmath.h"

enum { FLOATS_OF_TASK = 2048 };

typedef struct {
  i64 width;
  const float *scale, *bias;     /* [width]; bias may be null */
  float epsilon;
  int residual, keeps_sum;
} layer_norm;

typedef struct {
  const layer_norm *norm;
  const float *x, *residual;     /* residual: added to x, or null */
  float *y, *sum;                /* sum: x + residual, or null */
  i64 rows, width, tasks;
} job;

/* Attributes: epsilon. Constants: scale, and bias if there is one. The second input, if there is one, is added to the first; the second
   output, if there is one, is their sum. */
static const char *create(const sc_step_spec *spec, const sc_host *host, void **state)
{
  *state = 0;
  const sc_constant *scale = spec->constants, *bias = scale + 1;
  const int biased = spec->constant_count == 2;
  if (spec->attribute_count != 1 || spec->constant_count < 1 || spec->constant_count > 2)
    return "it has one attribute and one or two constants";
  if (spec->inputs < 1 || spec->inputs > 2 || spec->outputs < 1 || spec->outputs > spec->inputs)
    return "it has one or two inputs and at most as many outputs";
  if (scale->type != SC_F32 || scale->count < 1 || (biased && (bias->type != SC_F32 || bias->count != scale->count)))
    return "scale and bias must be float32 of one size";
  layer_norm *n = sc_get(host, sizeof *n);
  if (!n) return "there is no memory for it";
  *n = (layer_norm){scale->count, scale->data, biased ? bias->data : 0, sc_float_attribute(spec->attributes[0]), spec->inputs == 2,
                    spec->outputs == 2};
  *state = n;
  return 0;
}

static void destroy(void *state, const sc_host *host) { sc_drop(host, state); }

static const char *infer(const void *state, const sc_tensor *const *in, sc_tensor *const *out)
{
  const layer_norm *n = state;
  const int lanes = sc_is_t64(in[0]) && !n->residual;
  if (!lanes && (!sc_is_plain(in[0]) || in[0]->rank < 1)) return "its input must be row-major float32, or its tokens in the lanes";
  if (in[0]->dims[in[0]->rank - 1] != n->width) return "scale and bias must have the size of the last axis";
  if (n->residual && !sc_same_dims(in[0], in[1])) return "its two inputs must have the same shape";
  for (int i = 0; i <= n->keeps_sum; i++) *out[i] = *in[0], out[i]->data = 0;
  return 0;
}

/* Vectors of a row of `width` floats; the last one may be ragged. */
#define EACH_VECTOR(i, width) for (i64 i = 0; i < (width); i += VL)

/* x + residual, or a copy. */
static void add_row(const float *x, const float *residual, float *to, i64 width)
{
  EACH_VECTOR(i, width) {
    vf v = load_some(x + i, width - i, 0.f);
    store_some(to + i, residual ? v + load_some(residual + i, width - i, 0.f) : v, width - i);
  }
}

static void norm_row(const layer_norm *n, const float *x, float *y)
{
  enum { CHAINS = 4 };
  const i64 width = n->width, whole = width / (CHAINS * VL) * (CHAINS * VL);
  vf sums[CHAINS], squares[CHAINS];
  UNROLL for (int c = 0; c < CHAINS; c++) sums[c] = squares[c] = splat(0.f);
  for (i64 i = 0; i < whole; i += CHAINS * VL) UNROLL for (int c = 0; c < CHAINS; c++) sums[c] += load(x + i + c * VL);
  for (i64 i = whole; i < width; i += VL) sums[0] += load_some(x + i, width - i, 0.f);
  const float mean = sum_of(sums[0] + sums[1] + (sums[2] + sums[3])) / (float)width;
#define SQUARE(c, v) { vf apart = v - mean; squares[c] += apart * apart; }
  for (i64 i = 0; i < whole; i += CHAINS * VL) UNROLL for (int c = 0; c < CHAINS; c++) SQUARE(c, load(x + i + c * VL))
  for (i64 i = whole; i < width; i += VL) SQUARE(0, load_some(x + i, width - i, mean))
#undef SQUARE
  const float variance = sum_of(squares[0] + squares[1] + (squares[2] + squares[3])) / (float)width;
  const float factor = inverse_root(variance + n->epsilon);
  EACH_VECTOR(i, width) {
    i64 left = width - i;
    vf scale = load_some(n->scale + i, left, 0.f), bias = n->bias ? load_some(n->bias + i, left, 0.f) : splat(0.f);
    store_some(y + i, (load_some(x + i, left, 0.f) - mean) * factor * scale + bias, left);
  }
}

static void task_norm(void *data, u64 i)
{
  const job *j = data;
  const i64 end = j->rows * ((i64)i + 1) / j->tasks;
  for (i64 row = j->rows * (i64)i / j->tasks; row < end; row++) {
    const float *x = j->x + row * j->width;
    float *y = j->y + row * j->width;
    if (j->residual) {
      float *sum = j->sum ? j->sum + row * j->width : y;
      add_row(x, j->residual + row * j->width, sum, j->width);
      x = sum;
    }
    norm_row(j->norm, x, y);
  }
}

/* The tokens of vector i in layout T64: sums go down the features. */
static void task_norm_t64(void *data, u64 i)
{
  enum { CHAINS = 4 };
  const job *j = data;
  const layer_norm *n = j->norm;
  const i64 width = n->width, whole = width / CHAINS * CHAINS, piece = (i64)i * VL / T64, lane = (i64)i * VL % T64;
  const float *x = j->x + piece * width * T64 + lane;
  float *y = j->y + piece * width * T64 + lane;
  vf sums[CHAINS], squares[CHAINS];
  UNROLL for (int c = 0; c < CHAINS; c++) sums[c] = squares[c] = splat(0.f);
  for (i64 f = 0; f < whole; f += CHAINS) UNROLL for (int c = 0; c < CHAINS; c++) sums[c] += load(x + (f + c) * T64);
  for (i64 f = whole; f < width; f++) sums[0] += load(x + f * T64);
  const vf mean = (sums[0] + sums[1] + (sums[2] + sums[3])) * (1.f / (float)width);
#define SQUARE(c, f) { vf apart = load(x + (f) * T64) - mean; squares[c] += apart * apart; }
  for (i64 f = 0; f < whole; f += CHAINS) UNROLL for (int c = 0; c < CHAINS; c++) SQUARE(c, f + c)
  for (i64 f = whole; f < width; f++) SQUARE(0, f)
#undef SQUARE
  const vf variance = (squares[0] + squares[1] + (squares[2] + squares[3])) * (1.f / (float)width);
  const vf factor = inverse_roots(variance + n->epsilon);
  for (i64 f = 0; f < width; f++) {
    vf v = (load(x + f * T64) - mean) * factor * n->scale[f];
    store(y + f * T64, n->bias ? v + n->bias[f] : v);
  }
}

static int run_rows(const sc_tensor *in, job *j, void (*task)(void *, u64), const sc_call *call)
{
  j->width = in->dims[in->rank - 1], j->rows = sc_product(in->dims, 0, in->rank - 1);
  if (j->rows * j->width == 0) return SC_OK;
  j->tasks = clip(j->rows * j->width / FLOATS_OF_TASK, 1, j->rows < STEP_TASKS ? j->rows : STEP_TASKS);
  return sc_run_tasks(call, task, j->tasks, j);
}

static int run(void *state, const sc_tensor *const *in, sc_tensor *const *out, const sc_call *call)
{
  const layer_norm *n = state;
  job j = {.norm = n, .x = in[0]->data, .residual = n->residual ? in[1]->data : 0, .y = out[0]->data,
           .sum = n->keeps_sum ? out[1]->data : 0};
  if (in[0]->layout == SC_PLAIN) return run_rows(in[0], &j, task_norm, call);
  const i64 tokens = sc_tokens(in[0]);
  return tokens ? sc_run_tasks(call, task_norm_t64, ceil_div(tokens, VL), &j) : SC_OK;
}

extern const sc_step_kind SC(sc_step_layer_norm);
HIDDEN const sc_step_kind SC(sc_step_layer_norm) = {"layer_norm", create, destroy, infer, run};

/* ---- softmax ---- */
static const char *create_softmax(const sc_step_spec *spec, const sc_host *host, void **state)
{
  (void)host;
  *state = 0;
  if (spec->attribute_count || spec->constant_count) return "it has no attributes and no constants";
  return spec->inputs != 1 || spec->outputs != 1 ? "it has one input and one output" : 0;
}

static void destroy_softmax(void *state, const sc_host *host) { (void)state, (void)host; }

static const char *infer_softmax(const void *state, const sc_tensor *const *in, sc_tensor *const *out)
{
  (void)state;
  if (!sc_is_plain(in[0]) || in[0]->rank < 1) return "its input must be row-major float32";
  *out[0] = *in[0], out[0]->data = 0;
  return 0;
}

static void task_softmax(void *data, u64 i)
{
  const job *j = data;
  const float low = -__builtin_inff();
  const i64 end = j->rows * ((i64)i + 1) / j->tasks;
  for (i64 row = j->rows * (i64)i / j->tasks; row < end; row++) {
    const float *x = j->x + row * j->width;
    float *y = j->y + row * j->width;
    vf high = splat(low), sum = splat(0.f);
    EACH_VECTOR(k, j->width) high = at_least(load_some(x + k, j->width - k, low), high);
    const float top = largest_of(high);
    EACH_VECTOR(k, j->width) {
      vf v = exp_below(load_some(x + k, j->width - k, low) - top);
      store_some(y + k, v, j->width - k);
      sum += v;
    }
    const float scale = 1.f / sum_of(sum);
    EACH_VECTOR(k, j->width) store_some(y + k, load_some(y + k, j->width - k, 0.f) * scale, j->width - k);
  }
}

static int run_softmax(void *state, const sc_tensor *const *in, sc_tensor *const *out, const sc_call *call)
{
  (void)state;
  job j = {.x = in[0]->data, .y = out[0]->data};
  return run_rows(in[0], &j, task_softmax, call);
}

extern const sc_step_kind SC(sc_step_softmax);
HIDDEN const sc_step_kind SC(sc_step_softmax) = {"softmax", create_softmax, destroy_softmax, infer_softmax,
                                                 run_softmax};

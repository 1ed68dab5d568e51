/* The step of a sparse matmul. With its tokens in the lanes, a piece of 64 tokens is an image of one row, and the rows of Y lie
   where they belong; row-major tokens go the way of the op. */
#include "t64.h"
#include "tile.h"

enum {
  ROWS = 16,                     /* outputs computed before their activation: they stay in the first-level cache */
  NEAR = 1 << 17                 /* floats of X that the second-level cache keeps beside the weights */
};

static const char no_memory[] = "there is not enough memory to prepare the weights";

typedef struct {
  sc_kernel *kernel;
  int lanes;                     /* tokens are in layout T64 */
  i32 *offsets;                  /* per tap there; null where the weight has code of its own */
} matmul;

typedef struct {
  const sc_kernel *kernel;
  const i32 *offsets;
  const float *x, *residual;
  float *y;
  i64 tokens, pieces, near, shares; /* near: pieces that a task takes together */
} job;

/* Strips [first, end) of one piece. */
static void compute(const job *j, i64 first, i64 end, i64 piece)
{
  const sc_kernel *k = j->kernel;
  const i64 row = k->strips[first].row, rows = k->strips[end - 1].row + k->strips[end - 1].mr - row;
  const i64 vectors = ceil_div(clip(j->tokens - piece * T64, 0, T64), VL), at = (piece * k->spec.rows + row) * T64;
  const int all = vectors * VL == T64;
  const i64 parts = ceil_div(vectors, sc_widest[k->strips[first].mr]);
  for (i64 i = 0; i < parts; i++) {
    const i64 from = vectors * i / parts * VL, n = vectors * (i + 1) / parts - vectors * i / parts;
    sc_tile t = {.x = j->x + piece * k->spec.channels * T64 + from, .offsets = j->offsets, .row = row, .y = j->y + at + from,
                 .residual = j->residual ? j->residual + at + from : 0, .pitch = T64, .residual_pitch = T64,
                 .last = (n - 1) * VL, .activation = all ? SC_NONE : k->spec.activation};
    SC(sc_tile_strips)(k, first, end, &t, (i32)n, 0);
  }
  if (all) SC(sc_activate)(j->y + at, rows * T64, k->spec.activation);
}

static void task(void *data, u64 i)
{
  const job *j = data;
  const sc_kernel *k = j->kernel;
  const i64 share = (i64)i % j->shares, from = (i64)i / j->shares * j->near;
  const i64 to = from + j->near < j->pieces ? from + j->near : j->pieces;
  const i64 end = sc_share(k, share + 1, j->shares);
  for (i64 first = sc_share(k, share, j->shares), stop; first < end; first = stop) {
    const i64 row = k->strips[first].row;
    for (stop = first + 1; stop < end && k->strips[stop].row + k->strips[stop].mr <= row + ROWS; stop++);
    for (i64 piece = from; piece < to; piece++) compute(j, first, stop, piece);
  }
}

static int run_t64(const matmul *m, i64 tokens, const float *x, const float *residual, float *y, const sc_call *call)
{
  const sc_kernel *k = m->kernel;
  job j = {.kernel = k, .offsets = m->offsets, .x = x, .residual = residual, .y = y, .tokens = tokens};
  j.pieces = ceil_div(tokens, T64);
  j.near = clip(NEAR / (k->spec.channels * T64), 1, j.pieces);
  const i64 groups = ceil_div(j.pieces, j.near);
  j.shares = clip(ceil_div(STEP_TASKS, groups), 1, k->strip_count);
  return sc_run_tasks(call, task, groups * j.shares, &j);
}

/* ---- the step ---- */
static void destroy_matmul(void *state, const sc_host *host)
{
  matmul *m = state;
  if (m->kernel) SC(sc_destroy)(m->kernel);
  sc_drop(host, m->offsets);
  sc_drop(host, m);
}

/* Attributes: activation, whether tokens are in the lanes. */
static const char *create_matmul(const sc_step_spec *spec, const sc_host *host, void **state)
{
  *state = 0;
  if (spec->attribute_count != 2 || spec->inputs > 2 || spec->outputs != 1) return "a malformed step";
  if (spec->attributes[0] < 0 || spec->attributes[0] >= SC_ACTIVATIONS) return "unknown activation";
  sc_spec s = {.stride = {1, 1}, .dilation = {1, 1}, .group = 1, .activation = (i32)spec->attributes[0]};
  const char *wrong = sc_read_packed(spec, 0, 0, &s);
  if (wrong) return wrong;
  matmul *m = sc_get(host, sizeof *m);
  if (!m) return no_memory;
  *m = (matmul){.lanes = spec->attributes[1] != 0};
  *state = m;
  if (SC(sc_create)(&s, host, &m->kernel)) return no_memory;
  const sc_kernel *k = m->kernel;
  if (!m->lanes || sc_code_of(k)) return 0;
  if (k->spec.channels > MAX_FLOATS / T64) return "the weight has too many inputs";
  const i64 taps = k->column_count, padded = taps + AHEAD + 1;
  m->offsets = sc_get(host, padded * (i64)sizeof *m->offsets);
  if (!m->offsets) return no_memory;
  for (i64 i = 0; i < padded; i++) m->offsets[i] = i < taps ? k->columns[i] * T64 : 0;
  SC(sc_drop_columns)(m->kernel);
  return 0;
}

static const char *infer_matmul(const void *state, const sc_tensor *const *in, sc_tensor *const *out)
{
  const matmul *m = state;
  const sc_spec *s = &m->kernel->spec;
  const sc_tensor *x = in[0];
  if (x->type != SC_F32 || x->layout != (m->lanes ? SC_T64 : SC_PLAIN) || x->rank < 1 || x->dims[x->rank - 1] != s->channels)
    return "its input does not have the features of its weight";
  *out[0] = *x;
  out[0]->data = 0, out[0]->dims[x->rank - 1] = s->rows;
  return in[1] && !sc_same_dims(in[1], out[0]) ? "the residual has another shape than the output" : 0;
}

static int run_matmul(void *state, const sc_tensor *const *in, sc_tensor *const *out, const sc_call *call)
{
  const matmul *m = state;
  const i64 tokens = sc_tokens(in[0]);
  const float *x = in[0]->data, *residual = in[1] ? in[1]->data : 0;
  if (!tokens) return SC_OK;
  if (m->offsets) return run_t64(m, tokens, x, residual, out[0]->data, call);
  if (m->lanes && sc_code_of(m->kernel)) /* else there are offsets */
    return SC(sc_code_lanes)(m->kernel, tokens, x, residual, out[0]->data, call->parallel, call->host_error);
  return SC(sc_matmul)(m->kernel, tokens, x, residual, out[0]->data, call->parallel, call->host_error);
}

extern const sc_step_kind SC(sc_step_matmul);
HIDDEN const sc_step_kind SC(sc_step_matmul) = {"SparseMatMul", create_matmul, destroy_matmul, infer_matmul, run_matmul};

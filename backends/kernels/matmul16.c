/* Matmul of row-major tokens with 16 outputs in the lanes: Y[T, N] = X[T, K] W^T. The tokens are turned once into
   panels [K][PITCH], whose rows hold one input of a few tokens; every stored weight then serves a whole panel, and
   results are stored where they belong. A few tokens multiply the weights as they stream by, and need no panel. */
#include "activation.h"
#include "outer.h"
#include "step.h"
#include "tokens.h"

#if VB == 64
enum { PANEL = 28, PITCH = 32 };
#else
enum { PANEL = 24, PITCH = 24 };
#endif
enum { PACKED, ROWS_ARE_OUTPUTS, COLUMNS_ARE_OUTPUTS }; /* how a weight lies */
enum {
  PREFETCH_TAPS = 3,
  NEAR = 1 << 17,                /* floats of panels that the second-level cache keeps beside the weights */
  CHUNK = 1 << 23                /* most floats packed at once, unless one panel has more */
};

typedef struct {
  i64 depth, outputs, blocks;
  const float *weights;          /* per tap: 16 */
  const i32 *index;              /* per tap: its input + block * apart; of a dense weight, the same for all blocks */
  i64 apart, dense;
  i64 *starts;                   /* per block: its first tap; one more for the end */
  float *bias;                   /* padded to whole blocks */
  i32 activation, residual;
  void *owned_weights, *owned_index;
} matmul16;

typedef struct {
  const matmul16 *m;
  const float *x, *residual;
  float *y, *packed;
  i64 tokens, panels;            /* of the whole call */
  i64 first, count;              /* panels in memory */
  i64 parts, groups, shares;
} job;

/* ---- the weight ---- */
static const char no_memory[] = "there is no memory for its weight";

static const char *dense_weight(const sc_step_spec *spec, const sc_host *host, matmul16 *m, const float **bias)
{
  if (spec->constant_count < 1 || spec->constant_count > 2) return "a dense weight and at most a bias are needed";
  const sc_constant *w = spec->constants, *b = spec->constant_count == 2 ? w + 1 : 0;
  const i64 most = 1 << 30, by_rows = spec->attributes[1] == ROWS_ARE_OUTPUTS;
  const i64 n = w->dims[!by_rows], k = w->dims[by_rows];
  if (w->type != SC_F32 || w->rank != 2 || n < 1 || k < 1 || n > most || k > most || w->count != n * k)
    return "the weight must be a float32 matrix";
  if (b && (b->type != SC_F32 || b->rank != 1 || b->count != n)) return "the bias must be float32 [outputs]";
  m->outputs = n, m->depth = k, m->blocks = ceil_div(n, WIDE), m->dense = 1;
  float *weights = m->owned_weights = sc_get(host, m->blocks * m->depth * WIDE * 4);
  i32 *index = m->owned_index = sc_get(host, m->depth * 4);
  m->starts = sc_get(host, (m->blocks + 1) * 8);
  if (!weights || !index || !m->starts) return no_memory;
  const float *from = w->data;
  const i64 row_step = by_rows ? k : 1, step = by_rows ? 1 : n;
  for (i64 row = 0; row < m->blocks * WIDE; row++)
    for (i64 i = 0; i < k; i++)
      weights[(row / WIDE * k + i) * WIDE + row % WIDE] = row < n ? from[row * row_step + i * step] : 0.f;
  for (i64 i = 0; i < k; i++) index[i] = (i32)i;
  for (i64 block = 0; block <= m->blocks; block++) m->starts[block] = block * k;
  m->weights = weights, m->index = index, *bias = b ? b->data : 0;
  return 0;
}

/* Taps of every block of 16 outputs: counted into starts when m->owned_weights is null, otherwise written. */
static void cut_blocks(matmul16 *m, const sc_spec *s)
{
  const i64 strips = s->block_rows / WIDE, size = s->block_rows * s->block_cols;
  float *weights = m->owned_weights;
  i32 *index = m->owned_index;
  i64 taps = 0, from = 0, to = 0;
  for (i64 block = 0; block < m->blocks; block++) {
    if (block % strips == 0)
      for (from = to; to < s->count && s->index[to] / s->grid_cols == block / strips;) to++;
    m->starts[block] = taps;
    for (i64 i = from; i < to; i++) {
      i64 k = s->index[i] % s->grid_cols * s->block_cols;
      const float *v = s->values + i * size + block % strips * WIDE * s->block_cols;
      for (i64 c = 0; c < s->block_cols && k + c < m->depth; c++, taps++) {
        if (!weights) continue;
        index[taps] = (i32)(k + c);
        for (i64 r = 0; r < WIDE; r++) weights[taps * WIDE + r] = v[r * s->block_cols + c];
      }
    }
  }
  m->starts[m->blocks] = taps;
}

static const char *packed_weight(const sc_step_spec *spec, const sc_host *host, matmul16 *m, const float **bias)
{
  sc_spec s = {.kernel = {1, 1}, .stride = {1, 1}, .dilation = {1, 1}, .group = 1};
  const char *wrong = sc_read_packed(spec, 0, 0, &s);
  if (wrong) return wrong;
  if (s.block_rows % WIDE) return "its blocks must have a multiple of 16 rows";
  m->outputs = s.rows, m->depth = s.channels, m->blocks = (s.rows + WIDE - 1) / WIDE, *bias = s.bias;
  m->starts = sc_get(host, (m->blocks + 1) * 8);
  if (!m->starts) return no_memory;
  cut_blocks(m, &s);
  if (s.block_rows == WIDE && s.block_cols == 1) { /* the weight is stored as it is used */
    m->weights = s.values, m->index = s.index, m->apart = s.grid_cols;
    return 0;
  }
  m->owned_index = sc_get(host, m->starts[m->blocks] * 4);
  m->owned_weights = sc_get(host, m->starts[m->blocks] * WIDE * 4);
  if (!m->owned_weights || !m->owned_index) return no_memory;
  cut_blocks(m, &s);
  m->weights = m->owned_weights, m->index = m->owned_index;
  return 0;
}

/* Attributes: activation, how the weight lies. Constants: the packed weight, or W ([N, K] or [K, N]) and a bias if there
   is one. */
static const char *create(const sc_step_spec *spec, const sc_host *host, void **state)
{
  *state = 0;
  if (spec->attribute_count != 2) return "it has two attributes";
  if (spec->inputs < 1 || spec->inputs > 2 || spec->outputs != 1) return "it has one or two inputs and one output";
  if (spec->attributes[0] < 0 || spec->attributes[0] >= SC_ACTIVATIONS) return "unknown activation";
  if (spec->attributes[1] < PACKED || spec->attributes[1] > COLUMNS_ARE_OUTPUTS) return "unknown form of a weight";
  matmul16 *m = sc_get(host, sizeof *m);
  if (!m) return no_memory;
  *m = (matmul16){.activation = (i32)spec->attributes[0], .residual = spec->inputs == 2};
  *state = m;
  sc_scratch_retain(host);
  const float *bias = 0;
  const char *wrong = (spec->attributes[1] == PACKED ? packed_weight : dense_weight)(spec, host, m, &bias);
  if (wrong) return wrong;
  m->bias = sc_get(host, m->blocks * WIDE * 4);
  if (!m->bias) return no_memory;
  for (i64 i = 0; i < m->blocks * WIDE; i++) m->bias[i] = bias && i < m->outputs ? bias[i] : 0.f;
  return 0;
}

static void destroy(void *state, const sc_host *host)
{
  matmul16 *m = state;
  void *parts[] = {m->owned_weights, m->owned_index, m->starts, m->bias, m};
  for (int i = 0; i < 5; i++) sc_drop(host, parts[i]);
  sc_scratch_release(host);
}

static const char *infer(const void *state, const sc_tensor *const *in, sc_tensor *const *out)
{
  const matmul16 *m = state;
  const sc_tensor *x = in[0];
  if (!sc_is_plain(x) || x->rank < 1) return "its input must be row-major float32";
  if (x->dims[x->rank - 1] != m->depth) return "the last dimension of its input is not that of the weight";
  *out[0] = *x;
  out[0]->data = 0, out[0]->dims[x->rank - 1] = m->outputs;
  return m->residual && !sc_same_dims(in[1], out[0]) ? "the residual must have the shape of the output" : 0;
}

/* ---- results ---- */
/* `count` rows of sums, 16 apart, into Y at (token, block) with residual and activation. */
INLINE void finish_with(const job *j, const float *sums, i64 token, i64 count, i64 block, const i32 activation)
{
  i64 outputs = j->m->outputs, left = outputs - block * WIDE;
  for (i64 t = 0; t < count; t++) {
    i64 at = (token + t) * outputs + block * WIDE;
    UNROLL for (int n = 0; n < WIDE_VECTORS; n++) {
      i64 o = n * VL;
      if (o >= left) break;
      vf v = load(sums + t * WIDE + o);
      if (j->residual) v += load_some(j->residual + at + o, left - o, 0.f);
      store_some(j->y + at + o, activate_vf(v, activation), left - o);
    }
  }
}

static void finish(const job *j, const float *sums, i64 token, i64 count, i64 block)
{
#define FINISH(a) case a: finish_with(j, sums, token, count, block, a); break;
  switch (j->m->activation) {
    FINISH(SC_RELU) FINISH(SC_RELU6) FINISH(SC_HARDSWISH) FINISH(SC_SILU) FINISH(SC_GELU) FINISH(SC_GELU_TANH)
    FINISH(SC_SIGMOID) FINISH(SC_HARDSIGMOID)
    default: finish_with(j, sums, token, count, block, SC_NONE);
  }
}

/* ---- a few tokens ---- */
/* Sums of tokens [0, T) over the taps of a block, in U chains. */
INLINE void few(const int T, const int U, const job *j, i64 block, float *sums)
{
  const matmul16 *m = j->m;
  i64 taps = m->starts[block + 1] - m->starts[block], i = 0;
  const float *w = m->weights + m->starts[block] * WIDE;
  const i64 first = block * m->apart;
  const i32 *index = m->dense ? m->index : m->index + m->starts[block];
  vf acc[4][SC_MATVEC_TOKENS][WIDE_VECTORS];
  UNROLL for (int u = 0; u < U; u++) UNROLL for (int t = 0; t < T; t++) UNROLL for (int n = 0; n < WIDE_VECTORS; n++)
    acc[u][t][n] = u ? splat(0.f) : load(m->bias + block * WIDE + n * VL);
#define TAP(u)                                                                           \
  {                                                                                      \
    vf v[WIDE_VECTORS];                                                                  \
    UNROLL for (int n = 0; n < WIDE_VECTORS; n++) v[n] = load(w + n * VL);               \
    UNROLL for (int t = 0; t < T; t++) {                                                 \
      vf number = splat(j->x[t * m->depth + *index - first]);                              \
      UNROLL for (int n = 0; n < WIDE_VECTORS; n++) acc[u][t][n] += v[n] * number;       \
    }                                                                                    \
    w += WIDE, index++;                                                                  \
  }
  for (; i + U <= taps; i += U) UNROLL for (int u = 0; u < U; u++) TAP(u)
  for (; i < taps; i++) TAP(0)
#undef TAP
  UNROLL for (int t = 0; t < T; t++) UNROLL for (int n = 0; n < WIDE_VECTORS; n++) {
    vf v = acc[0][t][n];
    UNROLL for (int u = 1; u < U; u++) v += acc[u][t][n];
    store(sums + t * WIDE + n * VL, v);
  }
}

/* The first block of share `part` of `parts` about equal ones. */
static i64 share_start(const matmul16 *m, i64 part, i64 parts)
{
  i64 want = (m->starts[m->blocks] + m->blocks) * part / parts, low = 0, high = m->blocks;
  while (low < high) {
    i64 mid = (low + high) / 2;
    if (m->starts[mid] + mid < want) low = mid + 1;
    else high = mid;
  }
  return part == parts ? m->blocks : low;
}

static void task_few(void *data, u64 i)
{
  const job *j = data;
  float sums[SC_MATVEC_TOKENS * WIDE];
  i64 end = share_start(j->m, (i64)i + 1, j->shares);
  for (i64 b = share_start(j->m, (i64)i, j->shares); b < end; b++) {
    switch (j->tokens) {
    case 1: few(1, 4, j, b, sums); break;
    case 2: few(2, 4, j, b, sums); break;
    case 3: few(3, 2, j, b, sums); break;
    default: few(4, 2, j, b, sums); break;
    }
    finish(j, sums, 0, j->tokens, b);
  }
}

/* ---- panels ---- */
static i64 panel_start(const job *j, i64 panel) { return j->tokens * panel / j->panels; }

/* Part i of the packing: some inputs of one panel, tokens that do not exist are zero. */
static void task_pack(void *data, u64 i)
{
  const job *j = data;
  i64 depth = j->m->depth, slices = (depth + VL - 1) / VL, slot = (i64)i / j->parts, part = (i64)i % j->parts;
  i64 token = panel_start(j, j->first + slot), count = panel_start(j, j->first + slot + 1) - token;
  float *to = j->packed + slot * depth * PITCH;
  i64 from = slices * part / j->parts * VL, end = slices * (part + 1) / j->parts * VL;
  pack_tokens(j->x + token * depth, depth, count, to, PITCH, from, end < depth ? end : depth);
}

/* What the micro-kernel needs of one block and a few tokens of one panel. */
typedef struct {
  const float *x, *weights, *bias;
  const i32 *index, *end;
  i64 first;                     /* subtracted from every index */
  float *out;
  i64 pitch, tokens;
} strip;

INLINE void strip_of(const int P, const strip *s)
{
  vf acc[OUTER_MOST][WIDE_VECTORS];
  outer_start(P, acc, s->bias);
  const float *w = s->weights;
  const i64 first = s->first;
  for (const i32 *at = s->index, *end = s->end; at < end; at++, w += WIDE) {
    const i32 *ahead = at + PREFETCH_TAPS < end ? at + PREFETCH_TAPS : at;
    const float *next = s->x + (*ahead - first) * PITCH;
    UNROLL for (int line = 0; line < P; line += 16) __builtin_prefetch(next + line);
    outer_tap(P, 1, acc, s->x + (*at - first) * PITCH, w);
  }
  outer_store(P, acc, s->out, s->pitch, s->tokens);
}

#define DEFINE_STRIP(P) static void strip_##P(const strip *s) { strip_of(P, s); }
OUTER_SIZES(DEFINE_STRIP)
#define STRIP_ENTRY(P) [P] = strip_##P,
static void (*const strips[OUTER_MOST + 1])(const strip *) = {OUTER_SIZES(STRIP_ENTRY)};

static void block_of_panel(const job *j, i64 block, i64 slot)
{
  const matmul16 *m = j->m;
  i64 token = panel_start(j, j->first + slot), count = panel_start(j, j->first + slot + 1) - token;
  i64 from = m->starts[block], taps = m->starts[block + 1] - from, pieces = (count + OUTER_MOST - 1) / OUTER_MOST;
  const i32 *index = m->dense ? m->index : m->index + from;
  float sums[OUTER_MOST * WIDE] __attribute__((aligned(64)));
  int direct = !j->residual && m->activation == SC_NONE && (block + 1) * WIDE <= m->outputs;
  for (i64 i = 0; i < pieces; i++) {
    i64 start = count * i / pieces, tokens = count * (i + 1) / pieces - start;
    strip s = {.x = j->packed + slot * m->depth * PITCH + start, .weights = m->weights + from * WIDE,
               .bias = m->bias + block * WIDE, .index = index, .end = index + taps, .first = block * m->apart,
               .out = direct ? j->y + (token + start) * m->outputs + block * WIDE : sums,
               .pitch = direct ? m->outputs : WIDE, .tokens = tokens};
    strips[outer_size(tokens)](&s);
    if (!direct) finish(j, sums, token + start, tokens, block);
  }
}

/* A share of the blocks over a group of panels that stay in cache: a block's weights are read once for all of them. */
static void task_blocks(void *data, u64 i)
{
  const job *j = data;
  i64 group = (i64)i / j->shares, share = (i64)i % j->shares;
  i64 first = j->count * group / j->groups, end = j->count * (group + 1) / j->groups;
  for (i64 b = share_start(j->m, share, j->shares); b < share_start(j->m, share + 1, j->shares); b++)
    for (i64 slot = first; slot < end; slot++) block_of_panel(j, b, slot);
}

static int many(job *j, const sc_call *call)
{
  const matmul16 *m = j->m;
  i64 panel = m->depth * PITCH;
  j->panels = (j->tokens + PANEL - 1) / PANEL;
  i64 most = clip(CHUNK / panel, 1, j->panels);
  int slot, status = SC_OK;
  j->packed = sc_scratch_get(call->host, most * panel, &slot);
  if (!j->packed) return SC_MEMORY;
  for (j->first = 0; j->first < j->panels && !status; j->first += most) {
    j->count = j->panels - j->first < most ? j->panels - j->first : most;
    j->parts = clip(STEP_TASKS / j->count, 1, (m->depth + VL - 1) / VL);
    i64 near = clip(NEAR / panel, 1, j->count);
    j->groups = ceil_div(j->count, near);
    j->shares = clip(ceil_div(STEP_TASKS, j->groups), 1, m->blocks);
    status = sc_run_tasks(call, task_pack, j->count * j->parts, j);
    if (!status) status = sc_run_tasks(call, task_blocks, j->groups * j->shares, j);
  }
  sc_scratch_put(call->host, slot, j->packed);
  return status;
}

static int run(void *state, const sc_tensor *const *in, sc_tensor *const *out, const sc_call *call)
{
  const matmul16 *m = state;
  job j = {.m = m, .x = in[0]->data, .residual = m->residual ? in[1]->data : 0, .y = out[0]->data,
           .tokens = sc_product(in[0]->dims, 0, in[0]->rank - 1)};
  if (j.tokens < 1) return SC_OK;
  if (j.tokens > SC_MATVEC_TOKENS) return many(&j, call);
  j.shares = clip(STEP_TASKS, 1, m->blocks);
  return sc_run_tasks(call, task_few, j.shares, &j);
}

extern const sc_step_kind SC(sc_step_matmul16);
HIDDEN const sc_step_kind SC(sc_step_matmul16) = {"matmul16", create, destroy, infer, run};

/* Attention of row-major tokens: softmax(scale Q K^T + mask) V for every head. Keys are turned once per head into
   strips of 16, values cut into strips of 16; rows of queries then go through the outer-product micro-kernel twice,
   with the softmax of a block of keys between, while the scores are in cache. Later blocks of keys rescale what the
   earlier ones gave. */
#include "attention.h"
#include "outer.h"
#include "t64.h"
#include "tokens.h"

enum {
  MOST_DIM = 256,
  ROW = MOST_DIM + 16,           /* floats between rows of a tile: an odd number of cache lines */
  KEYS = 128,                    /* keys of a block */
  AHEAD_WEIGHTS = 8,             /* rows of weights fetched before they are used */
  ROWS_OF_SPLIT = 56             /* least queries of a part of a head: every part turns the keys anew */
};

typedef struct {
  const sc_attention *a;
  const float *x[3];
  float *y;
  i64 pitch[4], apart[4];        /* floats between tokens, and between batches, of q, k, v and y */
  i64 batch, queries, keys, splits;
  sc_mask mask;
  const sc_host *host;
  i32 failed;
} job;

/* Attributes: heads, head dimension, whether tokens come before the batch, first column in q, k and v, scale. A mask is the
   fourth input or the one constant. */
static const char *create(const sc_step_spec *spec, const sc_host *host, void **state)
{
  *state = 0;
  const i64 *n = spec->attributes;
  if (spec->attribute_count != 7) return "it has seven attributes";
  if (n[0] < 1 || n[0] > 1 << 16 || n[1] < 1 || n[1] > MOST_DIM) return "heads must have at most 256 features";
  if (n[2] != 0 && n[2] != 1) return "a malformed step";
  for (int i = 3; i < 6; i++) if (n[i] < 0 || n[i] > 1 << 30) return "a column is out of range";
  if (spec->inputs < 3 || spec->constant_count < 0 || spec->inputs + spec->constant_count > 4 || spec->outputs != 1)
    return "it has three inputs, one output and at most one mask";
  sc_attention *a = sc_get(host, sizeof *a);
  if (!a) return "there is no memory for it";
  *a = (sc_attention){.heads = n[0], .dim = n[1], .tokens_first = (int)n[2], .offset = {n[3], n[4], n[5]},
                      .scale = sc_float_attribute(n[6])};
  *state = a;
  sc_scratch_retain(host);
  a->masked = spec->inputs + spec->constant_count == 4, a->constant = spec->constant_count == 1;
  if (!a->constant) return 0;
  const sc_constant *mask = spec->constants;
  if (mask->type != SC_F32 || mask->rank > 4) return "the mask must be float32 of at most four dimensions";
  a->mask = (sc_tensor){.type = mask->type, .rank = mask->rank, .data = (void *)(u64)mask->data};
  for (int i = 0; i < mask->rank; i++) a->mask.dims[i] = mask->dims[i];
  return 0;
}

static void destroy(void *state, const sc_host *host)
{
  sc_drop(host, state);
  sc_scratch_release(host);
}

/* Dims [batch, heads, queries, keys] that a mask may have. */
static const char *check_mask(const sc_tensor *mask, const i64 want[4])
{
  if (!sc_is_plain(mask) || mask->rank < 1 || mask->rank > 4)
    return "the mask must be float32 of at most four dimensions";
  if (mask->dims[mask->rank - 1] != want[3]) return "the last dimension of the mask must be the keys";
  for (int i = 0; i < mask->rank; i++) {
    i64 have = mask->dims[i];
    if (have != 1 && have != want[4 - mask->rank + i]) return "the mask does not fit batch, heads and queries";
  }
  return 0;
}

static const char *infer(const void *state, const sc_tensor *const *in, sc_tensor *const *out)
{
  const sc_attention *a = state;
  const i32 rank = in[0]->rank;
  const int lanes = in[0]->layout == SC_T64;
  const i32 batch_axis = a->tokens_first ? 1 : 0, token_axis = rank == 3 && !a->tokens_first ? 1 : 0;
  if (a->tokens_first && (lanes || rank != 3)) return "tokens before the batch must be row-major, of three dimensions";
  if (lanes && a->dim < OUTER_LEAST) return "with tokens in the lanes, heads need six features";
  for (int i = 0; i < 3; i++) {
    if (!(lanes ? sc_is_t64(in[i]) : sc_is_plain(in[i])) || in[i]->rank != rank || rank < 2 || rank > 3)
      return "q, k, v must be float32 [batch, tokens, features]";
    if (rank == 3 && in[i]->dims[batch_axis] != in[0]->dims[batch_axis]) return "q, k, v have different batch sizes";
    if (a->offset[i] + a->heads * a->dim > in[i]->dims[rank - 1]) return "the heads do not fit into the features";
  }
  if (in[1]->dims[token_axis] != in[2]->dims[token_axis]) return "there must be as many keys as values";
  const i64 want[4] = {rank == 3 ? in[0]->dims[batch_axis] : 1, a->heads, in[0]->dims[token_axis], in[1]->dims[token_axis]};
  if (want[3] < 1) return "there are no keys";
  const char *wrong = a->masked ? check_mask(a->constant ? &a->mask : in[3], want) : 0;
  if (wrong) return wrong;
  *out[0] = *in[0];
  out[0]->data = 0, out[0]->dims[rank - 1] = a->heads * a->dim;
  return lanes && !sc_is_t64(out[0]) ? "with tokens in the lanes, there must be 16 features" : 0;
}

/* ---- strips of keys and values ---- */
/* Keys of one head to [strip of 16][dim][16]; what stands for keys that do not exist is of no importance. */
static void turn_keys(const float *from, i64 pitch, i64 keys, i64 dim, float *to)
{
  for (i64 t = 0; t < keys; t += WIDE, from += WIDE * pitch, to += WIDE * dim)
    pack_tokens(from, pitch, keys - t < WIDE ? keys - t : WIDE, to, WIDE, 0, dim);
}

/* Values of one head to [strip of 16 features][keys][16]. */
static void cut_values(const float *from, i64 pitch, i64 keys, i64 dim, float *to)
{
  for (i64 t = 0; t < keys; t++)
    for (i64 f = 0; f < ceil_div(dim, WIDE) * WIDE; f += VL) {
      vf v = f < dim ? load_some(from + t * pitch + f, dim - f, 0.f) : splat(0.f);
      store(to + (f / WIDE * keys + t) * WIDE + f % WIDE, v);
    }
}

/* ---- a tile of rows ---- */
/* out (+)= x W for strips of 16 outputs, whose weights are `apart` floats from each other. */
typedef struct { const float *x, *weights; i64 taps, apart, strips; float *out; int add; } product;

INLINE void product_of(const int P, const product *m)
{
  float *out = m->out;
  const float *weights = m->weights;
  for (i64 strip = 0; strip < m->strips; strip++, out += WIDE, weights += m->apart) {
    vf acc[OUTER_MOST][WIDE_VECTORS];
    if (m->add) {
      UNROLL for (int p = 0; p < P; p++)
        UNROLL for (int n = 0; n < WIDE_VECTORS; n++) acc[p][n] = load(out + p * ROW + n * VL);
    } else {
      outer_start(P, acc, 0);
    }
    const float *w = weights;
    for (const float *x = m->x, *end = x + m->taps; x < end; x++, w += WIDE) {
      __builtin_prefetch(w + AHEAD_WEIGHTS * WIDE);
      outer_tap(P, ROW, acc, x, w);
    }
    outer_store(P, acc, out, ROW, P);
  }
}

#define DEFINE_PRODUCT(P) static void product_##P(const product *m) { product_of(P, m); }
OUTER_SIZES(DEFINE_PRODUCT)
#define PRODUCT_ENTRY(P) [P] = product_##P,
static void (*const products[OUTER_MOST + 1])(const product *) = {OUTER_SIZES(PRODUCT_ENTRY)};

typedef struct {
  float *q, *scores, *sums;      /* OUTER_MOST rows of ROW floats each; sums: weighted values so far */
  float *keys, *values;          /* of the head */
  float top[OUTER_MOST], total[OUTER_MOST];
} tile;

/* Fills the last vector of a row of n scores with what counts as masked, adds the mask of the row, if there is one,
   and gives the largest. */
INLINE float largest_score(float *s, i64 n, const float *mask)
{
  for (i64 i = n; i % VL; i++) s[i] = -__builtin_inff();
  vf high = splat(SC_LEAST_SCORE);
  for (i64 i = 0; i < n; i += VL) {
    vf v = load(s + i);
    if (mask) store(s + i, v += load_some(mask + i, n - i, 0.f));
    high = at_least(v, high);
  }
  return largest_of(high);
}

/* n scores to exponentials of their distance to `top`; gives their sum. Masked scores become 2^-126, not zero, so
   that a row with nothing but masked keys is their mean, as it is when the mask is a large number. */
INLINE float exponentials(float *s, i64 n, float top)
{
  const float to_base_2 = 1.44269504f, offset = top * to_base_2;
  vf sum = splat(0.f);
  for (i64 i = 0; i < n; i += VL) {
    vf v = exp2_vf(at_least(load(s + i) * to_base_2 - offset, splat(-126.f)));
    store(s + i, v);
    sum += v;
  }
  return sum_of(sum) - (float)(ceil_div(n, VL) * VL - n) * 0x1p-126f; /* what filled the last vector */
}

/* Keys [from, from + n) for `rows` rows of queries; mask: of the first row and key, or null. */
static void key_block(const job *j, tile *t, i64 rows, i64 from, i64 n, const float *mask)
{
  const i64 dim = j->a->dim;
  void (*const multiply)(const product *) = products[outer_size(rows)];
  multiply(&(product){t->q, t->keys + from * dim, dim, dim * WIDE, ceil_div(n, WIDE), t->scores, 0});
  float tops[OUTER_MOST];
  for (i64 r = 0; r < rows; r++) tops[r] = largest_score(t->scores + r * ROW, n, mask ? mask + r * j->mask.step[2] : 0);
  for (i64 r = 0; r < rows; r++) {
    const float top = tops[r] > t->top[r] ? tops[r] : t->top[r];
    if (from > 0 && top > t->top[r]) {
      const float factor = exp_below(splat(t->top[r] - top))[0];
      t->total[r] *= factor;
      for (i64 f = 0; f < dim; f += VL) store(t->sums + r * ROW + f, load(t->sums + r * ROW + f) * factor);
    }
    t->top[r] = top, t->total[r] += exponentials(t->scores + r * ROW, n, top);
  }
  multiply(&(product){t->scores, t->values + from * WIDE, n, j->keys * WIDE, ceil_div(dim, WIDE), t->sums, from > 0});
}

/* Queries [from, from + rows) of one head. */
static void tile_of(const job *j, tile *t, i64 batch, i64 head, i64 from, i64 rows)
{
  const sc_attention *a = j->a;
  const float *q = j->x[0] + batch * j->apart[0] + from * j->pitch[0] + a->offset[0] + head * a->dim;
  for (i64 r = 0; r < rows; r++) {
    for (i64 f = 0; f < a->dim; f += VL)
      store(t->q + r * ROW + f, load_some(q + r * j->pitch[0] + f, a->dim - f, 0.f) * a->scale);
    t->top[r] = SC_LEAST_SCORE, t->total[r] = 0.f;
  }
  const float *mask = j->mask.data ? j->mask.data + batch * j->mask.step[0] + head * j->mask.step[1] + from * j->mask.step[2] : 0;
  for (i64 k = 0; k < j->keys; k += KEYS)
    key_block(j, t, rows, k, j->keys - k < KEYS ? j->keys - k : KEYS, mask ? mask + k : 0);
  float *y = j->y + batch * j->apart[3] + from * j->pitch[3] + head * a->dim;
  for (i64 r = 0; r < rows; r++, y += j->pitch[3]) {
    const float scale = 1.f / t->total[r];
    for (i64 f = 0; f < a->dim; f += VL) store_some(y + f, load(t->sums + r * ROW + f) * scale, a->dim - f);
  }
}

/* One part of the queries of one head. */
static void task(void *data, u64 i)
{
  job *j = data;
  const sc_attention *a = j->a;
  const i64 split = (i64)i % j->splits, head = (i64)i / j->splits % a->heads, batch = (i64)i / j->splits / a->heads;
  const i64 key_floats = (j->keys + WIDE - 1) / WIDE * WIDE * a->dim, wide_dim = (a->dim + WIDE - 1) / WIDE * WIDE;
  int slot;
  float *memory = sc_scratch_get(j->host, 3 * OUTER_MOST * ROW + key_floats + j->keys * wide_dim, &slot);
  if (!memory) {
    __atomic_store_n(&j->failed, 1, __ATOMIC_RELAXED);
    return;
  }
  tile t = {.q = memory, .scores = memory + OUTER_MOST * ROW, .sums = memory + 2 * OUTER_MOST * ROW};
  t.keys = memory + 3 * OUTER_MOST * ROW, t.values = t.keys + key_floats;
  const i64 column = head * a->dim;
  turn_keys(j->x[1] + batch * j->apart[1] + a->offset[1] + column, j->pitch[1], j->keys, a->dim, t.keys);
  cut_values(j->x[2] + batch * j->apart[2] + a->offset[2] + column, j->pitch[2], j->keys, a->dim, t.values);
  const i64 first = j->queries * split / j->splits, count = j->queries * (split + 1) / j->splits - first;
  const i64 tiles = (count + OUTER_MOST - 1) / OUTER_MOST;
  for (i64 n = 0; n < tiles; n++) {
    i64 from = count * n / tiles, end = count * (n + 1) / tiles;
    tile_of(j, &t, batch, head, first + from, end - from);
  }
  sc_scratch_put(j->host, slot, memory);
}

static int run(void *state, const sc_tensor *const *in, sc_tensor *const *out, const sc_call *call)
{
  const sc_attention *a = state;
  const i32 rank = in[0]->rank;
  if (in[0]->layout == SC_T64) return SC(sc_attention_t64)(a, in, out[0], call);
  const i32 token_axis = rank == 3 && !a->tokens_first ? 1 : 0;
  job j = {.a = a, .y = out[0]->data, .host = call->host, .batch = rank == 3 ? in[0]->dims[a->tokens_first] : 1,
           .queries = in[0]->dims[token_axis], .keys = in[1]->dims[token_axis], .mask = sc_mask_of(a, in)};
  for (int i = 0; i < 4; i++) {
    const sc_tensor *t = i < 3 ? in[i] : out[0];
    const i64 width = t->dims[rank - 1];
    if (i < 3) j.x[i] = t->data;
    j.pitch[i] = a->tokens_first ? j.batch * width : width;
    j.apart[i] = a->tokens_first ? width : t->dims[token_axis] * width;
  }
  const i64 heads = j.batch * a->heads;
  if (heads * j.queries == 0) return SC_OK;
  j.splits = clip(ceil_div(STEP_TASKS, heads), 1, clip(j.queries / ROWS_OF_SPLIT, 1, j.queries));
  const int status = sc_run_tasks(call, task, heads * j.splits, &j);
  return status ? status : j.failed ? SC_MEMORY : SC_OK;
}

extern const sc_step_kind SC(sc_step_attention);
HIDDEN const sc_step_kind SC(sc_step_attention) = {"attention", create, destroy, infer, run};

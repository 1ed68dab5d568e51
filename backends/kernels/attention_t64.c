/* Attention of tokens in layout T64: 16 queries lie in the lanes, all their scores in cache. Keys and values are read where
   they lie, since a feature's tokens follow each other: S^T = K Q^T and Y^T = V S^T are both outer products. */
#include "attention.h"
#include "outer.h"
#include "t64.h"

typedef struct {
  const sc_attention *a;
  const float *x[3];
  float *y;
  i64 features[3], outputs;      /* of q, k, v and y: rows of a piece */
  i64 batch, queries, keys, blocks;
  sc_mask mask;
  const sc_host *host;
  i32 failed;
} job;

/* The rows of a head in the piece of a token. */
static const float *head_rows(const job *j, int which, i64 head, i64 piece)
{
  return j->x[which] + (piece * j->features[which] + j->a->offset[which] + head * j->a->dim) * T64;
}

/* out (+)= sum over taps of x[p * apart] w: P rows of 16. */
typedef struct { const float *x, *w; i64 taps, x_step, w_step; float *out; int add; } product;

INLINE void product_of(const int P, const int apart, const product *m)
{
  vf acc[OUTER_MOST][WIDE_VECTORS];
  if (m->add) {
    UNROLL for (int p = 0; p < P; p++)
      UNROLL for (int n = 0; n < WIDE_VECTORS; n++) acc[p][n] = load(m->out + p * WIDE + n * VL);
  } else {
    outer_start(P, acc, 0);
  }
  const float *x = m->x, *w = m->w;
  for (i64 i = 0; i < m->taps; i++, x += m->x_step, w += m->w_step) outer_tap(P, apart, acc, x, w);
  outer_store(P, acc, m->out, WIDE, P);
}

#define DEFINE_PRODUCT(P)                                                        \
  static void scores_##P(const product *m) { product_of(P, 1, m); }              \
  static void values_##P(const product *m) { product_of(P, T64, m); }
OUTER_SIZES(DEFINE_PRODUCT)
#define SCORES_ENTRY(P) [P] = scores_##P,
#define VALUES_ENTRY(P) [P] = values_##P,
typedef void (*multiply)(const product *);
static const multiply score_products[OUTER_MOST + 1] = {OUTER_SIZES(SCORES_ENTRY)};
static const multiply value_products[OUTER_MOST + 1] = {OUTER_SIZES(VALUES_ENTRY)};

/* The tokens of a batch in one piece: lanes [lane, lane + count), which are tokens [token, token + count) of the batch. */
typedef struct { i64 piece, lane, count, token; } run_of_tokens;

static run_of_tokens run_at(i64 first, i64 tokens, i64 token)
{
  const i64 at = first + token, lane = at % T64;
  return (run_of_tokens){at / T64, lane, T64 - lane < tokens - token ? T64 - lane : tokens - token, token};
}

/* scores[key][16] of 16 queries at q. Where a part has fewer keys than there is code for, it begins earlier: then it computes
   others a second time, or those of the batch before, in front of the scores. */
static void score_keys(const job *j, i64 head, i64 first, const float *q, float *scores)
{
  run_of_tokens r;
  for (i64 token = 0; token < j->keys; token += r.count) {
    r = run_at(first, j->keys, token);
    const float *keys = head_rows(j, 1, head, r.piece);
    const i64 parts = (r.count + OUTER_MOST - 1) / OUTER_MOST;
    for (i64 i = 0; i < parts; i++) {
      i64 from = r.count * i / parts;
      const i64 size = outer_size(r.count * (i + 1) / parts - from), over = r.lane + from + size - T64;
      if (over > 0) from -= over;
      score_products[size](&(product){keys + r.lane + from, q, j->a->dim, T64, T64, scores + (token + from) * WIDE, 0});
    }
  }
}

/* sums[feature][16] of the values, weighted by `scores`. The last features may be computed a second time. */
static void weigh_values(const job *j, i64 head, i64 first, const float *scores, float *sums)
{
  const i64 dim = j->a->dim;
  i64 parts = (dim + OUTER_MOST - 1) / OUTER_MOST, size = outer_size((dim + parts - 1) / parts);
  if (size > dim) size -= OUTER_STEP, parts = 2;
  for (i64 i = 0; i < parts; i++) {
    const i64 from = clip(i * size, 0, dim - size);
    run_of_tokens r;
    float part[OUTER_MOST * WIDE] __attribute__((aligned(64)));
    for (i64 token = 0; token < j->keys; token += r.count) {
      r = run_at(first, j->keys, token);
      const float *values = head_rows(j, 2, head, r.piece) + from * T64 + r.lane;
      value_products[size](&(product){values, scores + token * WIDE, r.count, 1, WIDE, part, token > 0});
    }
    for (i64 n = 0; n < size * WIDE; n += VL) store(sums + from * WIDE + n, load(part + n));
  }
}

/* Exponentials of scaled and masked scores in place; total: the sum of each lane. mask: of lane `from` and the first key; only
   lanes [from, end) have numbers of their own there. */
static void soften(const job *j, float *scores, const float *mask, i64 from, i64 end, float *total)
{
  const float to_base_2 = 1.44269504f;
  for (i64 n = 0; n < WIDE; n += VL) {
    vf high = splat(SC_LEAST_SCORE), sum = splat(0.f);
    for (i64 k = 0; k < j->keys; k++) {
      vf v = load(scores + k * WIDE + n) * j->a->scale;
      if (mask && !j->mask.step[2]) v += mask[k];
      for (i64 lane = from > n ? from : n; mask && j->mask.step[2] && lane < end && lane < n + VL; lane++)
        v[lane - n] += mask[(lane - from) * j->mask.step[2] + k];
      store(scores + k * WIDE + n, v);
      high = at_least(v, high);
    }
    const vf offset = high * to_base_2;
    for (i64 k = 0; k < j->keys; k++) {
      vf v = exp2_vf(at_least(load(scores + k * WIDE + n) * to_base_2 - offset, splat(-126.f)));
      store(scores + k * WIDE + n, v);
      sum += v;
    }
    store(total + n, sum);
  }
}

/* Lanes [from, end) of 16 at block * 16, which are tokens of a batch whose first token is `first`. */
static void lanes_of(const job *j, float *memory, i64 head, i64 batch, i64 block, i64 from, i64 end)
{
  const i64 dim = j->a->dim, first = batch * j->queries, piece = block * WIDE / T64, lane = block * WIDE % T64;
  const i64 query = block * WIDE + from - first;
  float *sums = memory, *scores = memory + (dim + OUTER_MOST) * WIDE, total[WIDE];
  score_keys(j, head, batch * j->keys, head_rows(j, 0, head, piece) + lane, scores);
  const sc_mask *m = &j->mask;
  const float *mask = m->data ? m->data + batch * m->step[0] + head * m->step[1] + query * m->step[2] : 0;
  soften(j, scores, mask, from, end, total);
  weigh_values(j, head, batch * j->keys, scores, sums);
  float *y = j->y + (piece * j->outputs + head * dim) * T64 + lane;
  for (i64 f = 0; f < dim; f++) {
    if (from == 0 && end == WIDE)
      for (i64 n = 0; n < WIDE; n += VL) store(y + f * T64 + n, load(sums + f * WIDE + n) / load(total + n));
    else
      for (i64 n = from; n < end; n++) y[f * T64 + n] = sums[f * WIDE + n] / total[n];
  }
}

/* 16 lanes of one head: those of each batch in them. */
static void task(void *data, u64 i)
{
  job *j = data;
  const i64 block = (i64)i % j->blocks, head = (i64)i / j->blocks, start = block * WIDE, tokens = j->batch * j->queries;
  int slot;
  float *memory = sc_scratch_get(j->host, (j->a->dim + OUTER_MOST + j->keys + OUTER_MOST) * WIDE, &slot);
  if (!memory) {
    __atomic_store_n(&j->failed, 1, __ATOMIC_RELAXED);
    return;
  }
  const i64 stop = start + WIDE < tokens ? start + WIDE : tokens;
  for (i64 token = start; token < stop;) {
    const i64 batch = token / j->queries, next = (batch + 1) * j->queries, end = next < stop ? next : stop;
    lanes_of(j, memory, head, batch, block, token - start, end - start);
    token = end;
  }
  sc_scratch_put(j->host, slot, memory);
}

int SC(sc_attention_t64)(const sc_attention *a, const sc_tensor *const *in, sc_tensor *out, const sc_call *call)
{
  const i32 rank = in[0]->rank;
  job j = {.a = a, .y = out->data, .outputs = sc_features(out), .host = call->host, .batch = rank == 3 ? in[0]->dims[0] : 1,
           .queries = in[0]->dims[rank - 2], .keys = in[1]->dims[rank - 2], .mask = sc_mask_of(a, in)};
  for (int i = 0; i < 3; i++) j.x[i] = in[i]->data, j.features[i] = sc_features(in[i]);
  j.blocks = ceil_div(j.batch * j.queries, WIDE);
  if (!j.blocks) return SC_OK;
  const int status = sc_run_tasks(call, task, j.blocks * a->heads, &j);
  return status ? status : j.failed ? SC_MEMORY : SC_OK;
}

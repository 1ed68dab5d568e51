/* The scores of a tile of queries of one head: rows of queries go through the outer-product micro-kernel, against strips of keys. */
#ifndef SC_ATTENTION_SCORES_H
#define SC_ATTENTION_SCORES_H
#include "attention.h"
#include "outer.h"

enum {
  ROW = 256 + 16,                /* floats between rows of a tile: an odd number of cache lines; heads have at most 256 features */
  KEYS = 128,                    /* keys of a block */
  AHEAD_WEIGHTS = 8,             /* rows of weights fetched before they are used */
  TILE_FLOATS = 3 * OUTER_MOST * ROW
};

/* V8 checks the stack in every turn of a loop: with four taps in one, dense attention takes a sixth less. */
#ifdef __wasm__
#define TAPS_OF_A_TURN _Pragma("clang loop unroll_count(4)")
#else
#define TAPS_OF_A_TURN
#endif

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
    TAPS_OF_A_TURN for (const float *x = m->x, *end = x + m->taps; x < end; x++, w += WIDE) {
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
  const sc_attention_call *call;
  const float *keys, *values;    /* of the head: strips of 16 keys, and of 16 features of `apart` floats */
  i64 apart;
  float *q, *scores, *sums;      /* OUTER_MOST rows of ROW floats each; sums: weighted values so far */
  i64 first, rows;               /* queries of the head */
  int begun;                     /* whether there are sums */
  float top[OUTER_MOST], total[OUTER_MOST];
  const float *mask;             /* of the first query and key, or null */
} tile;

static void hide(float *scores, i64 from, i64 end)
{
  for (; from < end && from % VL; from++) scores[from] = -__builtin_inff();
  for (; from + VL <= end; from += VL) store(scores + from, splat(-__builtin_inff()));
  for (; from < end; from++) scores[from] = -__builtin_inff();
}

/* Fills the last vector of a row of n scores with what counts as masked, adds the mask of the row, if there is one, whose keys are
   `step` floats apart, and gives the largest. */
INLINE float largest_score(float *s, i64 n, const float *mask, i64 step)
{
  for (i64 i = n; i % VL; i++) s[i] = -__builtin_inff();
  vf high = splat(SC_LEAST_SCORE);
  for (i64 i = 0; i < n; i += VL) {
    vf v = load(s + i);
    if (mask) store(s + i, v += step ? load_some(mask + i, n - i, 0.f) : splat(*mask));
    high = at_least(v, high);
  }
  return largest_of(high);
}

INLINE void begin_tile(tile *t, const float *q, i64 pitch)
{
  const sc_attention *a = t->call->a;
  for (i64 r = 0; r < t->rows; r++) {
    const float *from = q + sc_lies_at(a, t->first + r) * pitch;
    for (i64 f = 0; f < a->dim; f += VL) store(t->q + r * ROW + f, load_some(from + f, a->dim - f, 0.f) * a->scale);
    t->top[r] = SC_LEAST_SCORE, t->total[r] = 0.f;
  }
  t->begun = 0;
}
#endif

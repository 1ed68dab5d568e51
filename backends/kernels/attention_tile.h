/* A tile of queries of one head against some of its keys: rows of queries go through the outer-product micro-kernel twice, with
   the softmax of a block of keys between, while the scores are in cache. Later blocks rescale what the earlier ones gave. */
#ifndef SC_ATTENTION_TILE_H
#define SC_ATTENTION_TILE_H
#include "attention_scores.h"

/* Hides what the rule leaves out of keys [start, stop), which begin at scores[0]. */
static void hide_by_rule(const tile *t, i64 start, i64 stop)
{
  const sc_rule *rule = &t->call->a->rule;
  const i64 last = t->first + t->rows - 1, n = stop - start;
  if (stop - 1 <= t->first + rule->right && (start >= last - rule->left || stop <= rule->sinks)) return;
  for (i64 r = 0; r < t->rows; r++) {
    float *scores = t->scores + r * ROW;
    const i64 query = t->first + r;
    hide(scores, clip(rule->sinks - start, 0, n), clip(query - rule->left - start, 0, n));
    hide(scores, clip(query + rule->right + 1 - start, 0, n), n);
  }
}

/* n scores to exponentials of their distance to `top`; gives their sum. Masked scores become 2^-126, not zero, so that a row with
   nothing but masked keys is their mean, as it is when the mask is a large number. */
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

/* Scores of keys [start, stop) to weights; what came before is brought to the new tops. */
static void soften(tile *t, i64 start, i64 stop)
{
  const i64 n = stop - start, step = t->call->mask.step[2], by_key = t->call->mask.step[3];
  const float *mask = t->mask ? t->mask + start * by_key : 0;
  float tops[OUTER_MOST];
  for (i64 r = 0; r < t->rows; r++) tops[r] = largest_score(t->scores + r * ROW, n, mask ? mask + r * step : 0, by_key);
  for (i64 r = 0; r < t->rows; r++) {
    const float top = tops[r] > t->top[r] ? tops[r] : t->top[r];
    if (t->begun && top > t->top[r]) {
      const float factor = exp_below(splat(t->top[r] - top))[0];
      t->total[r] *= factor;
      for (i64 f = 0; f < t->call->a->dim; f += VL) store(t->sums + r * ROW + f, load(t->sums + r * ROW + f) * factor);
    }
    t->top[r] = top, t->total[r] += exponentials(t->scores + r * ROW, n, top);
  }
}

/* Keys [from, stop): their scores begin at a strip, so that keys before them are hidden. */
static void key_block(tile *t, i64 from, i64 stop)
{
  const i64 dim = t->call->a->dim, start = from / WIDE * WIDE, n = stop - start;
  void (*const multiply)(const product *) = products[outer_size(t->rows)];
  multiply(&(product){t->q, t->keys + start * dim, dim, dim * WIDE, ceil_div(n, WIDE), t->scores, 0});
  if (from > start) for (i64 r = 0; r < t->rows; r++) hide(t->scores + r * ROW, 0, from - start);
  hide_by_rule(t, start, stop);
  soften(t, start, stop);
  multiply(&(product){t->scores, t->values + start * WIDE, n, t->apart, ceil_div(dim, WIDE), t->sums, t->begun});
  t->begun = 1;
}

/* A NaN among the scores makes the total one. */
INLINE void end_tile(const tile *t, float *y, i64 pitch)
{
  const sc_attention *a = t->call->a;
  for (i64 r = 0; r < t->rows; r++) {
    float *to = y + sc_lies_at(a, t->first + r) * pitch;
    const int nothing = !t->begun || (a->hides && t->top[r] <= SC_LEAST_SCORE && t->total[r] == t->total[r]);
    const float scale = 1.f / t->total[r];
    for (i64 f = 0; f < a->dim; f += VL)
      store_some(to + f, nothing ? splat(0.f) : load(t->sums + r * ROW + f) * scale, a->dim - f);
  }
}
#endif

/* Which keys the queries of a tile see: the kept blocks of their row, joined where they touch, within the rule. */
#ifndef SC_ATTENTION_KEYS_H
#define SC_ATTENTION_KEYS_H
#include "attention.h"

typedef struct {
  const i32 *block, *end;        /* kept blocks of the row that are still to come */
  i64 base, columns;             /* the position of the row's first block, and keys of a block */
  i64 keys;
  i64 sinks, low, high;          /* keys [0, sinks) and [low, high) are seen by one of the queries at least */
  i64 from, stop;                /* what is left of the joined blocks at hand */
} key_walk;

/* The first kept block at or behind a position. */
static inline const i32 *first_block(const sc_blocks *b, i64 position)
{
  i64 low = 0, high = b->count;
  while (low < high) {
    const i64 mid = (low + high) / 2;
    if (b->index[mid] < position) low = mid + 1;
    else high = mid;
  }
  return b->index + low;
}

/* For queries [first, end) of a head, which are in row `row` of the blocks. */
static inline key_walk walk_of(const sc_attention_call *c, i64 head, i64 row, i64 first, i64 end)
{
  const sc_rule *rule = &c->a->rule;
  const sc_blocks *b = &c->blocks;
  key_walk w = {.keys = c->keys, .high = clip(end + rule->right, 0, c->keys), .low = clip(first - rule->left, 0, c->keys)};
  w.sinks = rule->sinks < w.high ? rule->sinks : w.high;
  if (w.low <= w.sinks) w.sinks = w.high;
  if (!c->a->blocked) {
    w.stop = c->keys;
    return w;
  }
  w.base = ((b->heads > 1 ? head : 0) * b->down + row) * b->across, w.columns = b->columns;
  w.block = first_block(b, w.base), w.end = first_block(b, w.base + b->across);
  return w;
}

/* The next blocks that touch each other. */
static inline int join_blocks(key_walk *w)
{
  if (w->block == w->end) return 0;
  w->from = (*w->block - w->base) * w->columns;
  do w->stop = (*w->block++ - w->base + 1) * w->columns;
  while (w->block < w->end && (*w->block - w->base) * w->columns == w->stop);
  if (w->stop > w->keys) w->stop = w->keys;
  return 1;
}

/* The next keys [*from, *stop), ascending; 0 at the end. */
static inline int next_keys(key_walk *w, i64 *from, i64 *stop)
{
  for (;;) {
    if (w->from >= w->stop && !join_blocks(w)) return 0;
    const i64 limit = w->from < w->sinks ? w->sinks : w->high;
    i64 at = w->from;
    if (at >= w->sinks && at < w->low) at = w->low;
    if (at >= w->high) return 0;
    w->from = at < w->stop ? (w->stop < limit ? w->stop : limit) : w->stop;
    if (at >= w->from) continue;
    *from = at, *stop = w->from;
    return 1;
  }
}

/* Roughly how many keys they are. */
static inline i64 count_keys(const key_walk *w)
{
  const i64 by_rule = w->sinks < w->high ? w->sinks + (w->low < w->high ? w->high - w->low : 0) : w->high;
  const i64 by_blocks = w->columns ? (w->end - w->block) * w->columns : w->keys;
  return by_rule < by_blocks ? by_rule : by_blocks;
}
#endif

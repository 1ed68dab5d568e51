/* The mass that softmax(scale Q K^T) gives each block of scores, summed over its queries and the batch. One pass without the values:
   a tile of queries keeps, for every block of its row, the largest score of each query and the sum of the exponentials below it.
   So what all keys of a query amount to is known when its scores have been seen, and no score is computed twice. */
#include "attention_blocks.h"
#include "attention_scores.h"
#include "tokens.h"

enum {
  PACKED_KEYS = 1024,            /* keys turned by one task */
  GROUP_FLOATS = 1 << 20         /* of keys packed at once, unless one head has more */
};

typedef struct {
  const sc_search_call *given;
  i64 batch, first_group, group_count; /* heads of keys at hand */
  float *packed;
  i64 key_floats;                /* of one head */
  i64 pitch;                     /* floats between queries in what is known of the blocks of a row */
  i64 items, next;
  const sc_host *host;
  i32 failed;
} job;

/* What is known of a row of blocks, for one query. */
typedef struct { float *tops, *sums; } partial;

static partial partial_of(const job *j, float *memory, i64 query)
{
  return (partial){memory + 2 * query * j->pitch, memory + (2 * query + 1) * j->pitch};
}

static void pack(void *data, u64 i)
{
  const job *j = data;
  const sc_search_call *c = j->given;
  const i64 parts = ceil_div(c->keys, PACKED_KEYS), part = (i64)i % parts, group = (i64)i / parts;
  const i64 first = part * PACKED_KEYS, end = first + PACKED_KEYS < c->keys ? first + PACKED_KEYS : c->keys;
  const sc_heads *k = &c->x[SC_K];
  const float *from = k->data + j->batch * k->batch + (j->first_group + group) * k->head;
  const i64 dim = c->search->a.dim;
  for (i64 t = first; t < end; t += WIDE)
    pack_tokens(from + t * k->token, k->token, end - t < WIDE ? end - t : WIDE, j->packed + group * j->key_floats + t * dim, WIDE, 0, dim);
}

/* n scores to exponentials of their distance to `top`; masked ones come to nothing beside it. */
static void below_top(float *s, i64 n, float top)
{
  const float to_base_2 = 1.44269504f, offset = top * to_base_2;
  for (i64 i = 0; i < n; i += VL) store(s + i, exp2_vf(at_least(load(s + i) * to_base_2 - offset, splat(-126.f))));
}

static float sum_some(const float *s, i64 n)
{
  vf sum = splat(0.f);
  for (i64 i = 0; i < n; i += VL) sum += load_some(s + i, n - i, 0.f);
  return sum_of(sum);
}

/* Takes in a sum of exponentials below `top`; a block that is wider than what is computed at once has several. */
static void add_sum(partial p, i64 block, float top, float sum, int begins)
{
  if (!begins) {
    const float before = p.tops[block], high = top > before ? top : before;
    const vf factors = exp_below(splat(before - high));
    sum = p.sums[block] * factors[0] + sum * exp_below(splat(top - high))[0];
    top = high;
  }
  p.tops[block] = top, p.sums[block] = sum;
}

/* Keys [from, stop) of whole blocks, or of a part of one: their scores begin at a strip, as those of attention do. */
static void score_keys(const job *j, tile *t, float *memory, i64 from, i64 stop)
{
  const i64 dim = j->given->search->a.dim, columns = j->given->search->a.blocks.columns, start = from / WIDE * WIDE, n = stop - start;
  products[outer_size(t->rows)](&(product){t->q, t->keys + start * dim, dim, dim * WIDE, ceil_div(n, WIDE), t->scores, 0});
  for (i64 r = 0; r < t->rows; r++) {
    float *s = t->scores + r * ROW;
    const partial p = partial_of(j, memory, r);
    hide(s, 0, from - start);
    const float top = largest_score(s, n, 0, 0);
    below_top(s, n, top);
    for (i64 at = from, end; at < stop; at = end) {
      const i64 block = at / columns, next = (block + 1) * columns;
      end = next < stop ? next : stop;
      add_sum(p, block, top, sum_some(s + at - start, end - at), at == block * columns);
    }
  }
}

/* Adds what one query gives each block. Places behind the last block are without top and sum. */
static void add_shares(partial p, i64 across, float *masses)
{
  vf high = splat(SC_LEAST_SCORE), total = splat(0.f);
  for (i64 i = 0; i < across; i += VL) high = at_least(load(p.tops + i), high);
  const float top = largest_of(high);
  for (i64 i = 0; i < across; i += VL) {
    const vf sum = load(p.sums + i) * exp_below(load(p.tops + i) - top);
    store(p.sums + i, sum);
    total += sum;
  }
  const float share = 1.f / sum_of(total);
  for (i64 i = 0; i < across; i += VL)
    store_some(masses + i, load_some(masses + i, across - i, 0.f) + load(p.sums + i) * share, across - i);
}

/* One row of blocks of a head. */
static void compute(const job *j, tile *t, float *memory, i64 head, i64 row)
{
  const sc_search_call *c = j->given;
  const sc_blocks *b = &c->search->a.blocks;
  const sc_heads *q = &c->x[SC_Q];
  const i64 first = row * b->rows, count = c->queries - first < b->rows ? c->queries - first : b->rows;
  const i64 tiles = ceil_div(count, OUTER_MOST), together = b->columns < KEYS ? KEYS / b->columns * b->columns : b->columns;
  for (i64 n = 0; n < tiles; n++) {
    t->first = first + count * n / tiles, t->rows = first + count * (n + 1) / tiles - t->first;
    begin_tile(t, q->data + j->batch * q->batch + head * q->head, q->token);
    for (i64 from = 0; from < c->keys; from += together) {
      const i64 stop = from + together < c->keys ? from + together : c->keys;
      for (i64 at = from, end; at < stop; at = end) {
        end = at / WIDE * WIDE + KEYS + WIDE;
        if (end > stop) end = stop;
        score_keys(j, t, memory, at, end);
      }
    }
    for (i64 r = 0; r < t->rows; r++) add_shares(partial_of(j, memory, r), b->across, c->masses + (head * b->down + row) * b->across);
  }
}

/* Rows of blocks until there are none left. */
static void work(void *data, u64 i)
{
  (void)i;
  job *j = data;
  const sc_attention *a = &j->given->search->a;
  int slot;
  float *memory = sc_scratch_get(j->host, TILE_FLOATS + 2 * OUTER_MOST * j->pitch, &slot);
  if (!memory) {
    __atomic_store_n(&j->failed, 1, __ATOMIC_RELAXED);
    return;
  }
  float *known = memory + TILE_FLOATS;
  for (i64 r = 0; r < OUTER_MOST; r++)
    for (i64 n = a->blocks.across; n < j->pitch; n++)
      partial_of(j, known, r).tops[n] = SC_LEAST_SCORE, partial_of(j, known, r).sums[n] = 0.f;
  const sc_attention_call like = {.a = a};
  tile t = {.call = &like, .q = memory, .scores = memory + OUTER_MOST * ROW};
  const i64 share = a->heads / a->groups, rows = a->blocks.down;
  for (i64 n; (n = __atomic_fetch_add(&j->next, 1, __ATOMIC_RELAXED)) < j->items;) {
    const i64 head = n / rows;
    t.keys = j->packed + head / share * j->key_floats;
    compute(j, &t, known, j->first_group * share + head, n % rows);
  }
  sc_scratch_put(j->host, slot, memory);
}

/* Some heads of keys of one batch, and the heads of queries that share them: each row of blocks is one item, so that its sum
   comes from one thread, batch after batch. */
static int run_group(job *j, const sc_call *call)
{
  const sc_attention *a = &j->given->search->a;
  int status = sc_run_tasks(call, pack, j->group_count * ceil_div(j->given->keys, PACKED_KEYS), j);
  if (status) return status;
  j->items = j->group_count * (a->heads / a->groups) * a->blocks.down, j->next = 0;
  status = sc_run_tasks(call, work, j->items < STEP_TASKS ? j->items : STEP_TASKS, j);
  return status ? status : j->failed ? SC_MEMORY : SC_OK;
}

int SC(sc_block_masses)(const sc_search_call *c, const sc_call *call)
{
  const sc_attention *a = &c->search->a;
  job j = {.given = c, .host = call->host, .key_floats = ceil_div(c->keys, WIDE) * WIDE * a->dim,
           .pitch = ceil_div(a->blocks.across, VL) * VL};
  const i64 groups = clip(GROUP_FLOATS / (j.key_floats + 1), 1, a->groups);
  int slot, status = SC_OK;
  j.packed = sc_scratch_get(call->host, groups * j.key_floats, &slot);
  if (!j.packed) return SC_MEMORY;
  for (; j.batch < c->batches && !status; j.batch++)
    for (j.first_group = 0; j.first_group < a->groups && !status; j.first_group += groups) {
      j.group_count = a->groups - j.first_group < groups ? a->groups - j.first_group : groups;
      status = run_group(&j, call);
    }
  sc_scratch_put(call->host, slot, j.packed);
  return status;
}

/* Which blocks of a search are kept: in every row of blocks those with the most mass, and those of words besides. */
#include "attention_blocks.h"

/* Blocks that hold no word: [first, end) of an axis. */
typedef struct { i64 first, end; } span;

typedef struct {
  const sc_search_call *given;
  span down, across;
  i64 few, most, many;           /* blocks without words that a row keeps: of a head that can do with fewer, of most, of one that needs more */
  i32 *order;                    /* [heads, down, across]: the blocks without words of a row, those with the most mass at the end */
  double *held;                  /* [heads, down]: the mass of what a row would keep with `most`; then the recall of its head first */
} job;

/* A head that holds more than so many parts of its mass can do with fewer blocks: as in sparsecc/ops/attention_search.py. */
enum { PARTS = 1000, RECALL = 800 };

static span without_words(i64 tokens, i64 block, i64 blocks, const sc_search *s)
{
  span free = {ceil_div(s->before, block), s->behind ? (tokens > s->behind ? tokens - s->behind : 0) / block : blocks};
  if (free.first > blocks) free.first = blocks;
  if (free.end < free.first) free.end = free.first;
  return free;
}

static i64 kept_at(double sparsity, i64 free)
{
  const i64 count = (i64)((1. - sparsity) * (double)free + .5);
  return count > 1 ? count : 1;
}

/* ---- one row of blocks ---- */
/* Whether block a is kept before block b. */
INLINE int is_before(const float *masses, i32 a, i32 b) { return masses[a] > masses[b] || (masses[a] == masses[b] && a < b); }

/* Lets the block at a place of a heap sink to where none below it is kept before it. */
static void sink(const float *masses, i32 *heap, i64 count, i64 at)
{
  const i32 moved = heap[at];
  for (i64 child; (child = 2 * at + 1) < count; at = child) {
    if (child + 1 < count && is_before(masses, heap[child + 1], heap[child])) child++;
    if (!is_before(masses, heap[child], moved)) break;
    heap[at] = heap[child];
  }
  heap[at] = moved;
}

/* Brings the `first` of `count` blocks that are kept before all others to the end, the very first one last. */
static void sort_first(const float *masses, i32 *blocks, i64 count, i64 first)
{
  for (i64 i = count / 2 - 1; i >= 0; i--) sink(masses, blocks, count, i);
  for (i64 n = count; n > 1 && count - n < first; n--) {
    const i32 top = blocks[0];
    blocks[0] = blocks[n - 1], blocks[n - 1] = top;
    sink(masses, blocks, n - 1, 0);
  }
}

static void rank(void *data, u64 i)
{
  const job *j = data;
  const sc_blocks *b = &j->given->search->a.blocks;
  const i64 row = (i64)i % b->down, count = j->across.end - j->across.first;
  float *masses = j->given->masses + (i64)i * b->across;
  double held = 0.;
  for (i64 n = 0; n < b->across; n++) {
    masses[n] = masses[n] > 0.f ? masses[n] : 0.f;
    if (row < j->down.first || row >= j->down.end || n < j->across.first || n >= j->across.end) held += (double)masses[n];
  }
  if (row >= j->down.first && row < j->down.end) {
    i32 *order = j->order + (i64)i * b->across;
    for (i64 n = 0; n < count; n++) order[n] = (i32)(j->across.first + n);
    sort_first(masses, order, count, j->many);
    for (i64 n = 0; n < count && n < j->most; n++) held += (double)masses[order[count - 1 - n]];
  }
  j->held[i] = held;
}

/* ---- heads ---- */
/* How many blocks a row of a head keeps: those heads that hold most of their mass get fewer, as many others more. */
static i64 kept_of_head(const job *j, i64 head, i64 moved)
{
  const i64 heads = j->given->search->a.heads, down = j->given->search->a.blocks.down;
  const double mine = j->held[head * down];
  i64 place = 0;
  for (i64 h = 0; h < heads; h++) place += j->held[h * down] > mine || (j->held[h * down] == mine && h < head);
  return place < moved ? j->few : place >= heads - moved ? j->many : j->most;
}

/* What the rows of each head hold, as parts of its mass; how many heads can do with fewer blocks. */
static i64 sum_heads(const job *j)
{
  const i64 heads = j->given->search->a.heads, down = j->given->search->a.blocks.down;
  const i64 mass = j->given->batches * j->given->queries;
  i64 enough = 0;
  for (i64 h = 0; h < heads; h++) {
    for (i64 row = 1; row < down; row++) j->held[h * down] += j->held[h * down + row];
    j->held[h * down] = (double)(i64)(j->held[h * down] * PARTS / (double)(mass ? mass : 1) + .5);
    enough += j->held[h * down] > RECALL;
  }
  return enough < heads / 2 ? enough : heads / 2;
}

/* Writes positions over the order, which lies in the same memory: a row is read before what is written reaches it. */
static void write_index(const job *j, i32 *index, i32 *kept)
{
  const sc_blocks *b = &j->given->search->a.blocks;
  const i64 moved = sum_heads(j), free = j->across.end - j->across.first;
  i64 at = 0;
  for (i64 head = 0; head < b->heads; head++) {
    const i64 k = kept_of_head(j, head, moved), count = k < free ? k : free;
    for (i64 row = 0; row < b->down; row++) {
      const i64 base = (head * b->down + row) * b->across;
      const int of_words = row < j->down.first || row >= j->down.end;
      for (i64 n = 0; n < b->across; n++) kept[n] = of_words || n < j->across.first || n >= j->across.end;
      for (i64 n = 0; n < count && !of_words; n++) kept[j->order[base + free - 1 - n]] = 1;
      for (i64 n = 0; n < b->across; n++) if (kept[n]) index[at++] = (i32)(base + n);
    }
  }
  for (; at < b->heads * b->down * b->across; at++) index[at] = -1;
}

int SC(sc_choose_blocks)(const sc_search_call *c, i32 *index, const sc_call *call)
{
  const sc_search *s = c->search;
  const sc_blocks *b = &s->a.blocks;
  job j = {.given = c, .order = index, .down = without_words(c->queries, b->rows, b->down, s),
           .across = without_words(c->keys, b->columns, b->across, s)};
  const double usual = (double)s->sparsity, most_apart = (1. - usual) / 2., apart = most_apart < usual ? most_apart : usual;
  const i64 free = j.across.end - j.across.first, rows = b->heads * b->down;
  j.few = kept_at(usual + apart, free), j.most = kept_at(usual, free), j.many = kept_at(usual - apart, free);
  int slot;
  j.held = (double *)sc_scratch_get(call->host, 2 * rows + b->across, &slot);
  if (!j.held) return SC_MEMORY;
  const int status = sc_run_tasks(call, rank, rows, &j);
  if (!status) write_index(&j, index, (i32 *)(j.held + rows));
  sc_scratch_put(call->host, slot, (float *)j.held);
  return status;
}

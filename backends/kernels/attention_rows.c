/* Attention of row-major tokens. Keys of a head are turned into strips of 16 once, and values cut into strips of 16 features;
   tiles of queries then walk over the keys they see. */
#include "attention_keys.h"
#include "attention_tile.h"
#include "tokens.h"

enum {
  TILES = 4,                     /* of an item of work */
  PACKED_KEYS = 1024,            /* keys turned by one task */
  GROUP_FLOATS = 1 << 20,        /* of keys and values packed at once, unless one head has more: they stay in a cache of all cores */
  LENGTHS = 64                   /* items are told apart by so many lengths */
};

typedef struct {
  const sc_attention_call *given;
  i64 first_group, group_count;  /* heads of keys at hand, those of all batches counted */
  float *packed;
  i64 key_floats, head_floats;   /* of one head: of its keys, and of keys and values */
  i64 rows, row_items, head_items; /* queries of a row of blocks; items of it, and of a head */
  i64 items, next;
  i32 *order;                    /* items, the longest first; null: as they come */
  const sc_host *host;
  i32 failed;
} job;

/* ---- strips of keys and values ---- */
/* Values to [strip of 16 features][keys][16]; `apart` floats between strips. */
static void cut_values(const float *from, i64 pitch, i64 count, i64 dim, float *to, i64 apart)
{
  for (i64 t = 0; t < count; t++)
    for (i64 f = 0; f < ceil_div(dim, WIDE) * WIDE; f += VL) {
      vf v = f < dim ? load_some(from + t * pitch + f, dim - f, 0.f) : splat(0.f);
      store(to + f / WIDE * apart + t * WIDE + f % WIDE, v);
    }
}

/* The same, and strips of keys, of tokens [first, end) that lie in another order. */
static void pack_in_order(const sc_attention_call *c, const float *k, const float *v, i64 first, i64 end, float *keys, float *values)
{
  const i64 dim = c->a->dim, apart = c->keys * WIDE;
  float rows[VL * MOST_DIM];
  for (i64 t = first; t < end; t += VL) {
    const i64 n = end - t < VL ? end - t : VL;
    for (i64 i = 0; i < n; i++) {
      const i64 at = sc_lies_at(c->a, t + i);
      for (i64 f = 0; f < dim; f += VL) store_some(rows + i * dim + f, load_some(k + at * c->x[SC_K].token + f, dim - f, 0.f), dim - f);
      cut_values(v + at * c->x[SC_V].token, 0, 1, dim, values + (t + i) * WIDE, apart);
    }
    pack_tokens(rows, dim, n, keys + t / WIDE * WIDE * dim + t % WIDE, WIDE, 0, dim);
  }
}

/* Some keys and values of one head; what stands for keys that do not exist is of no importance. */
static void pack(void *data, u64 i)
{
  const job *j = data;
  const sc_attention_call *c = j->given;
  const i64 parts = ceil_div(c->keys, PACKED_KEYS), part = (i64)i % parts, group = (i64)i / parts, dim = c->a->dim;
  const i64 number = j->first_group + group, batch = number / c->a->groups, head = number % c->a->groups;
  const i64 first = part * PACKED_KEYS, end = first + PACKED_KEYS < c->keys ? first + PACKED_KEYS : c->keys;
  float *keys = j->packed + group * j->head_floats, *values = keys + j->key_floats;
  const sc_heads *k = &c->x[SC_K], *v = &c->x[SC_V];
  const float *from = k->data + batch * k->batch + head * k->head, *of = v->data + batch * v->batch + head * v->head;
  if (c->a->order) {
    pack_in_order(c, from, of, first, end, keys, values);
    return;
  }
  for (i64 t = first; t < end; t += WIDE)
    pack_tokens(from + t * k->token, k->token, end - t < WIDE ? end - t : WIDE, keys + t * dim, WIDE, 0, dim);
  cut_values(of + first * v->token, v->token, end - first, dim, values + first * WIDE, c->keys * WIDE);
}

/* ---- items of work: some tiles of a row of blocks of one head ---- */
typedef struct { i64 group, batch, head, row, first, count, tile, end; } item;

static item item_at(const job *j, i64 n)
{
  const sc_attention_call *c = j->given;
  const i64 share = c->a->heads / c->a->groups, head = n / j->head_items, in_head = n % j->head_items;
  const i64 number = j->first_group + head / share, part = in_head % j->row_items;
  item m = {.group = head / share, .batch = number / c->a->groups, .row = in_head / j->row_items};
  m.head = number % c->a->groups * share + head % share;
  m.first = m.row * j->rows, m.count = c->queries - m.first < j->rows ? c->queries - m.first : j->rows;
  const i64 tiles = ceil_div(m.count, OUTER_MOST);
  m.tile = tiles * part / j->row_items, m.end = tiles * (part + 1) / j->row_items;
  return m;
}

/* The first query of a tile, from the first of its row of blocks. */
static i64 tile_start(const item *m, i64 tile) { return m->count * tile / ceil_div(m->count, OUTER_MOST); }

static i64 length_of(const job *j, i64 n)
{
  const item m = item_at(j, n);
  const i64 first = tile_start(&m, m.tile), end = tile_start(&m, m.end);
  const key_walk walk = walk_of(j->given, m.head, m.row, m.first + first, m.first + end);
  return (end - first) * count_keys(&walk);
}

/* Sorts by length, by and large, and otherwise as items come. */
static void order_items(const job *j)
{
  i64 longest = 1, starts[LENGTHS + 1] = {0};
  for (i64 n = 0; n < j->items; n++) {
    const i64 length = length_of(j, n);
    if (length > longest) longest = length;
  }
  for (int pass = 0; pass < 2; pass++) {
    for (i64 n = 0; n < j->items; n++) {
      const i64 class = LENGTHS - 1 - length_of(j, n) * (LENGTHS - 1) / longest;
      if (pass) j->order[starts[class]++] = (i32)n;
      else starts[class + 1]++;
    }
    for (int i = 0; !pass && i < LENGTHS; i++) starts[i + 1] += starts[i];
  }
}

static void compute(const job *j, tile *t, const item *m)
{
  const sc_attention_call *c = j->given;
  const sc_heads *q = &c->x[SC_Q], *y = &c->y;
  t->keys = j->packed + m->group * j->head_floats, t->values = t->keys + j->key_floats;
  for (i64 n = m->tile; n < m->end; n++) {
    t->first = m->first + tile_start(m, n), t->rows = m->first + tile_start(m, n + 1) - t->first;
    const i64 *step = c->mask.step;
    t->mask = c->mask.data ? c->mask.data + m->batch * step[0] + m->head * step[1] + t->first * step[2] : 0;
    begin_tile(t, q->data + m->batch * q->batch + m->head * q->head, q->token);
    key_walk walk = walk_of(c, m->head, m->row, t->first, t->first + t->rows);
    for (i64 from, stop; next_keys(&walk, &from, &stop);)
      while (from < stop) {
        const i64 end = from / WIDE * WIDE + KEYS;
        key_block(t, from, end < stop ? end : stop);
        from = end;
      }
    end_tile(t, (float *)(u64)y->data + m->batch * y->batch + m->head * y->head, y->token);
  }
}

/* Computes items until there are none left: whoever is done early takes the next. */
static void work(void *data, u64 i)
{
  (void)i;
  job *j = data;
  int slot;
  float *memory = sc_scratch_get(j->host, TILE_FLOATS, &slot);
  if (!memory) {
    __atomic_store_n(&j->failed, 1, __ATOMIC_RELAXED);
    return;
  }
  tile t = {.call = j->given, .apart = j->given->keys * WIDE, .q = memory, .scores = memory + OUTER_MOST * ROW,
            .sums = memory + 2 * OUTER_MOST * ROW};
  for (i64 n; (n = __atomic_fetch_add(&j->next, 1, __ATOMIC_RELAXED)) < j->items;) {
    const item m = item_at(j, j->order[n]);
    compute(j, &t, &m);
  }
  sc_scratch_put(j->host, slot, memory);
}

/* Heads [first_group, first_group + group_count) of keys, and the heads of queries that share them. */
static int run_group(job *j, const sc_call *call)
{
  const i64 parts = ceil_div(j->given->keys, PACKED_KEYS);
  int status = parts ? sc_run_tasks(call, pack, j->group_count * parts, j) : SC_OK;
  if (status) return status;
  j->items = j->group_count * (j->given->a->heads / j->given->a->groups) * j->head_items, j->next = 0;
  order_items(j);
  status = sc_run_tasks(call, work, j->items < STEP_TASKS ? j->items : STEP_TASKS, j);
  return status ? status : j->failed ? SC_MEMORY : SC_OK;
}

int SC(sc_attention_rows)(const sc_attention_call *c, const sc_call *call)
{
  const sc_attention *a = c->a;
  const i64 strips = ceil_div(c->keys, WIDE) * WIDE, all = c->batches * a->groups;
  job j = {.given = c, .host = call->host, .key_floats = strips * a->dim, .rows = a->blocked ? c->blocks.rows : c->queries};
  j.head_floats = j.key_floats + c->keys * ceil_div(a->dim, WIDE) * WIDE;
  j.row_items = ceil_div(ceil_div(j.rows < c->queries ? j.rows : c->queries, OUTER_MOST), TILES);
  j.head_items = ceil_div(c->queries, j.rows) * j.row_items;
  const i64 groups = clip(GROUP_FLOATS / (j.head_floats + 1), 1, all);
  const i64 items = groups * (a->heads / a->groups) * j.head_items;
  if (items > SC_UNBOUNDED) return SC_TOO_LARGE;
  int slot, status = SC_OK;
  j.packed = sc_scratch_get(call->host, groups * j.head_floats + items, &slot);
  if (!j.packed) return SC_MEMORY;
  j.order = (i32 *)(j.packed + groups * j.head_floats);
  for (; j.first_group < all && !status; j.first_group += groups) {
    j.group_count = all - j.first_group < groups ? all - j.first_group : groups;
    status = run_group(&j, call);
  }
  sc_scratch_put(call->host, slot, j.packed);
  return status;
}

/* Mixture of experts: tokens sorted by the expert they chose, each expert on its own tokens alone, results added where they
   belong. Tiles of tokens go through both products before the next, so that what is between stays near; threads share the rows
   of the weights, so that a sum is made by one thread and in the order of the experts, whatever their number. */
#include "experts.h"
#include "tile.h"
#include "tokens.h"

enum {
  NEAR = 1 << 18,                /* floats of tokens, before and between the products, that the second-level cache keeps */
  MOST_TILES = 256,
  FEW_MOST = VL == 4 ? FEW_TOKENS : VL * 3 / 4, /* up to so many tokens no vector of them pays */
  FEW_BESIDE = VL / 2,           /* nor for so many besides full vectors */
  WIDE_CHUNKS = 16, WIDE_TOKENS = VL * 3 / 2 /* of an expert, from which its tokens go into the lanes */
};

typedef struct {
  i64 experts, features, group;  /* group: inputs that share a scale, where weights are codes; else zero */
  i32 activation, gated, dense;
  sc_experts up, gate, down;
} moe;

static i64 least(i64 a, i64 b) { return a < b ? a : b; }

/* Tokens of one expert that go through it together. */
typedef struct {
  i64 expert, first, count;      /* first: among the slots */
  i64 vectors, pitch;            /* vectors: 0 where weights are in the lanes */
  int rows;                      /* whether its tokens are multiplied where they lie, as are all of its expert */
  float *x, *hidden;             /* [features][pitch], or of a few tokens [count][hidden features] */
} tile;

typedef struct {
  const moe *m;
  const float *x;
  float *y;
  const i32 *starts, *tokens;    /* of each expert its first slot, and one more; of each slot, by expert, its token */
  const float *gates;            /* and its gate */
  float *memory;
  i64 expert, at;                /* where the next tile begins */
  tile tiles[MOST_TILES];
  i64 tile_count, groups, gathered, parts, shares; /* experts that tiles are of, and tiles of tokens in the lanes */
} job;

/* ---- the step ---- */
static void destroy(void *state, const sc_host *host)
{
  moe *m = state;
  SC(sc_experts_destroy)(&m->up, host), SC(sc_experts_destroy)(&m->gate, host), SC(sc_experts_destroy)(&m->down, host);
  sc_scratch_release(host);
  sc_drop(host, m);
}

static const char *read_weights(const sc_step_spec *spec, const sc_host *host, moe *m)
{
  const i64 parts = m->group ? 6 : 5;
  const char *wrong = SC(sc_experts_read)(spec, 0, m->experts, m->group, host, &m->up);
  if (!wrong && m->gated) wrong = SC(sc_experts_read)(spec, parts, m->experts, m->group, host, &m->gate);
  if (!wrong) wrong = SC(sc_experts_read)(spec, parts << m->gated, m->experts, m->group, host, &m->down);
  if (wrong) return wrong;
  m->features = m->up.depth;
  if (m->down.rows != m->features || m->down.depth != m->up.rows) return "the weights up and down do not fit each other";
  if (m->gated && (m->gate.rows != m->up.rows || m->gate.depth != m->features)) return "the weights up and gate differ in shape";
  m->dense = sc_experts_dense(&m->up) && sc_experts_dense(&m->down) && (!m->gated || sc_experts_dense(&m->gate));
  const int all = sc_experts_stream(&m->up) && sc_experts_stream(&m->down) && (!m->gated || sc_experts_stream(&m->gate));
  const int none = !sc_experts_stream(&m->up) && !sc_experts_stream(&m->down) && (!m->gated || !sc_experts_stream(&m->gate));
  return all || none ? 0 : "either all weights or none must have blocks of 16x1";
}

/* Attributes: activation, whether there is a gate, experts, and where weights are codes, how many inputs share a scale. Constants:
   the packed weights up, gate if there is one, and down; of codes, scales follow each. */
static const char *create(const sc_step_spec *spec, const sc_host *host, void **state)
{
  *state = 0;
  const int coded = spec->attribute_count == 4;
  if ((spec->attribute_count != 3 && !coded) || spec->inputs != 3 || spec->outputs != 1)
    return "it has three attributes or four, three inputs and one output";
  const i64 *a = spec->attributes, group = coded ? a[3] : 0;
  if (a[0] < 0 || a[0] >= SC_ACTIVATIONS) return "unknown activation";
  if (a[1] < 0 || a[1] > 1 || a[2] < 1 || group < coded) return "its attributes are damaged";
  moe *m = sc_get(host, sizeof *m);
  if (!m) return "there is no memory for it";
  *m = (moe){.activation = (i32)a[0], .gated = (i32)a[1], .experts = a[2], .group = group};
  *state = m;
  sc_scratch_retain(host);
  return read_weights(spec, host, m);
}

static const char *infer(const void *state, const sc_tensor *const *in, sc_tensor *const *out)
{
  const moe *m = state;
  const sc_tensor *x = in[0], *experts = in[1], *gates = in[2];
  if (!sc_is_plain(x) || x->rank != 2 || x->dims[1] != m->features) return "its tokens do not have the features of its weights";
  if (experts->type != SC_I64 || experts->rank != 2 || !sc_is_plain(gates) || gates->rank != 2)
    return "chosen experts must be int64, and gates float32, [tokens, chosen]";
  for (int i = 0; i < 2; i++)
    if (experts->dims[i] != gates->dims[i]) return "there must be a gate for each chosen expert";
  if (experts->dims[0] != x->dims[0] || experts->dims[1] < 1) return "there must be chosen experts for each token";
  if (experts->dims[0] > 0x7fffffff / experts->dims[1]) return "there are too many tokens";
  *out[0] = *x, out[0]->data = 0;
  return 0;
}

/* ---- slots by expert ---- */
static const char *check_slots(const moe *m, const i64 *experts, const float *gates, i64 slots)
{
  for (i64 i = 0; i < slots; i++) {
    /* The gate first: of scores that are no numbers a runtime may choose anything. */
    if (gates[i] != gates[i]) return "the gate of a chosen expert is not a number";
    if (experts[i] < 0 || experts[i] >= m->experts) return "a token chose an expert that does not exist";
  }
  return 0;
}

/* A counting sort; starts has room for one number more than is used afterwards. */
static void sort_slots(const sc_tensor *chosen, const float *from, i64 count, i32 *starts, i32 *tokens, float *gates)
{
  const i64 *experts = chosen->data, rows = chosen->dims[0], each = chosen->dims[1];
  for (i64 e = 0; e <= count + 1; e++) starts[e] = 0;
  for (i64 i = 0; i < rows * each; i++) starts[experts[i] + 2]++;
  for (i64 e = 2; e <= count + 1; e++) starts[e] += starts[e - 1];
  for (i64 token = 0; token < rows; token++)
    for (i64 i = token * each; i < (token + 1) * each; i++) {
      const i32 at = starts[experts[i] + 1]++;
      tokens[at] = (i32)token, gates[at] = from[i];
    }
}

/* ---- tiles ---- */
/* Whether the tokens of an expert are multiplied where they lie: to put many into the lanes takes little beside many products. */
static int in_rows(const moe *m, i64 tokens) { return m->dense && (m->up.chunks < WIDE_CHUNKS || tokens < WIDE_TOKENS); }

/* The next of `left` tokens of an expert: tiles of about equal numbers of vectors, then a few tokens. */
static tile next_tile(const job *j, i64 left)
{
  const int streams = sc_experts_stream(&j->m->up);
  tile t = {.expert = j->expert, .first = j->at, .count = left};
  t.rows = in_rows(j->m, j->starts[j->expert + 1] - j->starts[j->expert]);
  if (t.rows) {
    t.count = ceil_div(left, ceil_div(left, ROW_TOKENS));
    return t;
  }
  if (streams && left <= FEW_MOST) {
    if (t.count > FEW_TOKENS) t.count = FEW_TOKENS;
    return t;
  }
  const i64 widest = streams ? LANE_VECTORS : T64 / VL;
  i64 vectors = ceil_div(left, VL);
  if (streams && left - left / VL * VL <= FEW_BESIDE) vectors = left / VL;
  t.vectors = ceil_div(vectors, ceil_div(vectors, widest)), t.pitch = sc_experts_pitch(&j->m->up, t.vectors);
  if (t.count > t.vectors * VL) t.count = t.vectors * VL;
  return t;
}

static i64 floats_of(const job *j, const tile *t)
{
  const i64 hidden = j->m->up.rows << (t->rows && j->m->gated);
  return ceil_div(t->vectors ? t->pitch * (j->m->features + hidden) : t->count * hidden, LINE) * LINE;
}

/* The tiles that fit beside each other, at least one; whether there is any. */
static int next_tiles(job *j)
{
  i64 used = 0;
  for (j->tile_count = j->groups = j->gathered = 0; j->tile_count < MOST_TILES;) {
    while (j->expert < j->m->experts && j->at == j->starts[j->expert + 1]) j->expert++;
    if (j->expert == j->m->experts) break;
    tile t = next_tile(j, j->starts[j->expert + 1] - j->at);
    const i64 need = floats_of(j, &t);
    if (j->tile_count && used + need > NEAR) break;
    t.x = j->memory + used, t.hidden = t.x + t.pitch * j->m->features;
    j->groups += !j->tile_count || j->tiles[j->tile_count - 1].expert != t.expert;
    j->gathered += t.vectors > 0;
    used += need, j->at += t.count;
    j->tiles[j->tile_count++] = t;
  }
  return j->tile_count > 0;
}

static const float *token_of(const job *j, const tile *t, i64 token)
{
  return j->x + j->tokens[t->first + token] * j->m->features;
}

/* Part i % parts of the features of a tile, feature-major; tokens that do not exist are zero. */
static void task_gather(void *data, u64 i)
{
  const job *j = data;
  const tile *t = &j->tiles[(i64)i / j->parts];
  const i64 depth = j->m->features, slices = ceil_div(depth, VL), part = (i64)i % j->parts;
  if (!t->vectors) return;
  for (i64 n = 0; n < t->vectors * VL; n += VL) {
    const float *rows[VL];
    for (i64 r = 0; r < VL; r++) rows[r] = n + r < t->count ? token_of(j, t, n + r) : 0;
    for (i64 f = slices * part / j->parts * VL, end = slices * (part + 1) / j->parts * VL; f < end; f += VL) {
      vf v[VL];
      UNROLL for (int r = 0; r < VL; r++) v[r] = rows[r] ? load_some(rows[r] + f, depth - f, 0.f) : splat(0.f);
      transpose(v);
      UNROLL for (int r = 0; r < VL; r++) if (f + r < depth) store(t->x + (f + r) * t->pitch + n, v[r]);
    }
  }
}

/* Of a token's row between the products, where a chunk begins; the second rows of a tile are those of the gate. */
static float *hidden_of(const job *j, const tile *t, i64 token, i64 chunk, int gate)
{
  return t->hidden + (token + gate * t->count) * j->m->up.rows + chunk * CHUNK_ROWS;
}

/* ---- up: what is between the products ---- */
static void multiply(float *to, const float *by, i64 n)
{
  for (i64 i = 0; i < n; i += VL) store(to + i, load(to + i) * load(by + i));
}

static void up_lanes(const job *j, const tile *t, i64 chunk)
{
  const moe *m = j->m;
  float *out = t->hidden + chunk * CHUNK_ROWS * t->pitch, gates[CHUNK_ROWS * MOST_PITCH] __attribute__((aligned(64)));
  const i64 count = sc_chunk_rows(&m->up, chunk) * t->pitch;
  SC(sc_experts_lanes)(&m->up, t->expert, chunk, t->x, t->vectors, out);
  SC(sc_activate)(out, count, m->activation);
  if (!m->gated) return;
  SC(sc_experts_lanes)(&m->gate, t->expert, chunk, t->x, t->vectors, gates);
  multiply(out, gates, count);
}

static void up_few(const job *j, const tile *t, i64 chunk)
{
  const moe *m = j->m;
  const float *rows[FEW_TOKENS];
  float sums[FEW_TOKENS * CHUNK_ROWS], gates[FEW_TOKENS * CHUNK_ROWS];
  for (i64 i = 0; i < t->count; i++) rows[i] = token_of(j, t, i);
  SC(sc_experts_few)(&m->up, t->expert, chunk, rows, t->count, sums);
  SC(sc_activate)(sums, t->count * CHUNK_ROWS, m->activation);
  if (m->gated) {
    SC(sc_experts_few)(&m->gate, t->expert, chunk, rows, t->count, gates);
    multiply(sums, gates, t->count * CHUNK_ROWS);
  }
  for (i64 i = 0; i < t->count; i++) copy_floats(t->hidden + i * m->up.rows + chunk * CHUNK_ROWS, sums + i * CHUNK_ROWS, CHUNK_ROWS);
}

/* ---- down: results where they belong ---- */
static float *result_of(const job *j, const tile *t, i64 token, i64 chunk)
{
  return j->y + j->tokens[t->first + token] * j->m->features + chunk * CHUNK_ROWS;
}

static void down_lanes(const job *j, const tile *t, i64 chunk)
{
  const i64 rows = sc_chunk_rows(&j->m->down, chunk);
  float sums[CHUNK_ROWS * MOST_PITCH] __attribute__((aligned(64)));
  if (rows < CHUNK_ROWS) clear_floats(sums, CHUNK_ROWS * t->pitch);
  for (i64 i = 0; i < t->count; i++) __builtin_prefetch(result_of(j, t, i, chunk)); /* far from each other */
  SC(sc_experts_lanes)(&j->m->down, t->expert, chunk, t->hidden, t->vectors, sums);
  for (i64 n = 0; n < t->count; n += VL)
    for (i64 row = 0; row < rows; row += VL) {
      vf v[VL];
      UNROLL for (int r = 0; r < VL; r++) v[r] = load(sums + (row + r) * t->pitch + n);
      transpose(v);
      for (i64 i = 0; i < VL && n + i < t->count; i++) {
        float *y = result_of(j, t, n + i, chunk) + row;
        const vf before = load_some(y, rows - row, 0.f);
        store_some(y, before + v[i] * j->gates[t->first + n + i], rows - row);
      }
    }
}

static void down_few(const job *j, const tile *t, i64 chunk)
{
  const float *rows[FEW_TOKENS];
  float sums[FEW_TOKENS * CHUNK_ROWS];
  for (i64 i = 0; i < t->count; i++) rows[i] = t->hidden + i * j->m->up.rows;
  SC(sc_experts_few)(&j->m->down, t->expert, chunk, rows, t->count, sums);
  for (i64 i = 0; i < t->count; i++) {
    float *y = result_of(j, t, i, chunk);
    const float gate = j->gates[t->first + i];
    for (i64 n = 0; n < CHUNK_ROWS; n += VL) store(y + n, load(y + n) + load(sums + i * CHUNK_ROWS + n) * gate);
  }
}

/* ---- tokens where they lie, without zeros in the weights ---- */
enum { DEPTH = 256 }; /* taps of two chunks that the first-level cache keeps while some tiles pass by */

static void up_rows(const job *j, i64 first, i64 end, i64 chunk, i64 chunks)
{
  const moe *m = j->m;
  const i64 depth = end - first > 2 ? DEPTH : m->features;
  for (int gate = 0; gate <= m->gated; gate++)
    for (i64 from = 0; from < m->features; from += depth)
      for (i64 at = first; at < end; at++) {
        const tile *t = &j->tiles[at];
        sc_expert_tokens r = {.tokens = t->count};
        for (i64 i = 0; i < t->count; i++) r.x[i] = token_of(j, t, i), r.out[i] = hidden_of(j, t, i, chunk, gate);
        SC(sc_experts_rows)(gate ? &m->gate : &m->up, t->expert, chunk, chunks, from, least(from + depth, m->features), 0, &r);
      }
  for (i64 at = first; at < end; at++)
    for (i64 i = 0; i < j->tiles[at].count; i++) {
      float *hidden = hidden_of(j, &j->tiles[at], i, chunk, 0);
      SC(sc_activate)(hidden, chunks * CHUNK_ROWS, m->activation);
      if (m->gated) multiply(hidden, hidden_of(j, &j->tiles[at], i, chunk, 1), chunks * CHUNK_ROWS);
    }
}

static void down_rows(const job *j, i64 first, i64 end, i64 chunk, i64 chunks)
{
  const sc_experts *w = &j->m->down;
  for (i64 at = first; at < end; at++) {
    const tile *t = &j->tiles[at];
    sc_expert_tokens r = {.tokens = t->count};
    for (i64 i = 0; i < t->count; i++) {
      r.x[i] = hidden_of(j, t, i, 0, 0), r.out[i] = result_of(j, t, i, chunk), r.scales[i] = j->gates[t->first + i];
      for (i64 n = 0; n < chunks * CHUNK_ROWS; n += LINE) __builtin_prefetch(r.out[i] + n);
    }
    SC(sc_experts_rows)(w, t->expert, chunk, chunks, 0, w->depth, 1, &r);
  }
}

/* How one of the products is made. */
typedef struct {
  int added;                     /* whether experts add to the same sums */
  void (*lanes)(const job *, const tile *, i64), (*few)(const job *, const tile *, i64);
  void (*rows)(const job *, i64, i64, i64, i64);
} product;
static const product UP = {0, up_lanes, up_few, up_rows}, DOWN = {1, down_lanes, down_few, down_rows};

/* Chunks [from, to) of one product for the tiles of an expert, so that its weights are read once. */
static void chunks_of(const job *j, i64 first, i64 end, i64 from, i64 to, const product *p)
{
  if (j->tiles[first].rows)
    for (i64 chunk = from; chunk < to; chunk += TOGETHER) p->rows(j, first, end, chunk, least(TOGETHER, to - chunk));
  else
    for (i64 chunk = from; chunk < to; chunk++)
      for (i64 i = first; i < end; i++) (j->tiles[i].vectors ? p->lanes : p->few)(j, &j->tiles[i], chunk);
}

/* A share of the chunks for all tiles at hand. Where experts add to the same sums it is the same chunks of all of them; else
   experts are shared out too. */
static void share_of(const job *j, i64 share, const sc_experts *w, const product *p)
{
  const i64 units = ceil_div(w->chunks, TOGETHER), all = p->added ? units : units * j->groups;
  const i64 from = all * share / j->shares, to = all * (share + 1) / j->shares;
  for (i64 first = 0, end, before = 0; first < j->tile_count; first = end, before += p->added ? 0 : units) {
    for (end = first; end < j->tile_count && j->tiles[end].expert == j->tiles[first].expert;) end++;
    const i64 low = clip(from - before, 0, units) * TOGETHER, high = least(clip(to - before, 0, units) * TOGETHER, w->chunks);
    chunks_of(j, first, end, low, high, p);
  }
}

static void task_up(void *data, u64 i)
{
  const job *j = data;
  share_of(j, (i64)i, &j->m->up, &UP);
}

static void task_down(void *data, u64 i)
{
  const job *j = data;
  share_of(j, (i64)i, &j->m->down, &DOWN);
}

static int run_tiles(job *j, const sc_call *call)
{
  const moe *m = j->m;
  int status = SC_OK;
  if (j->gathered) {
    j->parts = clip(STEP_TASKS / j->tile_count, 1, ceil_div(m->features, VL));
    status = sc_run_tasks(call, task_gather, j->tile_count * j->parts, j);
  }
  j->shares = clip(STEP_TASKS, 1, j->groups * ceil_div(m->up.chunks, TOGETHER));
  if (!status) status = sc_run_tasks(call, task_up, j->shares, j);
  j->shares = clip(STEP_TASKS, 1, ceil_div(m->down.chunks, TOGETHER));
  return status ? status : sc_run_tasks(call, task_down, j->shares, j);
}

static int run(void *state, const sc_tensor *const *in, sc_tensor *const *out, const sc_call *call)
{
  const moe *m = state;
  const i64 tokens = in[0]->dims[0], slots = tokens * in[1]->dims[1], ints = ceil_div(m->experts + 2 + 2 * slots, LINE) * LINE;
  const i64 widest = MOST_PITCH * (m->features + m->up.rows), floats = widest > NEAR ? widest : NEAR;
  if (!tokens) return SC_OK;
  if ((*call->wrong = check_slots(m, in[1]->data, in[2]->data, slots))) return SC_WRONG;
  int slot, status = SC_OK;
  float *memory = sc_scratch_get(call->host, ints + floats + LINE, &slot);
  if (!memory) return SC_MEMORY;
  i32 *starts = (i32 *)memory, *of = starts + m->experts + 2;
  float *gates = (float *)(of + slots);
  sort_slots(in[1], in[2]->data, m->experts, starts, of, gates);
  clear_floats(out[0]->data, tokens * m->features);
  job j = {.m = m, .x = in[0]->data, .y = out[0]->data, .starts = starts, .tokens = of, .gates = gates, .memory = memory + ints};
  while (!status && next_tiles(&j)) status = run_tiles(&j, call);
  sc_scratch_put(call->host, slot, memory);
  return status;
}

extern const sc_step_kind SC(sc_step_moe);
HIDDEN const sc_step_kind SC(sc_step_moe) = {"MoE", create, destroy, infer, run};

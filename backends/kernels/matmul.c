/* Sparse matmul of row-major tokens: Y[T, R] = X[T, K] W^T. A few tokens multiply the weights as they stream by. More are
   turned feature-major, tile by tile, which makes them the pixels of a 1x1 convolution; the result is turned back. */
#include "tokens.h"

enum {
  ROWS = 64,                     /* outputs turned back at once: they stay in the first-level cache */
  MANY_TILES = 8, TASKS = 16,
  FEW_WEIGHTS = 1 << 14          /* that are worth a task where tokens are few */
};

typedef struct {
  const sc_kernel *kernel;
  const sc_geometry *geometry;
  i64 tokens, depth, pitch;      /* pitch: floats between the features of a tile */
  const float *x, *residual;
  float *y, *packed;             /* packed: the shared tile, or null */
  sc_cut cut;
  i64 tile, chunks, parts;
  i32 failed;
} sc_job;

/* ---- few tokens ---- */
#define FEW_TOKENS(MR)                                                                                         \
  typedef float rows_##MR __attribute__((vector_size(4 * MR)));                                                \
  typedef float rows_at_##MR __attribute__((vector_size(4 * MR), aligned(4), may_alias));                      \
  INLINE void few_##MR(const int T, const sc_job *j, const sc_strip *s)                                        \
  {                                                                                                            \
    const int U = T > 2 ? 1 : T > 1 ? 2 : 4;                                                                   \
    const sc_kernel *k = j->kernel;                                                                            \
    const i32 *c = k->columns + s->tap;                                                                        \
    const float *w = k->weights + s->weight;                                                                   \
    rows_##MR acc[4][SC_MATVEC_TOKENS];                                                                                       \
    UNROLL for (int u = 0; u < U; u++) UNROLL for (int t = 0; t < T; t++)                                      \
      acc[u][t] = *(const rows_at_##MR *)(k->bias + s->row) * (u ? 0.f : 1.f);                                 \
    i64 i = 0;                                                                                                 \
    for (; i + U <= s->taps; i += U) UNROLL for (int u = 0; u < U; u++) UNROLL for (int t = 0; t < T; t++)     \
      acc[u][t] += *(const rows_at_##MR *)(w + (i + u) * MR) * j->x[t * j->depth + c[i + u]];                  \
    for (; i < s->taps; i++) UNROLL for (int t = 0; t < T; t++)                                                \
      acc[0][t] += *(const rows_at_##MR *)(w + i * MR) * j->x[t * j->depth + c[i]];                            \
    UNROLL for (int t = 0; t < T; t++) {                                                                       \
      UNROLL for (int u = 1; u < U; u++) acc[0][t] += acc[u][t];                                               \
      *(rows_at_##MR *)(j->y + t * k->spec.rows + s->row) = acc[0][t];                                         \
    }                                                                                                          \
  }                                                                                                            \
  static void few_tokens_##MR(const sc_job *j, const sc_strip *s, const sc_strip *end)                         \
  {                                                                                                            \
    for (; s < end && s->mr == MR; s++) switch (j->tokens) {                                                   \
      case 1: few_##MR(1, j, s); break;                                                                        \
      case 2: few_##MR(2, j, s); break;                                                                        \
      case 3: few_##MR(3, j, s); break;                                                                        \
      default: few_##MR(4, j, s); break;                                                                       \
    }                                                                                                          \
  }
#define FEW_ENTRY(mr, nr) [mr] = few_tokens_##mr,
#define FEW_DEFINE(mr, nr) FEW_TOKENS(mr)
SC_WIDEST(FEW_DEFINE)
static void (*const few_tokens[SC_MAX_MR + 1])(const sc_job *, const sc_strip *, const sc_strip *) = {SC_WIDEST(FEW_ENTRY)};

static void task_few(void *data, u64 i)
{
  const sc_job *j = data;
  const sc_kernel *k = j->kernel;
  const sc_strip *first = k->strips + sc_share(k, (i64)i, j->chunks), *end = k->strips + sc_share(k, (i64)i + 1, j->chunks);
  if (first == end) return;
  for (const sc_strip *s = first; s < end;) {
    i32 mr = s->mr;
    few_tokens[mr](j, s, end);
    while (s < end && s->mr == mr) s++;
  }
  i64 row = first->row, rows = end[-1].row + end[-1].mr - row;
  for (i64 t = 0; t < j->tokens; t++) {
    i64 at = t * k->spec.rows + row;
    for (i64 r = 0; j->residual && r < rows; r++) j->y[at + r] += j->residual[at + r];
    SC(sc_activate)(j->y + at, rows, k->spec.activation);
  }
}

/* ---- a tile of tokens ---- */
static i64 tile_tokens(const sc_job *j, const sc_piece *p)
{
  return clip(j->tokens - p->start, 0, (i64)p->nr * VL);
}

static void pack_tile(const sc_job *j, i64 tile, float *to, i64 first, i64 end)
{
  sc_piece p = cut_piece(&j->cut, tile);
  pack_tokens(j->x + p.start * j->depth, j->depth, tile_tokens(j, &p), to, j->pitch, first, end);
}

static void compute(const sc_job *j, i64 tile, const float *x, i64 first, i64 end)
{
  const sc_kernel *k = j->kernel;
  sc_piece p = cut_piece(&j->cut, tile);
  const sc_rows to = {j->y, j->residual, k->spec.rows, k->spec.activation};
  float out[(ROWS + VL) * (SC_MAX_NR * VL + 16)];
  clear_floats(out, ROWS * j->pitch);
  while (first < end) {
    i64 row = k->strips[first].row, stop = first;
    while (stop < end && k->strips[stop].row + k->strips[stop].mr <= row + ROWS) stop++;
    sc_tile t = {.x = x, .offsets = j->geometry->offsets, .row = row, .y = out, .pitch = j->pitch,
                 .last = (p.nr - 1) * (i64)VL, .activation = SC_NONE};
    i64 rows = k->strips[stop - 1].row + k->strips[stop - 1].mr - row;
    SC(sc_tile_strips)(k, first, stop, &t, p.nr, 0);
    if (!j->residual) SC(sc_activate)(out, rows * j->pitch, k->spec.activation); /* all at once, the gaps too */
    unpack_rows(&to, out, j->pitch, p.start, tile_tokens(j, &p), row, rows);
    first = stop;
  }
}

static void task_own_tile(void *data, u64 i)
{
  sc_job *j = data;
  int slot;
  float *packed = sc_scratch_get(&j->kernel->host, j->depth * j->pitch, &slot);
  if (!packed) {
    __atomic_store_n(&j->failed, 1, __ATOMIC_RELAXED);
    return;
  }
  pack_tile(j, (i64)i, packed, 0, j->depth);
  compute(j, (i64)i, packed, 0, j->kernel->strip_count);
  sc_scratch_put(&j->kernel->host, slot, packed);
}

static void task_pack(void *data, u64 i)
{
  const sc_job *j = data;
  i64 blocks = ceil_div(j->depth, VL), first = blocks * (i64)i / j->parts * VL, end = blocks * ((i64)i + 1) / j->parts * VL;
  pack_tile(j, j->tile, j->packed, first, end < j->depth ? end : j->depth);
}

static void task_compute(void *data, u64 i)
{
  const sc_job *j = data;
  const sc_kernel *k = j->kernel;
  compute(j, j->tile, j->packed, sc_share(k, (i64)i, j->chunks), sc_share(k, (i64)i + 1, j->chunks));
}

static int run(const sc_parallel *p, void (*task)(void *, u64), i64 count, sc_job *j, void **host_error)
{
  *host_error = p->run(p->self, task, (u64)count, j);
  if (*host_error) return SC_HOST_ERROR;
  return j->failed ? SC_MEMORY : SC_OK;
}

static int run_shared(sc_job *j, const sc_parallel *parallel, void **host_error)
{
  int slot, status = SC_OK;
  j->packed = sc_scratch_get(&j->kernel->host, j->depth * j->pitch, &slot);
  if (!j->packed) return SC_MEMORY;
  j->parts = clip(ceil_div(j->depth, VL), 1, TASKS);
  for (j->tile = 0; j->tile < j->cut.pieces && !status; j->tile++) {
    status = run(parallel, task_pack, j->parts, j, host_error);
    if (!status) status = run(parallel, task_compute, j->chunks, j, host_error);
  }
  sc_scratch_put(&j->kernel->host, slot, j->packed);
  return status;
}

int SC(sc_matmul)(sc_kernel *k, i64 tokens, const float *x, const float *residual, float *y, const sc_parallel *parallel,
                  void **host_error)
{
  if (tokens == 0) return SC_OK;
  if (sc_code_of(k)) return SC(sc_code_matmul)(k, tokens, x, residual, y, parallel, host_error);
  sc_job j = {.kernel = k, .tokens = tokens, .depth = k->spec.channels, .x = x, .residual = residual, .y = y,
              .chunks = clip(TASKS, 1, k->strip_count)};
  i32 mr = k->strips[0].mr;
  if (tokens <= SC_MATVEC_TOKENS) {
    j.chunks = clip(k->tap_count * mr * tokens / FEW_WEIGHTS, 1, j.chunks);
    return run(parallel, task_few, j.chunks, &j, host_error);
  }
  j.cut = (sc_cut){.vectors = ceil_div(tokens, VL), .count = tokens};
  j.cut.pieces = ceil_div(j.cut.vectors, sc_widest[mr]);
  sc_geometry *g; /* a tile is an image of one row */
  i64 width = (i64)sc_widest[mr] * VL;
  int status = SC(sc_geometry_of)(k, &(sc_image){1, 1, width, 1, width}, &g);
  if (status) return status;
  j.geometry = g, j.pitch = g->plane;
  status = j.cut.pieces >= MANY_TILES ? run(parallel, task_own_tile, j.cut.pieces, &j, host_error)
                                      : run_shared(&j, parallel, host_error);
  SC(sc_geometry_done)(k, g);
  return status;
}

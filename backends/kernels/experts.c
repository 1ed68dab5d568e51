/* Products by the weights of experts, a chunk of 16 rows at a time. */
#include "experts_codes.h"
#include "tile.h"
#include "vec.h"

/* ---- the weights ---- */
const char *SC(sc_experts_place)(const sc_spec *s, const sc_host *host, sc_experts *w)
{
  const i64 chunks = s->grid_rows;
  w->index = s->index, w->apart = s->grid_cols;
  w->starts = sc_get(host, (chunks + 1) * (i64)sizeof *w->starts);
  if (!w->starts) return sc_experts_no_memory;
  for (i64 chunk = 0, tap = 0; chunk <= chunks; chunk++) {
    while (tap < s->count && s->index[tap] < chunk * s->grid_cols) tap++;
    w->starts[chunk] = tap;
  }
  if (s->count < chunks * s->grid_cols) return 0;
  w->every = sc_get(host, s->grid_cols * (i64)sizeof *w->every);
  if (!w->every) return sc_experts_no_memory;
  for (i64 i = 0; i < s->grid_cols; i++) w->every[i] = (i32)i;
  return 0;
}

static const char *read_strips(sc_spec *s, i64 experts, const sc_host *host, sc_experts *w)
{
  s->no_code = 1;
  if (w->depth > 0x7fffffff / T64) return "its weight has too many inputs";
  if (SC(sc_create)(s, host, &w->kernel)) return sc_experts_no_memory;
  const sc_kernel *k = w->kernel;
  const i64 chunks = experts * w->chunks, taps = k->column_count, padded = taps + AHEAD + 1;
  w->offsets = sc_get(host, padded * (i64)sizeof *w->offsets);
  w->strips = sc_get(host, (chunks + 1) * (i64)sizeof *w->strips);
  if (!w->offsets || !w->strips) return sc_experts_no_memory;
  for (i64 i = 0; i < padded; i++) w->offsets[i] = i < taps ? k->columns[i] * T64 : 0;
  SC(sc_drop_columns)(w->kernel);
  for (i64 chunk = 0, strip = 0; chunk <= chunks; chunk++) {
    const i64 row = chunk / w->chunks * w->rows + chunk % w->chunks * CHUNK_ROWS;
    while (strip < k->strip_count && k->strips[strip].row < row) strip++;
    w->strips[chunk] = (i32)strip;
  }
  return 0;
}

const char *SC(sc_experts_read)(const sc_step_spec *spec, i64 first, i64 experts, i64 group, const sc_host *host, sc_experts *w)
{
  *w = (sc_experts){0};
  if (group) return SC(sc_codes_read)(spec, first, experts, group, host, w);
  sc_spec s = {.kernel = {1, 1}, .stride = {1, 1}, .dilation = {1, 1}, .group = 1};
  const char *wrong = sc_read_packed(spec, first, 0, &s);
  if (wrong) return wrong;
  if (s.rows % experts) return "the rows of its weight are no multiple of its experts";
  w->rows = s.rows / experts, w->depth = s.channels, w->chunks = ceil_div(w->rows, CHUNK_ROWS), w->bias = s.bias;
  if (CHUNK_ROWS % s.block_rows || w->rows % s.block_rows)
    return "the rows of a block must divide 16, and the rows of an expert";
  const int wide = s.block_rows == CHUNK_ROWS && s.block_cols == 1;
  if (!wide) return read_strips(&s, experts, host, w);
  w->values = s.values;
  return SC(sc_experts_place)(&s, host, w);
}

void SC(sc_experts_destroy)(sc_experts *w, const sc_host *host)
{
  if (w->kernel) SC(sc_destroy)(w->kernel);
  sc_drop(host, w->starts), sc_drop(host, w->every), sc_drop(host, w->offsets), sc_drop(host, w->strips);
}

/* ---- tokens in the lanes ---- */
enum { BEHIND = SC_WEIGHT_FLOATS }; /* weights that come after those at hand: from memory they take as long as the sums */

/* What a micro-kernel needs of one chunk. */
typedef struct {
  const float *weights, *bias;
  const i32 *index, *end;
  i64 first;                     /* subtracted from every index */
} taps;

static taps taps_of(const sc_experts *w, i64 expert, i64 chunk)
{
  const i64 at = expert * w->chunks + chunk, from = w->starts[at], count = w->starts[at + 1] - from;
  const i32 *index = w->every ? w->every : w->index + from;
  return (taps){w->values + from * CHUNK_ROWS, w->bias + at * CHUNK_ROWS, index, index + count, w->every ? 0 : at * w->apart};
}

/* SC_MAX_MR rows from `row` on, NR vectors of tokens. */
INLINE void rows_of(const int NR, const taps *t, i64 row, const float *x, float *out)
{
  vf acc[SC_MAX_MR][LANE_VECTORS];
  UNROLL for (int r = 0; r < SC_MAX_MR; r++) UNROLL for (int n = 0; n < NR; n++) acc[r][n] = splat(t->bias[row + r]);
  const float *w = t->weights + row;
  const i64 first = t->first;
  for (const i32 *at = t->index, *end = t->end; at < end; at++, w += CHUNK_ROWS) {
    const float *from = x + (*at - first) * (NR * VL), *next = from + AHEAD * NR * VL;
    UNROLL for (int n = 0; n < NR * VL; n += LINE) __builtin_prefetch(next + n);
    __builtin_prefetch(w + BEHIND);
    vf v[LANE_VECTORS];
    UNROLL for (int n = 0; n < NR; n++) v[n] = load(from + n * VL);
    SC_ROW_WEIGHTS(w)
    UNROLL for (int r = 0; r < SC_MAX_MR; r++) UNROLL for (int n = 0; n < NR; n++) acc[r][n] += v[n] * SC_ROW_WEIGHT(w, r);
  }
  UNROLL for (int r = 0; r < SC_MAX_MR; r++) UNROLL for (int n = 0; n < NR; n++) store(out + (r * NR + n) * VL, acc[r][n]);
}

#define DEFINE_ROWS(NR)                                                                                              \
  static void rows_##NR(const taps *t, const float *x, float *out)                                                  \
  {                                                                                                                  \
    for (i64 row = 0; row < CHUNK_ROWS; row += SC_MAX_MR) rows_of(NR, t, row, x, out + row * NR * VL);              \
  }
DEFINE_ROWS(1)
DEFINE_ROWS(2)
#if SC_MAX_MR == 8
DEFINE_ROWS(3)
static void (*const rows_by_vectors[])(const taps *, const float *, float *) = {0, rows_1, rows_2, rows_3};
#else
static void (*const rows_by_vectors[])(const taps *, const float *, float *) = {0, rows_1, rows_2};
#endif

static void strips_of(const sc_experts *w, i64 expert, i64 chunk, const float *x, i64 vectors, float *out)
{
  const sc_kernel *k = w->kernel;
  const i64 at = expert * w->chunks + chunk, first = w->strips[at], parts = ceil_div(vectors, sc_widest[k->strips[first].mr]);
  for (i64 i = 0; i < parts; i++) {
    const i64 from = vectors * i / parts * VL, n = vectors * (i + 1) / parts - vectors * i / parts;
    sc_tile t = {.x = x + from, .offsets = w->offsets, .row = k->strips[first].row, .y = out + from, .pitch = T64,
                 .last = (n - 1) * VL, .activation = SC_NONE};
    SC(sc_tile_strips)(k, first, w->strips[at + 1], &t, (i32)n, 0);
  }
}

void SC(sc_experts_lanes)(const sc_experts *w, i64 expert, i64 chunk, const float *x, i64 vectors, float *out)
{
  if (w->kernel) {
    strips_of(w, expert, chunk, x, vectors, out);
    return;
  }
  if (w->codes) {
    SC(sc_codes_lanes)(w, expert, chunk, x, vectors, out);
    return;
  }
  const taps t = taps_of(w, expert, chunk);
  rows_by_vectors[vectors](&t, x, out);
}

/* ---- a few tokens ---- */
enum { CHUNK_VECTORS = CHUNK_ROWS / VL };

/* T tokens over the taps, in U chains. */
INLINE void few(const int T, const int U, const taps *t, const float *const *x, float *out)
{
  vf acc[4][FEW_TOKENS][CHUNK_VECTORS];
  UNROLL for (int u = 0; u < U; u++) UNROLL for (int i = 0; i < T; i++) UNROLL for (int n = 0; n < CHUNK_VECTORS; n++)
    acc[u][i][n] = u ? splat(0.f) : load(t->bias + n * VL);
  const float *rows[FEW_TOKENS], *w = t->weights;
  UNROLL for (int i = 0; i < T; i++) rows[i] = x[i] - t->first;
  const i32 *at = t->index, *end = t->end;
#define TAP(u)                                                                                        \
  {                                                                                                   \
    vf v[CHUNK_VECTORS];                                                                              \
    UNROLL for (int n = 0; n < CHUNK_VECTORS; n++) v[n] = load(w + n * VL);                           \
    UNROLL for (int i = 0; i < T; i++) UNROLL for (int n = 0; n < CHUNK_VECTORS; n++)                 \
      acc[u][i][n] += v[n] * rows[i][*at];                                                            \
    w += CHUNK_ROWS, at++;                                                                            \
  }
  for (; at + U <= end;) UNROLL for (int u = 0; u < U; u++) TAP(u)
  for (; at < end;) TAP(0)
#undef TAP
  UNROLL for (int i = 0; i < T; i++) UNROLL for (int n = 0; n < CHUNK_VECTORS; n++) {
    vf v = acc[0][i][n];
    UNROLL for (int u = 1; u < U; u++) v += acc[u][i][n];
    store(out + i * CHUNK_ROWS + n * VL, v);
  }
}

void SC(sc_experts_few)(const sc_experts *w, i64 expert, i64 chunk, const float *const *x, i64 tokens, float *out)
{
  if (w->codes) {
    SC(sc_codes_few)(w, expert, chunk, x, tokens, out);
    return;
  }
  const taps t = taps_of(w, expert, chunk);
  switch (tokens) {
  case 1: few(1, 4, &t, x, out); break;
  case 2: few(2, 4, &t, x, out); break;
  case 3: few(3, 2, &t, x, out); break;
  default: few(4, 2, &t, x, out); break;
  }
}

/* ---- rows of tokens ---- */
enum { TAPS = VB == 64 ? 2 : 1 }; /* at once, so that where a row lies is read once for them */

/* The taps of C chunks: weights in the lanes, features of T tokens broadcast from where they lie. */
typedef struct {
  const float *weights, *bias; /* of the first chunk and tap; bias is null behind the first taps */
  i64 apart, from, count;      /* floats between the weights of chunks, the first tap and how many */
} span;

INLINE void rows_by(const int T, const int C, const span *s, int scaled, const sc_expert_tokens *r)
{
  enum { MOST = TOGETHER * CHUNK_VECTORS };
  const int N = C * CHUNK_VECTORS;
  vf acc[ROW_TOKENS][MOST];
  const float *w = s->weights;
  const i64 apart = s->apart;
  UNROLL for (int i = 0; i < T; i++) UNROLL for (int n = 0; n < N; n++)
    acc[i][n] = s->bias ? load(s->bias + n * VL) : scaled ? splat(0.f) : load(r->out[i] + n * VL);
#define TAPS_AT(k, count)                                                                                \
  {                                                                                                      \
    vf v[TAPS][MOST];                                                                                    \
    UNROLL for (int u = 0; u < (count); u++) UNROLL for (int n = 0; n < N; n++)                          \
      v[u][n] = load(w + n / CHUNK_VECTORS * apart + u * CHUNK_ROWS + n % CHUNK_VECTORS * VL);           \
    UNROLL for (int c = 0; c < C; c++) UNROLL for (int u = 0; u < (count); u++)                          \
      __builtin_prefetch(w + c * apart + u * CHUNK_ROWS + BEHIND);                                       \
    UNROLL for (int i = 0; i < T; i++) {                                                                 \
      const float *row = r->x[i] + (k);                                                                  \
      UNROLL for (int u = 0; u < (count); u++) {                                                         \
        vf x = splat(row[u]);                                                                            \
        if (C > 1) KEEP(x);                                                                              \
        UNROLL for (int n = 0; n < N; n++) acc[i][n] += v[u][n] * x;                                     \
      }                                                                                                  \
    }                                                                                                    \
    w += (count) * CHUNK_ROWS;                                                                           \
  }
  i64 k = s->from;
  const i64 end = k + s->count;
  for (; k + TAPS <= end; k += TAPS) TAPS_AT(k, TAPS)
  for (; k < end; k++) TAPS_AT(k, 1)
#undef TAPS_AT
  UNROLL for (int i = 0; i < T; i++) UNROLL for (int n = 0; n < N; n++)
    store(r->out[i] + n * VL, scaled ? load(r->out[i] + n * VL) + acc[i][n] * r->scales[i] : acc[i][n]);
}

#define DEFINE_BY(T)                                                                        \
  static void rows_by_##T(i64 chunks, const span *s, int scaled, const sc_expert_tokens *r) \
  {                                                                                         \
    if (chunks < TOGETHER) rows_by(T, 1, s, scaled, r);                                     \
    else rows_by(T, TOGETHER, s, scaled, r);                                                \
  }
/* f(1) to f(ROW_TOKENS) */
#if VB == 64
#define EACH_COUNT(f) f(1) f(2) f(3) f(4) f(5) f(6) f(7) f(8) f(9) f(10) f(11) f(12)
#elif defined(__wasm__)
#define EACH_COUNT(f) f(1) f(2) f(3)
#else
#define EACH_COUNT(f) f(1) f(2) f(3) f(4) f(5) f(6)
#endif
#define ROWS_BY(T) rows_by_##T,
EACH_COUNT(DEFINE_BY)
static void (*const by_tokens[ROW_TOKENS + 1])(i64, const span *, int, const sc_expert_tokens *) = {0, EACH_COUNT(ROWS_BY)};

void SC(sc_experts_rows)(const sc_experts *w, i64 expert, i64 chunk, i64 chunks, i64 from, i64 to, int scaled, const sc_expert_tokens *r)
{
  const i64 at = expert * w->chunks + chunk, apart = w->depth * CHUNK_ROWS;
  const span s = {w->values + at * apart + from * CHUNK_ROWS, from ? 0 : w->bias + at * CHUNK_ROWS, apart, from, to - from};
  by_tokens[r->tokens](chunks, &s, scaled, r);
}

/* Products by weights of experts that are codes of 8 or 4 bits; all is computed in float32. */
#include "experts_codes.h"
#include "tile.h"
#include "vec.h"

typedef signed char codes16 __attribute__((vector_size(CHUNK_ROWS)));
typedef codes16 codes16_at __attribute__((aligned(1), may_alias));
typedef i32 ints16 __attribute__((vector_size(4 * CHUNK_ROWS)));
typedef float floats16 __attribute__((vector_size(4 * CHUNK_ROWS)));

enum {
  CHUNK_VECTORS = CHUNK_ROWS / VL,
  EVEN = CHUNK_ROWS,             /* inputs of an expert and of a scale are multiples of it, so that loops over them have no rest */
  PIECE = 128                    /* inputs whose weights are numbers at a time, for tokens in the lanes */
};

/* ---- the weights ---- */
const char *SC(sc_codes_read)(const sc_step_spec *spec, i64 first, i64 experts, i64 group, const sc_host *host, sc_experts *w)
{
  sc_spec s = {.kernel = {1, 1}, .stride = {1, 1}, .dilation = {1, 1}, .group = 1};
  sc_coded coded = {.group = group};
  const char *wrong = sc_read_coded(spec, first, &s, &coded);
  if (wrong) return wrong;
  if (s.rows % experts) return "the rows of its weight are no multiple of its experts";
  const i64 rows = s.rows / experts;
  if (s.block_rows != CHUNK_ROWS || s.block_cols != coded.per_byte) return "blocks of codes are 16x1, or 16x2 of four bits";
  if (rows % CHUNK_ROWS || s.channels % EVEN) return "codes are for experts of multiples of 16 rows and inputs";
  w->rows = rows, w->depth = s.channels, w->chunks = rows / CHUNK_ROWS, w->bias = s.bias;
  w->codes = coded.codes, w->scales = coded.scales, w->group = coded.group, w->groups = coded.groups, w->bits = 8 / coded.per_byte;
  const int whole = s.count == s.grid_rows * s.grid_cols;
  if (!whole && w->groups > 1) return "codes without those of zeros have one scale for each row";
  return SC(sc_experts_place)(&s, host, w);
}

/* What a loop needs of one chunk: taps are blocks, each of one input or two. */
typedef struct {
  const signed char *codes;      /* 16 bytes per tap */
  const float *scales, *bias;
  const i32 *index, *end;
  i64 first, each;               /* first: subtracted from every index; each: taps of a scale */
} coded_taps;

INLINE coded_taps taps_of(const sc_experts *w, i64 expert, i64 chunk, i64 inputs)
{
  const i64 at = expert * w->chunks + chunk, from = w->starts[at], count = w->starts[at + 1] - from;
  const i32 *index = w->every ? w->every : w->index + from;
  return (coded_taps){w->codes + from * CHUNK_ROWS, w->scales + at * w->groups * CHUNK_ROWS, w->bias + at * CHUNK_ROWS,
                      index, index + count, w->every ? 0 : at * w->apart, w->groups == 1 ? count : w->group / inputs};
}

/* ---- codes become numbers ---- */
INLINE void split16(floats16 all, vf v[CHUNK_VECTORS])
{
  union { floats16 all; vf parts[CHUNK_VECTORS]; } u = {.all = all};
  UNROLL for (int n = 0; n < CHUNK_VECTORS; n++) v[n] = u.parts[n];
}

/* The codes of a tap: v[i] are those of its input i. */
INLINE void numbers_of(const int BITS, const signed char *codes, vf v[2][CHUNK_VECTORS])
{
  const codes16 bytes = *(const codes16_at *)codes;
  if (BITS == 8) {
    split16(__builtin_convertvector(bytes, floats16), v[0]);
    return;
  }
  const ints16 wide = __builtin_convertvector(bytes, ints16);
  split16(__builtin_convertvector(wide << 28 >> 28, floats16), v[0]);
  split16(__builtin_convertvector(wide >> 4, floats16), v[1]);
}

/* ---- a few tokens ---- */
/* T tokens over the taps, in U chains; what the taps of a scale give is multiplied by it once. */
INLINE void few(const int BITS, const int T, const int U, const coded_taps *t, const float *const *x, float *out)
{
  enum { MOST_CHAINS = 4 };
  const int INPUTS = 8 / BITS;
  const float *rows[FEW_TOKENS], *scale = t->scales;
  vf total[FEW_TOKENS][CHUNK_VECTORS];
  UNROLL for (int i = 0; i < T; i++) {
    rows[i] = x[i] - t->first * INPUTS;
    UNROLL for (int n = 0; n < CHUNK_VECTORS; n++) total[i][n] = load(t->bias + n * VL);
  }
  const signed char *codes = t->codes;
  for (const i32 *at = t->index; at < t->end; scale += CHUNK_ROWS) {
    const i32 *end = t->end - at > t->each ? at + t->each : t->end;
    vf acc[MOST_CHAINS][FEW_TOKENS][CHUNK_VECTORS];
    UNROLL for (int u = 0; u < U; u++) UNROLL for (int i = 0; i < T; i++)
      UNROLL for (int n = 0; n < CHUNK_VECTORS; n++) acc[u][i][n] = splat(0.f);
#define TAP(u)                                                                                                       \
  {                                                                                                                  \
    vf v[2][CHUNK_VECTORS];                                                                                          \
    numbers_of(BITS, codes, v);                                                                                      \
    UNROLL for (int p = 0; p < INPUTS; p++) UNROLL for (int i = 0; i < T; i++) UNROLL for (int n = 0; n < CHUNK_VECTORS; n++) \
      acc[u][i][n] += v[p][n] * rows[i][(i64)*at * INPUTS + p];                                                      \
    codes += CHUNK_ROWS, at++;                                                                                       \
  }
    for (; at + U <= end;) UNROLL for (int u = 0; u < U; u++) TAP(u)
    for (; at < end;) TAP(0)
#undef TAP
    UNROLL for (int i = 0; i < T; i++) UNROLL for (int n = 0; n < CHUNK_VECTORS; n++) {
      vf v = acc[0][i][n];
      UNROLL for (int u = 1; u < U; u++) v += acc[u][i][n];
      total[i][n] += v * load(scale + n * VL);
    }
  }
  UNROLL for (int i = 0; i < T; i++) UNROLL for (int n = 0; n < CHUNK_VECTORS; n++) store(out + i * CHUNK_ROWS + n * VL, total[i][n]);
}

#define DEFINE_FEW(BITS)                                                                                    \
  static void few_##BITS(const coded_taps *t, const float *const *x, i64 tokens, float *out)                \
  {                                                                                                         \
    switch (tokens) {                                                                                       \
    case 1: few(BITS, 1, 4, t, x, out); break;                                                              \
    case 2: few(BITS, 2, 4, t, x, out); break;                                                              \
    case 3: few(BITS, 3, 2, t, x, out); break;                                                              \
    default: few(BITS, 4, 2, t, x, out); break;                                                             \
    }                                                                                                       \
  }
DEFINE_FEW(8)
DEFINE_FEW(4)

void SC(sc_codes_few)(const sc_experts *w, i64 expert, i64 chunk, const float *const *x, i64 tokens, float *out)
{
  const coded_taps t = taps_of(w, expert, chunk, 8 / w->bits);
  (w->bits == 8 ? few_8 : few_4)(&t, x, tokens, out);
}

/* ---- tokens in the lanes ---- */
/* The weights of `taps` blocks, [inputs][16], times their scales; `done` taps of the chunk come before. */
INLINE void weights_of(const int BITS, const coded_taps *t, i64 done, i64 taps, float *to)
{
  const int INPUTS = 8 / BITS;
  for (i64 i = done, end = done + taps; i < end;) {
    const i64 group = i / t->each, stop = (group + 1) * t->each < end ? (group + 1) * t->each : end;
    vf scale[CHUNK_VECTORS], v[2][CHUNK_VECTORS];
    UNROLL for (int n = 0; n < CHUNK_VECTORS; n++) scale[n] = load(t->scales + group * CHUNK_ROWS + n * VL);
    for (; i < stop; i++) {
      numbers_of(BITS, t->codes + i * CHUNK_ROWS, v);
      UNROLL for (int p = 0; p < INPUTS; p++, to += CHUNK_ROWS)
        UNROLL for (int n = 0; n < CHUNK_VECTORS; n++) store(to + n * VL, v[p][n] * scale[n]);
    }
  }
}

/* Adds SC_MAX_MR rows of `taps` blocks, NR vectors of tokens, to out. */
INLINE void rows_of(const int INPUTS, const int NR, const float *w, const i32 *index, i64 taps, i64 first, const float *x, float *out)
{
  vf acc[SC_MAX_MR][LANE_VECTORS];
  UNROLL for (int r = 0; r < SC_MAX_MR; r++) UNROLL for (int n = 0; n < NR; n++) acc[r][n] = load(out + (r * NR + n) * VL);
  for (const i32 *end = index + taps; index < end; index++) {
    const float *from = x + (*index - first) * (INPUTS * NR * VL);
    UNROLL for (int p = 0; p < INPUTS; p++, w += CHUNK_ROWS, from += NR * VL) {
      vf v[LANE_VECTORS];
      UNROLL for (int n = 0; n < NR; n++) v[n] = load(from + n * VL);
      SC_ROW_WEIGHTS(w)
      UNROLL for (int r = 0; r < SC_MAX_MR; r++) UNROLL for (int n = 0; n < NR; n++) acc[r][n] += v[n] * SC_ROW_WEIGHT(w, r);
    }
  }
  UNROLL for (int r = 0; r < SC_MAX_MR; r++) UNROLL for (int n = 0; n < NR; n++) store(out + (r * NR + n) * VL, acc[r][n]);
}

/* A piece of the inputs at a time, whose weights stay in the first-level cache. */
INLINE void lanes(const int BITS, const int NR, const coded_taps *t, const float *x, float *out)
{
  const i64 TAPS = PIECE * BITS / 8;
  float weights[PIECE * CHUNK_ROWS] __attribute__((aligned(64)));
  for (i64 r = 0; r < CHUNK_ROWS; r++) UNROLL for (int n = 0; n < NR; n++) store(out + (r * NR + n) * VL, splat(t->bias[r]));
  for (i64 done = 0, count = t->end - t->index; done < count; done += TAPS) {
    const i64 taps = count - done < TAPS ? count - done : TAPS;
    weights_of(BITS, t, done, taps, weights);
    for (i64 row = 0; row < CHUNK_ROWS; row += SC_MAX_MR)
      rows_of(8 / BITS, NR, weights + row, t->index + done, taps, t->first, x, out + row * NR * VL);
  }
}

#define DEFINE_LANES(BITS, NR) \
  static void lanes_##BITS##_##NR(const coded_taps *t, const float *x, float *out) { lanes(BITS, NR, t, x, out); }
DEFINE_LANES(8, 1)
DEFINE_LANES(8, 2)
DEFINE_LANES(4, 1)
DEFINE_LANES(4, 2)
#if SC_MAX_MR == 8
DEFINE_LANES(8, 3)
DEFINE_LANES(4, 3)
#define WIDEST(BITS) lanes_##BITS##_3
#else
#define WIDEST(BITS) 0
#endif
static void (*const lanes_by_vectors[2][4])(const coded_taps *, const float *, float *) = {
  {0, lanes_8_1, lanes_8_2, WIDEST(8)}, {0, lanes_4_1, lanes_4_2, WIDEST(4)},
};

void SC(sc_codes_lanes)(const sc_experts *w, i64 expert, i64 chunk, const float *x, i64 vectors, float *out)
{
  const coded_taps t = taps_of(w, expert, chunk, 8 / w->bits);
  lanes_by_vectors[w->bits == 4][vectors](&t, x, out);
}

/* The micro-kernel of layout C16, one function per tile. */
#include "tile16.h"

/* Few sums are doubled or quadrupled over the taps, so that independent chains hide the latency of the multiply-add.
   PITCH: floats of x between pixels of a row. */
INLINE void tile(const int R, const int Q, const int PITCH, const sc_tile16 *t)
{
  enum { CHAINS = 4, SUMS = 8 / WIDE_VECTORS > 1 ? 8 / WIDE_VECTORS : 1 };
  const int U = R * Q >= SUMS ? 1 : R * Q * 2 >= SUMS ? 2 : CHAINS;
  vf acc[CHAINS][MOST16][WIDE_VECTORS];
  UNROLL for (int n = 0; n < WIDE_VECTORS; n++) {
    vf bias = load(t->bias + n * VL);
    UNROLL for (int u = 0; u < U; u++) UNROLL for (int p = 0; p < R * Q; p++) acc[u][p][n] = u ? splat(0.f) : bias;
  }
  const i32 *at = t->tap, *const end = t->end, *const offsets = t->offsets;
  const float *w = t->weights, *const origin = t->x;
  const i64 row = t->row, first = t->first;
#define TAP(u)                                                                                               \
  {                                                                                                          \
    i64 k = *at++ - first;                                                                                   \
    const float *x = PITCH == WIDE ? origin + offsets[k >> 4] + (k & 15) : origin + offsets[k];              \
    vf weights[WIDE_VECTORS];                                                                                \
    UNROLL for (int n = 0; n < WIDE_VECTORS; n++) weights[n] = load(w + n * VL);                             \
    UNROLL for (int r = 0; r < R; r++) UNROLL for (int q = 0; q < Q; q++) {                                  \
      vf number = splat(x[r * row + q * PITCH]);                                                             \
      UNROLL for (int n = 0; n < WIDE_VECTORS; n++) acc[u][r * Q + q][n] += weights[n] * number;             \
    }                                                                                                        \
    w += WIDE;                                                                                               \
  }
  for (; end - at >= U; ) UNROLL for (int u = 0; u < U; u++) TAP(u)
  while (U > 1 && at < end) TAP(0)
#undef TAP
  const vf low = splat(t->low), high = splat(t->high);
  UNROLL for (int r = 0; r < R; r++) UNROLL for (int q = 0; q < Q; q++) {
    if (q >= t->columns) break;
    i64 to = r * t->pitch + q * WIDE;
    UNROLL for (int n = 0; n < WIDE_VECTORS; n++) {
      vf v = acc[0][r * Q + q][n];
      UNROLL for (int u = 1; u < U; u++) v += acc[u][r * Q + q][n];
      if (t->residual) v += load(t->residual + to + n * VL);
      store(t->y + to + n * VL, at_most(at_least(v, low), high));
    }
  }
}

#define DEFINE_PIXELS(R, Q) static void pixels_##R##_##Q(const sc_tile16 *t) { tile(R, Q, WIDE, t); }
#define DEFINE_PLANES(R, Q) static void planes_##R##_##Q(const sc_tile16 *t) { tile(R, Q, 1, t); }
SC_TILES16_ROW(DEFINE_PIXELS)
SC_TILES16_ROWS(DEFINE_PIXELS)
SC_TILES16_ROW(DEFINE_PLANES)
typedef void (*tile_fn)(const sc_tile16 *);
#define PIXELS_ENTRY(R, Q) [R][Q] = pixels_##R##_##Q,
#define PLANES_ENTRY(R, Q) [Q] = planes_##R##_##Q,
static const tile_fn pixels[MOST16_ROWS + 1][MOST16 + 1] = {SC_TILES16_ROW(PIXELS_ENTRY) SC_TILES16_ROWS(PIXELS_ENTRY)};
static const tile_fn planes16[MOST16 + 1] = {SC_TILES16_ROW(PLANES_ENTRY)};

void SC(sc_run_tile16)(const sc_tile16 *t, i64 rows, i64 columns, int planes)
{
  (planes ? planes16[columns] : pixels[rows][columns])(t);
}

i64 SC(sc_tile16_columns)(i64 rows, i64 columns)
{
  while (columns <= MOST16 && !pixels[rows][columns]) columns++;
  return columns <= MOST16 ? columns : 0;
}

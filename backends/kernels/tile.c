/* The micro-kernels of the table, and the activations. */
#include "activation.h"
#include "tile.h"

typedef void (*sc_tile_fn)(const sc_kernel *, const sc_strip *, const sc_strip *end, const sc_tile *);

#if defined(__wasm__)
#include "tile_wasm.h"
#else

/* Inputs of the tap AHEAD of this one: columns are too irregular for the processor to foresee. */
#define PREFETCH(floats, from)                                                                                 \
  {                                                                                                            \
    const float *ahead = from;                                                                                 \
    UNROLL for (int f = 0; f < (floats); f += LINE) __builtin_prefetch(ahead + f);                             \
  }

/* Weights that come after those at hand, which other pixels use too: from memory they take as long as all that work. */
enum { BEHIND = SC_WEIGHT_FLOATS };

/* NEON multiplies by a lane of a register: one load has the weights of four rows, and none are spread out. */
#if defined(__aarch64__)
#define WEIGHTS_OF_TAP vf lanes[SC_MAX_MR / VL]; UNROLL for (int q = 0; q < MR / VL; q++) lanes[q] = load(w + q * VL);
#define WEIGHT(r) (MR < VL ? w[r] : lanes[(r) / VL][(r) % VL])
#else
#define WEIGHTS_OF_TAP
#define WEIGHT(r) w[r]
#endif

/* All strips of [s, end) have mr = MR. PX more pixels (0 or 1) follow the NR vectors: one lane per row. Few accumulators
   are doubled or quadrupled over the taps, so that eight independent chains hide the latency of the multiply-add. */
INLINE void tile(const int MR, const int NR, const int PX, const sc_kernel *k, const sc_strip *s, const sc_strip *end,
                 const sc_tile *t)
{
  const int U = MR * NR >= 8 ? 1 : MR * NR >= 4 ? 2 : 4;
  const i64 last = NR > 1 && !PX ? t->last : (NR - 1) * VL;
  for (; s < end; s++) {
    vf acc[4][SC_MAX_MR][SC_MAX_NR]; /* of fixed size: clang keeps a variable-length array in memory */
    float pixel[SC_MAX_MR];
    UNROLL for (int r = 0; r < MR; r++) {
      vf b = splat(k->bias[s->row + r]);
      pixel[r] = k->bias[s->row + r];
      UNROLL for (int u = 0; u < U; u++) UNROLL for (int n = 0; n < NR; n++) acc[u][r][n] = u ? splat(0.f) : b;
    }
    const i32 *o = t->offsets + s->tap;
    const float *w = k->weights + s->weight;
    i32 left = s->taps;
#define TAP(u)                                                                                   \
  {                                                                                              \
    const float *x = t->x + *o++;                                                                \
    PREFETCH(NR * VL, t->x + o[AHEAD])                                                           \
    __builtin_prefetch(w + BEHIND), __builtin_prefetch(o + BEHIND / MR);                         \
    vf xv[SC_MAX_NR];                                                                                   \
    UNROLL for (int n = 0; n < NR; n++) xv[n] = load(x + (n == NR - 1 ? last : n * VL));         \
    WEIGHTS_OF_TAP                                                                               \
    UNROLL for (int r = 0; r < MR; r++) {                                                        \
      vf wv = splat(WEIGHT(r));                                                                  \
      UNROLL for (int n = 0; n < NR; n++) acc[u][r][n] += xv[n] * wv;                            \
      if (PX) pixel[r] += x[NR * VL] * w[r];                                                     \
    }                                                                                            \
    w += MR;                                                                                     \
  }
    for (; left >= U; left -= U) UNROLL for (int u = 0; u < U; u++) TAP(u)
    for (; left > 0; left--) TAP(0)
#undef TAP
    const int clamp = t->activation == SC_RELU || t->activation == SC_RELU6;
    const vf low = splat(0.f), high = splat(t->activation == SC_RELU6 ? 6.f : __builtin_inff());
    UNROLL for (int r = 0; r < MR; r++) {
      i64 at = (s->row - t->row + r) * t->pitch, add = (s->row - t->row + r) * t->residual_pitch;
      UNROLL for (int n = 0; n < NR; n++) {
        vf v = acc[0][r][n];
        UNROLL for (int u = 1; u < U; u++) v += acc[u][r][n];
        i64 to = n == NR - 1 ? last : n * VL;
        if (t->residual) v += load(t->residual + add + to);
        store(t->y + at + to, clamp ? at_most(at_least(v, low), high) : v);
      }
      if (PX) {
        float v = pixel[r] + (t->residual ? t->residual[add + NR * VL] : 0.f);
        if (clamp && v < 0.f) v = 0.f;
        if (t->activation == SC_RELU6 && v > 6.f) v = 6.f;
        t->y[at + NR * VL] = v;
      }
    }
    if (t->activation > SC_RELU6)
      SC(sc_activate_rows)(t->y + (s->row - t->row) * t->pitch, MR, t->pitch, last + VL + PX, t->activation);
  }
}
#endif

#define DEFINE_TILE(mr, nr)                                                                                    \
  static void tile_##mr##_##nr(const sc_kernel *k, const sc_strip *s, const sc_strip *end, const sc_tile *t)   \
  { tile(mr, nr, 0, k, s, end, t); }                                                                           \
  static void tile_##mr##_##nr##_pixel(const sc_kernel *k, const sc_strip *s, const sc_strip *end, const sc_tile *t) \
  { tile(mr, nr, 1, k, s, end, t); }
SC_TILES(DEFINE_TILE)
#define TILE_ENTRY(mr, nr) [mr][nr] = {tile_##mr##_##nr, tile_##mr##_##nr##_pixel},
static const sc_tile_fn tiles[SC_MAX_MR + 1][SC_MAX_NR + 1][2] = {SC_TILES(TILE_ENTRY)};

/* A run of equal strips over nr vectors and px pixels; more vectors than this mr has registers for go in pieces. */
static void tile_run(const sc_kernel *k, const sc_strip *s, const sc_strip *end, sc_tile t, i32 nr, i32 px)
{
  i32 mr = s->mr;
  for (i64 whole = t.last; nr > sc_widest[mr]; nr -= sc_widest[mr], whole -= (i64)sc_widest[mr] * VL) {
    t.last = (sc_widest[mr] - 1) * (i64)VL;
    tiles[mr][sc_widest[mr]][0](k, s, end, &t);
    t.x += (i64)sc_widest[mr] * VL, t.y += (i64)sc_widest[mr] * VL;
    if (t.residual) t.residual += (i64)sc_widest[mr] * VL;
    t.last = whole - (i64)sc_widest[mr] * VL;
  }
  if (nr == 1 && t.last < 0) {
    t.x += t.last, t.y += t.last;
    if (t.residual) t.residual += t.last;
  }
  tiles[mr][nr][px](k, s, end, &t);
}

/* Strips [first, end) over one tile of nr vectors and px pixels. */
void SC(sc_tile_strips)(const sc_kernel *k, i64 first, i64 end, const sc_tile *t, i32 nr, i32 px)
{
  while (first < end) {
    i64 stop = first + 1;
    while (stop < end && k->strips[stop].mr == k->strips[first].mr) stop++;
    tile_run(k, k->strips + first, k->strips + stop, *t, nr, px);
    first = stop;
  }
}

void SC(sc_activate_rows)(float *p, i64 rows, i64 pitch, i64 n, i32 activation)
{
#define ROWS(a) case a: for (; rows > 0; rows--, p += pitch) activate_with(p, n, a); break;
  switch (activation) {
    ROWS(SC_RELU) ROWS(SC_RELU6) ROWS(SC_HARDSWISH) ROWS(SC_SILU) ROWS(SC_GELU) ROWS(SC_GELU_TANH) ROWS(SC_SIGMOID)
    ROWS(SC_HARDSIGMOID)
    default: break;
  }
}

void SC(sc_activate)(float *p, i64 n, i32 activation) { SC(sc_activate_rows)(p, 1, 0, n, activation); }

/* The loops around dot4. */
#include "int8_window.h"

/* NR vectors of pixels by four rows: the bytes of one pixel leave as one lane. */
INLINE void tile(const int NR, const sc_int8_weight *k, i64 s, i64 end, const sc_int8_tile *t)
{
  const i64 last = NR > 1 ? t->last : 0;
  const short zero = (short)k->out.zero;
  const x8 low = (x8)k->out.low, high = (x8)k->out.high;
  for (; s < end; s++) {
    vi sum[4][SC_INT8_NR];
    UNROLL for (int r = 0; r < 4; r++) {
      vi b = splat_i(k->out.bias[4 * s + r]);
      UNROLL for (int n = 0; n < NR; n++) sum[r][n] = b;
    }
    const i32 *o = t->offsets + k->tap[s], *stop = t->offsets + k->tap[s + 1], *w = k->weights + 4 * k->tap[s];
    for (; o < stop; w += 4) {
      const x8 *x = t->x + *o++;
      vi xv[SC_INT8_NR];
      UNROLL for (int n = 0; n < NR; n++) xv[n] = load_bits(x + (n == NR - 1 ? last : n * VB));
      UNROLL for (int r = 0; r < 4; r++) {
        vi wv = splat_i(w[r]);
        UNROLL for (int n = 0; n < NR; n++) sum[r][n] = dot4(sum[r][n], xv[n], wv);
      }
    }
    x8 *y = t->y + s * t->pitch;
    UNROLL for (int n = 0; n < NR; n++) {
      vf v[4];
      UNROLL for (int r = 0; r < 4; r++) v[r] = scaled(sum[r][n], splat(k->out.multiplier[4 * s + r]));
      vb rows = bound(narrow(v, zero), low, high);
      *(vb_at *)(y + (n == NR - 1 ? last : n * VB)) = SHUFFLE(rows, rows, BYTES(BYTE_TURN, 0));
    }
  }
}

#define TILE(nr) \
  case nr: tile(nr, weight, first, end, t); break;
static void run_tile(const sc_int8_weight *weight, i64 first, i64 end, const sc_int8_tile *t, i32 nr)
{
  switch (nr) {
    TILE(1)
    TILE(2)
#if VB != 32
    TILE(3)
    TILE(4)
    TILE(5)
    TILE(6)
#endif
  default: break;
  }
}

/* PX pixels by four rows, which are the lanes here. Few chains are quadrupled or doubled over the taps. */
INLINE void pixels(const int PX, const sc_int8_weight *k, i64 s, i64 end, const sc_int8_tile *t)
{
  const int U = PX == 1 ? 4 : 2;
  for (; s < end; s++) {
    i32x4 sum[4][SC_INT8_PIXELS];
    UNROLL for (int u = 0; u < U; u++)
      UNROLL for (int p = 0; p < PX; p++) sum[u][p] = u ? splat_one(0) : (i32x4)*(const i32x4_at *)(k->out.bias + 4 * s);
    const i32 *o = t->offsets + k->tap[s];
    const i32x4_at *w = (const i32x4_at *)(k->weights + 4 * k->tap[s]);
    i64 left = k->tap[s + 1] - k->tap[s];
#define TAP(u)                                                                                               \
  {                                                                                                          \
    const x8 *x = t->x + *o++;                                                                               \
    i32x4 wv = *w++;                                                                                         \
    UNROLL for (int p = 0; p < PX; p++) {                                                                    \
      i32 xp;                                                                                                \
      __builtin_memcpy(&xp, x + 4 * p, 4);                                                                   \
      sum[u][p] = dot4_one(sum[u][p], splat_one(xp), wv);                                                    \
    }                                                                                                        \
  }
    for (; left >= U; left -= U) UNROLL for (int u = 0; u < U; u++) TAP(u)
    for (; left > 0; left--) TAP(0)
#undef TAP
    x8 *y = t->y + s * t->pitch;
    UNROLL for (int p = 0; p < PX; p++) {
      i32x4 all = sum[0][p];
      UNROLL for (int u = 1; u < U; u++) all += sum[u][p];
      f32x4 v = __builtin_convertvector(all, f32x4) * *(const f32x4_at *)(k->out.multiplier + 4 * s);
      UNROLL for (int r = 0; r < 4; r++) {
        y[4 * p + r] = byte_of(v[r], k->out.zero, k->out.low, k->out.high);
      }
    }
  }
}

static void run_pixels(const sc_int8_weight *weight, i64 first, i64 end, const sc_int8_tile *t, i32 count)
{
  switch (count) {
  case 1: pixels(1, weight, first, end, t); break;
  case 2: pixels(2, weight, first, end, t); break;
  case 3: pixels(3, weight, first, end, t); break;
  default: break;
  }
}

const sc_int8_cores SC(sc_int8_cores) = {run_tile, run_pixels, run_window};

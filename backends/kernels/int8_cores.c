/* The loops around dot4. */
#include "int8.h"

INLINE vf requantize(vi sum, vf multiplier, vf zero, vf low, vf high)
{
  return at_most(at_least(__builtin_convertvector(sum, vf) * multiplier + zero, low), high);
}

/* NR vectors of pixels by four rows: the bytes of one pixel leave as one lane. */
INLINE void tile(const int NR, const sc_int8_weight *k, i64 s, i64 end, const sc_int8_tile *t)
{
  const i64 last = NR > 1 ? t->last : 0;
  const vf zero = splat(k->out.zero), low = splat(k->out.low), high = splat(k->out.high);
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
      UNROLL for (int r = 0; r < 4; r++) v[r] = requantize(sum[r][n], splat(k->out.multiplier[4 * s + r]), zero, low, high);
      vb rows = narrow(v);
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
      f32x4 v = __builtin_convertvector(all, f32x4) * *(const f32x4_at *)(k->out.multiplier + 4 * s) + k->out.zero;
      UNROLL for (int r = 0; r < 4; r++) {
        float f = v[r] < k->out.low ? k->out.low : v[r] > k->out.high ? k->out.high : v[r];
        f += SC_ROUND_MAGIC;
        __builtin_memcpy(y + 4 * p + r, &f, 1);
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

/* ---- depthwise ---- */

/* Sixteen bytes four times over: a value for each of the four channels in turn. */
INLINE vi repeat(const void *p)
{
  i32x4 v;
  __builtin_memcpy(&v, p, 16);
#if VB == 64
  return __builtin_shufflevector(v, v, 0, 1, 2, 3, 0, 1, 2, 3, 0, 1, 2, 3, 0, 1, 2, 3);
#elif VB == 32
  return __builtin_shufflevector(v, v, 0, 1, 2, 3, 0, 1, 2, 3);
#else
  return v;
#endif
}

/* One vector of pixels of ROWS rows of outputs: four taps at a time are zipped twice, then vector j holds pixel j of every
   16 bytes, a lane per channel and the taps as its bytes. */
INLINE void window_vector(const int ROWS, const sc_int8_window *w, i64 at, x8 *const *y)
{
  vi sum[2][4];
  UNROLL for (int r = 0; r < ROWS; r++) UNROLL for (int j = 0; j < 4; j++) sum[r][j] = repeat(w->bias);
  for (i64 g = 0; g < w->groups; g++) {
    vb tap[4];
    vi weight[2];
    UNROLL for (int i = 0; i < 4; i++) tap[i] = *(const vb_at *)(w->taps[4 * g + i] + at);
    UNROLL for (int r = 0; r < ROWS; r++) weight[r] = repeat(w->weights[r] + 4 * g);
    vs ab[2] = {(vs)SHUFFLE(tap[0], tap[1], BYTES(BYTE_ZIP, 0)), (vs)SHUFFLE(tap[0], tap[1], BYTES(BYTE_ZIP, 1))};
    vs cd[2] = {(vs)SHUFFLE(tap[2], tap[3], BYTES(BYTE_ZIP, 0)), (vs)SHUFFLE(tap[2], tap[3], BYTES(BYTE_ZIP, 1))};
    UNROLL for (int j = 0; j < 4; j++) {
      vi x = (vi)(j % 2 ? SHUFFLE(ab[j / 2], cd[j / 2], WORDS(WORD_ZIP, 1)) : SHUFFLE(ab[j / 2], cd[j / 2], WORDS(WORD_ZIP, 0)));
      UNROLL for (int r = 0; r < ROWS; r++) sum[r][j] = dot4(sum[r][j], x, weight[r]);
    }
  }
  const vf m = (vf)repeat(w->multiplier), zero = splat(w->zero), low = splat(w->low), high = splat(w->high);
  UNROLL for (int r = 0; r < ROWS; r++) {
    vf v[4];
    UNROLL for (int j = 0; j < 4; j++) v[j] = requantize(sum[r][j], m, zero, low, high);
    *(vb_at *)y[r] = narrow(v);
  }
}

/* One or two rows of outputs. A narrow row ends beyond itself, in the row after, which is written later; there is none
   after the last. */
INLINE void window_rows(const int ROWS, const sc_int8_window *w, i64 x, x8 *y, const x8 *end)
{
  i64 bytes = 4 * w->pixels, at = 0;
  if (bytes < VB) {
    x8 few[2][VB], *to[2] = {y, y + bytes};
    UNROLL for (int r = 0; r < ROWS; r++)
      if (end - to[r] < VB) to[r] = few[r];
    window_vector(ROWS, w, x, to);
    UNROLL for (int r = 0; r < ROWS; r++)
      if (to[r] == few[r])
        for (i64 i = 0; i < bytes; i++) y[r * bytes + i] = few[r][i];
    return;
  }
  for (;; at = at + 2 * VB <= bytes ? at + VB : bytes - VB) {
    x8 *to[2] = {y + at, y + bytes + at};
    window_vector(ROWS, w, x + at, to);
    if (at + VB == bytes) return;
  }
}

static void run_window(const sc_int8_window *w)
{
  x8 *y = w->y;
  const x8 *end = y + w->rows * w->pixels * 4;
  i64 x = 0, left = w->rows;
  for (; w->weights[1] && left > 1; left -= 2, x += 2 * w->step, y += 8 * w->pixels) window_rows(2, w, x, y, end);
  for (; left > 0; left--, x += w->step, y += 4 * w->pixels) window_rows(1, w, x, y, end);
}

const sc_int8_cores SC(sc_int8_cores) = {run_tile, run_pixels, run_window};

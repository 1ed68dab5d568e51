/* Depthwise windows: four bytes of four rows, or of any four taps, are zipped into the dwords that dot4 takes. */
#ifndef SC_INT8_WINDOW_H
#define SC_INT8_WINDOW_H
#include "int8.h"

INLINE vf scaled(vi sum, vf multiplier) { return __builtin_convertvector(sum, vf) * multiplier; }

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

/* Vector j holds pixel j of every 16 bytes, a lane per channel and the four taps as its bytes. */
INLINE void zip(vi z[4], const x8 *const *taps, i64 at)
{
  vb tap[4];
  UNROLL for (int i = 0; i < 4; i++) tap[i] = *(const vb_at *)(taps[i] + at);
  vs ab[2] = {(vs)SHUFFLE(tap[0], tap[1], BYTES(BYTE_ZIP, 0)), (vs)SHUFFLE(tap[0], tap[1], BYTES(BYTE_ZIP, 1))};
  vs cd[2] = {(vs)SHUFFLE(tap[2], tap[3], BYTES(BYTE_ZIP, 0)), (vs)SHUFFLE(tap[2], tap[3], BYTES(BYTE_ZIP, 1))};
  UNROLL for (int j = 0; j < 4; j++)
    z[j] = (vi)(j % 2 ? SHUFFLE(ab[j / 2], cd[j / 2], WORDS(WORD_ZIP, 1)) : SHUFFLE(ab[j / 2], cd[j / 2], WORDS(WORD_ZIP, 0)));
}

/* Sixteen bytes further on. */
#define NEXT_PIXELS(lane, h) ((lane) + 4)
INLINE vi further(vi now, vi next) { return __builtin_shufflevector(now, next, LANES(NEXT_PIXELS, 0)); }

typedef struct { vf multiplier; short zero; x8 low, high; } int8_output;
INLINE void put(x8 *y, const vi sum[4], const int8_output *o)
{
  vf v[4];
  UNROLL for (int j = 0; j < 4; j++) v[j] = scaled(sum[j], o->multiplier);
  *(vb_at *)y = bound(narrow(v, o->zero), o->low, o->high);
}

/* Where the rows of one call go. Bytes beyond the end of a row narrower than a vector belong to the row below, which is
   written later; there is none after the last. */
INLINE x8 *room(x8 *y, const x8 *end, x8 *few) { return end - y < VB ? few : y; }
INLINE void move_few(x8 *y, const x8 *to, const x8 *few, i64 bytes)
{
  for (i64 i = 0; to == few && i < bytes; i++) y[i] = few[i];
}

/* ---- any window: a row of outputs, from any four taps at a time ---- */
INLINE void taps_vector(const sc_int8_window *w, const int8_output *o, i64 at, x8 *y)
{
  vi sum[4], z[4];
  UNROLL for (int j = 0; j < 4; j++) sum[j] = repeat(w->bias);
  for (i64 g = 0; g < w->groups; g++) {
    vi weight = repeat(w->weights[0] + 4 * g);
    zip(z, w->taps + 4 * g, at);
    UNROLL for (int j = 0; j < 4; j++) sum[j] = dot4(sum[j], z[j], weight);
  }
  put(y, sum, o);
}

static void taps_row(const sc_int8_window *w, const int8_output *o, i64 x, x8 *y, const x8 *end)
{
  i64 bytes = 4 * w->pixels;
  if (bytes < VB) {
    x8 few[VB], *to = room(y, end, few);
    taps_vector(w, o, x, to);
    move_few(y, to, few, bytes);
    return;
  }
  for (i64 at = 0;; at = at + 2 * VB <= bytes ? at + VB : bytes - VB) {
    taps_vector(w, o, x + at, y + at);
    if (at + VB == bytes) return;
  }
}

/* ---- KW columns at stride S: Q times four rows of taps, zipped once for all columns and for ROWS rows of outputs ---- */
enum { ROWS_MOST = 2, ZIPS = 4 };

INLINE void zipped_vector(const int KW, const int S, const int ROWS, vi z[ZIPS][4], vi next[ZIPS][4],
                          const sc_int8_window *w, const int8_output *o, x8 *const *y)
{
  const int Q = (KW + 3) / 4;
  vi sum[ROWS_MOST][4];
  UNROLL for (int r = 0; r < ROWS; r++) UNROLL for (int j = 0; j < 4; j++) sum[r][j] = repeat(w->bias);
  UNROLL for (int kw = 0; kw < KW; kw++)
    UNROLL for (int q = 0; q < Q; q++) {
      const int g = q * S + kw % S, by = kw / S;
      vi x[4];
      UNROLL for (int j = 0; j < 4; j++) x[j] = j + by < 4 ? z[g][(j + by) % 4] : further(z[g][(j + by) % 4], next[g][(j + by) % 4]);
      UNROLL for (int r = 0; r < ROWS; r++) {
        vi weight = repeat(w->weights[r] + 4 * (kw * Q + q));
        UNROLL for (int j = 0; j < 4; j++) sum[r][j] = dot4(sum[r][j], x[j], weight);
      }
    }
  UNROLL for (int r = 0; r < ROWS; r++) put(y[r], sum[r], o);
}

INLINE void zip_all(const int ZS, vi z[ZIPS][4], const sc_int8_window *w, i64 at)
{
  UNROLL for (int g = 0; g < ZS; g++) zip(z[g], w->taps + 4 * g, at);
}

INLINE void zipped_rows(const int KW, const int S, const int ROWS, const sc_int8_window *w, const int8_output *o, i64 x, x8 *y,
                        const x8 *end)
{
  const int ZS = S * ((KW + 3) / 4);
  i64 bytes = 4 * w->pixels, at = 0;
  vi z[ZIPS][4], next[ZIPS][4];
  zip_all(ZS, z, w, x);
  if (bytes < VB) {
    x8 few[ROWS_MOST][VB], *to[ROWS_MOST];
    zip_all(ZS, next, w, x + VB);
    UNROLL for (int r = 0; r < ROWS; r++) to[r] = room(y + r * bytes, end, few[r]);
    zipped_vector(KW, S, ROWS, z, next, w, o, to);
    UNROLL for (int r = 0; r < ROWS; r++) move_few(y + r * bytes, to[r], few[r], bytes);
    return;
  }
  for (;;) {
    x8 *to[ROWS_MOST] = {y + at, y + bytes + at};
    zip_all(ZS, next, w, x + at + VB);
    zipped_vector(KW, S, ROWS, z, next, w, o, to);
    at += VB;
    if (at == bytes) return;
    if (at + VB <= bytes) UNROLL for (int g = 0; g < ZS; g++) UNROLL for (int j = 0; j < 4; j++) z[g][j] = next[g][j];
    else at = bytes - VB, zip_all(ZS, z, w, x + at);
  }
}

#define ZIPPED(kw, s)                                                                                                    \
  static void zipped_##kw##_##s(const sc_int8_window *w, const int8_output *o, const x8 *end)                            \
  {                                                                                                                      \
    x8 *y = w->y;                                                                                                        \
    i64 x = 0, left = w->rows;                                                                                           \
    for (; w->weights[1] && left > 1; left -= 2, x += 2 * w->step, y += 8 * w->pixels) zipped_rows(kw, s, 2, w, o, x, y, end); \
    for (; left > 0; left--, x += w->step, y += 4 * w->pixels) zipped_rows(kw, s, 1, w, o, x, y, end);                   \
  }
ZIPPED(3, 1)
ZIPPED(5, 1)
ZIPPED(3, 2)
ZIPPED(5, 2)

static void run_window(const sc_int8_window *w)
{
  const int8_output o = {(vf)repeat(w->multiplier), (short)w->zero, (x8)w->low, (x8)w->high};
  const x8 *end = w->y + w->rows * w->pixels * 4;
  switch (w->columns) {
  case 3: (w->stride == 1 ? zipped_3_1 : zipped_3_2)(w, &o, end); break;
  case 5: (w->stride == 1 ? zipped_5_1 : zipped_5_2)(w, &o, end); break;
  default:
    for (i64 r = 0; r < w->rows; r++) taps_row(w, &o, r * w->step, w->y + r * w->pixels * 4, end);
  }
}
#endif

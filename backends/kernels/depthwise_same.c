/* The commonest depthwise convolutions, padded by half their kernel: X is read where it lies, every input row once for all
   the output rows it belongs to. */
#include "lines.h"
#include "pack.h"

#ifndef SC_LARGEST_SAME           /* a bundle without such layers has no kernels for 5x5 */
#define SC_LARGEST_SAME 5
#endif

enum {
  SOON = 8,                      /* channels ahead whose first and last rows are fetched: another thread may have made them */
  MOST = 4,                      /* output rows of a 5x5 kernel at once, half of stride 2: pointers to their inputs stay in registers */
  TALL = VB == 32 ? 4 : 7,       /* the same of short rows, which stay in registers themselves: AVX2 has 16 of these, others 32 */
  K = 5,                         /* the larger kernel */
  LEFT = 1, RIGHT = 2, SHORT = 4 /* edges a block of columns touches; SHORT: the row is no longer than a vector */
};

typedef struct {
  const float *weights;
  float bias, low, high;
} sc_filter;

/* Some rows of one channel. */
typedef struct {
  const sc_lines *lines;         /* of X */
  const float *x;                /* of the channel */
  i64 first, slot;               /* the row of X that the first of these rows begins at, and its place in the window */
  float *y;                      /* the first of these rows */
  const float *residual;
  i64 width, room;               /* of Y; floats that may be written from y on */
} sc_channel;

#define SHIFTED_UP(lane, h) ((lane) < (h) ? VL : (lane) - (h))
#define SHIFTED_DOWN(lane, h) ((lane) + (h) < VL ? (lane) + (h) : VL)

/* v[lane + by], zeros from outside. */
INLINE vf shifted(vf v, const int by)
{
  const vf zero = splat(0.f);
  switch (by) {
  case -2: return __builtin_shufflevector(v, zero, LANES(SHIFTED_UP, 2));
  case -1: return __builtin_shufflevector(v, zero, LANES(SHIFTED_UP, 1));
  case 1: return __builtin_shufflevector(v, zero, LANES(SHIFTED_DOWN, 1));
  case 2: return __builtin_shufflevector(v, zero, LANES(SHIFTED_DOWN, 2));
  default: return v;
  }
}

/* The inputs of VL output columns through kernel column `reach` + by; `from` is that of by = 0. */
INLINE vf tap_of(const int S, const int EDGE, const float *from, const int by, i64 width)
{
  const vi lanes = {LANES(LANE_NUMBER, 0)};
  const int inside = !by || !(EDGE & (by < 0 ? LEFT : RIGHT));
  if (S == 2) {
    if (by < 0 && inside) return every_second(from - 1);
    vf a = load(from), b = load(from + VL);
    if (!by) return __builtin_shufflevector(a, b, LANES(EVERY_SECOND, 0));
    vf odd = __builtin_shufflevector(a, b, LANES(EVERY_SECOND, 1));
    return by < 0 ? shifted(odd, -1) : odd;
  }
  vf u = load(from + (inside ? by : 0));
  if (EDGE & SHORT) u = select_vf(lanes < (i32)width, u, splat(0.f));
  return inside ? u : shifted(u, by);
}

/* The next row of X, from above the first one on: where it begins. */
typedef struct { i64 row, slot; } sc_cursor;
INLINE const float *next_row(const sc_channel *c, sc_cursor *at)
{
  const sc_lines *l = c->lines;
  const float *from = at->row >= 0 && at->row < l->height ? c->x + at->slot * l->width : l->zeros;
  at->row++, at->slot = at->slot + 1 == l->held ? 0 : at->slot + 1;
  return from;
}

/* What is left to do for a vector of results of a row. */
INLINE void put(const int EDGE, const sc_channel *c, const sc_filter *f, i64 at, vf v)
{
  if (c->residual && !(EDGE & SHORT)) v += load(c->residual + at);
  v = at_most(at_least(v, splat(f->low)), splat(f->high));
  /* What a short row writes too much, the rows after it put right; the last ones write no more than they have. */
  if (!(EDGE & SHORT) || c->room - at >= VL) store(c->y + at, v);
  else for (i64 j = 0; j < c->width; j++) c->y[at + j] = v[j];
}

#if !defined(__wasm__)
/* ---- 3x3: down a vector of columns; every row of X is read once, and its three products join the sums of three rows ---- */
#define NEXT                                                                                              \
  {                                                                                                       \
    const float *from = next_row(c, &at) + S * column;                                                    \
    UNROLL for (int i = 0; i < 3; i++) u[i] = tap_of(S, EDGE, from, i - 1, c->width);                     \
  }
#define PRODUCT(kh) (u[0] * w[3 * (kh)] + u[1] * w[3 * (kh) + 1] + u[2] * w[3 * (kh) + 2])

INLINE void down3(const int S, const int EDGE, const sc_channel *c, const sc_filter *f, const vf *w, i64 column, i64 rows)
{
  sc_cursor at = {c->first, c->slot};
  vf u[3], sum, next;
  const vf bias = splat(f->bias);
  i64 to = column;
  NEXT
  next = bias + PRODUCT(0);
  if (S == 2) {
    for (; rows; rows--, to += c->width) {
      NEXT
      sum = next + PRODUCT(1);
      NEXT
      next = bias + PRODUCT(0);
      put(EDGE, c, f, to, sum + PRODUCT(2));
    }
    return;
  }
  NEXT
  sum = next + PRODUCT(1), next = bias + PRODUCT(0);
  for (; rows > 1; rows--, to += c->width) {
    NEXT
    put(EDGE, c, f, to, sum + PRODUCT(2));
    sum = next + PRODUCT(1), next = bias + PRODUCT(0);
  }
  NEXT
  put(EDGE, c, f, to, sum + PRODUCT(2));
}
#endif

/* ---- 5x5: several rows at once; an input is loaded once for all the output rows it belongs to ---- */
INLINE void block5(const int N, const int EDGE, const sc_channel *c, const sc_filter *f, const float *const *from, i64 row,
                   i64 column)
{
  const vi lanes = {LANES(LANE_NUMBER, 0)};
  const int held = EDGE & SHORT;
  vf acc[TALL], w[K], x[TALL + K - 1];
  if (held) UNROLL for (int i = 0; i < N - 1 + K; i++) x[i] = select_vf(lanes < (i32)c->width, load(from[i]), splat(0.f));
  UNROLL for (int n = 0; n < N; n++) acc[n] = splat(f->bias);
  UNROLL for (int kw = 0; kw < K; kw++) {
    UNROLL for (int kh = 0; kh < K; kh++) {
      w[kh] = splat(f->weights[kh * K + kw]);
      KEEP(w[kh]);
    }
    UNROLL for (int i = 0; i < N - 1 + K; i++) {
      const int by = kw - K / 2;
      vf u = held ? shifted(x[i], by) : tap_of(1, EDGE, from[i] + column, by, c->width);
      UNROLL for (int kh = 0; kh < K; kh++) if (i >= kh && i - kh < N) acc[i - kh] += u * w[kh];
    }
  }
  UNROLL for (int n = 0; n < N; n++) SETTLE(acc[n]);
  UNROLL for (int n = 0; n < N; n++) put(EDGE, c, f, (row + n) * c->width + column, acc[n]);
}

/* ---- 5x5 of stride 2: a row of X is loaded once, in its even and its odd columns ---- */
#define FROM_LEFT(lane, first) ((lane) ? (lane) - 1 : VL + (first))
#define FROM_RIGHT(lane, last) ((lane) < VL - 1 ? (lane) + 1 : VL + (last))

/* The inputs of VL output columns through each kernel column; `from` is that of the middle one. */
INLINE void taps_of_two(const int EDGE, const float *from, i64 width, vf *taps)
{
  const vi lanes = {LANES(LANE_NUMBER, 0)};
  vf a = load(from), b = load(from + VL);
  vf even = __builtin_shufflevector(a, b, LANES(EVERY_SECOND, 0)), odd = __builtin_shufflevector(a, b, LANES(EVERY_SECOND, 1));
  if (EDGE & SHORT) even = select_vf(lanes < (i32)width, even, splat(0.f));
  vf left = EDGE & LEFT ? splat(0.f) : load(from - 2), right = EDGE & RIGHT ? splat(0.f) : load(from + VL + 1);
  taps[0] = __builtin_shufflevector(even, left, LANES(FROM_LEFT, 0));
  taps[1] = __builtin_shufflevector(odd, left, LANES(FROM_LEFT, 1));
  taps[2] = even, taps[3] = odd;
  taps[4] = __builtin_shufflevector(even, right, LANES(FROM_RIGHT, VL - 1));
}

INLINE void strided5(const int N, const int EDGE, const sc_channel *c, const sc_filter *f, const float *const *from, i64 row,
                     i64 column)
{
  vf acc[MOST], odd[MOST], taps[K]; /* sums over even and odd columns: two chains for each row */
  UNROLL for (int n = 0; n < N; n++) acc[n] = splat(f->bias), odd[n] = splat(0.f);
  UNROLL for (int i = 0; i < 2 * (N - 1) + K; i++) {
    taps_of_two(EDGE, from[i] + 2 * column, c->width, taps);
    UNROLL for (int n = 0; n < N; n++) if (i >= 2 * n && i < 2 * n + K)
      UNROLL for (int kw = 0; kw < K; kw++) *(kw & 1 ? &odd[n] : &acc[n]) += taps[kw] * f->weights[(i - 2 * n) * K + kw];
  }
  UNROLL for (int n = 0; n < N; n++) {
    acc[n] += odd[n];
    SETTLE(acc[n]);
  }
  UNROLL for (int n = 0; n < N; n++) put(EDGE, c, f, (row + n) * c->width + column, acc[n]);
}

INLINE void rows5(const int N, const int S, const int EDGE, const sc_channel *c, const sc_filter *f, const float *const *from,
                  i64 row, i64 column)
{
  if (S == 2) strided5(N, EDGE, c, f, from, row, column);
  else block5(N, EDGE, c, f, from, row, column);
}

INLINE void down5(const int S, const int EDGE, const sc_channel *c, const sc_filter *f, i64 column, i64 rows)
{
  const int N = S == 1 && EDGE & SHORT ? TALL : MOST / S;
  for (i64 row = 0, left = rows, done; left; row += done, left -= done) {
    sc_cursor at = {c->first + S * row, (c->slot + S * row) % c->lines->held};
    const float *from[TALL + K - 1];
    UNROLL for (int i = 0; i < S * (N - 1) + K; i++) from[i] = next_row(c, &at);
    if (left >= N) rows5(N, S, EDGE, c, f, from, row, column), done = N;
    else if (N > 4 && left >= 4) rows5(4, S, EDGE, c, f, from, row, column), done = 4;
    else if (N > 2 && left >= 2) rows5(2, S, EDGE, c, f, from, row, column), done = 2;
    else rows5(1, S, EDGE, c, f, from, row, column), done = 1;
  }
}

#if defined(__wasm__)
#include "depthwise_wasm.h"
#else
INLINE void down(const int SIDE, const int S, const int EDGE, const sc_channel *c, const sc_filter *f, const vf *w, i64 column,
                 i64 rows)
{
  if (SIDE == 3) down3(S, EDGE, c, f, w, column, rows);
  else down5(S, EDGE, c, f, column, rows);
}
#endif

/* Of a 3x3 of stride 2 only the left edge needs care: the row is twice as long as the output's. */
INLINE void channel(const int SIDE, const int S, const sc_channel *c, const sc_filter *f, i64 rows)
{
  const int reach = SIDE / 2, right = reach >= S ? RIGHT : 0;
  i64 width = c->width, column = VL;
  vf w[9];
  UNROLL for (int i = 0; i < 9; i++) {
    w[i] = splat(f->weights[i]);
    KEEP(w[i]);
  }
  if (width <= VL) {
    down(SIDE, S, LEFT | right | SHORT, c, f, w, 0, rows);
    return;
  }
  down(SIDE, S, LEFT, c, f, w, 0, rows);
  for (; column + VL + reach <= width; column += VL) down(SIDE, S, 0, c, f, w, column, rows);
  if (column < width - VL) down(SIDE, S, 0, c, f, w, width - VL - reach, rows); /* the right edge reaches beyond its vector */
  down(SIDE, S, right, c, f, w, width - VL, rows);
}

int SC(sc_is_same_depthwise)(const sc_kernel *k, i64 height, i64 width)
{
  const sc_spec *s = &k->spec;
  i64 side = s->kernel[0], reach = side / 2, stride = s->stride[0], columns = width / stride;
  int same = side == s->kernel[1] && stride == s->stride[1] && s->dilation[0] == 1 && s->dilation[1] == 1;
  for (int i = 0; i < 4; i++) same &= s->pad[i] == reach;
  same &= (side == 3 || side == SC_LARGEST_SAME) && (stride == 1 || (stride == 2 && width % 2 == 0 && height % 2 == 0));
  return same && (columns <= VL || columns >= VL + reach);
}

void SC(sc_same_depthwise)(const sc_kernel *k, const sc_lines *x, const sc_lines *residual, const sc_lines *y, i64 top,
                           i64 rows, i64 from, i64 end)
{
  const sc_spec *s = &k->spec;
  const float inf = __builtin_inff();
  i64 count = rows * y->width, place = sc_slot(y, top);
  /* Rows that end the window may write what is left of the channel. */
  i64 room = place + rows == y->held ? y->pitch - place * y->width : count;
  i64 first = top * s->stride[0] - s->pad[0], slot = sc_slot(x, first), last = first + (rows - 1) * s->stride[0] + s->kernel[0] - 1;
  float *to = sc_line(y, 0, top);
  const float *add = residual ? sc_line(residual, 0, top) : 0;
  int late = residual && y->width <= VL, clamp = !late && s->activation && s->activation <= SC_RELU6;
  const float *above = sc_line(x, SOON, clip(first, 0, x->height - 1)), *below = sc_line(x, SOON, clip(last, 0, x->height - 1));
  for (i64 p = from; p < end; p++) {
    __builtin_prefetch(above + p * x->pitch);
    __builtin_prefetch(below + p * x->pitch);
    i64 filter = p % s->rows;
    sc_channel c = {.lines = x, .x = x->data + p * x->pitch, .first = first, .slot = slot, .y = to + p * y->pitch,
                    .residual = add ? add + p * residual->pitch : 0, .width = y->width, .room = room};
    sc_filter f = {.weights = k->weights + k->strips[filter].weight, .bias = k->bias[filter], .low = clamp ? 0.f : -inf,
                   .high = clamp && s->activation == SC_RELU6 ? 6.f : inf};
    if (s->kernel[0] == 3 && s->stride[0] == 1) channel(3, 1, &c, &f, rows);
    else if (SC_LARGEST_SAME == 3 || s->kernel[0] == 3) channel(3, 2, &c, &f, rows);
    else if (s->stride[0] == 1) channel(5, 1, &c, &f, rows);
    else channel(5, 2, &c, &f, rows);
    for (i64 i = 0; late && i < count; i++) c.y[i] += c.residual[i];
    if (late || s->activation > SC_RELU6) SC(sc_activate)(c.y, count, s->activation);
  }
}

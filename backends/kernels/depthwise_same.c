/* The commonest depthwise convolutions, 3x3 and 5x5 with stride 1 and as much padding as keeps the size: X is read where it
   lies, every input row once for all the output rows it belongs to. */
#include "pack.h"

enum {
  MOST = 7,                      /* output rows at once: 7, 14, 28, 56 and 112 divide by it */
  LEFT = 1, RIGHT = 2, SHORT = 4 /* edges a block of columns touches; SHORT: the row is no longer than a vector */
};

typedef struct {
  const float *weights;
  float bias, low, high;
} sc_filter;

/* One channel of one image. */
typedef struct {
  const float *x, *residual;
  float *y;
  i64 height, width, room;       /* room: floats from x to the end of X */
} sc_channel;

#define LANE(lane, h) (lane)
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

static __attribute__((noinline)) vf load_lanes(const float *p, i64 n)
{
  float v[VL] = {0};
  for (i64 i = 0; i < n; i++) v[i] = p[i];
  return load(v);
}

static __attribute__((noinline)) void store_lanes(float *p, vf v, i64 n)
{
  for (i64 i = 0; i < n; i++) p[i] = v[i];
}

/* The first n <= VL floats at p, zeros after them; `room` floats may be read. */
INLINE vf load_short(const float *p, i64 n, i64 room)
{
  const vi lanes = {LANES(LANE, 0)};
  return room >= VL ? select_vf(lanes < (i32)n, load(p), splat(0.f)) : load_lanes(p, n);
}

/* Column by column of the kernel, so that few weights are needed at once; rows outside the image read zeros. */
INLINE void block(const int N, const int K, const int EDGE, const sc_channel *c, const sc_filter *f, i64 row, i64 column)
{
  static const float zeros[VL + 4];
  const int reach = K / 2;
  const float *from[MOST + 4];
  vf acc[MOST];
  UNROLL for (int n = 0; n < N; n++) acc[n] = splat(f->bias);
  UNROLL for (int i = 0; i < N + K - 1; i++) {
    i64 r = row + i - reach;
    from[i] = r >= 0 && r < c->height ? c->x + r * c->width + column : zeros + 2;
  }
  UNROLL for (int kw = 0; kw < K; kw++) {
    const int by = kw - reach, inside = !by || !(EDGE & (by < 0 ? LEFT : RIGHT));
    vf w[5];
    UNROLL for (int kh = 0; kh < K; kh++) {
      w[kh] = splat(f->weights[kh * K + kw]);
      KEEP(w[kh]);
    }
    UNROLL for (int i = 0; i < N + K - 1; i++) {
      vf u = EDGE & SHORT ? load_short(from[i], c->width, from[i] == zeros + 2 ? VL : c->x + c->room - from[i])
                          : load(from[i] + (inside ? by : 0));
      if (!inside) u = shifted(u, by);
      UNROLL for (int kh = 0; kh < K; kh++)
        if (i >= kh && i - kh < N) acc[i - kh] += u * w[kh];
    }
  }
  UNROLL for (int n = 0; n < N; n++) {
    i64 at = (row + n) * c->width + column, left = c->height * c->width - at;
    int whole = !(EDGE & SHORT) || left >= VL; /* what a short row writes too much, the rows after it put right */
    if (c->residual) acc[n] += whole ? load(c->residual + at) : load_lanes(c->residual + at, c->width);
    vf v = at_most(at_least(acc[n], splat(f->low)), splat(f->high));
    if (whole) store(c->y + at, v);
    else store_lanes(c->y + at, v, c->width);
  }
}

INLINE void rows(const int N, const int K, const sc_channel *c, const sc_filter *f, i64 row)
{
  const int reach = K / 2;
  if (c->width <= VL) block(N, K, LEFT | RIGHT | SHORT, c, f, row, 0);
  else {
    block(N, K, LEFT, c, f, row, 0);
    i64 column = VL;
    for (; column + VL + reach <= c->width; column += VL) block(N, K, 0, c, f, row, column);
    if (column < c->width - VL) block(N, K, 0, c, f, row, c->width - VL - reach); /* up to where RIGHT begins */
    block(N, K, RIGHT, c, f, row, c->width - VL);
  }
}

INLINE void channel(const int K, const sc_channel *c, const sc_filter *f)
{
  i64 row = 0;
  for (; row + MOST <= c->height; row += MOST) rows(MOST, K, c, f, row);
  if (row < c->height && c->height >= MOST) rows(MOST, K, c, f, c->height - MOST);
  else for (; row < c->height; row++) rows(1, K, c, f, row);
}

int SC(sc_is_same_depthwise)(const sc_kernel *k, const sc_image *image)
{
  const sc_spec *s = &k->spec;
  i64 side = s->kernel[0], reach = side / 2;
  int same = side == s->kernel[1] && (side == 3 || side == 5);
  for (int i = 0; i < 2; i++) same &= s->stride[i] == 1 && s->dilation[i] == 1;
  for (int i = 0; i < 4; i++) same &= s->pad[i] == reach;
  return same && (image->width <= VL || image->width >= VL + reach);
}

void SC(sc_same_depthwise)(const sc_kernel *k, const sc_image *image, const float *x, const float *residual, float *y,
                           i64 from, i64 end)
{
  const sc_spec *s = &k->spec;
  const float inf = __builtin_inff();
  i64 size = image->height * image->width, planes = s->rows * image->batch;
  int clamp = s->activation == SC_RELU || s->activation == SC_RELU6;
  for (i64 p = from; p < end; p++) {
    i64 c = p % s->rows;
    sc_channel plane = {.x = x + p * size, .y = y + p * size, .residual = residual ? residual + p * size : 0,
                        .height = image->height, .width = image->width, .room = (planes - p) * size};
    sc_filter f = {.weights = k->weights + k->strips[c].weight, .bias = k->bias[c], .low = clamp ? 0.f : -inf,
                   .high = s->activation == SC_RELU6 ? 6.f : inf};
    if (s->kernel[0] == 3) channel(3, &plane, &f);
    else channel(5, &plane, &f);
    if (s->activation > SC_RELU6) SC(sc_activate)(plane.y, size, s->activation);
  }
}

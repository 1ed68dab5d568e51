/* The commonest depthwise convolutions, padded by half their kernel: X is read where it lies, every input row once for all
   the output rows it belongs to. */
#include "pack.h"

enum {
  MOST = 7,                      /* output rows at once: 7, 14, 28, 56 and 112 divide by it */
  MAX_K = 5, S_MOST = 2 * MOST + 1, /* the largest kernel; the most input rows at once */
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
  i64 height, width;             /* of X */
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

/* VL inputs S apart. */
INLINE vf load_every(const int S, const float *p) { return S == 2 ? every_second(p) : load(p); }

/* Sums of N rows of outputs, column by column of the kernel, so that few weights are needed at once. */
INLINE void sums(const int N, const int K, const int S, const int EDGE, const sc_channel *c, const float *weights,
                 i64 row, i64 column, vf *acc)
{
  static const float zeros[2 * VL + 8];
  const vi lanes = {LANES(LANE, 0)};
  const int reach = K / 2, inputs = S * (N - 1) + K;
  const float *from[S_MOST];
  UNROLL for (int i = 0; i < inputs; i++) {
    i64 r = S * row + i - reach;
    from[i] = r >= 0 && r < c->height ? c->x + r * c->width + S * column : zeros + 4;
  }
  UNROLL for (int kw = 0; kw < K; kw++) {
    const int by = kw - reach, inside = !by || !(EDGE & (by < 0 ? LEFT : RIGHT));
    vf w[MAX_K];
    UNROLL for (int kh = 0; kh < K; kh++) {
      w[kh] = splat(weights[kh * K + kw]);
      KEEP(w[kh]);
    }
    UNROLL for (int i = 0; i < inputs; i++) {
      vf u = load_every(S, from[i] + (inside ? by : S == 2 ? 1 : 0));
      if (S == 1 && EDGE & SHORT) u = select_vf(lanes < (i32)c->width, u, splat(0.f));
      if (!inside) u = shifted(u, by);
      UNROLL for (int kh = i % S; kh < K; kh += S)
        if (i >= kh && (i - kh) / S < N) acc[(i - kh) / S] += u * w[kh];
    }
  }
}

INLINE void block(const int N, const int K, const int S, const int EDGE, const sc_channel *c, const sc_filter *f, i64 row,
                  i64 column)
{
  vf acc[MOST];
  float together[MOST * VL];
  i64 width = c->width / S, size = c->height / S * width;
  UNROLL for (int n = 0; n < N; n++) acc[n] = splat(f->bias);
  sums(N, K, S, EDGE, c, f->weights, row, column, acc);
  UNROLL for (int n = 0; n < N; n++) {
    i64 at = (row + n) * width + column;
    if (c->residual && !(EDGE & SHORT)) acc[n] += load(c->residual + at);
    store(EDGE & SHORT ? together + n * VL : c->y + at, at_most(at_least(acc[n], splat(f->low)), splat(f->high)));
  }
  /* What a short row writes too much, the rows after it put right; the last ones write no more than they have. */
  for (i64 n = 0; EDGE & SHORT && n < N; n++) {
    i64 at = (row + n) * width;
    if (size - at >= VL) store(c->y + at, load(together + n * VL));
    else for (i64 j = 0; j < width; j++) c->y[at + j] = together[n * VL + j];
  }
}

/* Of stride 2 only the left edge needs care: the row is twice as long as the output's. */
INLINE void rows(const int N, const int K, const int S, const sc_channel *c, const sc_filter *f, i64 row)
{
  const int reach = K / 2, right = S == 1 ? RIGHT : 0;
  i64 width = c->width / S, column = VL;
  if (width <= VL) {
    block(N, K, S, LEFT | right | SHORT, c, f, row, 0);
    return;
  }
  block(N, K, S, LEFT, c, f, row, 0);
  for (; column + VL + reach <= width; column += VL) block(N, K, S, 0, c, f, row, column);
  if (column < width - VL) block(N, K, S, 0, c, f, row, width - VL - reach); /* the right edge reaches beyond its vector */
  block(N, K, S, right, c, f, row, width - VL);
}

INLINE void channel(const int K, const int S, const sc_channel *c, const sc_filter *f)
{
  i64 row = 0, height = c->height / S;
  for (; row + MOST <= height; row += MOST) rows(MOST, K, S, c, f, row);
  if (row < height && height >= MOST) rows(MOST, K, S, c, f, height - MOST);
  else for (; row < height; row++) rows(1, K, S, c, f, row);
}

/* 3x3 and 5x5 of stride 1; 3x3 of stride 2 on images of even sides. */
int SC(sc_is_same_depthwise)(const sc_kernel *k, const sc_image *image)
{
  const sc_spec *s = &k->spec;
  i64 side = s->kernel[0], reach = side / 2, stride = s->stride[0], width = image->width / stride;
  int same = side == s->kernel[1] && stride == s->stride[1] && s->dilation[0] == 1 && s->dilation[1] == 1;
  for (int i = 0; i < 4; i++) same &= s->pad[i] == reach;
  if (stride == 2) same &= side == 3 && image->width % 2 == 0 && image->height % 2 == 0;
  else same &= stride == 1 && (side == 3 || side == 5);
  return same && (width <= VL || width >= VL + reach);
}

/* The planes [0, count) of which every read stays inside X; the others have to be packed. */
i64 SC(sc_same_planes)(const sc_kernel *k, const sc_image *image)
{
  i64 planes = k->spec.rows * image->batch, size = image->height * image->width, over = 2 * VL + 4;
  return clip(planes - ceil_div(over, size), 0, planes);
}

void SC(sc_same_depthwise)(const sc_kernel *k, const sc_image *image, const float *x, const float *residual, float *y,
                           i64 from, i64 end)
{
  const sc_spec *s = &k->spec;
  const float inf = __builtin_inff();
  i64 size = image->height * image->width, out = image->out_height * image->out_width;
  int late = residual && image->out_width <= VL, clamp = !late && s->activation && s->activation <= SC_RELU6;
  for (i64 p = from; p < end; p++) {
    i64 c = p % s->rows;
    sc_channel plane = {.x = x + p * size, .y = y + p * out, .residual = residual ? residual + p * out : 0,
                        .height = image->height, .width = image->width};
    sc_filter f = {.weights = k->weights + k->strips[c].weight, .bias = k->bias[c], .low = clamp ? 0.f : -inf,
                   .high = clamp && s->activation == SC_RELU6 ? 6.f : inf};
    if (s->stride[0] == 2) channel(3, 2, &plane, &f);
    else if (s->kernel[0] == 3) channel(3, 1, &plane, &f);
    else channel(5, 1, &plane, &f);
    for (i64 i = 0; late && i < out; i++) plane.y[i] += plane.residual[i];
    if (late || s->activation > SC_RELU6) SC(sc_activate)(plane.y, out, s->activation);
  }
}

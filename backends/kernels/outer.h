/* The outer-product micro-kernel: a strip of 16 outputs for a few tokens, all sums in registers. A tap is one row of 16
   weights and one number per token, which the multiply-add broadcasts. */
#ifndef SC_OUTER_H
#define SC_OUTER_H
#include "vecmath.h"

enum { WIDE = 16, WIDE_VECTORS = WIDE / VL };

/* Token counts there is code for; of another count the next one computes, and the last token is not stored. */
#if VB == 64
#define OUTER_SIZES(X) X(6) X(8) X(10) X(12) X(14) X(16) X(18) X(20) X(22) X(24) X(26) X(28)
enum { OUTER_MOST = 28, OUTER_STEP = 2, OUTER_LEAST = 6 };
#else
#define OUTER_SIZES(X) X(1) X(2) X(3) X(4) X(5) X(6)
enum { OUTER_MOST = 6, OUTER_STEP = 1, OUTER_LEAST = 1 };
#endif

INLINE i64 outer_size(i64 tokens)
{
  return tokens < OUTER_LEAST ? OUTER_LEAST : (tokens + OUTER_STEP - 1) / OUTER_STEP * OUTER_STEP;
}

/* One tap of P tokens whose numbers are `apart` floats from each other. */
INLINE void outer_tap(const int P, const int apart, vf acc[OUTER_MOST][WIDE_VECTORS], const float *x, const float *w)
{
  vf weights[WIDE_VECTORS];
  UNROLL for (int n = 0; n < WIDE_VECTORS; n++) weights[n] = load(w + n * VL);
  UNROLL for (int p = 0; p < P; p++) {
    vf number = splat(x[p * apart]);
    UNROLL for (int n = 0; n < WIDE_VECTORS; n++) acc[p][n] += weights[n] * number;
  }
}

INLINE void outer_start(const int P, vf acc[OUTER_MOST][WIDE_VECTORS], const float *bias)
{
  UNROLL for (int n = 0; n < WIDE_VECTORS; n++) {
    vf v = bias ? load(bias + n * VL) : splat(0.f);
    UNROLL for (int p = 0; p < P; p++) acc[p][n] = v;
  }
}

/* Stores `tokens` of the P rows, `pitch` floats from each other. */
INLINE void outer_store(const int P, vf acc[OUTER_MOST][WIDE_VECTORS], float *out, i64 pitch, i64 tokens)
{
  UNROLL for (int p = 0; p < P; p++) {
    if (p >= P - OUTER_STEP && p >= tokens) break;
    UNROLL for (int n = 0; n < WIDE_VECTORS; n++) store(out + n * VL, acc[p][n]);
    out += pitch;
  }
}
#endif

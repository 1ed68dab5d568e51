/* Functions of vectors: exponentials, and what a whole vector amounts to. */
#ifndef SC_VECMATH_H
#define SC_VECMATH_H
#include "vec.h"

#if VL == 16
/* table[index mod 16] in every lane. */
#if defined(__clang__)
INLINE vf pick(vf table, vi index) { return __builtin_shufflevector(table, index & 15); }
#else
INLINE vf pick(vf table, vi index) { return __builtin_shuffle(table, index); }
#endif
#endif

/* 2^f for |f| <= 1/2: a minimax of 9e-8 relative, exact at 0. */
INLINE vf exp2_fraction(vf f)
{
  vf p = splat(1.326472731e-03f);
  p = p * f + 9.671512991e-03f;
  p = p * f + 5.550733581e-02f;
  p = p * f + 2.402224243e-01f;
  p = p * f + 6.931470037e-01f;
  return p * f + 1.f;
}

/* Adding it rounds to an integer, which the low bits then hold: 1.5 * 2^23. */
#define ROUNDER 12582912.f

/* 2^x for -127 <= x <= 127; -127 gives zero. The shift drops all but the integer. */
INLINE vf exp2_vf(vf x)
{
  vf rounded = x + ROUNDER;
  return exp2_fraction(x - (rounded - ROUNDER)) * (vf)(((vi)rounded + 127) << 23);
}

/* e^x for -127 ln 2 <= x <= 127 ln 2, within two ulp. */
INLINE vf exp_in_range(vf x)
{
  vf rounded = x * 1.44269504f + ROUNDER, n = rounded - ROUNDER;
  vf f = (x - n * 0.693359375f) - n * -2.12194440e-4f; /* ln 2 in two parts */
  return exp2_fraction(f * 1.44269504f) * (vf)(((vi)rounded + 127) << 23);
}

INLINE vf exp_vf(vf x) { return exp_in_range(at_most(at_least(x, splat(-87.3f)), splat(88.3f))); }

/* e^x for x <= 0, as a softmax needs it: what is below the normal numbers is exactly zero. */
INLINE vf exp_below(vf x) { return exp_in_range(at_least(x, splat(-88.f))); }

/* Halves folded onto each other: every lane ends up with the largest, or the sum. */
#define SWAP_HALVES(lane, h) ((lane) ^ (h))
#define FOLD(v, h, how) { vf other = __builtin_shufflevector(v, v, LANES(SWAP_HALVES, h)); v = how; }
#if VL == 16
#define FOLDS(v, how) FOLD(v, 8, how) FOLD(v, 4, how) FOLD(v, 2, how) FOLD(v, 1, how)
#elif VL == 8
#define FOLDS(v, how) FOLD(v, 4, how) FOLD(v, 2, how) FOLD(v, 1, how)
#else
#define FOLDS(v, how) FOLD(v, 2, how) FOLD(v, 1, how)
#endif
INLINE float sum_of(vf v) { FOLDS(v, v + other) return v[0]; }
/* A NaN may or may not come through. */
INLINE float largest_of(vf v) { FOLDS(v, at_least(v, other)) return v[0]; }

/* 1 / sqrt(v) of a normal number: Newton steps from a guess by the exponent, since a square root would be a call. */
INLINE float inverse_root(float v)
{
  union { float value; u32 bits; } guess = {v};
  guess.bits = 0x5f3759dfu - (guess.bits >> 1);
  float y = guess.value;
  for (int i = 0; i < 4; i++) y = y * (1.5f - .5f * v * y * y);
  return y;
}

INLINE vf inverse_roots(vf v)
{
  vf y = (vf)(0x5f3759df - ((vi)v >> 1));
  UNROLL for (int i = 0; i < 4; i++) y = y * (1.5f - .5f * v * y * y);
  return y;
}

/* Up to VL floats; lanes that do not exist are `rest`. */
INLINE vf load_some(const float *p, i64 n, float rest)
{
  if (n >= VL) return load(p);
  float padded[VL];
  for (i64 i = 0; i < VL; i++) padded[i] = i < n ? p[i] : rest;
  return load(padded);
}

INLINE void store_some(float *p, vf v, i64 n)
{
  if (n >= VL) {
    store(p, v);
    return;
  }
  float padded[VL];
  store(padded, v);
  for (i64 i = 0; i < n; i++) p[i] = padded[i];
}
#endif

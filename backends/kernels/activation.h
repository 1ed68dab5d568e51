/* The activations that are more than a clamp. Each is exact to a few float32 ulp of its inputs' rounding. */
#ifndef SC_ACTIVATION_H
#define SC_ACTIVATION_H
#include "vec.h"

INLINE vf exp_vf(vf x)
{
  x = at_most(at_least(x, splat(-87.3f)), splat(88.3f));
  const vf shift = splat(12582912.f); /* 1.5 * 2^23: adding it rounds to an integer held in the low bits */
  vf shifted = x * 1.44269504f + shift, n = shifted - shift;
  vf f = (x - n * 0.693359375f) - n * -2.12194440e-4f; /* ln 2 in two parts */
  vf t = f * 1.44269504f;
  vf p = splat(1.546144472e-04f); /* 2^t on [-1/2, 1/2], Chebyshev interpolation, 1e-7 relative */
  p = p * t + 1.340042818e-03f;
  p = p * t + 9.618056678e-03f;
  p = p * t + 5.550327227e-02f;
  p = p * t + 2.402265092e-01f;
  p = p * t + 6.931472067e-01f;
  p = p * t + 1.f;
  vi power = ((vi)shifted - (vi)shift + 127) << 23;
  return p * (vf)power;
}

/* erf(x)/x is smooth in x^2: degree 14 by Chebyshev interpolation on |x| <= 3.8, 3e-7 relative; beyond, one. */
INLINE vf erf_vf(vf x)
{
  const float edge = 3.8f;
  vf square = at_most(x * x, splat(edge * edge)), u = square * (2.f / (edge * edge)) - 1.f;
  vf p = splat(1.186225980e-03f);
  p = p * u - 2.798850310e-03f;
  p = p * u + 1.846335063e-03f;
  p = p * u - 2.991377240e-03f;
  p = p * u + 1.059229617e-02f;
  p = p * u - 1.868470503e-02f;
  p = p * u + 2.630480285e-02f;
  p = p * u - 3.874899632e-02f;
  p = p * u + 5.517497256e-02f;
  p = p * u - 7.256521544e-02f;
  p = p * u + 9.081587349e-02f;
  p = p * u - 1.111800974e-01f;
  p = p * u + 1.377403883e-01f;
  p = p * u - 1.856413705e-01f;
  p = p * u + 3.721076135e-01f;
  vf y = select_vf(x > edge, splat(1.f), p * x);
  return select_vf(x < -edge, splat(-1.f), y);
}

INLINE vf sigmoid_vf(vf x) { return 1.f / (1.f + exp_vf(-x)); }

INLINE vf activate_vf(vf x, const i32 activation)
{
  switch (activation) {
  case SC_RELU: return at_least(x, splat(0.f));
  case SC_RELU6: return at_most(at_least(x, splat(0.f)), splat(6.f));
  case SC_HARDSWISH: return x * at_most(at_least(x * (1.f / 6.f) + .5f, splat(0.f)), splat(1.f));
  case SC_SILU: return x * sigmoid_vf(x);
  case SC_GELU: return .5f * x * (1.f + erf_vf(x * .707106781f));
  case SC_GELU_TANH: return x * sigmoid_vf(1.595769122f * (x + .044715f * x * x * x));
  case SC_SIGMOID: return sigmoid_vf(x);
  default: return x;
  }
}

/* n floats at p in place; the ragged end goes through a padded copy, so that every element takes the same arithmetic. */
INLINE void activate_with(float *p, i64 n, const i32 activation)
{
  for (; n >= VL; n -= VL, p += VL) store(p, activate_vf(load(p), activation));
  if (!n) return;
  float padded[VL];
  for (int i = 0; i < VL; i++) padded[i] = i < n ? p[i] : 0.f;
  store(padded, activate_vf(load(padded), activation));
  for (int i = 0; i < n; i++) p[i] = padded[i];
}

#endif

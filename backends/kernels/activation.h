/* The activations: exact to a few float32 ulp of their inputs' rounding, gelu to 2e-6. */
#ifndef SC_ACTIVATION_H
#define SC_ACTIVATION_H
#include "vecmath.h"

/* x/2 (1 + erf(x / sqrt 2)), within 2e-6: erf(x / sqrt 2)/x is smooth in x^2, a weighted minimax of degree 12 on |x| <= 5.2;
   beyond, the polynomial stays at its last value, which the clamp turns into one. */
INLINE vf gelu_vf(vf x)
{
  const float edge = 5.2f;
  vf u = at_most(x * x * (2.f / (edge * edge)) - 1.f, splat(1.f));
  vf p = splat(1.762127620e-03f);
  p = p * u - 5.063383840e-03f;
  p = p * u + 5.622000434e-03f;
  p = p * u - 6.893195212e-03f;
  p = p * u + 1.516843494e-02f;
  p = p * u - 2.629510500e-02f;
  p = p * u + 3.676389530e-02f;
  p = p * u - 4.915884882e-02f;
  p = p * u + 6.381415576e-02f;
  p = p * u - 7.988607883e-02f;
  p = p * u + 1.000605449e-01f;
  p = p * u - 1.354867220e-01f;
  p = p * u + 2.718999088e-01f;
  vf gate = at_most(at_least(x * p, splat(-1.f)), splat(1.f)), half = .5f * x;
  return half * gate + half;
}

INLINE vf sigmoid_vf(vf x) { return 1.f / (1.f + exp_vf(-x)); }

INLINE vf activate_vf(vf x, const i32 activation)
{
  switch (activation) {
  case SC_RELU: return at_least(x, splat(0.f));
  case SC_RELU6: return at_most(at_least(x, splat(0.f)), splat(6.f));
  case SC_HARDSWISH: return x * at_most(at_least(x * (1.f / 6.f) + .5f, splat(0.f)), splat(1.f));
  case SC_SILU: return x * sigmoid_vf(x);
  case SC_GELU: return gelu_vf(x);
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

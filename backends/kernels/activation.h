/* The activations: exact to a few float32 ulp of their inputs' rounding, gelu to 2e-6. */
#ifndef SC_ACTIVATION_H
#define SC_ACTIVATION_H
#include "vecmath.h"

/* 1 + e^-x for a quotient, to which an absolute error of 2e-7 matters alone: one subtraction reduces the exponent. */
INLINE vf one_plus_exp_minus(vf x)
{
  vf t = at_least(at_most(x * -1.44269504f, splat(126.f)), splat(-126.f)), rounded = t + ROUNDER;
  return 1.f + exp2_fraction(t - (rounded - ROUNDER)) * (vf)(((vi)rounded + 127) << 23);
}

INLINE vf sigmoid_vf(vf x) { return 1.f / one_plus_exp_minus(x); }

#if VL == 16
/* An x Phi(x) with Phi(x) + Phi(-x) = 1 is max(x, 0) less an even bump of |x|. The bump in 16 pieces, which is what one
   permutation looks up: piece i is a minimax of degree 4 around i / per; row d holds the coefficients of power d. */
typedef struct { float per; vf_at rows[5]; } sc_bump;
static const sc_bump gelu_bump = {2.766071429f, {
    {0.000000000e+00f, -1.297341734e-01f, -1.697898805e-01f, -1.508159935e-01f, -1.071199998e-01f, -6.386856735e-02f,
     -3.261515498e-02f, -1.440536883e-02f, -5.532296374e-03f, -1.853113296e-03f, -5.424203700e-04f, -1.389102108e-04f,
     -3.114913488e-05f, -6.119423233e-06f, -1.053647793e-06f, -1.590455554e-07f},
    {-1.807619184e-01f, -8.089343458e-02f, -4.602565430e-03f, 3.659762070e-02f, 4.652744904e-02f, 3.811684996e-02f,
     2.432413772e-02f, 1.278867759e-02f, 5.674877204e-03f, 2.152129309e-03f, 7.026434178e-04f, 1.984106639e-04f,
     4.860795889e-05f, 1.035405148e-05f, 1.920722980e-06f, 3.106625002e-07f},
    {5.214383826e-02f, 4.565044492e-02f, 2.965326793e-02f, 1.192679908e-02f, -8.350290009e-04f, -6.450002082e-03f,
     -6.708781235e-03f, -4.670660477e-03f, -2.532632323e-03f, -1.124933828e-03f, -4.189724277e-04f, -1.325367484e-04f,
     -3.589333573e-05f, -8.365515896e-06f, -1.684087465e-06f, -2.936231454e-07f},
    {-1.253486607e-05f, -4.080948886e-03f, -6.037399638e-03f, -5.318544339e-03f, -3.050022060e-03f, -8.283639327e-04f,
     4.417910532e-04f, 7.699697162e-04f, 6.041349261e-04f, 3.397513065e-04f, 1.510711445e-04f, 5.521233470e-05f,
     1.691647594e-05f, 4.395965789e-06f, 9.761851061e-07f, 1.862056820e-07f},
    {-1.113634324e-03f, -8.192924433e-04f, -1.360102178e-04f, 4.430734552e-04f, 6.201601354e-04f, 4.529255966e-04f,
     1.850351109e-04f, -2.714306504e-07f, -6.577184104e-05f, -5.965325909e-05f, -3.446758274e-05f, -1.513363986e-05f,
     -5.351145319e-06f, -1.565958769e-06f, -3.851490931e-07f, -8.039041433e-08f}}};
static const sc_bump gelu_tanh_bump = {2.978846154f, {
    {0.000000000e+00f, -1.237257123e-01f, -1.685581654e-01f, -1.582127959e-01f, -1.206397489e-01f, -7.840468735e-02f,
     -4.419034347e-02f, -2.169392444e-02f, -9.248645045e-03f, -3.397698747e-03f, -1.063972362e-03f, -2.803645621e-04f,
     -6.129968097e-05f, -1.095817152e-05f, -1.577600187e-06f, -1.801217877e-07f},
    {-1.678503156e-01f, -8.124271780e-02f, -1.256434061e-02f, 2.842096239e-02f, 4.288792610e-02f, 3.949146718e-02f,
     2.838980220e-02f, 1.694468781e-02f, 8.558627218e-03f, 3.666880308e-03f, 1.324701123e-03f, 3.993356659e-04f,
     9.917490388e-05f, 2.000874701e-05f, 3.231600658e-06f, 4.115730974e-07f},
    {4.496027157e-02f, 4.008004442e-02f, 2.776063234e-02f, 1.335678622e-02f, 1.886829734e-03f, -4.399481229e-03f,
     -6.080673542e-03f, -5.091218743e-03f, -3.272942966e-03f, -1.707689255e-03f, -7.329960354e-04f, -2.583253081e-04f,
     -7.410599210e-05f, -1.710328252e-05f, -3.134164672e-06f, -4.496851034e-07f},
    {-8.227258149e-06f, -3.089505248e-03f, -4.749339540e-03f, -4.507869482e-03f, -2.990946174e-03f, -1.247430686e-03f,
     -9.330315152e-06f, 5.440210225e-04f, 5.972007639e-04f, 4.259816196e-04f, 2.315589081e-04f, 9.958604642e-05f,
     3.410673526e-05f, 9.261510968e-06f, 1.976266276e-06f, 3.277282019e-07f},
    {-8.340635104e-04f, -6.390893250e-04f, -1.708488271e-04f, 2.624501649e-04f, 4.494054592e-04f, 3.913757391e-04f,
     2.213318367e-04f, 6.418258272e-05f, -2.555878564e-05f, -5.164815593e-05f, -4.222543066e-05f, -2.383313767e-05f,
     -1.010806045e-05f, -3.288983862e-06f, -8.227377180e-07f, -1.573962152e-07f}}};

INLINE vf without_bump(vf x, const sc_bump *b)
{
  vf at = at_most((vf)((vi)x & 0x7fffffff) * b->per, splat(15.49f)), rounded = at + ROUNDER;
  vf f = at - (rounded - ROUNDER), p = pick(b->rows[4], (vi)rounded);
  UNROLL for (int d = 3; d >= 0; d--) p = p * f + pick(b->rows[d], (vi)rounded);
  return at_least(x, splat(0.f)) + p;
}

/* Within 5e-7. */
INLINE vf gelu_vf(vf x) { return without_bump(x, &gelu_bump); }
INLINE vf gelu_tanh_vf(vf x) { return without_bump(x, &gelu_tanh_bump); }
#else
/* x/2 (1 + erf(x / sqrt 2)), within 2e-6: erf(x / sqrt 2)/x is smooth in x^2, a weighted minimax of degree 12 on
   |x| <= 5.2; beyond, the polynomial stays at its last value, which the clamp turns into one. */
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

INLINE vf gelu_tanh_vf(vf x) { return x * sigmoid_vf(1.595769122f * (x + .044715f * x * x * x)); }
#endif

INLINE vf hardsigmoid_vf(vf x) { return at_most(at_least(x * (1.f / 6.f) + .5f, splat(0.f)), splat(1.f)); }

INLINE vf activate_vf(vf x, const i32 activation)
{
  switch (activation) {
  case SC_RELU: return at_least(x, splat(0.f));
  case SC_RELU6: return at_most(at_least(x, splat(0.f)), splat(6.f));
  case SC_HARDSWISH: return x * hardsigmoid_vf(x);
  case SC_SILU: return x / one_plus_exp_minus(x);
  case SC_GELU: return gelu_vf(x);
  case SC_GELU_TANH: return gelu_tanh_vf(x);
  case SC_SIGMOID: return sigmoid_vf(x);
  case SC_HARDSIGMOID: return hardsigmoid_vf(x);
  default: return x;
  }
}

/* n floats at p in place; the last vector overlaps the one before, so that every element takes the same arithmetic. */
INLINE void activate_with(float *p, i64 n, const i32 activation)
{
  if (n >= VL) {
    const vf last = load(p + n - VL);
    for (i64 i = 0; i + VL < n; i += VL) store(p + i, activate_vf(load(p + i), activation));
    store(p + n - VL, activate_vf(last, activation));
  } else if (n > 0) store_some(p, activate_vf(load_some(p, n, 0.f), activation), n);
}

#endif

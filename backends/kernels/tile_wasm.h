/* The micro-kernel for WebAssembly, whose engines compile what they are given: with 16 registers, no prefetch, a check of the
   stack in every turn of a loop, and memory read again after every store that could have changed it. */
#ifndef SC_TILE_WASM_H
#define SC_TILE_WASM_H

/* As in tile.c. Few accumulators are doubled, for the latency of their sums; taps go in pairs. */
INLINE void tile(const int MR, const int NR, const int PX, const sc_kernel *k, const sc_strip *s, const sc_strip *end,
                 const sc_tile *t)
{
  const int U = MR * NR >= 8 ? 1 : 2;
  const sc_tile own = *t;
  const i32 last = NR > 1 && !PX ? (i32)own.last : (NR - 1) * VL, pitch = (i32)own.pitch, apart = (i32)own.residual_pitch;
  const float *const weights = k->weights, *const biases = k->bias;
  const int clamp = own.activation == SC_RELU || own.activation == SC_RELU6;
  const vf low = splat(0.f), high = splat(own.activation == SC_RELU6 ? 6.f : __builtin_inff());
  for (; s < end; s++) {
    vf acc[2][SC_MAX_MR][SC_MAX_NR];
    float pixel[SC_MAX_MR];
    const float *bias = biases + s->row;
    UNROLL for (int r = 0; r < MR; r++) {
      vf b = splat(bias[r]);
      if (PX) pixel[r] = bias[r];
      UNROLL for (int u = 0; u < U; u++) UNROLL for (int n = 0; n < NR; n++) acc[u][r][n] = u ? splat(0.f) : b;
    }
    const i32 *o = own.offsets + s->tap;
    const float *w = weights + s->weight;
    i32 left = s->taps;
#define TAP(u, at)                                                                               \
  {                                                                                              \
    const float *x = own.x + o[at];                                                              \
    vf xv[SC_MAX_NR];                                                                            \
    UNROLL for (int n = 0; n < NR; n++) xv[n] = load(x + (n == NR - 1 ? last : n * VL));         \
    UNROLL for (int r = 0; r < MR; r++) {                                                        \
      vf wv = splat(w[(at) * MR + r]);                                                           \
      UNROLL for (int n = 0; n < NR; n++) acc[u][r][n] += xv[n] * wv;                            \
      if (PX) pixel[r] += x[NR * VL] * w[(at) * MR + r];                                         \
    }                                                                                            \
  }
    if (U == 2) for (; left > 1; left -= 2, o += 2, w += 2 * MR) {
      TAP(0, 0)
      TAP(1, 1)
    }
    for (; left > 0; left--, o++, w += MR) TAP(0, 0)
#undef TAP
    float *y = own.y + (i32)(s->row - own.row) * pitch;
    const float *residual = own.residual + (i32)(s->row - own.row) * apart;
    UNROLL for (int r = 0; r < MR; r++) {
      UNROLL for (int n = 0; n < NR; n++) {
        vf v = acc[0][r][n];
        if (U == 2) v += acc[1][r][n];
        const i32 to = n == NR - 1 ? last : n * VL;
        if (own.residual) v += load(residual + r * apart + to);
        store(y + r * pitch + to, clamp ? at_most(at_least(v, low), high) : v);
      }
      if (PX) {
        float v = pixel[r] + (own.residual ? residual[r * apart + NR * VL] : 0.f);
        if (clamp && v < 0.f) v = 0.f;
        if (own.activation == SC_RELU6 && v > 6.f) v = 6.f;
        y[r * pitch + NR * VL] = v;
      }
    }
    if (own.activation > SC_RELU6) SC(sc_activate_rows)(y, MR, pitch, last + VL + PX, own.activation);
  }
}
#endif

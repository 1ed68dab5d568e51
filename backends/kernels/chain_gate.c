/* A factor for each channel that the first layer of a chain reads, as a squeeze-and-excite makes it: the weights are
   multiplied, which are fewer than the pixels. */
#include "chain.h"

INLINE void scale_strip(const int MR, const sc_strip *s, const float *w, const i32 *channels, const float *factors, float *to)
{
  for (i64 i = 0; i < s->taps; i++, w += MR, to += MR) {
    const float factor = factors[channels[i]];
    UNROLL for (int r = 0; r < MR; r++) to[r] = w[r] * factor;
  }
}

void SC(sc_gate_scale)(const sc_gate *g, const sc_kernel *k, const float *factors, float *to)
{
#define SCALE(mr, nr)                                                                                         \
  case mr: scale_strip(mr, s, k->weights + s->weight, g->channels + s->tap, factors, to + s->weight); break;
  for (const sc_strip *s = k->strips; s < k->strips + k->strip_count; s++) switch (s->mr) { SC_WIDEST(SCALE) }
}

const char *SC(sc_gate_make)(const sc_host *host, const sc_kernel *k, sc_gate *g)
{
  const sc_spec *s = &k->spec;
  const i64 depth = s->channels * s->kernel[0] * s->kernel[1];
  g->channels = sc_get(host, k->column_count * (i64)sizeof *g->channels);
  if (!g->channels) return "there is no memory for it";
  for (i64 i = 0; i < k->column_count; i++)
    g->channels[i] = (i32)(k->columns[i] / depth * s->channels + k->columns[i] % depth % s->channels);
  for (i64 i = 0; i < k->strip_count; i++) g->floats += (i64)k->strips[i].taps * k->strips[i].mr;
  return 0;
}

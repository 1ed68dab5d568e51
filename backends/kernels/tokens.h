/* Row-major tokens turned feature-major, where a token is a pixel, and back. */
#ifndef SC_TOKENS_H
#define SC_TOKENS_H
#include "pack.h"
#include "vecmath.h"

/* Features [first, end) of `count` tokens of `depth` features at x, feature-major, `pitch` floats between features; tokens
   that do not exist are zero. first is a multiple of VL. */
static inline void pack_tokens(const float *x, i64 depth, i64 count, float *to, i64 pitch, i64 first, i64 end)
{
  for (i64 f = first; f < end; f += VL)
    for (i64 t = 0; t < count; t += VL) {
      vf v[VL];
      const float *from = x + t * depth + f;
      UNROLL for (int i = 0; i < VL; i++) v[i] = t + i < count ? load_some(from + i * depth, end - f, 0.f) : splat(0.f);
      transpose(v);
      UNROLL for (int i = 0; i < VL; i++) if (f + i < end) store(to + (f + i) * pitch + t, v[i]);
    }
}

/* Where results of `outputs` features per token go. */
typedef struct {
  float *y;
  const float *residual;         /* like y, or null */
  i64 outputs;
  i32 activation;
} sc_rows;

/* rows x count results, feature-major at `from` with a vector of room behind, into (token, row) with the residual and, where
   there is one, the activation: without one the caller has applied it to all of `from` at once. */
static inline void unpack_rows(const sc_rows *r, const float *from, i64 pitch, i64 token, i64 count, i64 row, i64 rows)
{
  for (i64 t = 0; t < count; t += VL)
    for (i64 done = 0; done < rows; done += VL) {
      i64 at = rows >= VL && done > rows - VL ? rows - VL : done; /* the last vector may overlap the one before */
      vf v[VL];
      UNROLL for (int i = 0; i < VL; i++) v[i] = load(from + (at + i) * pitch + t);
      transpose(v);
      for (i64 i = 0; i < VL && t + i < count; i++) {
        i64 to = (token + t + i) * r->outputs + row + at;
        if (rows >= VL) store(r->y + to, r->residual ? v[i] + load(r->residual + to) : v[i]);
        else for (i64 n = 0; n < rows; n++) r->y[to + n] = v[i][n] + (r->residual ? r->residual[to + n] : 0.f);
      }
    }
  if (r->residual && r->activation)
    for (i64 t = 0; t < count; t++) SC(sc_activate)(r->y + (token + t) * r->outputs + row, rows, r->activation);
}
#endif

/* 3x3 depthwise rows in short vectors, for WebAssembly: two rows at once, along their columns, since to find a row takes as long
   as several products. */
#ifndef SC_DEPTHWISE_WASM_H
#define SC_DEPTHWISE_WASM_H

enum { ALONG = 2 };              /* output rows at once */

/* A vector of columns of N rows; an input is loaded once for all the output rows it belongs to. */
INLINE void block3(const int N, const int S, const int EDGE, const sc_channel *c, const sc_filter *f, const vf *w,
                   const float *const *from, i64 row, i64 column)
{
  vf acc[ALONG];
  UNROLL for (int n = 0; n < N; n++) acc[n] = splat(f->bias);
  UNROLL for (int i = 0; i < S * (N - 1) + 3; i++) UNROLL for (int kw = 0; kw < 3; kw++) {
    vf u = tap_of(S, EDGE, from[i] + S * column, kw - 1, c->width);
    UNROLL for (int n = 0; n < N; n++) if (i >= S * n && i < S * n + 3) acc[n] += u * w[3 * (i - S * n) + kw];
  }
  UNROLL for (int n = 0; n < N; n++) put(EDGE, c, f, (row + n) * c->width + column, acc[n]);
}

/* All columns of N rows; the right edge reaches beyond its vector. */
INLINE void rows3(const int N, const int S, const sc_channel *c, const sc_filter *f, const vf *w, sc_cursor *at, i64 row)
{
  const int right = S == 1 ? RIGHT : 0, reach = 1;
  const float *from[2 * ALONG + 1];
  UNROLL for (int i = 0; i < S * N; i++) from[i] = next_row(c, at);
  sc_cursor ahead = *at;
  UNROLL for (int i = S * N; i < S * (N - 1) + 3; i++) from[i] = next_row(c, &ahead);
  const i64 width = c->width;
  i64 column = VL;
  if (width <= VL) {
    block3(N, S, LEFT | right | SHORT, c, f, w, from, row, 0);
    return;
  }
  block3(N, S, LEFT, c, f, w, from, row, 0);
  for (; column + VL + reach <= width; column += VL) block3(N, S, 0, c, f, w, from, row, column);
  if (column < width - VL) block3(N, S, 0, c, f, w, from, row, width - VL - reach);
  block3(N, S, right, c, f, w, from, row, width - VL);
}

INLINE void along3(const int S, const sc_channel *c, const sc_filter *f, const vf *w, i64 rows)
{
  sc_cursor at = {c->first, c->slot};
  i64 row = 0;
  for (; row + ALONG <= rows; row += ALONG) rows3(ALONG, S, c, f, w, &at, row);
  if (row < rows) rows3(1, S, c, f, w, &at, row);
}
#endif

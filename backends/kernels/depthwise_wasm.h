/* Depthwise rows for WebAssembly. Engines put the loads of a block of code before all that is computed from them, so a turn of
   the loop takes one row of X, or two where the stride is: then weights and sums stay in registers. They have a worse way to
   share out the registers of large functions, so each kind of strip is a function of its own. */
#ifndef SC_DEPTHWISE_WASM_H
#define SC_DEPTHWISE_WASM_H

/* Rows of X from the cursor on that lie below each other; none where the first is outside. */
INLINE i64 rows_together(const sc_channel *c, const sc_cursor *at)
{
  const sc_lines *l = c->lines;
  return at->row < 0 ? 0 : clip(l->height - at->row, 0, l->held - at->slot);
}

INLINE void skip_rows(const sc_channel *c, sc_cursor *at, i64 rows)
{
  at->row += rows, at->slot += rows;
  if (at->slot >= c->lines->held) at->slot -= c->lines->held;
}

/* The sum and three more products, one after the other: a multiply-add each. */
INLINE vf with_row(vf sum, const vf *u, const vf *w)
{
  UNROLL for (int i = 0; i < 3; i++) sum += u[i] * w[i];
  return sum;
}

INLINE void taps_of_row(const int S, const int EDGE, const float *from, i64 width, vf *u)
{
  UNROLL for (int i = 0; i < 3; i++) u[i] = tap_of(S, EDGE, from, i - 1, width);
}

INLINE void down3(const int S, const int EDGE, const sc_channel *c, const sc_filter *f, i64 column, i64 rows)
{
  const vf bias = splat(f->bias);
  vf w[9];
  UNROLL for (int i = 0; i < 9; i++) {
    w[i] = splat(f->weights[i]);
    KEEP(w[i]);
  }
  sc_cursor at = {c->first, c->slot};
  vf u[3], sum = bias, next = bias;
  UNROLL for (int i = S; i < 3; i++) { /* rows that the first output row shares with the one above it */
    taps_of_row(S, EDGE, next_row(c, &at) + S * column, c->width, u);
    sum = with_row(next, u, w + 3);
    next = with_row(bias, u, w);
  }
  const i64 pitch = c->lines->width;
  i64 to = column;
  for (i64 left = rows; left > 0;) {
    const float *from[2];
    i64 count = clip(rows_together(c, &at) / S, 1, left);
    UNROLL for (int s = 0; s < S; s++) from[s] = next_row(c, &at) + S * column;
    skip_rows(c, &at, S * (count - 1));
    left -= count;
    for (i32 n = (i32)count; n; n--, to += c->width) {
      if (S == 2) {
        taps_of_row(S, EDGE, from[0], c->width, u);
        sum = with_row(next, u, w + 3);
      }
      taps_of_row(S, EDGE, from[S - 1], c->width, u);
      const vf v = with_row(sum, u, w + 6);
      if (S == 1) sum = with_row(next, u, w + 3);
      next = with_row(bias, u, w);
      put(EDGE, c, f, to, v);
      UNROLL for (int s = 0; s < S; s++) from[s] += S * pitch;
    }
  }
}

/* Side, stride and edges of every kind. */
#define STRIPS(X)                                                              \
  X(3, 1, 0) X(3, 1, 1) X(3, 1, 2) X(3, 1, 7) X(3, 2, 0) X(3, 2, 1) X(3, 2, 5) \
  X(5, 1, 0) X(5, 1, 1) X(5, 1, 2) X(5, 1, 7) X(5, 2, 0) X(5, 2, 1) X(5, 2, 2) X(5, 2, 7)
#define DEFINE_STRIP(side, s, edge)                                                                                    \
  __attribute__((noinline)) static void strip_##side##_##s##_##edge(const sc_channel *c, const sc_filter *f, i64 column, \
                                                                    i64 rows)                                          \
  {                                                                                                                    \
    const sc_channel own = *c; /* what a store may have changed is read again after it */                              \
    const sc_filter filter = *f;                                                                                       \
    if (side == 3) down3(s, edge, &own, &filter, column, rows);                                                        \
    else down5(s, edge, &own, &filter, column, rows);                                                                  \
  }
STRIPS(DEFINE_STRIP)

#define CALL_STRIP(side, s, edge) if (SIDE == side && S == s && EDGE == edge) strip_##side##_##s##_##edge(c, f, column, rows);
INLINE void down(const int SIDE, const int S, const int EDGE, const sc_channel *c, const sc_filter *f, const vf *w, i64 column,
                 i64 rows)
{
  (void)w;
  STRIPS(CALL_STRIP)
}
#endif

/* The micro-kernel: mr output rows by nr vectors of pixels, one broadcast weight per row and tap. */
#ifndef SC_TILE_H
#define SC_TILE_H
#include "kernel.h"

enum { SC_WEIGHT_FLOATS = 8 * 1024 / 4 }; /* used on all pixels at hand before the next: they stay in the first-level cache */

typedef struct {
  const float *x;                /* the tile's first pixel */
  const i32 *offsets;            /* per tap of the kernel, from x */
  i64 row;                       /* the output row at y */
  float *y;                      /* that row's first pixel */
  const float *residual;         /* like y, or null */
  i64 pitch, residual_pitch;     /* floats between rows of y, and of residual */
  i64 last;                      /* floats from the first pixel to the last vector, which may overlap the one before */
  i32 activation;
} sc_tile;

/* Strips [first, end) over one tile of nr vectors and px (0 or 1) pixels. */
HIDDEN void SC(sc_tile_strips)(const sc_kernel *kernel, i64 first, i64 end, const sc_tile *tile, i32 nr, i32 px);
/* Pixels that follow each other in X and in Y: their inputs, and where the results of row 0 go. */
typedef struct {
  const float *x;
  const i32 *offsets;            /* per tap, from x */
  float *y;
  const float *residual;         /* or null */
  i64 pitch, residual_pitch;     /* floats between rows of y, and of residual */
  i64 count;
  i32 activation;
} sc_stretch;
/* Strips [first, end) over them. */
HIDDEN void SC(sc_conv_pixels)(const sc_kernel *kernel, const sc_stretch *pixels, i64 first, i64 end);
/* The activation of n floats in place, or of so many of each of some rows. */
HIDDEN void SC(sc_activate)(float *p, i64 n, i32 activation);
HIDDEN void SC(sc_activate_rows)(float *p, i64 rows, i64 pitch, i64 n, i32 activation);

/* The pixels [0, count) of a row cut into tiles of at most `widest` vectors, equal to within one vector. A single pixel
   left over rides along with the last tile; more make one more vector, which overlaps its neighbour. The last piece is the
   largest and `widest` is at least 2, so that the overlap stays within one piece. count >= VL. */
typedef struct { i64 vectors, pieces; i32 pixel; i64 count; } sc_cut;
typedef struct { i64 start, last; i32 nr, px; } sc_piece;

static inline sc_cut cut_pixels(i64 count, i32 mr)
{
  sc_cut c = {(count + VL - 1) / VL, 0, 0, count};
  if (count % VL == 1 && count > VL) c.vectors--, c.pixel = 1;
  c.pieces = (c.vectors + sc_widest[mr] - 1) / sc_widest[mr];
  return c;
}

static inline sc_piece cut_piece(const sc_cut *c, i64 i)
{
  i64 from = c->vectors * i / c->pieces, to = c->vectors * (i + 1) / c->pieces, end = i == c->pieces - 1;
  i64 start = from * VL, last = (to - from - 1) * VL;
  if (end && !c->pixel) last = c->count - VL - start;
  return (sc_piece){start, last, (i32)(to - from), end ? c->pixel : 0};
}
#endif

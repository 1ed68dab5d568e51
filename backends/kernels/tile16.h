/* The micro-kernel of layout C16: 16 output channels, one or a few vectors, for R rows of Q pixels whose sums stay in registers.
   A tap is 16 weights and one number per pixel, which the multiply-add broadcasts. */
#ifndef SC_TILE16_H
#define SC_TILE16_H
#include "kernel.h"
#include "vec.h"

enum { WIDE = 16, WIDE_VECTORS = WIDE / VL };

/* The tiles there is code for: rows and pixels of a row. */
#if VB == 64
#define SC_TILES16_ROW(X) X(1, 1) X(1, 2) X(1, 4) X(1, 6) X(1, 7) X(1, 8) X(1, 10) X(1, 12) X(1, 14) X(1, 16) X(1, 18) \
                          X(1, 20) X(1, 22) X(1, 24) X(1, 25) X(1, 26) X(1, 28)
#define SC_TILES16_ROWS(X) X(2, 4) X(2, 6) X(2, 7) X(2, 8) X(2, 10) X(2, 12) X(2, 14) X(3, 4) X(3, 6) X(3, 7) X(3, 8) \
                           X(4, 4) X(4, 6) X(4, 7)
enum { MOST16 = 28, MOST16_ROWS = 4 };
#else
#define SC_TILES16_ROW(X) X(1, 1) X(1, 2) X(1, 3) X(1, 4) X(1, 5) X(1, 6)
#define SC_TILES16_ROWS(X)
enum { MOST16 = 6, MOST16_ROWS = 1 };
#endif

/* One tile of one block of outputs. */
typedef struct {
  const float *x;                /* the input of its first pixel through a tap of offset 0 */
  i64 row;                       /* floats of x between output rows */
  const i32 *offsets;            /* C16: per slot of 16 channels; planes: per tap position */
  const i32 *tap, *end;          /* positions: slot * 16 + channel of the slot, plus `first` */
  i64 first;
  const float *weights, *bias;   /* 16 per tap; 16 */
  const float *residual;         /* like y, or null */
  float *y;
  i64 pitch;                     /* floats of y between rows */
  i64 columns;                   /* pixels of a row that are stored: all, or fewer when it is wider than the image */
  float low, high;               /* results are clamped */
} sc_tile16;

/* Runs a tile of R x Q pixels; planes: pixels of x are one float apart instead of 16, and R is one. */
HIDDEN void SC(sc_run_tile16)(const sc_tile16 *tile, i64 rows, i64 columns, int planes);
/* The narrowest tile of so many rows and at least so many pixels; zero when there is none. */
HIDDEN i64 SC(sc_tile16_columns)(i64 rows, i64 columns);
#endif

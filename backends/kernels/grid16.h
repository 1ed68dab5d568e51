/* A convolution in layout C16 over a grid of output pixels: an image, a band of its rows, or, where rows make no difference,
   one long row. */
#ifndef SC_GRID16_H
#define SC_GRID16_H
#include "weight16.h"

enum { WIDEST_NEAR = 512 };      /* inputs of which half a tile fits the first-level cache */

/* Whether so few taps read a slot that fetching its pixels takes longer than their multiply-adds. */
static inline int sc_is_thin16(const sc_weight16 *w) { return VL == WIDE && w->taps * 2 < w->blocks * w->slots * 5; }

/* How a grid is cut into tiles. Pieces overlap where they do not divide it. */
typedef struct {
  i64 height, width;             /* of the grid */
  i64 rows, columns;             /* of a tile */
  i64 down, across;              /* pieces */
} sc_cut16;

typedef struct {
  const float *x;                /* the input of the first pixel through a tap of offset 0 */
  i64 row;                       /* floats of x between rows of the grid */
  const i32 *offsets;            /* as in sc_tile16 */
  int planes;
  i64 panel;                     /* floats of x between tiles that lie apart, or 0 */
  float *y;
  const float *residual;         /* like y, or null */
  i64 pitch, apart;              /* floats of y between rows and between blocks of outputs */
  i32 activation;
} sc_grid16;

/* The best cut into tiles of at most `most` <= MOST16 pixels. exact: none may be wider than the grid, because nothing lies
   behind it. */
HIDDEN sc_cut16 SC(sc_cut16)(i64 height, i64 width, i64 most, int exact, int planes);
/* The same for one long row of a 1x1 convolution. */
HIDDEN sc_cut16 SC(sc_cut_flat16)(const sc_weight16 *w, i64 pixels);
/* Where a tile begins. */
typedef struct { i64 top, left, rows; } sc_place16;
HIDDEN sc_place16 SC(sc_place16)(const sc_cut16 *cut, i64 tile);
/* Tiles [first, end) of a grid for the blocks [from, to) of outputs. */
HIDDEN void SC(sc_grid16)(const sc_weight16 *w, const sc_grid16 *grid, const sc_cut16 *cut, i64 first, i64 end, i64 from, i64 to);
#endif

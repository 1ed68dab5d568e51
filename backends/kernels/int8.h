/* int8 convolutions: bytes in layout C4, so that a 4x4 block of weights meets the four channels of a pixel in one lane. */
#ifndef SC_INT8_H
#define SC_INT8_H
#include "dot4.h"
#include "kernel.h"
#include "region.h"

/* A pixel: four channels. */
typedef i32 dword __attribute__((aligned(1), may_alias));

/* How sums of four output channels become bytes: round(sum * multiplier) + zero, clamped. */
typedef struct {
  i32 *bias;                     /* per row, rows padded to a multiple of four */
  float *multiplier;
  i32 zero, low, high;           /* of bytes as they lie in memory: less SC_X_BIAS */
} sc_requant;

/* A packed weight: strips of four output rows. */
typedef struct {
  i64 strips;
  const i64 *tap;                /* per strip and one more: its first tap */
  const i32 *weights;            /* per tap: four dwords, one per row, each of four inputs */
  sc_requant out;
} sc_int8_weight;

enum { SC_INT8_NR = VB == 32 ? 2 : 6, SC_INT8_PIXELS = 3 };

typedef struct {
  const x8 *x;                   /* the tile's first pixel */
  const i32 *offsets;            /* per tap of the weight, bytes from x */
  x8 *y;                         /* its place in the plane of strip 0 */
  i64 pitch;                     /* bytes between planes of y */
  i64 last;                      /* bytes from the first pixel to the last vector, which may overlap the one before */
} sc_int8_tile;

/* A depthwise window: rows of pixels of four channels. Four taps at a time are zipped: any four, `groups` times, or, where
   `columns` is not 0, those of four rows, for every fourth row and every column phase. */
typedef struct {
  const x8 *const *taps;         /* where each tap's first pixel lies; two whole vectors may be read there */
  const i32 *weights[2];         /* per four taps: a dword of them for each of the four channels; the second, where there
                                    is one, gives the row of outputs below from the same taps */
  i64 groups;
  i32 columns, stride;           /* 3 or 5, and 1 or 2; or 0 */
  const i32 *bias;
  const float *multiplier;
  i32 zero, low, high;
  x8 *y;
  i64 rows, pixels;              /* of y */
  i64 step;                      /* bytes from the taps of a row to those of the next */
} sc_int8_window;

/* The loops around dot4: built once with and once without the instruction. */
typedef struct {
  /* Strips [first, end) over nr vectors of pixels, 1 to SC_INT8_NR. */
  void (*tile)(const sc_int8_weight *weight, i64 first, i64 end, const sc_int8_tile *tile, i32 nr);
  /* The same over 1 to SC_INT8_PIXELS single pixels. */
  void (*pixels)(const sc_int8_weight *weight, i64 first, i64 end, const sc_int8_tile *tile, i32 count);
  void (*window)(const sc_int8_window *window);
} sc_int8_cores;

extern HIDDEN const sc_int8_cores SC(sc_int8_cores);

/* Planes of one band of output rows, in which what a tap reads of a row is contiguous. Columns that no plane shares are
   copied anew for each kernel column (spread: the dilation), so that rows follow each other without a gap, or only for
   each column phase (spread: 1). */
typedef struct {
  i64 height, width;             /* of the image */
  i64 columns, variants, spread; /* pixels of a plane's row; planes of a row phase and the columns between their starts */
  i64 stride[2], pad[2];
  i64 phases, below;             /* row phases in use; further rows that the lowest tap of a phase needs */
  i64 plane;                     /* bytes of a plane */
  i32 fill;                      /* four bytes of the padding */
} sc_int8_planes;

/* The planes of output rows [top, top + rows) of one group of four channels. */
HIDDEN void SC(sc_int8_pack)(const sc_int8_planes *p, x8 *to, const x8 *x, i64 top, i64 rows);
#endif

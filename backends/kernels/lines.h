/* Rows of images between fused layers: all of an image, or a window of rows that moves down it. */
#ifndef SC_LINES_H
#define SC_LINES_H
#include "kernel.h"

enum { SC_LINES_OVER = 2 * 16 + 4 }; /* floats that may be read behind a row */

/* Row r of channel c lies at data + c * pitch + sc_slot(r) * width. The last `held` rows are there, of those from `origin` on. */
typedef struct {
  float *data;
  const float *zeros;            /* what rows outside the image are: sc_zeros(width) floats */
  i64 pitch, height, width, held, origin;
} sc_lines;

/* The place of a row in its window; a few rows before the origin have one too. */
static inline i64 sc_slot(const sc_lines *l, i64 row) { return (row - l->origin + l->held) % l->held; }

/* Floats of zeros that a depthwise convolution of rows of such a width needs, and how far into them `zeros` points. */
enum { SC_LINES_BEFORE = 16 };
static inline i64 sc_zeros(i64 width) { return width + SC_LINES_BEFORE + SC_LINES_OVER; }

static inline float *sc_line(const sc_lines *l, i64 channel, i64 row)
{
  return l->data + channel * l->pitch + (l->held == l->height ? row : sc_slot(l, row)) * l->width;
}

/* Whether this kernel computes a depthwise convolution of such images: 3x3 and 5x5 padded by half their kernel, of stride 1,
   and of stride 2 on images of even sides. */
HIDDEN int SC(sc_is_same_depthwise)(const sc_kernel *kernel, i64 height, i64 width);
/* Rows [top, top + rows) of channels [from, end) of Y, filter c % spec.rows for channel c. Rows of Y lie side by side: they
   must not wrap round its window. Up to SC_LINES_OVER floats behind a channel of X are read. residual: like Y, or null. */
HIDDEN void SC(sc_same_depthwise)(const sc_kernel *kernel, const sc_lines *x, const sc_lines *residual, const sc_lines *y,
                                  i64 top, i64 rows, i64 from, i64 end);
#endif

/* Zero-padded copies of inputs, so that every tap of every output pixel is one fixed distance away. */
#ifndef SC_PAD16_H
#define SC_PAD16_H
#include "step.h"
#include "vec.h"

/* A window that moves over an image, and how copies for it are laid out: [plane, row phase, row, column phase, column, lanes].
   Input row oh * stride + i * dilation - pad is of phase (i * dilation) % stride: strides vanish from the distances. */
typedef struct {
  i64 kernel[2], stride[2], pad[4], dilation[2];
  i64 size[2], out[2];           /* of the image and of the output */
  i64 phases[2], beyond[2];      /* phases read; rows and columns of a phase beyond those of the output */
  i64 planes, lanes;             /* 16 channels each, or one */
  i64 step;                      /* floats between rows of a phase */
} sc_pad16;

/* Attributes: strides, pads, dilations. Null, or what is wrong. */
HIDDEN const char *SC(sc_window16)(const i64 *attributes, const i64 *kernel, sc_pad16 *w);
/* What depends on the input, a tensor [N, C, H, W] in layout C16 or plain. Null, or what is wrong. */
HIDDEN const char *SC(sc_size16)(sc_pad16 *w, const sc_tensor *x);
/* Whether pixels of X are where the window wants them: no copy is needed. */
HIDDEN int SC(sc_moves_freely16)(const sc_pad16 *w);
/* Floats of a plane of a copy for `rows` rows of outputs; MAX_FLOATS + 1 when there are too many. */
HIDDEN i64 SC(sc_plane16)(const sc_pad16 *w, i64 rows);
/* The copy of plane x of an image for rows [top, top + rows) of outputs. */
HIDDEN void SC(sc_copy16)(const sc_pad16 *w, const float *x, float *to, i64 top, i64 rows);
/* Floats from a pixel to the same pixel through kernel row i and column j, in a copy for `rows` rows. */
HIDDEN i64 SC(sc_distance16)(const sc_pad16 *w, i64 rows, i64 i, i64 j);
#endif

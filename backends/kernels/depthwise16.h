/* Depthwise convolutions in layout C16: X is read where it lies, and taps outside it are left out. */
#ifndef SC_DEPTHWISE16_H
#define SC_DEPTHWISE16_H
#include "pad16.h"

typedef struct {
  i64 channels, groups;          /* groups: of 16 channels */
  float *weights, *bias;         /* per group: 16 for every tap; 16 */
  sc_pad16 window;               /* without what depends on the input */
  i32 activation;
} sc_depthwise16;

/* Attributes: strides, pads, dilations, activation. Constants [first, first + 2): W [C, 1, kh, kw] and the bias. Null, or what
   is wrong; *d is to be freed in either case. */
HIDDEN const char *SC(sc_depthwise16_create)(const sc_step_spec *spec, const i64 *attributes, i64 first, const sc_host *host,
                                             sc_depthwise16 *d);
HIDDEN void SC(sc_depthwise16_free)(sc_depthwise16 *d, const sc_host *host);
HIDDEN const char *SC(sc_depthwise16_infer)(const sc_depthwise16 *d, const sc_tensor *x, sc_tensor *y);
/* Rows [top, top + rows) of outputs of a group; x is its plane of an image, y where the first of these rows goes. */
HIDDEN void SC(sc_depthwise16_rows)(const sc_depthwise16 *d, const sc_pad16 *sized, i64 group, const float *x, float *y,
                                    i64 top, i64 rows);
/* All of a batch. */
HIDDEN int SC(sc_depthwise16_run)(const sc_depthwise16 *d, const sc_tensor *x, float *y, const sc_call *call);
#endif

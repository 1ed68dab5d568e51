/* A convolution in layout C16, for the step kinds that contain one. */
#ifndef SC_CONV16_H
#define SC_CONV16_H
#include "grid16.h"
#include "pad16.h"

typedef struct {
  sc_weight16 weight;
  sc_pad16 window;               /* without what depends on the input */
  i32 activation;
} sc_conv16;

/* residual: like Y, or null. */
HIDDEN int SC(sc_conv16_run)(const sc_conv16 *conv, const sc_tensor *x, const float *residual, float *y, const sc_call *call);
#endif

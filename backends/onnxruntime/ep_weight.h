/* A dense weight full of zeros: which blocks its zeros form, whether they pay, and its packed form. */
#ifndef SC_EP_WEIGHT_H
#define SC_EP_WEIGHT_H
#include "host.h"

/* Row r, depth d (= tap * channels + channel) of a dense weight W[rows, taps * channels]. */
typedef struct {
  const float *data;
  i64 rows, taps, channels;
  i64 row_step, tap_step, channel_step; /* floats */
} ep_matrix;

/* What the cost model sees of a layer. */
typedef struct {
  i64 points, input_elements;    /* output pixels or tokens of one run; elements of x */
  i64 rows_per_group;
  int conv;
} ep_work;

/* The cheapest r of blocks r x 1 for the zeros that are there, 0 when the runtime's dense kernel is cheaper, -1 without
   memory. */
i64 ep_choose_block(const sc_host *host, const ep_matrix *w, const ep_work *work);

/* Packs the non-zero blocks r x 1 (block 0: every element, zeros too, as 1 x 1) into *memory, the caller's to release,
   and lets the spec point to them. Zero, or SC_MEMORY. */
int ep_pack(const sc_host *host, const ep_matrix *w, i64 block, sc_spec *spec, void **memory);
#endif

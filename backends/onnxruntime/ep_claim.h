/* Which layers of a graph the execution provider takes. */
#ifndef SC_EP_CLAIM_H
#define SC_EP_CLAIM_H
#include "ep_match.h"

/* Finds the layers that pay, and the depthwise convolutions beside them. *layers is an array of `count` in host memory,
   the caller's to release. */
ort_status ep_claim(ort_api api, ort_ptr graph, ep_layer **layers, i64 *count);
/* The block that pays for the layer, 0 when none does, -1 without memory. */
i64 ep_block_of(ort_api api, const ep_layer *layer);
#endif

/* Which activation a chain of element-wise nodes amounts to, whatever spelling the exporter chose. */
#ifndef SC_EP_CHAIN_H
#define SC_EP_CHAIN_H
#include "ep_graph.h"

enum { EP_CHAIN = 10 };          /* nodes; the longest known spelling, GELU by tanh, has nine */

typedef struct {
  i32 activation;                /* SC_NONE when there is no chain */
  int count;
  ort_ptr nodes[EP_CHAIN], output; /* output: the value after the chain, `input` itself when it is empty */
} ep_chain;

/* The longest chain after `input`, whose inner values nothing else reads, that is one of the activations. `taken` says
   which nodes belong to other layers. */
void ep_find_chain(ort_api api, ort_ptr input, int (*taken)(const void *self, ort_ptr node), const void *self,
                   ep_chain *out);
#endif

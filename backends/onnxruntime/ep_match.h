/* A Conv, Gemm or MatMul with a constant weight, and what follows that its kernel computes as well. */
#ifndef SC_EP_MATCH_H
#define SC_EP_MATCH_H
#include "ep_chain.h"
#include "ep_weight.h"

enum { EP_GROUP = 3 + EP_CHAIN };

/* Says which nodes belong to other layers already; no predicate: none do. */
typedef struct {
  int (*taken)(const void *self, ort_ptr node);
  const void *self;
} ep_claims;

typedef struct {
  const char *op;                /* of the core */
  int conv, depthwise;
  ep_matrix weight;
  sc_spec spec;                  /* the window, the sizes and the activation */
  const float *bias[2];          /* to be added up; null where there is none */
  i64 bias_count[2];             /* 1 or rows */
  ort_ptr x, y, residual;        /* values; residual may be null */
  ort_ptr nodes[EP_GROUP];       /* the core first */
  int count;
} ep_layer;

/* Whether the node is such a core; the layer is then it alone. */
int ep_match_core(ort_api api, ort_ptr node, ep_layer *out);
/* Takes in the constant addition, the residual and the activation that follow. */
void ep_match_tail(ort_api api, ep_layer *layer, const ep_claims *claims);
/* Sizes for the cost model, typical ones where the model leaves them open. */
ep_work ep_work_of(ort_api api, const ep_layer *layer);
#endif

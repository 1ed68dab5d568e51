/* Layout T64: all but the last dimension are tokens, 64 of them in the lanes; [ceil(tokens / 64), features, 64]. A product by a
   weight whose zeros are shared by few outputs then reads and writes whole vectors, and so does all that stands between two
   products. Lanes beyond the tokens hold anything. */
#ifndef SC_T64_H
#define SC_T64_H
#include "step.h"

static inline i64 sc_features(const sc_tensor *t) { return t->dims[t->rank - 1]; }
static inline i64 sc_tokens(const sc_tensor *t) { return sc_product(t->dims, 0, t->rank - 1); }

/* Float32 in layout T64 of a size that its steps know. */
static inline int sc_is_t64(const sc_tensor *t)
{
  return t->type == SC_F32 && t->layout == SC_T64 && t->rank > 0 && sc_features(t) >= T64_LEAST_FEATURES;
}
#endif

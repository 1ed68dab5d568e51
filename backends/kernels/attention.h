/* What the two ways to compute attention share. */
#ifndef SC_ATTENTION_H
#define SC_ATTENTION_H
#include "step.h"

typedef struct {
  i64 heads, dim, offset[3];     /* columns before the heads of q, k, v */
  float scale;
  int tokens_first;              /* [tokens, batch, features] in place of [batch, tokens, features] */
  int masked, constant;          /* whether there is a mask, and whether it is a constant */
  sc_tensor mask;                /* the constant */
} sc_attention;

/* The numbers of a mask that spreads over [batch, heads, queries, keys]. */
typedef struct {
  const float *data;             /* null: no mask */
  i64 step[3];                   /* floats between batches, heads, queries */
} sc_mask;

/* Scores below count as masked: to the base 2 they are still finite. */
#define SC_LEAST_SCORE (-1e38f)

/* The mask of a call whose inputs are q, k, v and, where it is no constant, the mask. */
static inline sc_mask sc_mask_of(const sc_attention *a, const sc_tensor *const *in)
{
  sc_mask m = {0, {0}};
  if (!a->masked) return m;
  const sc_tensor *mask = a->constant ? &a->mask : in[3];
  m.data = mask->data;
  i64 step = mask->dims[mask->rank - 1];
  for (int axis = 2; axis >= 0; axis--) {
    const int i = axis - 4 + mask->rank;
    const i64 dim = i >= 0 ? mask->dims[i] : 1;
    m.step[axis] = dim == 1 ? 0 : step;
    step *= dim;
  }
  return m;
}

/* The same with tokens in the lanes. */
HIDDEN int SC(sc_attention_t64)(const sc_attention *attention, const sc_tensor *const *in, sc_tensor *out, const sc_call *call);
#endif

/* Inside of a region: steps, and plans for the input sizes seen. */
#ifndef SC_REGION_PLAN_H
#define SC_REGION_PLAN_H
#include "region.h"

enum { PLANS = 8, MAX_OPERANDS = 64 };

typedef struct {
  const sc_step_kind *kind;
  void *state;
  i64 inputs, outputs;
  const i64 *ids;                /* of the inputs, then of the outputs */
} sc_step;

/* Immutable once published. */
struct sc_plan {
  i64 bytes;                     /* of the arena */
  i64 *offsets;                  /* of each value in the arena; -1 for what the host holds */
  sc_tensor tensors[];           /* of each value; data null */
};

struct sc_region {
  sc_host host;
  i64 values, inputs, outputs, step_count;
  i64 *program;
  const i64 *output_ids;
  sc_step *steps;
  sc_plan *plans[PLANS];
};
#endif

/* A sparse layer of a session, whichever way it came there: as a custom op or through the execution provider. */
#ifndef SC_ORT_LAYER_H
#define SC_ORT_LAYER_H
#include "host.h"

typedef struct {
  origin at;
  char *name;                    /* at.name, owned; may be null */
  const sc_isa *isa;
  sc_kernel *kernel;
  sc_spec spec;                  /* values, index and bias are read by layer_prepare alone */
  int conv;
} layer;

/* Makes the kernel of a spec that sc_check has accepted. */
ort_status layer_prepare(layer *l);
/* Frees what the layer owns, not the layer; it need not be complete. */
void layer_clear(layer *l);
/* One call of a node: x and the residual (-1: none) are inputs of these numbers, y is output 0. */
ort_status layer_compute(const layer *l, ort_ptr context, i64 x, i64 residual);
#endif

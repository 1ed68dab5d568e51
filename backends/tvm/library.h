/* Regions of a model as functions that TVM's virtual machine calls. */
#ifndef SC_LIBRARY_H
#define SC_LIBRARY_H
#include "bundle.h"

/* What TVM's calls pass, declared here: their layout is fixed by its foreign-function interface. */
typedef struct {
  i32 type, padding;
  union { i64 number; void *object; } value;
} sc_any;

typedef struct {
  void *data;
  i32 device_type, device_id;
  i32 rank;
  unsigned char code, bits;
  unsigned short lanes;
  const i64 *dims, *strides;
  u64 offset;
} sc_dl_tensor;

/* A region, and the model that is made of it at its first call. */
typedef struct {
  const sc_bundle_plan *plan;
  const char *weights, *weights_end;
  int (*make)(void **out);
  sc_bundle *made;
  int busy;                      /* one thread at a time */
} sc_library_region;

/* Copies a tensor into another, which has to have its sizes; zero, or an error that TVM was told. */
SC_HIDDEN int sc_library_same(const sc_any *arguments, i32 count);
SC_HIDDEN int sc_library_make(sc_library_region *region, void **out);
/* Inputs, then outputs; zero, or an error that TVM was told. */
SC_HIDDEN int sc_library_call(sc_library_region *region, const sc_any *arguments, i32 count);
#endif

/* What step kinds share. */
#ifndef SC_STEP_H
#define SC_STEP_H
#include "kernel.h"
#include "region.h"

enum { STEP_TASKS = 16 };

static inline int sc_same_dims(const sc_tensor *a, const sc_tensor *b)
{
  if (a->type != b->type || a->layout != b->layout || a->rank != b->rank) return 0;
  for (int i = 0; i < a->rank; i++) if (a->dims[i] != b->dims[i]) return 0;
  return 1;
}

static inline int sc_is_plain(const sc_tensor *t) { return t->type == SC_F32 && t->layout == SC_PLAIN; }

/* The product of dims [first, end). */
static inline i64 sc_product(const i64 *dims, i32 first, i32 end)
{
  i64 n = 1;
  for (i32 i = first; i < end; i++) n *= dims[i];
  return n;
}

/* Whether `factors` has one number, [N, C, 1, 1], for each plane of an image. */
static inline int sc_is_factors(const sc_tensor *factors, const sc_tensor *image)
{
  return sc_is_plain(factors) && factors->rank == 4 && factors->dims[0] == image->dims[0] &&
         factors->dims[1] == image->dims[1] && factors->dims[2] == 1 && factors->dims[3] == 1;
}

/* Runs task(data, 0 .. count - 1). */
static inline int sc_run_tasks(const sc_call *call, void (*task)(void *, u64), i64 count, void *data)
{
  *call->host_error = call->parallel->run(call->parallel->self, task, (u64)count, data);
  return *call->host_error ? SC_HOST_ERROR : SC_OK;
}

static inline void *sc_get(const sc_host *host, i64 bytes) { return host->alloc(host->self, (u64)(bytes ? bytes : 1)); }

static inline void sc_drop(const sc_host *host, void *memory) { if (memory) host->free(host->self, memory); }

/* A float32 attribute is the bits of the number. */
static inline float sc_float_attribute(i64 bits)
{
  union { u32 bits; float value; } number = {.bits = (u32)bits};
  return number.value;
}
#endif

/* The kernel library's types and entry points. Freestanding C: no libc, no allocation and no threads but the host's. */
#ifndef SC_H
#define SC_H
#include "sc_table.h"

typedef int i32;
typedef long long i64;
typedef unsigned int u32;
typedef unsigned long long u64;

#define INLINE static inline __attribute__((always_inline))
#define UNROLL _Pragma("GCC unroll 32")

/* Working memory that kernels lend to each other: bit i of `busy` is set while slot i is lent. */
enum { SC_SLOTS = 64 };
typedef struct { void *memory; i64 floats; const char *user; } sc_scratch_slot; /* user: a frame of the thread that had it last */
typedef struct { sc_scratch_slot slots[SC_SLOTS]; u64 busy; i64 kernels; } sc_pool;

/* Memory comes from the host; alloc returns null when it has none. Both are called from any thread. */
typedef struct {
  void *(*alloc)(void *self, u64 bytes);
  void (*free)(void *self, void *memory);
  void *self;
  sc_pool *pool;                 /* null: that of the process, for hosts whose memory is all one */
} sc_host;

/* Parallel-for of the host: calls task(data, i) for every i in [0, count), in any order and on any thread; the answer is
   null or the host's own error object. */
typedef struct {
  void *(*run)(void *self, void (*task)(void *data, u64 i), u64 count, void *data);
  void *self;
} sc_parallel;

/* A packed weight W[rows, depth] (docs/formats.md) and how it is used. depth is ordered (kh, kw, channel); a
   matmul is a 1x1 convolution with group 1. Nothing here is trusted before sc_check. */
typedef struct {
  i64 rows, channels;            /* outputs; inputs per group */
  i64 kernel[2];                 /* kh, kw */
  i64 block_rows, block_cols;    /* r, c */
  i64 grid_rows, grid_cols;      /* Rb, Kb */
  i64 count;                     /* stored blocks */
  const float *values;           /* [count, r*c] */
  const i32 *index;              /* [count], strictly ascending brow*Kb + bcol */
  const float *bias;             /* [rows] */
  i64 stride[2], pad[4], dilation[2], group;
  i32 activation;                /* SC_NONE, ...: the order of sparsecc.ops.ACTIVATIONS */
  i32 no_code;                   /* positions are data, even where code was generated for them */
  i32 lasting;                   /* values stay where they are for as long as the kernel */
} sc_spec;

/* Sizes of one convolution call. */
typedef struct {
  i64 batch, height, width;      /* of X */
  i64 out_height, out_width;     /* of Y */
} sc_image;

/* Why a call failed; zero is success. SC_WRONG comes with a sentence, SC_HOST_ERROR means the host's own error object was stored. */
enum { SC_OK, SC_MEMORY, SC_TOO_LARGE, SC_HOST_ERROR, SC_WRONG };

typedef struct sc_kernel sc_kernel;

struct sc_step_kind;

/* One instruction set's kernels. */
typedef struct sc_isa {
  int (*create)(const sc_spec *spec, const sc_host *host, sc_kernel **out);
  void (*destroy)(sc_kernel *kernel);
  int (*conv)(sc_kernel *kernel, const sc_image *image, const float *x, const float *residual, float *y,
              const sc_parallel *parallel, void **host_error);
  int (*matmul)(sc_kernel *kernel, i64 tokens, const float *x, const float *residual, float *y,
                const sc_parallel *parallel, void **host_error);
  const struct sc_step_kind *const *steps; /* by number in SC_STEPS; null for those that are not in this library */
} sc_isa;

/* What is wrong with a spec, or null. Every later call trusts what this accepted. */
const char *sc_check(const sc_spec *spec);
/* Output size along one axis, or -1 when the window does not fit or the sizes overflow. */
i64 sc_out_size(i64 in, i64 pad_begin, i64 pad_end, i64 kernel, i64 stride, i64 dilation);

/* Whether two frames are of one thread: their stacks lie further apart than one of them grows here. */
static inline int sc_same_thread(const char *a, const char *b)
{
  enum { APART = 1 << 18 };
  return a - b < APART && b - a < APART;
}

/* Working memory shared by all kernels of a pool, so that consecutive layers find it in cache. */
void sc_scratch_retain(const sc_host *host);
void sc_scratch_release(const sc_host *host);
/* At least `floats` floats, 64-byte aligned and unshared until sc_scratch_put(slot); null when the host has no memory. */
float *sc_scratch_get(const sc_host *host, i64 floats, int *slot);
void sc_scratch_put(const sc_host *host, int slot, float *memory);
#endif

/* NAME: a model compiled by sparsecc. How to call it: docs/bundle.md of sparsecc.
   All calls answer zero, or not zero when they failed; NAME_error then says why in a sentence. A model is used by one thread at
   a time. Nothing here needs a C library. */
#ifndef NAME_H
#define NAME_H
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct NAME_model NAME_model;

enum { NAME_FLOAT32, NAME_INT32, NAME_INT64, NAME_UINT8, NAME_INT8, NAME_BOOL /* bytes, 0 or 1 */ };

/* An input or an output. A dimension of -1 is open: dim_names says its name, and equal names have equal sizes. */
typedef struct {
  const char *name;
  int32_t type, rank;
  int64_t dims[8];
  const char *dim_names[8];
} NAME_port;

/* Elements in row-major order. A type of zero is float32. */
typedef struct {
  void *data;
  int64_t dims[8];
  int32_t rank, type;
} NAME_tensor;

/* Where memory and threads come from. `alloc` answers memory aligned to 16 bytes, or null when there is none. `parallel` calls
   task(data, i) for every i below count, in any order and on any thread, and answers null, or not null when it could not; where
   it is null everything runs on the calling thread. With it, alloc and free are called from those threads too. */
typedef struct {
  void *(*alloc)(void *self, uint64_t bytes);
  void (*free)(void *self, void *memory);
  void *(*parallel)(void *self, void (*task)(void *data, uint64_t i), uint64_t count, void *data);
  void *self;
} NAME_host;

/* How many inputs and outputs there are, and which. */
int32_t NAME_inputs(const NAME_port **ports);
int32_t NAME_outputs(const NAME_port **ports);

/* A model over the content of its weights file, which begins at a multiple of 64 bytes and must stay there, unchanged, until
   the model is destroyed. What is wrong goes to `message`, which has `room` bytes. */
int NAME_create(const void *weights, uint64_t bytes, const NAME_host *host, NAME_model **out, char *message, uint64_t room);

/* Types and dims of the outputs for inputs of these types and dims; data are not read. */
int NAME_plan(NAME_model *model, const NAME_tensor *inputs, NAME_tensor *outputs);

/* Runs it. Outputs are as NAME_plan told, with memory of the caller, apart from that of the inputs. */
int NAME_run(NAME_model *model, const NAME_tensor *inputs, const NAME_tensor *outputs);

/* What the last call of this model failed on; empty when it did not. */
const char *NAME_error(const NAME_model *model);

void NAME_destroy(NAME_model *model);

#ifdef __cplusplus
}
#endif
#endif

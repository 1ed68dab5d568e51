/* Functions that are no step kinds of the library: a bundle brings its own, generated or written by hand. */
#ifndef SC_EXTERN_H
#define SC_EXTERN_H
#include "region.h"

/* Every tensor is in plain layout; booleans are SC_U8. Inputs and outputs of the model lie where its caller put them, which may
   not be aligned to more than an element; all others to 64 bytes. in and out end with a null. */
typedef struct {
  const char *name;
  /* Type, rank and dims of the outputs; data are null, but for those of constants. Null, or what is wrong. */
  const char *(*infer)(const sc_tensor *const *in, const sc_constant *constants, sc_tensor *const *out);
  /* SC_OK or why not. */
  int (*run)(const sc_tensor *const *in, const sc_constant *constants, sc_tensor *const *out, const sc_call *call);
} sc_extern;

/* Empty in externs.c; what is linked from an archive of the kernels may bring a table of its own. */
__attribute__((visibility("hidden"))) extern const sc_extern *const sc_externs[];
__attribute__((visibility("hidden"))) extern const i32 sc_extern_count;
#endif

/* A function from outside: rows of a table by number, zeros where a mask is not set. */
#include "extern.h"

static const char *infer(const sc_tensor *const *in, const sc_constant *constants, sc_tensor *const *out)
{
  if (in[0]->type != SC_I64 || in[1]->type != SC_U8) return "it reads int64 and bool";
  if (in[0]->rank != 1 || in[1]->dims[0] != in[0]->dims[0]) return "ids and mask differ in length";
  *out[0] = (sc_tensor){.type = SC_F32, .rank = 2, .dims = {in[0]->dims[0], constants[0].dims[1]}};
  return 0;
}

static int run(const sc_tensor *const *in, const sc_constant *constants, sc_tensor *const *out, const sc_call *call)
{
  (void)call;
  const i64 *ids = in[0]->data, width = constants[0].dims[1];
  const unsigned char *mask = in[1]->data;
  for (i64 i = 0; i < in[0]->dims[0]; i++) {
    if (ids[i] < 0 || ids[i] >= constants[0].dims[0]) return SC_WRONG;
    for (i64 c = 0; c < width; c++)
      ((float *)out[0]->data)[i * width + c] = mask[i] ? ((const float *)constants[0].data)[ids[i] * width + c] : 0.f;
  }
  return SC_OK;
}

extern const sc_extern sc_extern_lookup;
const sc_extern sc_extern_lookup = {"lookup", infer, run};

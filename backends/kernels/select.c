/* One token of many: x[:, index] of [batch, tokens, features]. */
#include "step.h"

/* Attributes: the index; counted from the end where it is negative. */
static const char *create(const sc_step_spec *spec, const sc_host *host, void **state)
{
  *state = 0;
  if (spec->attribute_count != 1 || spec->constant_count) return "it has one attribute and no constants";
  if (spec->inputs != 1 || spec->outputs != 1) return "it has one input and one output";
  i64 *index = sc_get(host, sizeof *index);
  if (!index) return "there is no memory for it";
  *index = spec->attributes[0];
  *state = index;
  return 0;
}

static void destroy(void *state, const sc_host *host) { sc_drop(host, state); }

static const char *infer(const void *state, const sc_tensor *const *in, sc_tensor *const *out)
{
  const i64 index = *(const i64 *)state;
  if (!sc_is_plain(in[0]) || in[0]->rank != 3) return "its input must be float32 [batch, tokens, features]";
  const i64 *dims = in[0]->dims;
  if (index >= dims[1] || index < -dims[1]) return "there are fewer tokens than the one it takes";
  *out[0] = (sc_tensor){.type = SC_F32, .layout = SC_PLAIN, .rank = 2, .dims = {dims[0], dims[2]}};
  return 0;
}

static int run(void *state, const sc_tensor *const *in, sc_tensor *const *out, const sc_call *call)
{
  (void)call;
  const i64 *dims = in[0]->dims, index = *(const i64 *)state, token = index < 0 ? index + dims[1] : index;
  for (i64 n = 0; n < dims[0]; n++) {
    const float *x = (const float *)in[0]->data + (n * dims[1] + token) * dims[2];
    float *y = (float *)out[0]->data + n * dims[2];
    for (i64 i = 0; i < dims[2]; i++) y[i] = x[i];
  }
  return SC_OK;
}

extern const sc_step_kind SC(sc_step_select);
HIDDEN const sc_step_kind SC(sc_step_select) = {"select", create, destroy, infer, run};

/* The step that calls a function from outside of the library. */
#include "extern.h"
#include "step.h"

typedef struct {
  const sc_extern *what;
  i64 outputs;
  sc_constant constants[];
} external;

/* Attribute: which function. */
static const char *create(const sc_step_spec *spec, const sc_host *host, void **state)
{
  *state = 0;
  if (spec->attribute_count != 1) return "it has one attribute";
  const i64 which = spec->attributes[0];
  if (which < 0 || which >= sc_extern_count) return "its function is not in this library";
  external *e = sc_get(host, (i64)sizeof *e + spec->constant_count * (i64)sizeof *e->constants);
  if (!e) return "there is no memory for it";
  e->what = sc_externs[which], e->outputs = spec->outputs;
  for (i64 i = 0; i < spec->constant_count; i++) e->constants[i] = spec->constants[i];
  *state = e;
  return 0;
}

static void destroy(void *state, const sc_host *host) { sc_drop(host, state); }

static const char *infer(const void *state, const sc_tensor *const *in, sc_tensor *const *out)
{
  const external *e = state;
  for (i64 i = 0; in[i]; i++)
    if (in[i]->layout != SC_PLAIN) return "its input is not in plain layout";
  const char *wrong = e->what->infer(in, e->constants, out);
  for (i64 i = 0; !wrong && i < e->outputs; i++) {
    if (out[i]->type < 0 || out[i]->type >= SC_TYPES || out[i]->rank < 0 || out[i]->rank > SC_RANK)
      wrong = "it makes a tensor of an unknown form";
    out[i]->layout = SC_PLAIN;
  }
  return wrong;
}

static int run(void *state, const sc_tensor *const *in, sc_tensor *const *out, const sc_call *call)
{
  const external *e = state;
  return e->what->run(in, e->constants, out, call);
}

extern const sc_step_kind SC(sc_step_extern);
HIDDEN const sc_step_kind SC(sc_step_extern) = {"extern", create, destroy, infer, run};

/* Elementwise steps: an activation, and a sum with an activation whose second term may repeat along leading axes. */
#include "activation.h"
#include "step.h"

enum { FLOATS_OF_TASK = 8192 };

typedef struct {
  i32 activation;
  int two, constant;             /* whether there is a second term, and whether it is a constant */
  sc_tensor term;                /* the constant */
} elementwise;

typedef struct {
  const float *a, *b;            /* b: the second term, or null */
  float *y;
  i64 count, period, tasks;      /* period: floats of b */
  i32 activation;
} job;

static const char *create_any(const sc_step_spec *spec, const sc_host *host, void **state, int terms)
{
  *state = 0;
  if (spec->attribute_count != 1 || spec->outputs != 1) return "it has one attribute and one output";
  if (spec->inputs < 1 || spec->constant_count < 0 || spec->inputs + spec->constant_count != terms)
    return "its terms are too few or too many";
  if (spec->attributes[0] < 0 || spec->attributes[0] >= SC_ACTIVATIONS) return "unknown activation";
  elementwise *e = sc_get(host, sizeof *e);
  if (!e) return "there is no memory for it";
  *e = (elementwise){.activation = (i32)spec->attributes[0], .two = terms == 2, .constant = spec->constant_count == 1};
  *state = e;
  if (!spec->constant_count) return 0;
  const sc_constant *c = spec->constants;
  if (c->rank > SC_RANK) return "the constant has too many dimensions";
  e->term = (sc_tensor){.type = c->type, .rank = c->rank, .data = (void *)(u64)c->data};
  for (int i = 0; i < c->rank; i++) e->term.dims[i] = c->dims[i];
  return 0;
}

/* Attributes: activation. */
static const char *create_activation(const sc_step_spec *spec, const sc_host *host, void **state)
{
  return create_any(spec, host, state, 1);
}

/* Attributes: activation, of the sum. The second term is the second input or the one constant. */
static const char *create_add(const sc_step_spec *spec, const sc_host *host, void **state)
{
  return create_any(spec, host, state, 2);
}

static void destroy(void *state, const sc_host *host) { sc_drop(host, state); }

/* Whether b repeats along leading axes of a: its dims, but for leading ones, are the last of a's. */
static int repeats(const sc_tensor *b, const sc_tensor *a)
{
  int skip = 0;
  while (skip < b->rank && b->dims[skip] == 1) skip++;
  if (!sc_is_plain(a) || !sc_is_plain(b) || b->rank > a->rank) return 0;
  for (int i = skip; i < b->rank; i++) if (b->dims[i] != a->dims[a->rank - b->rank + i]) return 0;
  return 1;
}

static const char *infer(const void *state, const sc_tensor *const *in, sc_tensor *const *out)
{
  const elementwise *e = state;
  if (in[0]->type != SC_F32) return "its input must be float32";
  *out[0] = *in[0], out[0]->data = 0;
  if (!e->two) return 0;
  const sc_tensor *term = e->constant ? &e->term : in[1];
  if (sc_same_dims(term, in[0]) || repeats(term, in[0])) return 0;
  return "the second term must have the shape of the first, or its last dimensions";
}

INLINE void elements(const job *j, i64 from, i64 end, const i32 activation)
{
  const i64 period = j->period;
  if (!j->b) {
    for (i64 i = from; i < end; i += VL)
      store_some(j->y + i, activate_vf(load_some(j->a + i, end - i, 0.f), activation), end - i);
    return;
  }
  for (i64 i = from; i < end;) {
    const i64 at = i % period, stop = end - i < period - at ? end : i + period - at;
    const float *b = j->b + at - i;
    for (; i < stop; i += VL) {
      vf v = load_some(j->a + i, stop - i, 0.f) + load_some(b + i, stop - i, 0.f);
      store_some(j->y + i, activate_vf(v, activation), stop - i);
    }
    i = stop;
  }
}

static void task(void *data, u64 i)
{
  const job *j = data;
  const i64 from = j->count * (i64)i / j->tasks, end = j->count * ((i64)i + 1) / j->tasks;
#define ELEMENTS(a) case a: elements(j, from, end, a); break;
  switch (j->activation) {
    ELEMENTS(SC_RELU) ELEMENTS(SC_RELU6) ELEMENTS(SC_HARDSWISH) ELEMENTS(SC_SILU) ELEMENTS(SC_GELU)
    ELEMENTS(SC_GELU_TANH) ELEMENTS(SC_SIGMOID) ELEMENTS(SC_HARDSIGMOID)
    default: elements(j, from, end, SC_NONE);
  }
}

static int run(void *state, const sc_tensor *const *in, sc_tensor *const *out, const sc_call *call)
{
  const elementwise *e = state;
  job j = {.a = in[0]->data, .y = out[0]->data, .activation = e->activation};
  j.count = in[0]->layout == SC_PLAIN ? sc_product(in[0]->dims, 0, in[0]->rank) : sc_tensor_bytes(in[0]) / 4;
  if (j.count < 1) return SC_OK;
  if (e->two) {
    const sc_tensor *term = e->constant ? &e->term : in[1];
    j.b = term->data;
    j.period = term->layout == SC_PLAIN ? sc_product(term->dims, 0, term->rank) : j.count;
  }
  j.tasks = clip(j.count / FLOATS_OF_TASK, 1, STEP_TASKS);
  return sc_run_tasks(call, task, j.tasks, &j);
}

extern const sc_step_kind SC(sc_step_activation), SC(sc_step_add);
HIDDEN const sc_step_kind SC(sc_step_activation) = {"activation", create_activation, destroy, infer, run};
HIDDEN const sc_step_kind SC(sc_step_add) = {"add", create_add, destroy, infer, run};

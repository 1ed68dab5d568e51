/* From row-major tokens to layout T64 and back. */
#include "t64.h"
#include "tokens.h"

typedef struct {
  const float *x;
  float *y;
  i64 tokens, features, pieces, parts;
} job;

static const char *create(const sc_step_spec *spec, const sc_host *host, void **state)
{
  (void)host;
  *state = 0;
  if (spec->attribute_count || spec->constant_count) return "it has no attributes and no constants";
  return spec->inputs != 1 || spec->outputs != 1 ? "it has one input and one output" : 0;
}

static void destroy(void *state, const sc_host *host) { (void)state, (void)host; }

static const char *infer_to(const void *state, const sc_tensor *const *in, sc_tensor *const *out)
{
  (void)state;
  if (!sc_is_plain(in[0]) || in[0]->rank < 1 || sc_features(in[0]) < T64_LEAST_FEATURES)
    return "its input must be row-major float32 of at least 16 features";
  *out[0] = *in[0], out[0]->data = 0, out[0]->layout = SC_T64;
  return 0;
}

static const char *infer_from(const void *state, const sc_tensor *const *in, sc_tensor *const *out)
{
  (void)state;
  if (!sc_is_t64(in[0])) return "its input must have its tokens in the lanes";
  *out[0] = *in[0], out[0]->data = 0, out[0]->layout = SC_PLAIN;
  return 0;
}

/* Features [from, end) of part i % parts, a multiple of a vector but at the end. */
static void part_of(const job *j, u64 i, i64 *from, i64 *end)
{
  const i64 slices = ceil_div(j->features, VL), part = (i64)i % j->parts;
  *from = slices * part / j->parts * VL, *end = slices * (part + 1) / j->parts * VL;
  if (*end > j->features) *end = j->features;
}

static void task_to(void *data, u64 i)
{
  const job *j = data;
  const i64 piece = (i64)i / j->parts, token = piece * T64;
  i64 from, end;
  part_of(j, i, &from, &end);
  pack_tokens(j->x + token * j->features, j->features, clip(j->tokens - token, 0, T64), j->y + token * j->features, T64, from,
              end);
}

static void task_from(void *data, u64 i)
{
  const job *j = data;
  const i64 piece = (i64)i / j->parts, token = piece * T64, slack = T64_LEAST_FEATURES;
  i64 from, end;
  part_of(j, i, &from, &end);
  if (end - from < slack) from = end - slack; /* what a neighbour writes too, and the same */
  const sc_rows to = {j->y, 0, j->features, SC_NONE};
  unpack_rows(&to, j->x + (token * j->features + from * T64), T64, token, clip(j->tokens - token, 0, T64), from, end - from);
}

static int run_pieces(const sc_tensor *plain, job j, void (*task)(void *, u64), const sc_call *call)
{
  j.tokens = sc_tokens(plain), j.features = sc_features(plain), j.pieces = ceil_div(j.tokens, T64);
  if (!j.pieces) return SC_OK;
  j.parts = clip(STEP_TASKS / j.pieces, 1, j.features / T64_LEAST_FEATURES);
  return sc_run_tasks(call, task, j.pieces * j.parts, &j);
}

static int run_to(void *state, const sc_tensor *const *in, sc_tensor *const *out, const sc_call *call)
{
  (void)state;
  return run_pieces(in[0], (job){.x = in[0]->data, .y = out[0]->data}, task_to, call);
}

static int run_from(void *state, const sc_tensor *const *in, sc_tensor *const *out, const sc_call *call)
{
  (void)state;
  return run_pieces(out[0], (job){.x = in[0]->data, .y = out[0]->data}, task_from, call);
}

extern const sc_step_kind SC(sc_step_to_t64), SC(sc_step_from_t64);
HIDDEN const sc_step_kind SC(sc_step_to_t64) = {"to_t64", create, destroy, infer_to, run_to};
HIDDEN const sc_step_kind SC(sc_step_from_t64) = {"from_t64", create, destroy, infer_from, run_from};

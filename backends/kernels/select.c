/* One token of each batch, or their mean: [batch, tokens, features] to [batch, features], from rows or from the lanes. */
#include "t64.h"
#include "vecmath.h"

typedef struct { i64 index; int mean; } select;

/* Attributes: the index, counted from the end where it is negative; whether it is the mean of all tokens instead. */
static const char *create(const sc_step_spec *spec, const sc_host *host, void **state)
{
  *state = 0;
  if (spec->attribute_count != 2 || spec->constant_count) return "it has two attributes and no constants";
  if (spec->inputs != 1 || spec->outputs != 1) return "it has one input and one output";
  select *s = sc_get(host, sizeof *s);
  if (!s) return "there is no memory for it";
  *s = (select){spec->attributes[0], spec->attributes[1] != 0};
  *state = s;
  return 0;
}

static void destroy(void *state, const sc_host *host) { sc_drop(host, state); }

static const char *infer(const void *state, const sc_tensor *const *in, sc_tensor *const *out)
{
  const select *s = state;
  const i64 *dims = in[0]->dims;
  if (!(sc_is_plain(in[0]) || sc_is_t64(in[0])) || in[0]->rank != 3) return "its input must be float32 [batch, tokens, features]";
  if (s->mean ? dims[1] < 1 : s->index >= dims[1] || s->index < -dims[1]) return "there are fewer tokens than the one it takes";
  *out[0] = (sc_tensor){.type = SC_F32, .layout = SC_PLAIN, .rank = 2, .dims = {dims[0], dims[2]}};
  return 0;
}

/* The sum of tokens [first, first + count) of a feature in the lanes. */
static float sum_lanes(const float *x, i64 features, i64 feature, i64 first, i64 count)
{
  vf sum = splat(0.f);
  for (i64 at = first, end = first + count; at < end;) {
    const i64 lane = at % T64, left = T64 - lane < end - at ? T64 - lane : end - at;
    const float *from = x + (at / T64 * features + feature) * T64 + lane;
    for (i64 i = 0; i < left; i += VL) sum += load_some(from + i, left - i, 0.f);
    at += left;
  }
  return sum_of(sum);
}

/* Tokens [first, first + count) of row-major x, as a sum. */
static void sum_rows(const float *x, i64 features, i64 first, i64 count, float *y)
{
  for (i64 f = 0; f < features; f += VL) {
    vf sum = splat(0.f);
    for (i64 t = first; t < first + count; t++) sum += load_some(x + t * features + f, features - f, 0.f);
    store_some(y + f, sum, features - f);
  }
}

static int run(void *state, const sc_tensor *const *in, sc_tensor *const *out, const sc_call *call)
{
  (void)call;
  const select *s = state;
  const i64 *dims = in[0]->dims, features = dims[2], token = s->mean ? 0 : s->index < 0 ? s->index + dims[1] : s->index;
  const i64 count = s->mean ? dims[1] : 1;
  const float *x = in[0]->data;
  for (i64 n = 0; n < dims[0]; n++) {
    const i64 first = n * dims[1] + token;
    float *y = (float *)out[0]->data + n * features;
    if (in[0]->layout == SC_PLAIN) sum_rows(x, features, first, count, y);
    else for (i64 f = 0; f < features; f++) y[f] = sum_lanes(x, features, f, first, count);
    for (i64 f = 0; s->mean && f < features; f++) y[f] /= (float)count;
  }
  return SC_OK;
}

extern const sc_step_kind SC(sc_step_select);
HIDDEN const sc_step_kind SC(sc_step_select) = {"select", create, destroy, infer, run};

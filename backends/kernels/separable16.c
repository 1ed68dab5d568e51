/* The step kind separable16: a depthwise convolution and the 1x1 convolution after it. Large images go through both by bands
   of rows, so that what lies between them stays in cache. */
#include "conv16.h"
#include "depthwise16.h"

enum {
  DEPTHWISE = 9, ATTRIBUTES = 11,
  BAND = 1 << 16,                /* floats between the two in a band */
  BANDS = 4                      /* fewer do not occupy the threads */
};

typedef struct {
  sc_depthwise16 first;
  sc_conv16 second;
  int residual;
} separable16;

typedef struct {
  const separable16 *s;
  sc_pad16 window;               /* of the depthwise convolution */
  const sc_host *host;
  const float *x, *residual;
  float *y;
  i32 *offsets;
  sc_cut16 cut;
  i64 rows, bands, plane;        /* of a band: rows, floats of 16 channels */
  int failed;
} job;

/* Attributes: strides, pads, dilations and activation of the depthwise convolution; activation of the other, and whether its
   weight is dense. Constants: those of depthwise16, then those of conv16. Inputs: X, and perhaps a residual. */
static const char *create(const sc_step_spec *spec, const sc_host *host, void **state)
{
  *state = 0;
  if (spec->attribute_count != ATTRIBUTES) return "it has eleven attributes";
  if (spec->inputs < 1 || spec->inputs > 2 || spec->outputs != 1) return "it has one or two inputs and one output";
  const i64 *a = spec->attributes, unit[] = {1, 1, 0, 0, 0, 0, 1, 1};
  if (a[DEPTHWISE] < 0 || a[DEPTHWISE] >= SC_ACTIVATIONS) return "unknown activation";
  separable16 *s = sc_get(host, sizeof *s);
  if (!s) return "there is no memory for it";
  *s = (separable16){.second.activation = (i32)a[DEPTHWISE], .residual = spec->inputs == 2};
  *state = s;
  const char *wrong = SC(sc_depthwise16_create)(spec, a, 0, host, &s->first);
  sc_weight16 *w = &s->second.weight;
  if (!wrong) wrong = SC(sc_weight16_create)(spec, 2, a[DEPTHWISE + 1] != 0, 1, host, w);
  if (wrong) return wrong;
  if (w->kernel[0] != 1 || w->kernel[1] != 1) return "the second convolution must be 1x1";
  if (w->channels != s->first.channels) return "the second convolution has another number of channels than the first";
  return SC(sc_window16)(unit, w->kernel, &s->second.window);
}

static void destroy(void *state, const sc_host *host)
{
  separable16 *s = state;
  SC(sc_depthwise16_free)(&s->first, host);
  SC(sc_weight16_free)(&s->second.weight, host);
  sc_drop(host, s);
}

static const char *infer(const void *state, const sc_tensor *const *in, sc_tensor *const *out)
{
  const separable16 *s = state;
  sc_pad16 between = s->second.window;
  const char *wrong = SC(sc_depthwise16_infer)(&s->first, in[0], out[0]);
  if (!wrong) wrong = SC(sc_size16)(&between, out[0]);
  if (wrong) return wrong;
  out[0]->dims[1] = s->second.weight.outputs;
  return s->residual && !sc_same_dims(in[1], out[0]) ? "the residual must have the shape and layout of the output" : 0;
}

/* One band through both; the last one of an image may overlap. */
static void task(void *data, u64 i)
{
  job *j = data;
  const sc_pad16 *w = &j->window;
  const sc_weight16 *weight = &j->s->second.weight;
  const i64 width = w->out[1], y_plane = w->out[0] * width * WIDE, x_plane = w->size[0] * w->size[1] * WIDE;
  i64 image = (i64)i / j->bands, top = clip((i64)i % j->bands * j->rows, 0, w->out[0] - j->rows);
  i64 at = image * weight->blocks * y_plane + top * width * WIDE;
  int slot;
  float *band = sc_scratch_get(j->host, j->plane * w->planes, &slot);
  if (!band) {
    __atomic_store_n(&j->failed, 1, __ATOMIC_RELAXED);
    return;
  }
  for (i64 g = 0; g < w->planes; g++)
    SC(sc_depthwise16_rows)(&j->s->first, w, g, j->x + (image * w->planes + g) * x_plane, band + g * j->plane, top, j->rows);
  sc_grid16 grid = {.x = band, .offsets = j->offsets, .y = j->y + at, .residual = j->residual ? j->residual + at : 0,
                    .apart = y_plane, .activation = j->s->second.activation};
  SC(sc_grid16)(weight, &grid, &j->cut, 0, j->cut.across, 0, weight->blocks);
  sc_scratch_put(j->host, slot, band);
}

static int run_bands(job *j, i64 batch, const sc_call *call)
{
  int slot;
  j->plane = j->rows * j->window.out[1] * WIDE;
  if (j->plane % 1024 == 0) j->plane += WIDE; /* planes so far apart would fall into few sets of a cache */
  j->cut = SC(sc_cut_flat16)(&j->s->second.weight, j->rows * j->window.out[1]);
  j->offsets = (i32 *)sc_scratch_get(call->host, j->window.planes, &slot);
  if (!j->offsets) return SC_MEMORY;
  for (i64 g = 0; g < j->window.planes; g++) j->offsets[g] = (i32)(g * j->plane);
  int status = sc_run_tasks(call, task, batch * j->bands, j);
  sc_scratch_put(call->host, slot, (float *)j->offsets);
  return status ? status : j->failed ? SC_MEMORY : SC_OK;
}

/* Small images stay in cache as a whole: one convolution after the other occupies more threads. */
static int run_one_by_one(job *j, const sc_tensor *x, const sc_call *call)
{
  const sc_pad16 *w = &j->window;
  sc_tensor between = *x;
  int slot;
  between.dims[2] = w->out[0], between.dims[3] = w->out[1];
  between.data = sc_scratch_get(call->host, x->dims[0] * w->planes * w->out[0] * w->out[1] * WIDE, &slot);
  if (!between.data) return SC_MEMORY;
  int status = SC(sc_depthwise16_run)(&j->s->first, x, between.data, call);
  if (!status) status = SC(sc_conv16_run)(&j->s->second, &between, j->residual, j->y, call);
  sc_scratch_put(call->host, slot, between.data);
  return status;
}

static int run(void *state, const sc_tensor *const *in, sc_tensor *const *out, const sc_call *call)
{
  const separable16 *s = state;
  job j = {.s = s, .window = s->first.window, .host = call->host, .x = in[0]->data, .y = out[0]->data,
           .residual = s->residual ? in[1]->data : 0};
  const sc_pad16 *w = &j.window;
  if (SC(sc_size16)(&j.window, in[0])) return SC_TOO_LARGE;
  i64 batch = in[0]->dims[0];
  if (batch < 1) return SC_OK;
  i64 most = clip(BAND / (w->planes * w->out[1] * WIDE), 1, w->out[0]);
  j.rows = ceil_div(w->out[0], ceil_div(w->out[0], most)), j.bands = ceil_div(w->out[0], j.rows);
  return batch * j.bands >= BANDS ? run_bands(&j, batch, call) : run_one_by_one(&j, in[0], call);
}

extern const sc_step_kind SC(sc_step_separable16);
HIDDEN const sc_step_kind SC(sc_step_separable16) = {"separable16", create, destroy, infer, run};

/* The step of a convolution with its pixels in the lanes. */
#include "step.h"

enum { WINDOW = 10 }; /* strides 2, pads 4, dilations 2, group, activation */

static void destroy(void *state, const sc_host *host)
{
  (void)host;
  SC(sc_destroy)(state);
}

/* Attributes: strides, pads, dilations, group, activation. */
static const char *create_conv(const sc_step_spec *spec, const sc_host *host, void **state)
{
  const i64 *a = spec->attributes;
  if (spec->attribute_count != WINDOW || spec->inputs > 2 || spec->outputs != 1) return "a malformed step";
  if (a[WINDOW - 1] < 0 || a[WINDOW - 1] >= SC_ACTIVATIONS) return "unknown activation";
  sc_spec s = {.group = a[8], .activation = (i32)a[WINDOW - 1]};
  for (int i = 0; i < 2; i++) s.stride[i] = a[i], s.dilation[i] = a[6 + i];
  for (int i = 0; i < 4; i++) s.pad[i] = a[2 + i];
  const char *wrong = sc_read_packed(spec, 0, 1, &s);
  if (wrong) return wrong;
  return SC(sc_create)(&s, host, (sc_kernel **)state) ? "there is not enough memory to prepare the weights" : 0;
}

static const char *infer_conv(const void *state, const sc_tensor *const *in, sc_tensor *const *out)
{
  const sc_spec *s = &((const sc_kernel *)state)->spec;
  const sc_tensor *x = in[0];
  if (x->type != SC_F32 || x->layout != SC_PLAIN || x->rank != 4 || x->dims[1] != s->channels * s->group)
    return "its input does not have the channels of its weight";
  *out[0] = (sc_tensor){.type = SC_F32, .layout = SC_PLAIN, .rank = 4, .dims = {x->dims[0], s->rows}};
  for (int i = 0; i < 2; i++) {
    i64 size = sc_out_size(x->dims[2 + i], s->pad[i], s->pad[2 + i], s->kernel[i], s->stride[i], s->dilation[i]);
    if (size < 1) return "the image is smaller than the window";
    out[0]->dims[2 + i] = size;
  }
  return in[1] && !sc_same_dims(in[1], out[0]) ? "the residual has another shape than the output" : 0;
}

static int run_conv(void *state, const sc_tensor *const *in, sc_tensor *const *out, const sc_call *call)
{
  const i64 *x = in[0]->dims, *y = out[0]->dims;
  sc_image image = {x[0], x[2], x[3], y[2], y[3]};
  return SC(sc_conv)(state, &image, in[0]->data, in[1] ? in[1]->data : 0, out[0]->data, call->parallel, call->host_error);
}

extern const sc_step_kind SC(sc_step_conv);
HIDDEN const sc_step_kind SC(sc_step_conv) = {"SparseConv", create_conv, destroy, infer_conv, run_conv};

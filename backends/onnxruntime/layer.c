/* Running a sparse layer on what the session gives it, which is checked at every call. */
#include "layer.h"

ort_status layer_prepare(layer *l)
{
  sc_host host = host_of(l->at.api);
  if (!l->isa->create(&l->spec, &host, &l->kernel)) return 0;
  return refuse(&l->at, "there is not enough memory to prepare the weights", "free memory or use a smaller model");
}

void layer_clear(layer *l)
{
  if (l->kernel) l->isa->destroy(l->kernel);
  if (l->name) host_release((void *)l->at.api, l->name);
}

static ort_status matmul_dims(const layer *l, const tensor *x, i64 *dims)
{
  const sc_spec *s = &l->spec;
  if (!x->rank || x->dims[x->rank - 1] != s->channels) {
    message m = {.used = 0};
    say(&m, "[..., ");
    say_number(&m, s->channels);
    say(&m, "]");
    return refuse_tensor(&l->at, "X", x, m.text, "feed this layer as many features as its weight has columns");
  }
  for (u64 i = 0; i < x->rank; i++) dims[i] = x->dims[i];
  dims[x->rank - 1] = s->rows;
  return 0;
}

static ort_status conv_dims(const layer *l, const tensor *x, i64 *dims, sc_image *image)
{
  const sc_spec *s = &l->spec;
  i64 channels = s->channels * s->group;
  if (x->rank != 4 || x->dims[1] != channels) {
    message m = {.used = 0};
    say(&m, "[N, ");
    say_number(&m, channels);
    say(&m, ", H, W]");
    return refuse_tensor(&l->at, "X", x, m.text, "feed this layer as many channels as its weight has");
  }
  *image = (sc_image){x->dims[0], x->dims[2], x->dims[3],
                      sc_out_size(x->dims[2], s->pad[0], s->pad[2], s->kernel[0], s->stride[0], s->dilation[0]),
                      sc_out_size(x->dims[3], s->pad[1], s->pad[3], s->kernel[1], s->stride[1], s->dilation[1])};
  if (image->out_height < 1 || image->out_width < 1)
    return refuse_tensor(&l->at, "X", x, "an image that the padded window fits into", "feed a larger image");
  dims[0] = image->batch, dims[1] = s->rows, dims[2] = image->out_height, dims[3] = image->out_width;
  return 0;
}

static ort_status same_dims(const layer *l, const tensor *residual, const i64 *dims, u64 rank)
{
  int same = residual->rank == rank;
  for (u64 i = 0; same && i < rank; i++) same = residual->dims[i] == dims[i];
  if (same) return 0;
  message m = {.used = 0};
  say_list(&m, dims, rank);
  return refuse_tensor(&l->at, "residual", residual, m.text, "add a tensor of the layer's own output shape");
}

ort_status layer_compute(const layer *l, ort_ptr context, i64 x_input, i64 residual_input)
{
  ort_api api = l->at.api;
  tensor x, residual = {.data = 0};
  i64 dims[MAX_RANK], tokens = 1;
  sc_image image;
  TRY(read_input(&l->at, context, (u64)x_input, "X", ORT_FLOAT, &x));
  TRY(l->conv ? conv_dims(l, &x, dims, &image) : matmul_dims(l, &x, dims));
  if (residual_input >= 0) {
    TRY(read_input(&l->at, context, (u64)residual_input, "residual", ORT_FLOAT, &residual));
    TRY(same_dims(l, &residual, dims, x.rank));
  }
  ort_ptr value;
  void *y, *host_error = 0;
  TRY(api->KernelContext_GetOutput(context, 0, dims, x.rank, &value));
  TRY(api->GetTensorMutableData(value, &y));
  host_call c = {api, context};
  sc_parallel parallel = {host_parallel_for, &c};
  for (u64 i = 0; i + 1 < x.rank; i++) tokens *= x.dims[i];
  int status = l->conv ? l->isa->conv(l->kernel, &image, x.data, residual.data, y, &parallel, &host_error)
                       : l->isa->matmul(l->kernel, tokens, x.data, residual.data, y, &parallel, &host_error);
  return kernel_failure(&l->at, status, host_error);
}

/* The ONNX Runtime custom-op library: every variant of SparseConv and SparseMatMul, for one target. A model is not
   trusted: what a node says is checked when it is made, what it is given at every call. */
#include "cpu.h"
#include "message.h"

typedef struct { const char *name; int conv, residual; i32 activation; } variant;
typedef struct { ort_custom_op op; variant variant; } registered;

enum { X, VALUES, INDEX, GRID, SHAPE, BIAS, RESIDUAL, MAX_RANK = 16 };
static const char *const input_names[] = {"X", "values", "index", "grid", "shape", "bias", "residual"};
static const int input_types[] = {ORT_FLOAT, ORT_FLOAT, ORT_INT32, ORT_INT64, ORT_INT64, ORT_FLOAT, ORT_FLOAT};

typedef struct { void *data; i64 dims[MAX_RANK]; u64 rank; int type; } tensor;

/* One node of a session. */
typedef struct {
  ort_api api;
  sc_host host;
  const sc_isa *isa;
  sc_kernel *kernel;
  const variant *variant;
  sc_spec spec;
  char *name;
} node;

#define TRY(call)                \
  do {                           \
    ort_status status_ = (call); \
    if (status_) return status_; \
  } while (0)

/* ---- host services ---- */
static void *allocate(void *self, u64 bytes)
{
  ort_api api = self;
  void *allocator, *out = 0;
  ort_status status = api->GetAllocatorWithDefaultOptions(&allocator);
  if (!status) status = api->AllocatorAlloc(allocator, bytes, &out);
  if (status) api->ReleaseStatus(status);
  return status ? 0 : out;
}

static void release(void *self, void *memory)
{
  ort_api api = self;
  void *allocator;
  ort_status status = api->GetAllocatorWithDefaultOptions(&allocator);
  if (!status) status = api->AllocatorFree(allocator, memory);
  if (status) api->ReleaseStatus(status);
}

typedef struct { ort_api api; ort_ptr context; } call;

static void *parallel_for(void *self, void (*task)(void *, u64), u64 count, void *data)
{
  call *c = self;
  return c->api->KernelContext_ParallelFor(c->context, task, count, 0, data);
}

/* ---- errors: "SparseConv_relu 'layer1.conv1': what is wrong; shape [...], grid [...]; fix: ..." ---- */
static void begin(const node *n, message *m)
{
  m->used = 0;
  say(m, n->variant->name);
  say(m, " '");
  say(m, n->name ? n->name : "");
  say(m, "': ");
}

static ort_status refuse(const node *n, const char *what, const char *fix)
{
  message m;
  begin(n, &m);
  say(&m, what);
  say(&m, "; fix: ");
  say(&m, fix);
  return fail(n->api, &m, ORT_INVALID_ARGUMENT);
}

static const char recompile[] = "compile the model again with sparsecc; its packed weights were changed after it was saved";

static ort_status refuse_tensor(const node *n, int input, const tensor *t, const char *expected, const char *fix)
{
  message m;
  begin(n, &m);
  say(&m, input_names[input]);
  say(&m, " has shape ");
  say_list(&m, t->dims, t->rank < MAX_RANK ? t->rank : MAX_RANK);
  say(&m, ", expected ");
  say(&m, expected);
  say(&m, "; fix: ");
  say(&m, fix);
  return fail(n->api, &m, ORT_INVALID_ARGUMENT);
}

/* ---- tensors ---- */
static ort_status read_info(const node *n, ort_ptr info, tensor *t)
{
  TRY(n->api->GetTensorElementType(info, &t->type));
  TRY(n->api->GetDimensionsCount(info, &t->rank));
  if (t->rank > MAX_RANK) return refuse(n, "a tensor has more than 16 dimensions", "reshape it");
  return n->api->GetDimensions(info, t->dims, t->rank);
}

static ort_status read_tensor(const node *n, ort_ptr value, int input, tensor *t)
{
  ort_ptr info;
  TRY(n->api->GetTensorTypeAndShape(value, &info));
  ort_status status = read_info(n, info, t);
  n->api->ReleaseTensorTypeAndShapeInfo(info);
  TRY(status);
  if (t->type != input_types[input]) return refuse(n, input_names[input], "its element type is not that of the contract");
  return n->api->GetTensorMutableData(value, &t->data);
}

static ort_status read_constant(const node *n, ort_ptr info, int input, tensor *t)
{
  int constant = 0;
  ort_ptr value = 0;
  ort_status status = n->api->KernelInfoGetConstantInput_tensor(info, (u64)input, &constant, &value);
  if (!status && constant && value) return read_tensor(n, value, input, t);
  if (status) n->api->ReleaseStatus(status);
  message m;
  begin(n, &m);
  say(&m, input_names[input]);
  say(&m, " is not a constant; fix: packed weights must be initializers of the model that no input overrides");
  return fail(n->api, &m, ORT_INVALID_ARGUMENT);
}

static int has_dims(const tensor *t, u64 rank, i64 first, i64 second)
{
  return t->rank == rank && t->dims[0] == first && (rank < 2 || t->dims[1] == second);
}

static ort_status read_ints(const node *n, ort_ptr info, const char *name, i64 *out, u64 count)
{
  u64 found = count;
  ort_status status = n->api->KernelInfoGetAttributeArray_int64(info, name, out, &found);
  if (!status && found == count) return 0;
  if (status) n->api->ReleaseStatus(status);
  message m;
  begin(n, &m);
  say(&m, "attribute ");
  say(&m, name);
  say(&m, " must be a list of ");
  say_number(&m, (i64)count);
  say(&m, " integers; fix: ");
  say(&m, recompile);
  return fail(n->api, &m, ORT_INVALID_ARGUMENT);
}

/* ---- making a node ---- */
static ort_status read_window(node *n, ort_ptr info)
{
  sc_spec *s = &n->spec;
  s->stride[0] = s->stride[1] = s->dilation[0] = s->dilation[1] = s->group = 1;
  if (!n->variant->conv) return 0;
  TRY(read_ints(n, info, "strides", s->stride, 2));
  TRY(read_ints(n, info, "pads", s->pad, 4));
  TRY(read_ints(n, info, "dilations", s->dilation, 2));
  ort_status status = n->api->KernelInfoGetAttribute_int64(info, "group", &s->group);
  if (!status) return 0;
  n->api->ReleaseStatus(status);
  return refuse(n, "attribute group is missing", recompile);
}

static ort_status read_weight(node *n, ort_ptr info, tensor *in)
{
  sc_spec *s = &n->spec;
  for (int i = VALUES; i <= BIAS; i++) TRY(read_constant(n, info, i, &in[i]));
  if (!has_dims(&in[GRID], 1, 4, 0)) return refuse_tensor(n, GRID, &in[GRID], "[4]", recompile);
  u64 rank = n->variant->conv ? 4 : 2;
  if (!has_dims(&in[SHAPE], 1, (i64)rank, 0)) return refuse_tensor(n, SHAPE, &in[SHAPE], n->variant->conv ? "[4]" : "[2]", recompile);
  const i64 *grid = in[GRID].data, *shape = in[SHAPE].data;
  s->grid_rows = grid[0], s->grid_cols = grid[1], s->block_rows = grid[2], s->block_cols = grid[3];
  s->rows = shape[0], s->channels = shape[rank - 1];
  s->kernel[0] = rank == 4 ? shape[1] : 1, s->kernel[1] = rank == 4 ? shape[2] : 1;
  s->activation = n->variant->activation;
  s->values = in[VALUES].data, s->index = in[INDEX].data, s->bias = in[BIAS].data;
  if (in[INDEX].rank != 1) return refuse_tensor(n, INDEX, &in[INDEX], "one dimension", recompile);
  s->count = in[INDEX].dims[0];
  if (!has_dims(&in[BIAS], 1, s->rows, 0)) return refuse_tensor(n, BIAS, &in[BIAS], "[R], R being shape[0]", recompile);
  return 0;
}

static ort_status check_weight(const node *n, const tensor *in)
{
  const sc_spec *s = &n->spec;
  const char *wrong = sc_check(s);
  if (!wrong && !has_dims(&in[VALUES], 2, s->count, s->block_rows * s->block_cols))
    return refuse_tensor(n, VALUES, &in[VALUES], "[blocks, r*c], blocks being the length of index", recompile);
  if (!wrong) return 0;
  message m;
  begin(n, &m);
  say(&m, wrong);
  say(&m, "; shape ");
  say_list(&m, in[SHAPE].data, n->variant->conv ? 4 : 2);
  say(&m, ", grid ");
  say_list(&m, in[GRID].data, 4);
  say(&m, ", blocks ");
  say_number(&m, s->count);
  say(&m, ", group ");
  say_number(&m, s->group);
  say(&m, "; fix: ");
  say(&m, recompile);
  return fail(n->api, &m, ORT_INVALID_ARGUMENT);
}

static ort_status read_name(node *n, ort_ptr info)
{
  u64 bytes = 0;
  ort_status status = n->api->KernelInfo_GetNodeName(info, 0, &bytes);
  if (status) n->api->ReleaseStatus(status);
  n->name = bytes ? allocate(n->host.self, bytes) : 0;
  return n->name ? n->api->KernelInfo_GetNodeName(info, n->name, &bytes) : 0;
}

static ort_status prepare(node *n, ort_ptr info)
{
  tensor in[BIAS + 1];
  TRY(read_name(n, info));
  TRY(read_window(n, info));
  TRY(read_weight(n, info, in));
  TRY(check_weight(n, in));
  if (n->isa->create(&n->spec, &n->host, &n->kernel))
    return refuse(n, "there is not enough memory to prepare the weights", "free memory or use a smaller model");
  return 0;
}

static void destroy(void *kernel)
{
  node *n = kernel;
  if (n->kernel) n->isa->destroy(n->kernel);
  if (n->name) release(n->host.self, n->name);
  release(n->host.self, n);
}

static ort_status create(const ort_custom_op *op, ort_api api, ort_ptr info, void **out)
{
  *out = 0;
  node *n = allocate((void *)api, sizeof *n);
  if (!n) return api->CreateStatus(ORT_FAIL, "sparsecc: out of memory");
  *n = (node){.api = api, .host = {allocate, release, (void *)api}, .isa = sc_pick_isa(),
              .variant = &((const registered *)op)->variant};
  ort_status status = prepare(n, info);
  if (status) destroy(n);
  else *out = n;
  return status;
}

/* ---- running a node ---- */
static ort_status read_input(const node *n, ort_ptr context, int input, tensor *t)
{
  ort_ptr value = 0;
  TRY(n->api->KernelContext_GetInput(context, (u64)input, &value));
  if (!value) return refuse(n, "an input is missing", recompile);
  return read_tensor(n, value, input, t);
}

static ort_status output_dims(const node *n, const tensor *x, i64 *dims, sc_image *image)
{
  const sc_spec *s = &n->spec;
  i64 channels = s->channels * s->group;
  if (!n->variant->conv) {
    if (!x->rank || x->dims[x->rank - 1] != s->channels) {
      message m = {.used = 0};
      say(&m, "[..., ");
      say_number(&m, s->channels);
      say(&m, "]");
      return refuse_tensor(n, X, x, m.text, "feed this layer as many features as its weight has columns");
    }
    for (u64 i = 0; i < x->rank; i++) dims[i] = x->dims[i];
    dims[x->rank - 1] = s->rows;
    return 0;
  }
  if (x->rank != 4 || x->dims[1] != channels) {
    message m = {.used = 0};
    say(&m, "[N, ");
    say_number(&m, channels);
    say(&m, ", H, W]");
    return refuse_tensor(n, X, x, m.text, "feed this layer as many channels as its weight has");
  }
  *image = (sc_image){x->dims[0], x->dims[2], x->dims[3],
                      sc_out_size(x->dims[2], s->pad[0], s->pad[2], s->kernel[0], s->stride[0], s->dilation[0]),
                      sc_out_size(x->dims[3], s->pad[1], s->pad[3], s->kernel[1], s->stride[1], s->dilation[1])};
  if (image->out_height < 1 || image->out_width < 1)
    return refuse_tensor(n, X, x, "an image that the padded window fits into", "feed a larger image");
  dims[0] = image->batch, dims[1] = s->rows, dims[2] = image->out_height, dims[3] = image->out_width;
  return 0;
}

static ort_status same_dims(const node *n, const tensor *residual, const i64 *dims, u64 rank)
{
  int same = residual->rank == rank;
  for (u64 i = 0; same && i < rank; i++) same = residual->dims[i] == dims[i];
  if (same) return 0;
  message m = {.used = 0};
  say_list(&m, dims, rank);
  return refuse_tensor(n, RESIDUAL, residual, m.text, "add a tensor of the layer's own output shape");
}

static ort_status failure(const node *n, int status, ort_status host_error)
{
  if (status == SC_HOST_ERROR) return host_error;
  if (status == SC_TOO_LARGE) return refuse(n, "the image is too large for 32-bit tap offsets", "feed smaller images or tiles");
  return refuse(n, "out of working memory", "free memory or feed smaller batches");
}

static ort_status compute(void *kernel, ort_ptr context)
{
  const node *n = kernel;
  tensor x, residual = {.data = 0};
  i64 dims[MAX_RANK];
  sc_image image;
  TRY(read_input(n, context, X, &x));
  TRY(output_dims(n, &x, dims, &image));
  if (n->variant->residual) {
    TRY(read_input(n, context, RESIDUAL, &residual));
    TRY(same_dims(n, &residual, dims, x.rank));
  }
  ort_ptr value;
  void *y, *host_error = 0;
  TRY(n->api->KernelContext_GetOutput(context, 0, dims, x.rank, &value));
  TRY(n->api->GetTensorMutableData(value, &y));
  call c = {n->api, context};
  sc_parallel parallel = {parallel_for, &c};
  i64 tokens = 1;
  for (u64 i = 0; i + 1 < x.rank; i++) tokens *= x.dims[i];
  int status = n->variant->conv ? n->isa->conv(n->kernel, &image, x.data, residual.data, y, &parallel, &host_error)
                                : n->isa->matmul(n->kernel, tokens, x.data, residual.data, y, &parallel, &host_error);
  return status ? failure(n, status, host_error) : 0;
}

/* ---- registration ---- */
static const char *name_of(const ort_custom_op *op) { return ((const registered *)op)->variant.name; }
static const char *provider(const ort_custom_op *op) { (void)op; return 0; /* CPU */ }
static int input_type(const ort_custom_op *op, u64 i) { (void)op; return input_types[i]; }
static u64 input_count(const ort_custom_op *op) { return RESIDUAL + (u64)((const registered *)op)->variant.residual; }
static int output_type(const ort_custom_op *op, u64 i) { (void)op, (void)i; return ORT_FLOAT; }
static u64 output_count(const ort_custom_op *op) { (void)op; return 1; }
static int zero_at(const ort_custom_op *op, u64 i) { (void)op, (void)i; return 0; /* required; CPU memory */ }
static int first_version(const ort_custom_op *op) { (void)op; return 1; }
static int last_version(const ort_custom_op *op) { (void)op; return 0x7fffffff; }

#define OP                                                                                              \
  {.version = ORT_API, .GetName = name_of, .GetExecutionProviderType = provider,                        \
   .GetInputType = input_type, .GetInputTypeCount = input_count, .GetOutputType = output_type,          \
   .GetOutputTypeCount = output_count, .KernelDestroy = destroy, .GetInputCharacteristic = zero_at,     \
   .GetOutputCharacteristic = zero_at, .GetInputMemoryType = zero_at, .CreateKernelV2 = create,         \
   .KernelComputeV2 = compute, .GetStartVersion = first_version, .GetEndVersion = last_version}
#define VARIANT(...) {OP, {__VA_ARGS__}},
static const registered ops[] = {SC_OPS(VARIANT)};
enum { VARIANTS = sizeof ops / sizeof *ops };

static ort_status too_old(const ort_base *base)
{
  for (u32 version = ORT_API - 1; version >= ORT_OLDEST_API; version--) {
    ort_api api = base->get_api(version);
    if (api) return api->CreateStatus(ORT_FAIL, "sparsecc needs ONNX Runtime 1.18 or newer");
  }
  return 0; /* a runtime without any interface cannot be told anything */
}

__attribute__((visibility("default"))) ort_status RegisterCustomOps(ort_ptr options, const ort_base *base)
{
  ort_api api = base->get_api(ORT_API);
  if (!api) return too_old(base);
  if (!sc_pick_isa()) {
    message m = {.used = 0};
    say(&m, "this sparsecc library needs a CPU with ");
    say(&m, sc_cpu_needs());
    say(&m, "; fix: compile for another target, or run the model without the library: its portable bodies need none");
    return fail(api, &m, ORT_FAIL);
  }
  ort_ptr domain;
  TRY(api->CreateCustomOpDomain("sparsecc", &domain));
  ort_status status = 0;
  for (int i = 0; i < VARIANTS && !status; i++) status = api->CustomOpDomain_Add(domain, &ops[i].op);
  if (!status) status = api->AddCustomOpDomain(options, domain);
  if (status) api->ReleaseCustomOpDomain(domain);
  return status;
}

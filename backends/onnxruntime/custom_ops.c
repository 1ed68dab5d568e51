/* The ONNX Runtime custom-op library: every variant of SparseConv and SparseMatMul, for one target. A model is not
   trusted: what a node says is checked when it is made, what it is given at every call. */
#include "layer.h"
#include "region_op.h"

typedef struct { const char *name; int conv, residual; i32 activation; } variant;
typedef struct { ort_custom_op op; variant variant; } registered;

enum { X, VALUES, INDEX, GRID, SHAPE, BIAS, RESIDUAL };
static const char *const input_names[] = {"X", "values", "index", "grid", "shape", "bias", "residual"};
static const int input_types[] = {ORT_FLOAT, ORT_FLOAT, ORT_INT32, ORT_INT64, ORT_INT64, ORT_FLOAT, ORT_FLOAT};

/* One node of a session. */
typedef struct {
  layer layer;
  const variant *variant;
} node;

static ort_status wrong_shape(const node *n, int input, const tensor *t, const char *expected, const char *fix)
{
  return refuse_tensor(&n->layer.at, input_names[input], t, expected, fix);
}

/* ---- making a node ---- */
static ort_status read_window(node *n, ort_ptr info)
{
  sc_spec *s = &n->layer.spec;
  s->stride[0] = s->stride[1] = s->dilation[0] = s->dilation[1] = s->group = 1;
  if (!n->layer.conv) return 0;
  TRY(read_ints(&n->layer.at, info, "strides", s->stride, 2));
  TRY(read_ints(&n->layer.at, info, "pads", s->pad, 4));
  TRY(read_ints(&n->layer.at, info, "dilations", s->dilation, 2));
  ort_status status = n->layer.at.api->KernelInfoGetAttribute_int64(info, "group", &s->group);
  if (!status) return 0;
  n->layer.at.api->ReleaseStatus(status);
  return refuse(&n->layer.at, "attribute group is missing", recompile);
}

static ort_status read_weight(node *n, ort_ptr info, tensor *in)
{
  sc_spec *s = &n->layer.spec;
  for (int i = VALUES; i <= BIAS; i++)
    TRY(read_constant(&n->layer.at, info, (u64)i, input_names[i], input_types[i], &in[i]));
  if (!has_dims(&in[GRID], 1, 4, 0)) return wrong_shape(n, GRID, &in[GRID], "[4]", recompile);
  u64 rank = n->layer.conv ? 4 : 2;
  if (!has_dims(&in[SHAPE], 1, (i64)rank, 0))
    return wrong_shape(n, SHAPE, &in[SHAPE], n->layer.conv ? "[4]" : "[2]", recompile);
  const i64 *grid = in[GRID].data, *shape = in[SHAPE].data;
  s->grid_rows = grid[0], s->grid_cols = grid[1], s->block_rows = grid[2], s->block_cols = grid[3];
  s->rows = shape[0], s->channels = shape[rank - 1];
  s->kernel[0] = rank == 4 ? shape[1] : 1, s->kernel[1] = rank == 4 ? shape[2] : 1;
  s->activation = n->variant->activation;
  s->lasting = 1; /* a constant of the session */
  s->values = in[VALUES].data, s->index = in[INDEX].data, s->bias = in[BIAS].data;
  if (in[INDEX].rank != 1) return wrong_shape(n, INDEX, &in[INDEX], "one dimension", recompile);
  s->count = in[INDEX].dims[0];
  if (!has_dims(&in[BIAS], 1, s->rows, 0)) return wrong_shape(n, BIAS, &in[BIAS], "[R], R being shape[0]", recompile);
  return 0;
}

static ort_status check_weight(const node *n, const tensor *in)
{
  const sc_spec *s = &n->layer.spec;
  const char *wrong = sc_check(s);
  if (!wrong && !has_dims(&in[VALUES], 2, s->count, s->block_rows * s->block_cols))
    return wrong_shape(n, VALUES, &in[VALUES], "[blocks, r*c], blocks being the length of index", recompile);
  if (!wrong) return 0;
  message m;
  begin(&n->layer.at, &m);
  say(&m, wrong);
  say(&m, "; shape ");
  say_list(&m, in[SHAPE].data, n->layer.conv ? 4 : 2);
  say(&m, ", grid ");
  say_list(&m, in[GRID].data, 4);
  say(&m, ", blocks ");
  say_number(&m, s->count);
  say(&m, ", group ");
  say_number(&m, s->group);
  say(&m, "; fix: ");
  say(&m, recompile);
  return fail(n->layer.at.api, &m, ORT_INVALID_ARGUMENT);
}

static ort_status prepare(node *n, ort_ptr info)
{
  tensor in[BIAS + 1];
  TRY(read_name(n->layer.at.api, info, &n->layer.name));
  n->layer.at.name = n->layer.name;
  TRY(read_window(n, info));
  TRY(read_weight(n, info, in));
  TRY(check_weight(n, in));
  return layer_prepare(&n->layer);
}

static void destroy(void *kernel)
{
  node *n = kernel;
  void *self = (void *)n->layer.at.api;
  layer_clear(&n->layer);
  host_release(self, n);
}

static ort_status create(const ort_custom_op *op, ort_api api, ort_ptr info, void **out)
{
  *out = 0;
  node *n = host_allocate((void *)api, sizeof *n);
  if (!n) return api->CreateStatus(ORT_FAIL, "sparsecc: out of memory");
  const variant *v = &((const registered *)op)->variant;
  *n = (node){.layer = {.at = {api, v->name, 0}, .isa = sc_pick_isa(), .conv = v->conv}, .variant = v};
  ort_status status = prepare(n, info);
  if (status) destroy(n);
  else *out = n;
  return status;
}

/* ---- running a node ---- */
static ort_status compute(void *kernel, ort_ptr context)
{
  const node *n = kernel;
  return layer_compute(&n->layer, context, X, n->variant->residual ? RESIDUAL : -1);
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

__attribute__((visibility("default"))) ort_status RegisterCustomOps(ort_ptr options, const ort_base *base)
{
  ort_api api = base->get_api(ORT_API);
  if (!api) return too_old(base, ORT_API, "sparsecc needs ONNX Runtime 1.18 or newer");
  if (!sc_pick_isa())
    return wrong_cpu(api, "compile for another target, or run the model without the library: its portable bodies "
                          "need none");
  ort_ptr domain;
  TRY(api->CreateCustomOpDomain("sparsecc", &domain));
  ort_status status = 0;
  for (int i = 0; i < VARIANTS && !status; i++) status = api->CustomOpDomain_Add(domain, &ops[i].op);
  if (!status) status = region_add_ops(api, domain);
  if (!status) status = api->AddCustomOpDomain(options, domain);
  if (status) api->ReleaseCustomOpDomain(domain);
  return status;
}

/* Regions as custom ops: Region0, Region1, ... Inputs are the program, the names of its steps, the values the region reads
   and the constants of its steps; the program says how many there are of each. */
#include "region_op.h"
#include "layer.h"
#include "region.h"

enum { PROGRAM, NAMES, FIRST, MAX_CONSTANTS = 1 << 16 };
enum { INPUTS = 3, OUTPUTS, STEPS }; /* where the program says how many */

/* One region of a session. */
typedef struct {
  origin at;
  char *name, *names;            /* names: one zero-terminated name per step */
  sc_host host;
  sc_region *region;
} node;

static const char damaged[] = "compile the model again with sparsecc; the region was changed after it was saved";

/* ---- errors: "Region0 'region': layer 'features.3' (SparseConv): what is wrong; fix: ..." ---- */
static const char *step_name(const node *n, i64 step)
{
  const char *p = n->names;
  for (; step > 0; step--) {
    while (*p) p++;
    p++;
  }
  return p;
}

static ort_status refuse_step(const node *n, const sc_wrong *wrong, const char *fix)
{
  message m;
  begin(&n->at, &m);
  if (wrong->step >= 0) {
    say(&m, "layer '");
    say(&m, step_name(n, wrong->step));
    say(&m, "'");
    if (n->region) { /* otherwise it is being made, and its steps are not all known yet */
      say(&m, " (");
      say(&m, sc_region_step_kind(n->region, wrong->step));
      say(&m, ")");
    }
    say(&m, ": ");
  }
  say(&m, wrong->what);
  say(&m, "; fix: ");
  say(&m, fix);
  return fail(n->at.api, &m, ORT_INVALID_ARGUMENT);
}

/* ---- making a region ---- */
static int kind_of(int type)
{
  return type == ORT_FLOAT ? SC_F32 : type == ORT_INT32 ? SC_I32 : type == ORT_INT64 ? SC_I64
       : type == ORT_UINT8 ? SC_U8 : type == ORT_INT8 ? SC_I8 : SC_TYPES;
}

static ort_status read_one(const node *n, ort_ptr info, u64 index, sc_constant *c)
{
  ort_ptr value = constant_input(&n->at, info, index);
  if (!value) return refuse(&n->at, "a weight of the region is not a constant", damaged);
  tensor t;
  TRY(read_any(&n->at, value, &t));
  if (t.rank > SC_RANK || kind_of(t.type) == SC_TYPES) return refuse(&n->at, "a weight has an unknown form", damaged);
  *c = (sc_constant){.type = kind_of(t.type), .rank = (i32)t.rank, .data = t.data, .count = elements(&t)};
  for (u64 i = 0; i < t.rank; i++) c->dims[i] = t.dims[i];
  return 0;
}

static ort_status read_names(node *n, ort_ptr info, i64 steps)
{
  tensor t;
  TRY(read_constant(&n->at, info, NAMES, "names", ORT_UINT8, &t));
  i64 count = elements(&t), zeros = 0;
  const char *from = t.data;
  for (i64 i = 0; i < count; i++) zeros += !from[i];
  if (zeros != steps || !count || from[count - 1]) return refuse(&n->at, "the names of its layers are damaged", damaged);
  n->names = host_allocate((void *)n->at.api, (u64)count);
  for (i64 i = 0; n->names && i < count; i++) n->names[i] = from[i];
  return n->names ? 0 : refuse(&n->at, "out of memory", "free memory");
}

static ort_status read_region(node *n, ort_ptr info, const tensor *program, sc_constant *constants, u64 first, u64 count)
{
  TRY(read_names(n, info, ((const i64 *)program->data)[STEPS]));
  for (u64 i = 0; i < count; i++) TRY(read_one(n, info, first + i, &constants[i]));
  sc_wrong wrong = {-1, 0};
  const sc_isa *isa = sc_pick_isa();
  int status = sc_region_create(isa, program->data, elements(program), constants, (i64)count, &n->host, &n->region, &wrong);
  if (status == SC_WRONG) return refuse_step(n, &wrong, damaged);
  return status ? refuse(&n->at, "there is not enough memory to prepare the weights", "free memory") : 0;
}

static ort_status prepare(node *n, ort_ptr info)
{
  TRY(read_name(n->at.api, info, &n->name));
  n->at.name = n->name;
  tensor program;
  TRY(read_constant(&n->at, info, PROGRAM, "program", ORT_INT64, &program));
  u64 all = 0, outputs = 0;
  TRY(n->at.api->KernelInfo_GetInputCount(info, &all));
  TRY(n->at.api->KernelInfo_GetOutputCount(info, &outputs));
  const i64 *head = program.data;
  i64 inputs = program.rank == 1 && program.dims[0] > STEPS ? head[INPUTS] : 0;
  if (inputs < 1 || inputs > SC_REGION_VALUES || (u64)inputs + FIRST > all || all > MAX_CONSTANTS ||
      head[OUTPUTS] != (i64)outputs || outputs > SC_REGION_VALUES)
    return refuse(&n->at, "the program does not fit the inputs of the region", damaged);
  u64 first = (u64)inputs + FIRST, count = all - first;
  sc_constant *constants = host_allocate((void *)n->at.api, (count + 1) * sizeof *constants);
  if (!constants) return refuse(&n->at, "out of memory", "free memory");
  ort_status status = read_region(n, info, &program, constants, first, count);
  host_release((void *)n->at.api, constants);
  return status;
}

static void destroy(void *kernel)
{
  node *n = kernel;
  void *self = (void *)n->at.api;
  if (n->region) sc_region_destroy(n->region);
  if (n->names) host_release(self, n->names);
  if (n->name) host_release(self, n->name);
  host_release(self, n);
}

static ort_status create(const ort_custom_op *op, ort_api api, ort_ptr info, void **out)
{
  *out = 0;
  node *n = host_allocate((void *)api, sizeof *n);
  if (!n) return api->CreateStatus(ORT_FAIL, "sparsecc: out of memory");
  *n = (node){.at = {api, op->GetName(op), 0}, .host = host_of(api)};
  ort_status status = prepare(n, info);
  if (status) destroy(n);
  else *out = n;
  return status;
}

/* ---- running it ---- */
static ort_status read_values(const node *n, ort_ptr context, sc_tensor *values, void **data)
{
  for (i64 i = 0; i < sc_region_inputs(n->region); i++) {
    tensor t;
    ort_ptr value = 0;
    TRY(n->at.api->KernelContext_GetInput(context, (u64)(FIRST + i), &value));
    if (!value) return refuse(&n->at, "an input is missing", recompile);
    TRY(read_any(&n->at, value, &t));
    if (kind_of(t.type) == SC_TYPES) return refuse(&n->at, "an input is of a type that no step reads", recompile);
    if (t.rank > SC_RANK) return refuse_tensor(&n->at, "an input", &t, "at most 6 dimensions", "reshape it");
    values[i] = (sc_tensor){.type = kind_of(t.type), .layout = SC_PLAIN, .rank = (i32)t.rank};
    for (u64 d = 0; d < t.rank; d++) values[i].dims[d] = t.dims[d];
    data[i] = t.data;
  }
  return 0;
}

static ort_status run_plan(const node *n, ort_ptr context, sc_plan *plan, void *const *inputs)
{
  void *outputs[SC_REGION_VALUES], *host_error = 0;
  for (i64 i = 0; i < sc_region_outputs(n->region); i++) {
    const sc_tensor *t = sc_plan_output(n->region, plan, i);
    ort_ptr value;
    TRY(n->at.api->KernelContext_GetOutput(context, (u64)i, t->dims, (u64)t->rank, &value));
    TRY(n->at.api->GetTensorMutableData(value, &outputs[i]));
  }
  host_call c = {n->at.api, context};
  sc_parallel parallel = {host_parallel_for, &c};
  sc_wrong wrong = {-1, 0};
  int status = sc_region_run(n->region, plan, inputs, outputs, &parallel, &host_error, &wrong);
  if (status == SC_WRONG) return refuse_step(n, &wrong, "feed what the model was exported for");
  return kernel_failure(&n->at, status, host_error);
}

static ort_status compute(void *kernel, ort_ptr context)
{
  const node *n = kernel;
  sc_tensor values[SC_REGION_VALUES];
  void *inputs[SC_REGION_VALUES];
  TRY(read_values(n, context, values, inputs));
  sc_plan *plan;
  sc_wrong wrong = {-1, 0};
  int planned = sc_region_plan(n->region, values, &plan, &wrong);
  if (planned == SC_WRONG) return refuse_step(n, &wrong, "feed inputs of the sizes the model was exported for");
  if (planned) return kernel_failure(&n->at, planned, 0);
  ort_status status = run_plan(n, context, plan, inputs);
  sc_plan_done(n->region, plan);
  return status;
}

/* ---- registration ---- */
enum { REQUIRED = 0, VARIADIC = 2, ANY_TYPE = 0 };
typedef struct { ort_custom_op op; const char *name; } registered;

static const char *name_of(const ort_custom_op *op) { return ((const registered *)op)->name; }
static const char *provider(const ort_custom_op *op) { (void)op; return 0; /* CPU */ }
static int any_type(const ort_custom_op *op, u64 i) { (void)op, (void)i; return ANY_TYPE; }
static u64 one(const ort_custom_op *op) { (void)op; return 1; }
static int at_least_one(const ort_custom_op *op) { (void)op; return 1; }
static int mixed(const ort_custom_op *op) { (void)op; return 0; }
static int variadic(const ort_custom_op *op, u64 i) { (void)op, (void)i; return VARIADIC; }
static int in_memory(const ort_custom_op *op, u64 i) { (void)op, (void)i; return REQUIRED; }
static int first_version(const ort_custom_op *op) { (void)op; return 1; }
static int last_version(const ort_custom_op *op) { (void)op; return 0x7fffffff; }

#define REGION(name)                                                                                     \
  {{.version = ORT_API, .GetName = name_of, .GetExecutionProviderType = provider,                        \
    .GetInputType = any_type, .GetInputTypeCount = one, .GetOutputType = any_type,                        \
    .GetOutputTypeCount = one, .KernelDestroy = destroy, .GetInputCharacteristic = variadic,             \
    .GetOutputCharacteristic = variadic, .GetInputMemoryType = in_memory,                                \
    .GetVariadicInputMinArity = at_least_one, .GetVariadicInputHomogeneity = mixed,                      \
    .GetVariadicOutputMinArity = at_least_one, .GetVariadicOutputHomogeneity = mixed,                     \
    .CreateKernelV2 = create, .KernelComputeV2 = compute, .GetStartVersion = first_version,              \
    .GetEndVersion = last_version}, name},
static const registered ops[] = {SC_REGION_NAMES(REGION)};

ort_status region_add_ops(ort_api api, ort_ptr domain)
{
  ort_status status = 0;
  for (u64 i = 0; i < sizeof ops / sizeof *ops && !status; i++) status = api->CustomOpDomain_Add(domain, &ops[i].op);
  return status;
}

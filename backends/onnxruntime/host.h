/* What every op of the library needs from ONNX Runtime: memory, threads, tensors, and errors that name the node. */
#ifndef SC_ORT_HOST_H
#define SC_ORT_HOST_H
#include "cpu.h"
#include "message.h"

#define TRY(call)                \
  do {                           \
    ort_status status_ = (call); \
    if (status_) return status_; \
  } while (0)

/* ---- memory and threads ---- */
static inline void *host_allocate(void *self, u64 bytes)
{
  ort_api api = self;
  void *allocator, *out = 0;
  ort_status status = api->GetAllocatorWithDefaultOptions(&allocator);
  if (!status) status = api->AllocatorAlloc(allocator, bytes, &out);
  if (status) api->ReleaseStatus(status);
  return status ? 0 : out;
}

static inline void host_release(void *self, void *memory)
{
  ort_api api = self;
  void *allocator;
  ort_status status = api->GetAllocatorWithDefaultOptions(&allocator);
  if (!status) status = api->AllocatorFree(allocator, memory);
  if (status) api->ReleaseStatus(status);
}

static inline sc_host host_of(ort_api api) { return (sc_host){host_allocate, host_release, (void *)api, 0}; }

typedef struct { ort_api api; ort_ptr context; } host_call;

static inline void *host_parallel_for(void *self, void (*task)(void *, u64), u64 count, void *data)
{
  host_call *c = self;
  return c->api->KernelContext_ParallelFor(c->context, task, count, 0, data);
}

/* ---- errors: "SparseConv_relu 'layer1.conv1': what is wrong; shape [...], grid [...]; fix: ..." ---- */

/* The node that speaks; name may be null. */
typedef struct { ort_api api; const char *op, *name; } origin;

static inline void begin(const origin *at, message *m)
{
  m->used = 0;
  say(m, at->op);
  say(m, " '");
  say(m, at->name ? at->name : "");
  say(m, "': ");
}

static inline ort_status refuse(const origin *at, const char *what, const char *fix)
{
  message m;
  begin(at, &m);
  say(&m, what);
  say(&m, "; fix: ");
  say(&m, fix);
  return fail(at->api, &m, ORT_INVALID_ARGUMENT);
}

static const char recompile[] =
  "compile the model again with sparsecc; its packed weights were changed after it was saved";

/* ---- tensors ---- */
enum { MAX_RANK = 16 };
typedef struct { void *data; i64 dims[MAX_RANK]; u64 rank; int type; } tensor;

static inline int has_dims(const tensor *t, u64 rank, i64 first, i64 second)
{
  return t->rank == rank && t->dims[0] == first && (rank < 2 || t->dims[1] == second);
}

/* How many; a number beyond any memory when it does not fit. */
static inline i64 elements(const tensor *t)
{
  i64 count = 1;
  for (u64 i = 0; i < t->rank; i++)
    if (__builtin_mul_overflow(count, t->dims[i], &count)) return 1LL << 62;
  return count;
}

static inline ort_status refuse_tensor(const origin *at, const char *input, const tensor *t, const char *expected,
                                       const char *fix)
{
  message m;
  begin(at, &m);
  say(&m, input);
  say(&m, " has shape ");
  say_list(&m, t->dims, t->rank < MAX_RANK ? t->rank : MAX_RANK);
  say(&m, ", expected ");
  say(&m, expected);
  say(&m, "; fix: ");
  say(&m, fix);
  return fail(at->api, &m, ORT_INVALID_ARGUMENT);
}

/* Type, rank and dims; data stay as they are. */
static inline ort_status read_info(const origin *at, ort_ptr info, tensor *t)
{
  TRY(at->api->GetTensorElementType(info, &t->type));
  TRY(at->api->GetDimensionsCount(info, &t->rank));
  if (t->rank > MAX_RANK) return refuse(at, "a tensor has more than 16 dimensions", "reshape it");
  return at->api->GetDimensions(info, t->dims, t->rank);
}

/* A tensor of any element type. */
static inline ort_status read_any(const origin *at, ort_ptr value, tensor *t)
{
  ort_ptr info;
  TRY(at->api->GetTensorTypeAndShape(value, &info));
  ort_status status = read_info(at, info, t);
  at->api->ReleaseTensorTypeAndShapeInfo(info);
  TRY(status);
  return at->api->GetTensorMutableData(value, &t->data);
}

static inline ort_status read_tensor(const origin *at, ort_ptr value, const char *name, int type, tensor *t)
{
  TRY(read_any(at, value, t));
  return t->type == type ? 0 : refuse(at, name, "its element type is not that of the contract");
}

/* An input of the running node. */
static inline ort_status read_input(const origin *at, ort_ptr context, u64 index, const char *name, int type, tensor *t)
{
  ort_ptr value = 0;
  TRY(at->api->KernelContext_GetInput(context, index, &value));
  if (!value) return refuse(at, "an input is missing", recompile);
  return read_tensor(at, value, name, type, t);
}

/* A constant input of a node that is being made; null when it is not constant. */
static inline ort_ptr constant_input(const origin *at, ort_ptr info, u64 index)
{
  int constant = 0;
  ort_ptr value = 0;
  ort_status status = at->api->KernelInfoGetConstantInput_tensor(info, index, &constant, &value);
  if (status) at->api->ReleaseStatus(status);
  return !status && constant ? value : 0;
}

static inline ort_status read_constant(const origin *at, ort_ptr info, u64 index, const char *name, int type, tensor *t)
{
  ort_ptr value = constant_input(at, info, index);
  if (value) return read_tensor(at, value, name, type, t);
  message m;
  begin(at, &m);
  say(&m, name);
  say(&m, " is not a constant; fix: packed weights must be initializers of the model that no input overrides");
  return fail(at->api, &m, ORT_INVALID_ARGUMENT);
}

/* ---- a node's name and attributes ---- */

/* The name of the node that is being made, the caller's to release; null when it has none or there is no memory. */
static inline ort_status read_name(ort_api api, ort_ptr info, char **name)
{
  u64 bytes = 0;
  ort_status status = api->KernelInfo_GetNodeName(info, 0, &bytes);
  if (status) api->ReleaseStatus(status);
  *name = bytes ? host_allocate((void *)api, bytes) : 0;
  return *name ? api->KernelInfo_GetNodeName(info, *name, &bytes) : 0;
}

/* A list of exactly `count` integers. */
static inline ort_status read_ints(const origin *at, ort_ptr info, const char *name, i64 *out, u64 count)
{
  u64 found = count;
  ort_status status = at->api->KernelInfoGetAttributeArray_int64(info, name, out, &found);
  if (!status && found == count) return 0;
  if (status) at->api->ReleaseStatus(status);
  message m;
  begin(at, &m);
  say(&m, "attribute ");
  say(&m, name);
  say(&m, " must be a list of ");
  say_number(&m, (i64)count);
  say(&m, " integers; fix: ");
  say(&m, recompile);
  return fail(at->api, &m, ORT_INVALID_ARGUMENT);
}

/* ---- when the library cannot serve at all ---- */

/* For a runtime that does not know API `wanted`: said through the newest API it does know. */
static inline ort_status too_old(const ort_base *base, u32 wanted, const char *what)
{
  for (u32 version = wanted - 1; version >= ORT_OLDEST_API; version--) {
    ort_api api = base->get_api(version);
    if (api) return api->CreateStatus(ORT_FAIL, what);
  }
  return 0; /* a runtime without any interface cannot be told anything */
}

static inline ort_status wrong_cpu(ort_api api, const char *fix)
{
  message m = {.used = 0};
  say(&m, "this sparsecc library needs a CPU with ");
  say(&m, sc_cpu_needs());
  say(&m, "; fix: ");
  say(&m, fix);
  return fail(api, &m, ORT_FAIL);
}

/* ---- what a kernel answered ---- */
static inline ort_status kernel_failure(const origin *at, int status, ort_status host_error)
{
  if (status == SC_OK) return 0;
  if (status == SC_HOST_ERROR) return host_error;
  if (status == SC_TOO_LARGE)
    return refuse(at, "the image is too large for 32-bit tap offsets", "feed smaller images or tiles");
  return refuse(at, "out of working memory", "free memory or feed smaller batches");
}
#endif

/* The other side of what TVM's virtual machine calls: memory of the C library, threads of TVM. */
#include "library.h"

void *aligned_alloc(__SIZE_TYPE__ align, __SIZE_TYPE__ bytes);
void free(void *memory);
int sched_yield(void);
void TVMFFIErrorSetRaisedFromCStr(const char *kind, const char *message);
int TVMFFIHandleInitOnce(void **handle, int (*make)(void **result));
typedef struct { void *sync; i32 tasks; } group;
int TVMBackendParallelLaunch(int (*task)(int number, group *all, void *data), void *data, int tasks);

enum { ALIGN = 64, ROOM = 1024, DL_TENSOR = 7, TENSOR = 70, TENSOR_HEADER = 24 };
enum { DL_INT, DL_UINT, DL_FLOAT, DL_BOOL = 6, DL_CPU = 1 };

static void *allocate(void *self, u64 bytes) { return (void)self, aligned_alloc(ALIGN, (bytes + ALIGN - 1) / ALIGN * ALIGN); }
static void release(void *self, void *memory) { (void)self, free(memory); }

/* ---- threads ---- */
typedef struct { void (*task)(void *, u64); void *data; u64 count; } work;

static int part(int number, group *all, void *data)
{
  const work *w = data;
  for (u64 i = (u64)number; i < w->count; i += (u64)all->tasks) w->task(w->data, i);
  return 0;
}

static void *parallel(void *self, void (*task)(void *, u64), u64 count, void *data)
{
  (void)self;
  work w = {task, data, count};
  group alone = {0, 1};
  if (count == 1) part(0, &alone, &w);
  else if (TVMBackendParallelLaunch(part, &w, 0)) return (void *)part; /* any pointer: TVM knows what failed */
  return 0;
}

static int fail(const char *text)
{
  TVMFFIErrorSetRaisedFromCStr("RuntimeError", text);
  return -1;
}

/* ---- the model of a region ---- */
int sc_library_make(sc_library_region *r, void **out)
{
  static const sc_bundle_host host = {allocate, release, parallel, 0};
  char text[ROOM];
  sc_bundle *made;
  if (sc_bundle_create(r->plan, r->weights, (u64)(r->weights_end - r->weights), &host, &made, text, ROOM)) return fail(text);
  *out = made;
  return 0;
}

static i32 type_of(const sc_dl_tensor *t)
{
  if (t->lanes != 1) return -1;
  if (t->code == DL_FLOAT && t->bits == 32) return SC_F32;
  if (t->code == DL_BOOL && t->bits == 8) return SC_BOOL;
  if (t->code == DL_UINT && t->bits == 8) return SC_U8;
  if (t->code != DL_INT) return -1;
  return t->bits == 64 ? SC_I64 : t->bits == 32 ? SC_I32 : t->bits == 8 ? SC_I8 : -1;
}

/* Null, or why a tensor cannot be taken. */
static const char *read(const sc_any *any, sc_value_of_port *out)
{
  if (any->type != DL_TENSOR && any->type != TENSOR) return "a region was called with other than tensors";
  const char *object = any->value.object;
  const sc_dl_tensor *t = (const void *)(any->type == TENSOR ? object + TENSOR_HEADER : object);
  if (t->device_type != DL_CPU || t->rank > SC_PORT_RANK) return "a region takes tensors in memory of the CPU, of rank 8 or less";
  *out = (sc_value_of_port){.data = (char *)t->data + t->offset, .rank = t->rank, .type = type_of(t)};
  i64 step = 1;
  for (i32 d = t->rank - 1; d >= 0; step *= t->dims[d--]) {
    if (t->strides && t->strides[d] != step && t->dims[d] != 1) return "a region takes tensors without gaps";
    out->dims[d] = t->dims[d];
  }
  return 0;
}

int sc_library_call(sc_library_region *r, const sc_any *arguments, i32 count)
{
  const i32 inputs = r->plan->input_count, outputs = r->plan->output_count;
  sc_value_of_port values[2 * SC_REGION_VALUES];
  if (count != inputs + outputs) return fail("a region was called with another number of tensors than it has");
  for (i32 i = 0; i < count; i++) {
    const char *wrong = read(&arguments[i], &values[i]);
    if (wrong) return fail(wrong);
  }
  if (TVMFFIHandleInitOnce((void **)&r->made, r->make)) return -1;
  while (__atomic_exchange_n(&r->busy, 1, __ATOMIC_ACQUIRE)) sched_yield();
  const int status = sc_bundle_run(r->made, values, values + inputs);
  const int told = status ? fail(sc_bundle_error(r->made)) : 0;
  __atomic_store_n(&r->busy, 0, __ATOMIC_RELEASE);
  return told;
}

int sc_library_same(const sc_any *arguments, i32 count)
{
  static const i64 sizes[SC_PORT_TYPES] = {4, 4, 8, 1, 1, 1};
  sc_value_of_port from, to;
  if (count != 2) return fail("a copy takes two tensors");
  const char *wrong = read(&arguments[0], &from);
  if (!wrong) wrong = read(&arguments[1], &to);
  if (!wrong && (from.type < 0 || from.type != to.type || from.rank != to.rank)) wrong = "a copy takes tensors of one type and rank";
  if (wrong) return fail(wrong);
  i64 bytes = sizes[from.type];
  for (i32 d = 0; d < from.rank; bytes *= from.dims[d++])
    if (from.dims[d] != to.dims[d]) return fail("the sizes of the inputs do not agree; fix: feed inputs that fit each other");
  for (i64 i = 0; i < bytes; i++) ((char *)to.data)[i] = ((const char *)from.data)[i];
  return 0;
}

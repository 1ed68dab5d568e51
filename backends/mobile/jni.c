/* What android/Native.kt declares: the C API for the Java virtual machine. Kotlin checks what users pass; here is no state but
   the model's, and an error is the bytes of a sentence. */
#include "bundle.h"
#include "java.h"
#include "pages.h"

enum { MESSAGE = 1024, CLASS_NAME = 128, SHAPE = 2 + SC_PORT_RANK /* type, rank, dims */ };

typedef struct {
  sc_pages pages;
  sc_bundle *bundle;
  java env;                      /* of the thread that runs it */
  java_object pool;              /* runs tasks, or null */
  void *pool_run;
} model;

static u64 length_of(const char *text)
{
  u64 n = 0;
  while (text[n]) n++;
  return n;
}

static java_object bytes_of(java env, const char *text)
{
  const i32 length = (i32)length_of(text);
  java_object array = (*env)->NewByteArray(env, length);
  if (array) (*env)->SetByteArrayRegion(env, array, 0, length, text);
  return array;
}

static const sc_port *port_of(i32 side, i32 at) { return (side ? sc_model_plan.outputs : sc_model_plan.inputs) + at; }

/* ---- descriptions ---- */
static i32 count(java env, java_object self, i32 side)
{
  (void)env, (void)self;
  return side ? sc_model_plan.output_count : sc_model_plan.input_count;
}

static java_object name(java env, java_object self, i32 side, i32 at)
{
  (void)self;
  return bytes_of(env, port_of(side, at)->name);
}

static java_object shape(java env, java_object self, i32 side, i32 at)
{
  (void)self;
  const sc_port *p = port_of(side, at);
  i64 all[SHAPE] = {p->type, p->rank};
  for (i32 d = 0; d < p->rank; d++) all[2 + d] = p->dims[d];
  java_object array = (*env)->NewLongArray(env, SHAPE);
  if (array) (*env)->SetLongArrayRegion(env, array, 0, SHAPE, all);
  return array;
}

static java_object dim_name(java env, java_object self, i32 side, i32 at, i32 dim)
{
  (void)self;
  const char *text = port_of(side, at)->dim_names[dim];
  return text ? bytes_of(env, text) : 0;
}

/* ---- tasks on the threads of a pool, which is Kotlin's ---- */
static void *parallel(void *self, void (*task)(void *, u64), u64 tasks, void *data)
{
  model *m = self;
  (*m->env)->CallVoidMethod(m->env, m->pool, m->pool_run, (i64)task, (i64)data, (i64)tasks);
  return (*m->env)->ExceptionCheck(m->env) ? m : 0;
}

static void run_task(java env, java_object self, i64 task, i64 data, i64 at)
{
  (void)env, (void)self;
  ((void (*)(void *, u64))task)((void *)data, (u64)at);
}

/* ---- models ---- */
static i64 misaligned(java env, java_object self, java_object buffer)
{
  (void)self;
  return (i64)(*env)->GetDirectBufferAddress(env, buffer) % SC_WEIGHTS_ALIGN;
}

static void destroy(java env, java_object self, i64 handle)
{
  (void)self;
  model *m = (model *)handle;
  sc_bundle_destroy(m->bundle);
  if (m->pool) (*env)->DeleteGlobalRef(env, m->pool);
  sc_pages pages = m->pages;
  sc_pages_free(&pages, m);
  sc_pages_close(&pages);
}

static java_object create(java env, java_object self, java_object weights, java_object pool, java_object handle)
{
  sc_pages pages = {0};
  model *m = sc_pages_get(&pages, sizeof *m);
  if (!m) return bytes_of(env, "there is not enough memory; fix: close what is not needed");
  *m = (model){.pages = pages, .env = env};
  if (pool) {
    m->pool = (*env)->NewGlobalRef(env, pool);
    m->pool_run = (*env)->GetMethodID(env, (*env)->GetObjectClass(env, pool), "run", "(JJJ)V");
  }
  const sc_bundle_host host = {sc_pages_get, sc_pages_free, m->pool_run ? parallel : 0, m};
  char text[MESSAGE];
  const void *content = (*env)->GetDirectBufferAddress(env, weights);
  const i64 bytes = (*env)->GetDirectBufferCapacity(env, weights), out = (i64)m;
  if (!sc_bundle_create(&sc_model_plan, content, bytes < 0 ? 0 : (u64)bytes, &host, &m->bundle, text, sizeof text)) {
    (*env)->SetLongArrayRegion(env, handle, 0, 1, &out);
    return 0;
  }
  destroy(env, self, out);
  return bytes_of(env, text);
}

/* ---- running ---- */

/* Reads `many` shapes; data come from `buffers`, or stay null where that is null. */
static int read_values(java env, java_object shapes, java_object buffers, i32 many, sc_value_of_port *to)
{
  for (i32 i = 0; i < many; i++) {
    i64 all[SHAPE];
    (*env)->GetLongArrayRegion(env, shapes, i * SHAPE, SHAPE, all);
    if ((*env)->ExceptionCheck(env)) return 0;
    to[i] = (sc_value_of_port){.type = (i32)all[0], .rank = (i32)all[1]};
    for (i32 d = 0; d < SC_PORT_RANK; d++) to[i].dims[d] = all[2 + d];
    if (!buffers) continue;
    java_object buffer = (*env)->GetObjectArrayElement(env, buffers, i);
    to[i].data = buffer ? (*env)->GetDirectBufferAddress(env, buffer) : 0;
    if (buffer) (*env)->DeleteLocalRef(env, buffer);
  }
  return 1;
}

static java_object plan(java env, java_object self, i64 handle, java_object in_shapes, java_object out_shapes)
{
  (void)self;
  model *m = (model *)handle;
  sc_value_of_port in[SC_REGION_VALUES], out[SC_REGION_VALUES];
  if (!read_values(env, in_shapes, 0, sc_model_plan.input_count, in)) return 0;
  if (sc_bundle_infer(m->bundle, in, out)) return bytes_of(env, sc_bundle_error(m->bundle));
  for (i32 i = 0; i < sc_model_plan.output_count; i++) {
    i64 all[SHAPE] = {out[i].type, out[i].rank};
    for (i32 d = 0; d < out[i].rank; d++) all[2 + d] = out[i].dims[d];
    (*env)->SetLongArrayRegion(env, out_shapes, i * SHAPE, SHAPE, all);
  }
  return 0;
}

static java_object run(java env, java_object self, i64 handle, java_object in_shapes, java_object in_data,
                       java_object out_shapes, java_object out_data)
{
  (void)self;
  model *m = (model *)handle;
  sc_value_of_port in[SC_REGION_VALUES], out[SC_REGION_VALUES];
  if (!read_values(env, in_shapes, in_data, sc_model_plan.input_count, in)) return 0;
  if (!read_values(env, out_shapes, out_data, sc_model_plan.output_count, out)) return 0;
  m->env = env;
  const int status = sc_bundle_run(m->bundle, in, out);
  if ((*env)->ExceptionCheck(env)) return 0; /* of the pool: it says more than we can */
  return status ? bytes_of(env, sc_bundle_error(m->bundle)) : 0;
}

/* ---- loading ---- */
static const java_method methods[] = {
  {"count", "(I)I", count},
  {"name", "(II)[B", name},
  {"shape", "(II)[J", shape},
  {"dimName", "(III)[B", dim_name},
  {"misaligned", "(Ljava/nio/ByteBuffer;)J", misaligned},
  {"create", "(Ljava/nio/ByteBuffer;Ljava/lang/Object;[J)[B", create},
  {"plan", "(J[J[J)[B", plan},
  {"run", "(J[J[Ljava/nio/Buffer;[J[Ljava/nio/Buffer;)[B", run},
  {"task", "(JJJ)V", run_task},
  {"destroy", "(J)V", destroy},
};

static char *append(char *to, const char *end, const char *text)
{
  while (*text && to < end) *to++ = *text++;
  *to = 0;
  return to;
}

/* The class that declares the functions is sparsecc.NAME.Native. */
__attribute__((visibility("default"))) i32 JNI_OnLoad(java_machine machine, void *reserved)
{
  (void)reserved;
  java env;
  if ((*machine)->GetEnv(machine, &env, JAVA_1_6)) return JAVA_FAILED;
  char text[CLASS_NAME], *end = text + sizeof text - 1;
  append(append(append(text, end, "sparsecc/"), end, sc_model_plan.name), end, "/Native");
  java_object native = (*env)->FindClass(env, text);
  if (!native || (*env)->RegisterNatives(env, native, methods, sizeof methods / sizeof *methods)) return JAVA_FAILED;
  return JAVA_1_6;
}

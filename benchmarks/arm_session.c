/* Runs a model of one float input and output twice under ONNX Runtime, on one thread:
   arm_session libonnxruntime.so MODEL LIBRARY|- INPUT OUTPUT NAME_IN NAME_OUT DIM... The second run is marked. Of OrtApi, an
   append-only array of functions, only slots are known here, as in backends/onnxruntime/ort_abi.h. */
#include "arm_marks.h"
#include <dlfcn.h>
#include <string.h>

enum { API = 18, FLOAT = 1, WARNINGS = 2, ARENA = 1 };
enum { GET_ERROR = 2, CREATE_ENV = 3, CREATE_SESSION = 7, RUN = 9, CREATE_OPTIONS = 10, SET_INTRA_THREADS = 24, SET_INTER_THREADS = 25,
       REGISTER_LIBRARY = 29, CREATE_TENSOR = 49, GET_DATA = 51, GET_COUNT = 64, GET_INFO = 65, CREATE_MEMORY_INFO = 69 };
typedef void *(*call)();
static const call *api;

#define CALL(slot, ...)                                                      \
  do {                                                                       \
    void *status = api[slot](__VA_ARGS__);                                   \
    if (status) die(((const char *(*)(void *))api[GET_ERROR])(status));      \
  } while (0)

int main(int count, char **arguments)
{
  if (count < 9) die("arm_session libonnxruntime.so MODEL LIBRARY|- INPUT OUTPUT NAME_IN NAME_OUT DIM...");
  void *runtime = dlopen(arguments[1], RTLD_NOW), *env, *options, *session, *memory, *handle, *in, *out = 0, *info, *data;
  if (!runtime) die(dlerror());
  const struct { const call *(*get)(unsigned); } *base = ((void *(*)(void))dlsym(runtime, "OrtGetApiBase"))();
  api = base->get(API);
  if (!api) die("this ONNX Runtime is too old");
  CALL(CREATE_ENV, WARNINGS, "arm", &env);
  CALL(CREATE_OPTIONS, &options);
  CALL(SET_INTRA_THREADS, options, 1);
  CALL(SET_INTER_THREADS, options, 1);
  if (strcmp(arguments[3], "-")) CALL(REGISTER_LIBRARY, options, arguments[3], &handle);
  CALL(CREATE_SESSION, env, arguments[2], options, &session);
  CALL(CREATE_MEMORY_INFO, ARENA, 0, &memory);
  size_t bytes, elements, rank = (size_t)count - 8;
  int64_t dims[8];
  for (size_t i = 0; i < rank && i < 8; i++) dims[i] = atoll(arguments[8 + i]);
  void *content = read_file(arguments[4], &bytes);
  CALL(CREATE_TENSOR, memory, content, bytes, dims, rank, FLOAT, &in);
  const char *in_name = arguments[6], *out_name = arguments[7];
  CALL(RUN, session, (void *)0, &in_name, &in, (size_t)1, &out_name, (size_t)1, &out);
  out = 0;
  mark();
  CALL(RUN, session, (void *)0, &in_name, &in, (size_t)1, &out_name, (size_t)1, &out);
  mark();
  CALL(GET_INFO, out, &info);
  CALL(GET_COUNT, info, &elements);
  CALL(GET_DATA, out, &data);
  write_file(arguments[5], data, elements * sizeof(float));
  return 0;
}

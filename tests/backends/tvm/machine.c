/* Runs a library of the TVM backend in TVM's virtual machine, as tvm.relax.VirtualMachine does from Python:
   machine LIBRARY OUTPUT {INPUT f32|i64 DIMxDIM...}... OUTPUT gets the first result, float32. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <tvm/ffi/c_api.h>

enum { INPUTS = 8, RANK = 8, POOLED = 2 };

static void die(const char *what)
{
  fprintf(stderr, "%s\n", what);
  exit(1);
}

static void check(int status)
{
  if (!status) return;
  TVMFFIObjectHandle error;
  TVMFFIErrorMoveFromRaised(&error);
  const TVMFFIErrorCell *cell = (const void *)((const char *)error + sizeof(TVMFFIObject));
  fprintf(stderr, "%.*s\n", (int)cell->message.size, cell->message.data);
  exit(1);
}

static TVMFFIAny number(int64_t n) { return (TVMFFIAny){.type_index = kTVMFFIInt, .v_int64 = n}; }
static TVMFFIAny text(const char *t) { return (TVMFFIAny){.type_index = kTVMFFIRawStr, .v_c_str = t}; }

static TVMFFIAny call(TVMFFIObjectHandle function, TVMFFIAny *arguments, int count)
{
  TVMFFIAny result = {.type_index = kTVMFFINone};
  check(TVMFFIFunctionCall(function, arguments, count, &result));
  return result;
}

static TVMFFIAny call_global(const char *name, TVMFFIAny *arguments, int count)
{
  const TVMFFIByteArray key = {name, strlen(name)};
  TVMFFIObjectHandle function = 0;
  check(TVMFFIFunctionGetGlobal(&key, &function));
  if (!function) die(name);
  return call(function, arguments, count);
}

static TVMFFIObjectHandle function_of(TVMFFIAny module, const char *name)
{
  TVMFFIAny asked[] = {module, text(name), {.type_index = kTVMFFIBool, .v_int64 = 0}};
  const TVMFFIAny found = call_global("ffi.ModuleGetFunction", asked, 3);
  if (found.type_index != kTVMFFIFunction) die(name);
  return found.v_obj;
}

static TVMFFIAny tensor(const char *path, const char *type, const char *dims)
{
  DLManagedTensor *made = calloc(1, sizeof *made);
  DLTensor *t = &made->dl_tensor;
  const int wide = !strcmp(type, "i64");
  t->device = (DLDevice){kDLCPU, 0};
  t->dtype = (DLDataType){wide ? kDLInt : kDLFloat, wide ? 64 : 32, 1};
  t->shape = calloc(RANK, sizeof *t->shape);
  size_t bytes = wide ? 8 : 4;
  for (char *end = (char *)dims; *end && t->ndim < RANK; end += *end == 'x') {
    t->shape[t->ndim] = strtoll(end, &end, 10);
    bytes *= (size_t)t->shape[t->ndim++];
  }
  t->data = aligned_alloc(64, (bytes + 63) / 64 * 64);
  FILE *file = fopen(path, "rb");
  if (!file || fread(t->data, 1, bytes, file) != bytes) die(path);
  fclose(file);
  TVMFFIAny any = {.type_index = kTVMFFITensor};
  check(TVMFFITensorFromDLPack(made, 64, 1, (TVMFFIObjectHandle *)&any.v_obj));
  return any;
}

static void write_tensor(const char *path, TVMFFIAny any)
{
  if (any.type_index != kTVMFFITensor) die("the result is no tensor");
  const DLTensor *t = (const void *)((const char *)any.v_obj + sizeof(TVMFFIObject));
  size_t bytes = 4;
  for (int d = 0; d < t->ndim; d++) bytes *= (size_t)t->shape[d];
  FILE *file = fopen(path, "wb");
  if (!file || fwrite((char *)t->data + t->byte_offset, 1, bytes, file) != bytes || fclose(file)) die(path);
}

int main(int count, char **arguments)
{
  const int inputs = (count - 3) / 3;
  if (count < 6 || count % 3 || inputs > INPUTS) die("machine LIBRARY OUTPUT {INPUT f32|i64 DIMxDIM...}...");
  TVMFFIAny path = text(arguments[1]), values[INPUTS];
  const TVMFFIAny library = call_global("ffi.ModuleLoadFromFile", &path, 1);
  const TVMFFIAny machine = call(function_of(library, "vm_load_executable"), 0, 0);
  TVMFFIAny device[] = {number(kDLCPU), number(0), number(POOLED)};
  call(function_of(machine, "vm_initialization"), device, 3);
  for (int i = 0; i < inputs; i++) {
    char **given = arguments + 3 + 3 * i;
    values[i] = tensor(given[0], given[1], given[2]);
  }
  TVMFFIAny first[] = {call(function_of(machine, "main"), values, inputs), number(0)};
  write_tensor(arguments[2], call_global("ffi.ArrayGetItem", first, 2));
  return 0;
}

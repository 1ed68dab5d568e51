/* Calls the functions that TVM generated, on one thread or with tasks backwards, for Python's ctypes. */
#include "extern.h"

void *malloc(__SIZE_TYPE__ n);
void *aligned_alloc(__SIZE_TYPE__ align, __SIZE_TYPE__ n);
void free(void *p);

static void *get(void *self, u64 bytes) { return (void)self, aligned_alloc(64, (bytes + 63) / 64 * 64); }
static void drop(void *self, void *memory) { (void)self, free(memory); }

static void *serial(void *self, void (*task)(void *, u64), u64 count, void *data)
{
  (void)self;
  for (u64 i = count; i > 0; i--) task(data, i - 1);
  return 0;
}

__attribute__((visibility("default"))) const char *test_infer(i64 which, const sc_tensor *const *in, const sc_constant *c, sc_tensor *const *out)
{
  return sc_externs[which]->infer(in, c, out);
}

__attribute__((visibility("default"))) int test_run(i64 which, const sc_tensor *const *in, const sc_constant *c, sc_tensor *const *out)
{
  sc_pool pool = {.busy = 0};
  const sc_host host = {get, drop, 0, &pool};
  const sc_parallel parallel = {serial, 0};
  void *error = 0;
  const char *wrong = 0;
  const sc_call call = {&host, &parallel, &error, &wrong};
  sc_scratch_retain(&host);
  int status = sc_externs[which]->run(in, c, out, &call);
  sc_scratch_release(&host);
  return status;
}

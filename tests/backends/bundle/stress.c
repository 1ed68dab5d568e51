/* The C API of the bundle `tiny` (wholes.MLP) used as badly as it can be, under sanitizers: arguments are its weights, an input
   of 7 rows and the output of that. Every block has its exact size; every host counts its own. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "tiny.h"

enum { ROWS = 7, COLUMNS = 33, OUTPUTS = 5, ROOM = 1024 };

#define CHECK(what)                                                            \
  do {                                                                         \
    if (!(what)) {                                                             \
      printf("line %d: %s; message: %s\n", __LINE__, #what, message);          \
      exit(1);                                                                 \
    }                                                                          \
  } while (0)

static char message[ROOM];
static float x[ROWS * COLUMNS], want[ROWS * OUTPUTS], y[ROWS * OUTPUTS];

typedef struct { long live, left; } memory; /* blocks that live; allocations before there is no more, or -1 */

static void *get(void *self, uint64_t bytes)
{
  memory *m = self;
  if (!m->left) return 0;
  if (m->left > 0) m->left--;
  m->live++;
  return malloc(bytes);
}

static void drop(void *self, void *block)
{
  ((memory *)self)->live--;
  free(block);
}

static void *backwards(void *self, void (*task)(void *, uint64_t), uint64_t count, void *data)
{
  (void)self;
  while (count--) task(data, count);
  return 0;
}

static void *failing(void *self, void (*task)(void *, uint64_t), uint64_t count, void *data)
{
  (void)task, (void)count, (void)data;
  return self;
}

static tiny_host host_of(memory *m) { return (tiny_host){get, drop, 0, m}; }

static void *on_a_line(uint64_t bytes)
{
  void *memory;
  if (posix_memalign(&memory, 64, bytes ? bytes : 1)) exit(2);
  return memory;
}

static void *read_file(const char *path, uint64_t *bytes)
{
  FILE *file = fopen(path, "rb");
  fseek(file, 0, SEEK_END);
  *bytes = (uint64_t)ftell(file);
  rewind(file);
  void *content = on_a_line(*bytes);
  if (fread(content, 1, *bytes, file) != *bytes) exit(2);
  fclose(file);
  return content;
}

static tiny_tensor input(void) { return (tiny_tensor){.data = x, .dims = {ROWS, COLUMNS}, .rank = 2}; }
static tiny_tensor output(void) { return (tiny_tensor){.data = y, .dims = {ROWS, OUTPUTS}, .rank = 2}; }

static int right(void)
{
  for (int i = 0; i < ROWS * OUTPUTS; i++) {
    const float away = y[i] - want[i];
    if (!(away < 1e-4f && away > -1e-4f)) return 0;
  }
  memset(y, 0, sizeof y);
  return 1;
}

static int is_told(const char *text) { return strstr(text, "tiny: ") == text && strstr(text, "; fix: "); }

static tiny_model *make(const void *weights, uint64_t bytes, memory *m)
{
  const tiny_host host = host_of(m);
  tiny_model *model;
  CHECK(!tiny_create(weights, bytes, &host, &model, message, ROOM) && model && !*message);
  return model;
}

static void short_of_memory(const void *weights, uint64_t bytes)
{
  const tiny_tensor in = input(), out = output();
  int failed = 1;
  for (long n = 0; failed; n++) { /* making it */
    memory m = {0, n};
    const tiny_host host = host_of(&m);
    tiny_model *model;
    failed = tiny_create(weights, bytes, &host, &model, message, ROOM);
    if (!failed) tiny_destroy(model);
    CHECK(!m.live && (!failed || (!model && is_told(message) && strstr(message, "memory"))));
  }
  failed = 1;
  for (long n = 0; failed; n++) { /* running it: afterwards it goes on */
    memory m = {0, -1};
    tiny_model *model = make(weights, bytes, &m);
    m.left = n;
    failed = tiny_run(model, &in, &out);
    strcpy(message, tiny_error(model));
    CHECK(failed ? is_told(message) && strstr(message, "memory") != 0 : !*message && right());
    m.left = -1;
    CHECK(!tiny_run(model, &in, &out) && right() && !*tiny_error(model));
    tiny_destroy(model);
    CHECK(!m.live);
  }
}

static void refuse(const void *weights, uint64_t bytes)
{
  memory m = {0, -1};
  const tiny_host host = host_of(&m);
  tiny_model *model;
  CHECK(tiny_create(weights, bytes, &host, &model, message, ROOM) && !model && !m.live && is_told(message));
}

static void bad_weights(const char *weights, uint64_t bytes)
{
  char *copy = on_a_line(bytes + 64);
  memcpy(copy, weights, bytes);
  for (uint64_t at = 0; at < bytes; at += at < 64 ? 1 : 61) {
    if ((at >= 12 && at < 16) || (at >= 32 && at < 64)) continue; /* that nothing reads */
    copy[at] ^= 0x10;
    refuse(copy, bytes);
    copy[at] ^= 0x10;
  }
  for (uint64_t size = 0; size < bytes; size += size < 200 ? 1 : 67) {
    char *part = on_a_line(size);
    memcpy(part, weights, size);
    refuse(part, size);
    free(part);
  }
  memmove(copy + 4, weights, bytes);
  refuse(copy + 4, bytes);
  refuse(0, bytes);
  refuse(weights, bytes + 64);
  free(copy);
  memory m = {0, -1};
  tiny_host host = host_of(&m);
  tiny_model *model;
  host.alloc = 0;
  CHECK(tiny_create(weights, bytes, &host, &model, message, ROOM) && !model && is_told(message));
  CHECK(tiny_create(weights, bytes, 0, &model, message, ROOM) && !model && is_told(message));
  message[3] = 'x';
  CHECK(tiny_create(0, 0, 0, &model, message, 4) && !message[3]); /* a short message */
  CHECK(tiny_create(0, 0, 0, &model, 0, 0));                      /* none */
}

static void reject(tiny_model *model, const tiny_tensor *in, const tiny_tensor *out, const char *why)
{
  CHECK(tiny_run(model, in, out));
  strcpy(message, tiny_error(model));
  CHECK(is_told(message) && strstr(message, why));
}

static void bad_tensors(tiny_model *model)
{
  const tiny_tensor good = input(), good_out = output();
  tiny_tensor t = good, out = good_out;
  t.dims[1] = 32, reject(model, &t, &out, "[7, 32]"), t = good;
  t.dims[0] = 0, reject(model, &t, &out, "[0, 33]"), t = good;
  t.dims[0] = -1, reject(model, &t, &out, "[-1, 33]"), t = good;
  t.rank = 1, reject(model, &t, &out, "[7]"), t = good;
  t.rank = -5, reject(model, &t, &out, "shape"), t = good;
  t.rank = 9, reject(model, &t, &out, "dimensions"), t = good;
  t.type = tiny_INT64, reject(model, &t, &out, "int64"), t = good;
  t.type = 99, reject(model, &t, &out, "unknown type"), t = good;
  t.data = 0, reject(model, &t, &out, "no data"), t = good;
  t.dims[0] = 1LL << 40, reject(model, &t, &out, "large"), t = good;
  reject(model, 0, &out, "no inputs");
  reject(model, &t, 0, "no outputs");
  out.data = 0, reject(model, &t, &out, "no memory for [7, 5]"), out = good_out;
  out.dims[0] = 6, reject(model, &t, &out, "another shape"), out = good_out;
  out.rank = 1, reject(model, &t, &out, "another shape"), out = good_out;
  out.type = tiny_BOOL, reject(model, &t, &out, "another shape or type"), out = good_out;
  CHECK(!tiny_run(model, &t, &out) && right());
}

static void plans(tiny_model *model)
{
  for (int64_t rows = 1; rows < 20; rows++) { /* more sizes than are kept */
    tiny_tensor in = input(), out = {.rank = -1};
    in.dims[0] = rows, in.data = 0;
    CHECK(!tiny_plan(model, &in, &out));
    CHECK(out.rank == 2 && out.dims[0] == rows && out.dims[1] == OUTPUTS && !out.dims[2] && out.type == tiny_FLOAT32);
  }
}

static void two_at_once(const void *weights, uint64_t bytes)
{
  memory one = {0, -1}, two = {0, -1};
  tiny_host host = host_of(&two);
  tiny_model *a = make(weights, bytes, &one), *b;
  host.parallel = backwards;
  CHECK(!tiny_create(weights, bytes, &host, &b, message, ROOM));
  const tiny_tensor in = input(), out = output();
  for (int i = 0; i < 3; i++) {
    CHECK(!tiny_run(a, &in, &out) && right());
    CHECK(!tiny_run(b, &in, &out) && right());
  }
  tiny_destroy(a);
  CHECK(!one.live && two.live);
  CHECK(!tiny_run(b, &in, &out) && right());
  tiny_destroy(b);
  CHECK(!two.live);
  host.parallel = failing;
  CHECK(!tiny_create(weights, bytes, &host, &b, message, ROOM));
  reject(b, &in, &out, "parallel");
  tiny_destroy(b);
  CHECK(!two.live);
  tiny_destroy(0);
}

static void ports(void)
{
  const tiny_port *p;
  CHECK(tiny_inputs(&p) == 1 && !strcmp(p->name, "x") && p->rank == 2 && p->type == tiny_FLOAT32);
  CHECK(p->dims[0] == -1 && !strcmp(p->dim_names[0], "rows") && p->dims[1] == COLUMNS && !p->dim_names[1]);
  CHECK(tiny_outputs(&p) == 1 && !strcmp(p->name, "y") && p->dims[1] == OUTPUTS);
}

static void fill(const char *path, void *to, uint64_t bytes)
{
  uint64_t size;
  void *content = read_file(path, &size);
  if (size != bytes) exit(2);
  memcpy(to, content, bytes);
  free(content);
}

int main(int count, char **paths)
{
  if (count != 4) return 2;
  uint64_t bytes;
  char *weights = read_file(paths[1], &bytes);
  fill(paths[2], x, sizeof x);
  fill(paths[3], want, sizeof want);
  memory m = {0, -1};
  ports();
  short_of_memory(weights, bytes);
  bad_weights(weights, bytes);
  two_at_once(weights, bytes);
  tiny_model *model = make(weights, bytes, &m);
  bad_tensors(model);
  plans(model);
  tiny_destroy(model);
  CHECK(!m.live);
  free(weights);
  puts("as it should be");
  return 0;
}

/* Runs one step of a region: the case comes on standard input, in the layout of step_harness.py, its output tensors leave
   on standard output. */
#include "codes.h"
#include "kernel.h"
#include "region.h"
#include "system.h"

#ifndef SC_TEST_KINDS
#define SC_TEST_KINDS(X)                                                                \
  X(int8_conv) X(int8_depthwise) X(int8_maxpool) X(int8_quantize) X(int8_dequantize) X(int8_add) X(int8_mean)
#endif
#define DECLARE(kind) extern const sc_step_kind SC(sc_step_##kind);
SC_TEST_KINDS(DECLARE)
#define ENTRY(kind) &SC(sc_step_##kind),
static const sc_step_kind *const steps[] = {SC_TEST_KINDS(ENTRY)};

enum { MOST = 8, MOST_ATTRIBUTES = 1024, MOST_CONSTANTS = 512 };
typedef struct {
  i64 kind, attributes, constants, inputs, outputs, backwards, repeat;
  i64 codes, code_cells, code_bytes; /* zero: no generated code */
} header;
typedef struct { i64 type, layout, rank, dims[SC_RANK]; } described;

static void *serial(void *self, void (*task)(void *, u64), u64 count, void *data)
{
  for (u64 i = 0; i < count; i++) task(data, *(int *)self ? count - 1 - i : i);
  return 0;
}

static void transfer(i64 (*call)(int, void *, i64), int file, void *data, i64 bytes)
{
  for (char *p = data; bytes > 0;) {
    i64 n = call(file, p, bytes);
    if (n <= 0) sys_exit(2);
    p += n, bytes -= n;
  }
}

static i64 write_some(int file, void *from, i64 bytes) { return sys_write(file, from, bytes); }
static void read_all(void *to, i64 bytes) { transfer(sys_read, 0, to, bytes); }
static void write_all(int file, void *from, i64 bytes) { transfer(write_some, file, from, bytes); }

static void fail(const char *message)
{
  i64 length = 0;
  while (message[length]) length++;
  write_all(2, (void *)message, length);
  sys_exit(3);
}

static i64 bytes_of(const described *d)
{
  i64 count = 1, group = d->layout == SC_C4 ? 4 : 1;
  if (d->layout == SC_T64) {
    for (i64 i = 0; i + 1 < d->rank; i++) count *= d->dims[i];
    return (count + T64 - 1) / T64 * T64 * d->dims[d->rank - 1] * sc_size_type((i32)d->type);
  }
  for (i64 i = 0; i < d->rank; i++) count *= i == 1 ? (d->dims[1] + group - 1) / group * group : d->dims[i];
  return count * sc_size_type((i32)d->type);
}

static void *read_data(described *d)
{
  read_all(d, sizeof *d);
  void *data = get_memory(0, (u64)bytes_of(d));
  if (!data) sys_exit(2);
  read_all(data, bytes_of(d));
  return data;
}

/* Generated code comes with the case, not with the executable. */
static void read_codes(const header *h)
{
  sc_code *codes = get_memory(0, (u64)h->codes * sizeof *codes);
  sc_code_cell *cells = get_memory(0, (u64)h->code_cells * sizeof *cells);
  void *text = get_code_memory(h->code_bytes);
  if (!codes || !cells || !text) sys_exit(2);
  read_all(codes, h->codes * (i64)sizeof *codes);
  read_all(cells, h->code_cells * (i64)sizeof *cells);
  read_all(text, h->code_bytes);
  sc_codes = (sc_code_table){h->codes, codes, cells, text};
}

static sc_tensor tensor_of(const described *d, void *data)
{
  sc_tensor t = {.type = (i32)d->type, .layout = (i32)d->layout, .rank = (i32)d->rank, .data = data};
  for (int i = 0; i < SC_RANK; i++) t.dims[i] = d->dims[i];
  return t;
}

#ifdef SC_TIMED
/* Says how long each run took, ns, before the outputs. */
static int run_timed(const sc_step_kind *kind, void *state, const sc_tensor *const *in, sc_tensor *const *out,
                     const sc_call *call, i64 repeat)
{
  int status = SC_OK;
  i64 *took = get_memory(0, (u64)repeat * sizeof *took);
  if (!took) sys_exit(2);
  for (i64 i = 0; i < repeat && !status; i++) {
    const i64 start = sys_clock();
    status = kind->run(state, in, out, call);
    took[i] = sys_clock() - start;
  }
  write_all(1, took, repeat * (i64)sizeof *took);
  return status;
}
#endif

int main(void)
{
  header h;
  read_all(&h, sizeof h);
  if (h.attributes > MOST_ATTRIBUTES || h.constants > MOST_CONSTANTS || h.inputs > MOST || h.outputs > MOST) fail("too much");
  i64 attributes[MOST_ATTRIBUTES];
  read_all(attributes, h.attributes * 8);
  sc_constant constants[MOST_CONSTANTS];
  for (i64 i = 0; i < h.constants; i++) {
    described d;
    const void *data = read_data(&d);
    constants[i] = (sc_constant){.type = (i32)d.type, .rank = (i32)d.rank, .data = data, .count = 1};
    for (i64 a = 0; a < d.rank; a++) constants[i].dims[a] = d.dims[a], constants[i].count *= d.dims[a];
  }
  sc_tensor in[MOST], y[MOST], *out[MOST + 1] = {0};
  const sc_tensor *ins[MOST + 1] = {0};
  for (i64 i = 0; i < h.inputs; i++) {
    described d;
    void *data = read_data(&d);
    in[i] = tensor_of(&d, data), ins[i] = &in[i];
  }
  if (h.codes) read_codes(&h);
  const sc_step_spec spec = {attributes, h.attributes, constants, h.constants, h.inputs, h.outputs};
  const sc_host host = {get_memory, free_memory, 0, 0};
  int backwards = (int)h.backwards, status = 0;
  const sc_parallel parallel = {serial, &backwards};
  void *error = 0, *state = 0;
  const sc_step_kind *kind = steps[h.kind];
  const char *wrong = kind->create(&spec, &host, &state);
  for (i64 i = 0; i < h.outputs; i++) y[i] = (sc_tensor){.data = 0}, out[i] = &y[i];
  if (!wrong) wrong = kind->infer(state, ins, out);
  if (!wrong) {
    described d[MOST];
    for (i64 i = 0; i < h.outputs; i++) {
      d[i] = (described){y[i].type, y[i].layout, y[i].rank, {0}};
      for (int a = 0; a < SC_RANK; a++) d[i].dims[a] = y[i].dims[a];
      y[i].data = get_memory(0, (u64)bytes_of(&d[i]));
    }
    const sc_call call = {&host, &parallel, &error, &wrong};
#ifdef SC_TIMED
    status = run_timed(kind, state, ins, out, &call, h.repeat);
#else
    for (i64 i = 0; i < h.repeat && !status; i++) status = kind->run(state, ins, out, &call);
#endif
    if (status && !wrong) wrong = "the call failed";
    for (i64 i = 0; i < h.outputs; i++) {
      write_all(1, &d[i], sizeof d[i]);
      write_all(1, y[i].data, bytes_of(&d[i]));
      free_memory(0, y[i].data);
    }
  }
  if (state) kind->destroy(state, &host);
  for (i64 i = 0; i < h.constants; i++) free_memory(0, (void *)constants[i].data);
  for (i64 i = 0; i < h.inputs; i++) free_memory(0, in[i].data);
  if (wrong) fail(wrong);
  return 0;
}

/* Runs one kernel call: the case comes on standard input, in the layout of harness.py, the result leaves on standard output.
   Every array has its exact size and something that traps behind it: a sanitizer, or a page without access. */
#include "codes.h"
#include "cpu.h"
#include "system.h"

enum { CONV, MATMUL };
typedef struct {
  i64 op, rows, channels, kernel[2], block[2], grid[2], count, stride[2], pad[4], dilation[2], group, activation;
  i64 batch, height, width, tokens, residual, backwards, repeat;
  i64 code_bytes, code_cells;    /* zero: no generated code */
} test_case;

/* Tasks may run in any order: both directions must give the same. */
static void *serial(void *self, void (*task)(void *, u64), u64 count, void *data)
{
  for (u64 i = 0; i < count; i++) task(data, *(int *)self ? count - 1 - i : i);
  return 0;
}

static void read_all(void *to, i64 bytes)
{
  for (char *p = to; bytes > 0;) {
    i64 n = sys_read(0, p, bytes);
    if (n <= 0) sys_exit(2);
    p += n, bytes -= n;
  }
}

static void write_all(int file, const void *from, i64 bytes)
{
  for (const char *p = from; bytes > 0;) {
    i64 n = sys_write(file, p, bytes);
    if (n <= 0) sys_exit(2);
    p += n, bytes -= n;
  }
}

static void *read_array(i64 count)
{
  void *out = get_memory(0, (u64)count * 4);
  if (!out) sys_exit(2);
  read_all(out, count * 4);
  return out;
}

/* Generated code comes with the case, not with the executable. */
static void read_code(const test_case *c)
{
  static sc_code code;
  read_all(&code, sizeof code);
  sc_code_cell *cells = read_array(c->code_cells * (i64)(sizeof *cells / 4));
  void *text = get_code_memory(c->code_bytes);
  if (!text) sys_exit(2);
  read_all(text, c->code_bytes);
  sc_codes = (sc_code_table){1, &code, cells, text};
}

static void fail(int code, const char *message)
{
  i64 length = 0;
  while (message[length]) length++;
  write_all(2, message, length);
  sys_exit(code);
}

int main(void)
{
  test_case c;
  read_all(&c, sizeof c);
  sc_image image = {c.batch, c.height, c.width,
                    sc_out_size(c.height, c.pad[0], c.pad[2], c.kernel[0], c.stride[0], c.dilation[0]),
                    sc_out_size(c.width, c.pad[1], c.pad[3], c.kernel[1], c.stride[1], c.dilation[1])};
  i64 in = c.op == CONV ? c.batch * c.channels * c.group * c.height * c.width : c.tokens * c.channels;
  i64 out = c.op == CONV ? c.batch * c.rows * image.out_height * image.out_width : c.tokens * c.rows;
  float *values = read_array(c.count * c.block[0] * c.block[1]);
  i32 *index = read_array(c.count);
  float *bias = read_array(c.rows), *x = read_array(in);
  float *residual = c.residual ? read_array(out) : 0, *y = get_memory(0, (u64)out * 4);
  if (c.code_bytes) read_code(&c);
  sc_spec spec = {c.rows, c.channels, {c.kernel[0], c.kernel[1]}, c.block[0], c.block[1], c.grid[0], c.grid[1], c.count,
                  values, index, bias, {c.stride[0], c.stride[1]}, {c.pad[0], c.pad[1], c.pad[2], c.pad[3]},
                  {c.dilation[0], c.dilation[1]}, c.group, (i32)c.activation, 0, 0};
  const char *wrong = sc_check(&spec);
  if (wrong) fail(3, wrong);
  if (c.code_bytes && !sc_find_code(&spec)) fail(7, "no code for this weight");
  const sc_isa *isa = sc_pick_isa();
  if (!isa) fail(4, sc_cpu_needs());
  sc_host host = {get_memory, free_memory, 0, 0};
  int backwards = (int)c.backwards, status = 0;
  sc_parallel parallel = {serial, &backwards};
  sc_kernel *kernel;
  void *error;
  if (isa->create(&spec, &host, &kernel)) fail(5, "create");
  free_memory(0, values), free_memory(0, index), free_memory(0, bias);
  for (i64 i = 0; i < c.repeat && !status; i++)
    status = c.op == CONV ? isa->conv(kernel, &image, x, residual, y, &parallel, &error)
                          : isa->matmul(kernel, c.tokens, x, residual, y, &parallel, &error);
  isa->destroy(kernel);
  if (status) fail(6, "run");
  write_all(1, y, out * 4);
  free_memory(0, x), free_memory(0, y);
  if (residual) free_memory(0, residual);
  return 0;
}

/* A program that runs a model on files: see `usage`. Inputs are .npy files, or the bare elements where no dimension is open. */
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#if defined(_WIN32)
#include <direct.h>
#endif
#include "bundle.h"

enum { MOST_PORTS = SC_REGION_VALUES, TEXT = 4096, HEADER_MOST = 1 << 16, SHOWN = 8 };
static const char usage[] = "usage: %s WEIGHTS INPUT... [-o FOLDER] [-n RUNS]\n"
                            "  INPUT    a .npy file for each input of the model, in their order\n"
                            "  -o       folder for the outputs, as .npy files\n"
                            "  -n       run so many times, and say how long the fastest took\n";

static const struct { const char *code; i32 bytes; } TYPES[SC_PORT_TYPES] = {{"<f4", 4}, {"<i4", 4}, {"<i8", 8}, {"|u1", 1},
                                                                             {"|i1", 1}, {"|b1", 1}};

static void fail(const char *format, ...)
{
  va_list rest;
  va_start(rest, format);
  vfprintf(stderr, format, rest);
  va_end(rest);
  fputc('\n', stderr);
  exit(1);
}

static void *get(void *self, u64 bytes) { return (void)self, malloc(bytes ? bytes : 1); }
static void drop(void *self, void *memory) { (void)self, free(memory); }

static void *get_aligned(u64 bytes)
{
  char *memory = get(0, bytes + SC_WEIGHTS_ALIGN);
  if (!memory) fail("there is not enough memory");
  return memory + SC_WEIGHTS_ALIGN - (u64)memory % SC_WEIGHTS_ALIGN; /* until the program ends */
}

static char *read_file(const char *path, u64 *bytes)
{
  FILE *file = fopen(path, "rb");
  if (!file || fseek(file, 0, SEEK_END)) fail("%s: %s", path, strerror(errno));
  const long size = ftell(file);
  if (size < 0) fail("%s: %s", path, strerror(errno));
  rewind(file);
  char *content = get_aligned((u64)size + 1);
  if (fread(content, 1, (size_t)size, file) != (size_t)size) fail("%s: cannot be read", path);
  fclose(file);
  content[size] = 0;
  *bytes = (u64)size;
  return content;
}

static u64 elements(const sc_value_of_port *v)
{
  u64 count = 1;
  for (i32 d = 0; d < v->rank; d++)
    if (v->dims[d] < 0 || __builtin_mul_overflow(count, (u64)v->dims[d], &count)) return (u64)1 << 60;
  return count;
}

/* What stands after 'key': in the header of a .npy file. */
static const char *field(const char *path, const char *header, const char *key)
{
  const char *at = strstr(header, key);
  if (!at) fail("%s: its header has no %s", path, key);
  at += strlen(key);
  while (*at == ' ' || *at == ':' || *at == '\'') at++;
  return at;
}

/* Type and dims of a .npy file; answers where the elements begin. */
static char *read_npy(const char *path, char *content, u64 bytes, sc_value_of_port *v)
{
  const u64 width = content[6] == 1 ? 2 : 4;
  u64 length = 0;
  for (u64 i = 0; i < width && 8 + i < bytes; i++) length |= (u64)(unsigned char)content[8 + i] << 8 * i;
  if (length > HEADER_MOST || 8 + width + length > bytes) fail("%s: its header is damaged", path);
  char *header = get(0, length + 1);
  if (!header) fail("there is not enough memory");
  memcpy(header, content + 8 + width, length);
  header[length] = 0;
  const char *type = field(path, header, "'descr'");
  v->type = -1, v->rank = 0;
  for (i32 i = 0; i < SC_PORT_TYPES; i++)
    if (!strncmp(type, TYPES[i].code, 3)) v->type = i;
  if (v->type < 0) fail("%s: elements %.3s are of no type that a model takes", path, type);
  if (strncmp(field(path, header, "'fortran_order'"), "False", 5)) fail("%s: save it in C order", path);
  for (const char *at = field(path, header, "'shape'") + 1; *at && *at != ')';) {
    char *end;
    const i64 dim = strtoll(at, &end, 10);
    if (end == at || v->rank == SC_PORT_RANK) fail("%s: its shape is damaged", path);
    v->dims[v->rank++] = dim;
    for (at = end; *at == ',' || *at == ' ';) at++;
  }
  free(header);
  return content + 8 + width + length;
}

static void read_input(const char *path, const sc_port *port, sc_value_of_port *v)
{
  u64 bytes;
  char *content = read_file(path, &bytes);
  const int npy = bytes > 10 && !memcmp(content, "\x93NUMPY", 6);
  v->data = content;
  if (npy) v->data = read_npy(path, content, bytes, v);
  else {
    v->type = port->type, v->rank = port->rank;
    memcpy(v->dims, port->dims, sizeof v->dims);
    for (i32 d = 0; d < v->rank; d++)
      if (v->dims[d] < 0) fail("%s: input %s has open dimensions; save it as .npy", path, port->name);
  }
  const u64 have = bytes - (u64)((char *)v->data - content), want = elements(v);
  if (want > bytes || want * (u64)TYPES[v->type].bytes != have) fail("%s: it does not have the bytes of its shape", path);
  char *moved = get_aligned(have);
  v->data = memcpy(moved, v->data, have);
}

static void write_output(const char *folder, const sc_port *port, const sc_value_of_port *v)
{
  char path[TEXT], shape[TEXT] = "";
  for (i32 d = 0; d < v->rank; d++) snprintf(shape + strlen(shape), TEXT - strlen(shape), "%lld, ", v->dims[d]);
  i32 used = snprintf(path, TEXT, "%s/", folder);
  for (const char *c = port->name; *c && used < TEXT - 5; c++)
    path[used++] = strchr("/\\:*?\"<>|", *c) || (unsigned char)*c < 32 ? '_' : *c;
  strcpy(path + used, ".npy");
  char header[2 * TEXT];
  i32 length = snprintf(header, sizeof header, "{'descr': '%s', 'fortran_order': False, 'shape': (%s), }", TYPES[v->type].code, shape);
  while ((10 + length + 1) % SC_WEIGHTS_ALIGN) header[length++] = ' ';
  header[length++] = '\n';
  const unsigned char start[10] = {0x93, 'N', 'U', 'M', 'P', 'Y', 1, 0, (unsigned char)length, (unsigned char)(length >> 8)};
  const u64 bytes = elements(v) * (u64)TYPES[v->type].bytes;
  FILE *file = fopen(path, "wb");
  if (!file || fwrite(start, 1, 10, file) != 10 || fwrite(header, 1, (size_t)length, file) != (size_t)length ||
      fwrite(v->data, 1, bytes, file) != bytes || fclose(file))
    fail("%s: %s", path, strerror(errno));
}

static double number_at(const sc_value_of_port *v, u64 i)
{
  switch (v->type) {
    case SC_F32: return ((const float *)v->data)[i];
    case SC_I32: return ((const i32 *)v->data)[i];
    case SC_I64: return (double)((const i64 *)v->data)[i];
    case SC_I8: return ((const signed char *)v->data)[i];
    default: return ((const unsigned char *)v->data)[i];
  }
}

static void show_output(const sc_port *port, const sc_value_of_port *v)
{
  printf("%s [", port->name);
  for (i32 d = 0; d < v->rank; d++) printf("%s%lld", d ? ", " : "", v->dims[d]);
  printf("]:");
  const u64 count = elements(v);
  for (u64 i = 0; i < count && i < SHOWN; i++) printf(" %g", number_at(v, i));
  printf(count > SHOWN ? " ...\n" : "\n");
}

static double now_ms(void)
{
  struct timespec t;
  timespec_get(&t, TIME_UTC);
  return (double)t.tv_sec * 1e3 + (double)t.tv_nsec / 1e6;
}

/* Runs it so many times; the time of the fastest, ms. */
static double run(sc_bundle *model, const sc_value_of_port *in, sc_value_of_port *out, long runs)
{
  double fastest = 0;
  if (sc_bundle_infer(model, in, out)) fail("%s", sc_bundle_error(model));
  for (i32 i = 0; i < sc_model_plan.output_count; i++) out[i].data = get_aligned(elements(&out[i]) * (u64)TYPES[out[i].type].bytes);
  for (long n = 0; n < runs; n++) {
    const double start = now_ms();
    if (sc_bundle_run(model, in, out)) fail("%s", sc_bundle_error(model));
    const double took = now_ms() - start;
    if (!n || took < fastest) fastest = took;
  }
  return fastest;
}

static void make_folder(const char *path)
{
#if defined(_WIN32)
  const int made = mkdir(path);
#else
  const int made = mkdir(path, 0777);
#endif
  if (made && errno != EEXIST) fail("%s: %s", path, strerror(errno));
}

int main(int count, char **arguments)
{
  const sc_bundle_plan *plan = &sc_model_plan;
  const char *files[MOST_PORTS + 1], *folder = 0;
  long runs = 1;
  i32 given = 0;
  for (int i = 1; i < count; i++) {
    const int option = arguments[i][0] == '-' && arguments[i][1] && !arguments[i][2] && i + 1 < count;
    if (option && arguments[i][1] == 'o') folder = arguments[++i];
    else if (option && arguments[i][1] == 'n') runs = strtol(arguments[++i], 0, 10);
    else if (given <= MOST_PORTS) files[given++] = arguments[i];
  }
  if (given != plan->input_count + 1 || runs < 1) {
    fprintf(stderr, usage, arguments[0]);
    for (i32 i = 0; i < plan->input_count; i++) fprintf(stderr, "  input %d: %s\n", i + 1, plan->inputs[i].name);
    return 2;
  }
  u64 bytes;
  const char *weights = read_file(files[0], &bytes);
  char message[1024];
  const sc_bundle_host host = {get, drop, 0, 0};
  sc_bundle *model;
  if (sc_bundle_create(plan, weights, bytes, &host, &model, message, sizeof message)) fail("%s", message);
  sc_value_of_port in[MOST_PORTS] = {{0}}, out[MOST_PORTS] = {{0}};
  for (i32 i = 0; i < plan->input_count; i++) read_input(files[i + 1], &plan->inputs[i], &in[i]);
  const double fastest = run(model, in, out, runs);
  if (runs > 1) printf("%.3f ms\n", fastest);
  if (folder) make_folder(folder);
  for (i32 i = 0; i < plan->output_count; i++)
    if (folder) write_output(folder, &plan->outputs[i], &out[i]);
    else show_output(&plan->outputs[i], &out[i]);
  sc_bundle_destroy(model);
  return 0;
}

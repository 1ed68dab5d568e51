/* Loads a shared library of 64-bit ARM as the loader of a system with pages of 16 KB would, and runs the model in it. Nothing else
   is there to give it a symbol: one that is undefined is an error, and so is a page that two segments of different rights
   share. From standard input come the bytes of the library, of the weights and of each input, each after their number; the
   outputs go to standard output. */
#include "system.h"
#include "bundle.h"

enum { PAGE_16K = 1 << 14, MOST = 16, LOAD = 1, DYNAMIC = 2, RELRO = 0x6474e552 };
enum { NEEDED = 1, STRINGS = 5, SYMBOLS = 6, RELA = 7, RELA_BYTES = 8, HASH = 4, PLT_RELA = 23, PLT_BYTES = 2, TEXT_RELOCATED = 22, FLAGS = 30 };
enum { ABS64 = 257, GLOB_DAT = 1025, JUMP_SLOT = 1026, RELATIVE = 1027 };
enum { RUN = 1, WRITE = 2, READ = 4 };

typedef struct { unsigned char ident[16]; unsigned short type, machine; u32 version; u64 entry, headers, sections; u32 flags;
                 unsigned short size, header_size, header_count; } elf;
typedef struct { u32 type, flags; u64 offset, address, physical, file_bytes, bytes, align; } segment;
typedef struct { i64 tag; u64 value; } dynamic;
typedef struct { u32 name; unsigned char info, other; unsigned short section; u64 value, size; } symbol;
typedef struct { u64 offset; u32 type, symbol; i64 addend; } relocation;

typedef struct { char *base; const symbol *symbols; const char *strings; u32 count; } library;

static void die(const char *what)
{
  i64 n = 0;
  while (what[n]) n++;
  sys_write(2, what, n);
  sys_exit(3);
}

static void *receive(u64 *bytes)
{
  u64 got = 0, *size = bytes;
  if (sys_read(0, size, 8) != 8) die("no more input");
  char *to = get_memory(0, *size + 64);
  if (!to) die("no memory");
  to += 63 & -(u64)to;
  while (got < *size) {
    const i64 n = sys_read(0, to + got, (i64)(*size - got));
    if (n <= 0) die("input ended");
    got += (u64)n;
  }
  return to;
}

static void send(const void *from, u64 bytes)
{
  for (const char *p = from; bytes;) {
    const i64 n = sys_write(1, p, (i64)bytes);
    if (n <= 0) die("no output");
    p += n, bytes -= (u64)n;
  }
}

static void relocate(library *l, const relocation *r, u64 bytes)
{
  for (; bytes; bytes -= sizeof *r, r++) {
    u64 *at = (u64 *)(l->base + r->offset);
    const symbol *s = &l->symbols[r->symbol];
    if (r->type == RELATIVE) *at = (u64)l->base + (u64)r->addend;
    else if (r->type != ABS64 && r->type != GLOB_DAT && r->type != JUMP_SLOT) die("a relocation of an unknown type");
    else if (!s->section) die("an undefined symbol");
    else *at = (u64)l->base + s->value + (u64)r->addend;
  }
}

/* Rights of whole pages; those a segment shares with another of other rights cannot be had. */
static void protect(const library *l, const segment *s, int count)
{
  static unsigned char rights[1 << 14];
  for (int i = 0; i < count; i++) {
    if (s[i].type != LOAD) continue;
    for (u64 page = s[i].address / PAGE_16K; page * PAGE_16K < s[i].address + s[i].bytes; page++) {
      if (page >= sizeof rights) die("the library is too large");
      if (rights[page] && rights[page] != s[i].flags) die("two segments share a page of 16 KB");
      rights[page] = (unsigned char)s[i].flags;
      const i64 given = (s[i].flags & READ ? 1 : 0) | (s[i].flags & WRITE ? 2 : 0) | (s[i].flags & RUN ? 4 : 0);
      if (system_call(SYS_MPROTECT, (i64)l->base + (i64)(page * PAGE_16K), PAGE_16K, given, 0, 0, 0)) die("mprotect failed");
    }
  }
}

static library load(const char *file)
{
  const elf *e = (const elf *)file;
  const segment *s = (const segment *)(file + e->headers);
  library l = {0};
  u64 bytes = 0;
  const dynamic *d = 0;
  for (int i = 0; i < e->header_count; i++)
    if (s[i].type == LOAD && s[i].align < PAGE_16K) die("a segment is not aligned to 16 KB");
    else if (s[i].type == LOAD) bytes = s[i].address + s[i].bytes;
  const i64 at = system_call(SYS_MMAP, 0, (i64)bytes + 2 * PAGE_16K, 3, PRIVATE_ANONYMOUS, -1, 0);
  if (at < 0 && at > -4096) die("no memory");
  l.base = (char *)((at + PAGE_16K - 1) / PAGE_16K * PAGE_16K);
  for (int i = 0; i < e->header_count; i++) {
    if (s[i].type == DYNAMIC) d = (const dynamic *)(l.base + s[i].address);
    if (s[i].type == LOAD) __builtin_memcpy(l.base + s[i].address, file + s[i].offset, s[i].file_bytes);
  }
  u64 tag[64] = {0};
  for (; d && d->tag; d++) {
    if (d->tag == NEEDED) die("it needs another library");
    if (d->tag == TEXT_RELOCATED) die("its code is relocated");
    if (d->tag < 64) tag[d->tag] = d->value;
  }
  l.symbols = (const symbol *)(l.base + tag[SYMBOLS]), l.strings = l.base + tag[STRINGS];
  l.count = ((const u32 *)(l.base + tag[HASH]))[1];
  relocate(&l, (const relocation *)(l.base + tag[RELA]), tag[RELA_BYTES]);
  relocate(&l, (const relocation *)(l.base + tag[PLT_RELA]), tag[PLT_BYTES]);
  protect(&l, s, e->header_count);
  return l;
}

static int same(const char *a, const char *b)
{
  while (*a && *a == *b) a++, b++;
  return *a == *b;
}

static void *find(const library *l, const char *name)
{
  for (u32 i = 1; i < l->count; i++)
    if (l->symbols[i].section && same(l->strings + l->symbols[i].name, name)) return l->base + l->symbols[i].value;
  die("a function is missing");
  return 0;
}

static u64 bytes_of(const sc_value_of_port *v)
{
  static const u64 sizes[] = {4, 4, 8, 1, 1, 1};
  u64 count = sizes[v->type];
  for (i32 d = 0; d < v->rank; d++) count *= (u64)v->dims[d];
  return count;
}

int main(void)
{
  u64 size, weight_bytes;
  const library l = load(receive(&size));
  const void *weights = receive(&weight_bytes);
  i32 (*inputs)(const sc_port **) = find(&l, "model_inputs"), (*outputs)(const sc_port **) = find(&l, "model_outputs");
  int (*create)(const void *, u64, const sc_bundle_host *, sc_bundle **, char *, u64) = find(&l, "model_create");
  int (*plan)(sc_bundle *, const sc_value_of_port *, sc_value_of_port *) = find(&l, "model_plan");
  int (*run)(sc_bundle *, const sc_value_of_port *, const sc_value_of_port *) = find(&l, "model_run");
  const char *(*error)(const sc_bundle *) = find(&l, "model_error");
  void (*destroy)(sc_bundle *) = find(&l, "model_destroy");
  const sc_bundle_host host = {get_memory, free_memory, 0, 0};
  const sc_port *ports;
  sc_bundle *model;
  sc_value_of_port in[MOST] = {{0}}, out[MOST] = {{0}};
  char message[1024];
  if (create(weights, weight_bytes, &host, &model, message, sizeof message)) die(message);
  const i32 in_count = inputs(&ports), out_count = outputs(&ports);
  inputs(&ports);
  for (i32 i = 0; i < in_count; i++) {
    in[i] = (sc_value_of_port){.type = ports[i].type, .rank = ports[i].rank, .data = receive(&size)};
    for (i32 d = 0; d < ports[i].rank; d++) in[i].dims[d] = ports[i].dims[d];
    if (size != bytes_of(&in[i])) die("an input of another size");
  }
  if (plan(model, in, out)) die(error(model));
  for (i32 i = 0; i < out_count; i++) out[i].data = get_memory(0, bytes_of(&out[i]));
  if (run(model, in, out)) die(error(model));
  for (i32 i = 0; i < out_count; i++) send(out[i].data, bytes_of(&out[i]));
  destroy(model);
  return 0;
}

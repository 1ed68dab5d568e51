/* Marks what benchmarks/instructions.py counts, and reads and writes whole files. */
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>

enum { MARK = 0x5c };

static void mark(void) { getpriority(MARK, MARK); }

static void die(const char *what)
{
  fprintf(stderr, "%s\n", what);
  exit(1);
}

/* At a multiple of 64 bytes. */
static void *read_file(const char *path, size_t *bytes)
{
  FILE *file = fopen(path, "rb");
  if (!file || fseek(file, 0, SEEK_END)) die(path);
  *bytes = (size_t)ftell(file);
  rewind(file);
  void *content = aligned_alloc(64, (*bytes + 63) / 64 * 64);
  if (!content || fread(content, 1, *bytes, file) != *bytes) die(path);
  fclose(file);
  return content;
}

static void write_file(const char *path, const void *content, size_t bytes)
{
  FILE *file = fopen(path, "wb");
  if (!file || fwrite(content, 1, bytes, file) != bytes || fclose(file)) die(path);
}

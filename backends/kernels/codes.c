/* Finding the generated code of a weight. */
#include "codes.h"

__attribute__((weak)) sc_code_table sc_codes = {0, 0, 0, 0};

/* The finaliser of splitmix64. */
static u64 mix(u64 v)
{
  v = (v ^ v >> 30) * 0xbf58476d1ce4e5b9u;
  v = (v ^ v >> 27) * 0x94d049bb133111ebu;
  return v ^ v >> 31;
}

/* The same as pattern_key in backends/codegen/code_table.py. */
u64 sc_pattern_key(const sc_spec *s)
{
  u64 key = 0;
  for (i64 i = 0; i < s->count; i++) key += mix((u64)s->index[i] + 0x9e3779b97f4a7c15u);
  const u64 sizes[] = {(u64)s->rows, (u64)(s->channels * s->kernel[0] * s->kernel[1]), (u64)s->count};
  for (int i = 0; i < 3; i++) key = mix(key ^ sizes[i]);
  return key;
}

/* Whether the streams have the lengths that the code will read, whatever the key said. */
static int fits(const sc_code *code, const sc_spec *s)
{
  const sc_code_strip *strips = sc_code_strips(code);
  i64 used = 0;
  for (i64 n = 0, row = 0; n < code->strips; n++) {
    if (strips[n].stream != used + row) return 0;
    row = sc_code_row(code, n + 1);
    while (used < s->count && s->index[used] / code->depth < row) used++;
  }
  return strips[code->strips].stream == s->count + s->rows;
}

const sc_code *sc_find_code(const sc_spec *s)
{
  if (!sc_codes.count || s->group != 1 || s->block_rows != 1 || s->block_cols != 1) return 0;
  u64 key = sc_pattern_key(s);
  i64 depth = s->channels * s->kernel[0] * s->kernel[1];
  for (const sc_code *c = sc_codes.codes; c < sc_codes.codes + sc_codes.count; c++)
    if (c->key == key && c->rows == s->rows && c->depth == depth && c->count == s->count && fits(c, s)) return c;
  return 0;
}

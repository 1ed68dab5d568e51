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

/* Whether the streams of a strip's cells have the lengths that its code will read. *used: non-zeros of the strips before. */
static int strip_fits(const sc_code *code, const sc_spec *s, i64 strip, i64 *used)
{
  i64 first = sc_code_row(code, strip), rows = sc_code_row(code, strip + 1) - first, next[SC_STRIP_ROWS];
  if (rows > SC_STRIP_ROWS) return 0;
  for (i64 r = 0; r < rows; r++) {
    next[r] = *used;
    while (*used < s->count && s->index[*used] / code->depth == first + r) ++*used;
  }
  for (i64 c = 0; c < code->chunks; c++) {
    const sc_code_cell *cell = &sc_code_cells(code)[c * code->strips + strip];
    i64 end = sc_code_column(code, c + 1), length = c ? 0 : rows;
    for (i64 r = 0; r < rows; r++) /* the next row's positions are beyond every chunk's end */
      for (; next[r] < *used && s->index[next[r]] - (first + r) * code->depth < end; next[r]++) length++;
    if (cell[1].stream - cell->stream != length) return 0;
  }
  return 1;
}

static int fits(const sc_code *code, const sc_spec *s)
{
  i64 used = 0;
  if (sc_code_cells(code)->stream) return 0;
  for (i64 n = 0; n < code->strips; n++) if (!strip_fits(code, s, n, &used)) return 0;
  return 1;
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

/* Packing a checked weight into strips: done once, when the kernel is made. */
#include "kernel.h"

static void *get(const sc_host *host, u64 bytes) { return host->alloc(host->self, bytes ? bytes : 1); }
static void drop(const sc_host *host, void *p) { if (p) host->free(host->self, p); }

/* The largest mr this instruction set has for `rows` more rows. */
static i32 pick_mr(i64 rows)
{
  i32 mr = SC_MAX_MR;
  while (mr > rows || !sc_widest[mr]) mr--;
  return mr;
}

/* The blocks [*from, *to) of block-row b, `*from` being the end of the block-row before. */
static void block_row(const sc_spec *s, i64 b, i64 *from, i64 *to)
{
  const i64 end = (b + 1) * s->grid_cols;
  *from = *to;
  while (*to < s->count && s->index[*to] < end) ++*to;
}

/* The first column of a block of block-row b. */
static i64 block_column(const sc_spec *s, i64 b, i64 block) { return (s->index[block] - b * s->grid_cols) * s->block_cols; }

/* Rows of one strip that starts at `row`: it ends with its block, its group and its mr. */
static i32 strip_rows(const sc_spec *s, i64 row)
{
  i64 per_group = s->rows / s->group, to_group = per_group - row % per_group;
  i64 block_end = (row / s->block_rows + 1) * s->block_rows;
  i64 to_block = (block_end < s->rows ? block_end : s->rows) - row;
  return pick_mr(to_group < to_block ? to_group : to_block);
}

/* Blocks of the last grid column may reach beyond the depth: their padding is not a tap. */
static i64 block_taps(const sc_spec *s, i64 column, i64 depth)
{
  i64 left = depth - column;
  return left < s->block_cols ? left : s->block_cols;
}

/* Where the taps of each channel begin, in `start`. */
static void count_channels(const sc_spec *s, i64 b, i64 from, i64 to, i64 depth, i64 *start)
{
  const u32 channels = (u32)s->channels;
  for (i64 c = 0; c <= s->channels; c++) start[c] = 0;
  for (i64 i = from; i < to; i++)
    for (i64 d = block_column(s, b, i), end = d + block_taps(s, d, depth); d < end; d++) start[(u32)d % channels + 1]++;
  for (i64 c = 0; c < s->channels; c++) start[c + 1] += start[c];
}

/* Taps of a strip in the order of their channels, which is the order of their addresses: a counting sort, where a window is
   more than one pixel. `start` has room for channels + 1 numbers. */
static void fill_strip(sc_kernel *k, const sc_spec *s, const sc_strip *strip, i64 from, i64 to, i64 *start)
{
  const i64 depth = s->channels * s->kernel[0] * s->kernel[1], b = strip->row / s->block_rows, row0 = strip->row % s->block_rows;
  const i32 base = (i32)(strip->row / (s->rows / s->group) * depth);
  const int sorted = depth == s->channels;
  const u32 channels = (u32)s->channels;
  if (!sorted) count_channels(s, b, from, to, depth, start);
  for (i64 i = from, next = 0; i < to; i++) {
    const i64 d = block_column(s, b, i), taps = block_taps(s, d, depth);
    for (i64 j = 0; j < taps; j++) {
      const i64 at = sorted ? next++ : start[(u32)(d + j) % channels]++;
      k->columns[strip->tap + at] = base + (i32)(d + j);
      const float *v = s->values + i * s->block_rows * s->block_cols + row0 * s->block_cols + j;
      for (i32 r = 0; k->packed && r < strip->mr; r++) k->packed[strip->weight + at * strip->mr + r] = v[r * s->block_cols];
    }
  }
}

/* Counts strips, taps and weights when k->strips is null, fills them otherwise. */
static i64 walk(sc_kernel *k, const sc_spec *s, i64 *start)
{
  i64 depth = s->channels * s->kernel[0] * s->kernel[1], strips = 0, taps = 0, weights = 0, from = 0, to = 0;
  for (i64 b = 0; b < s->grid_rows; b++) {
    block_row(s, b, &from, &to);
    i64 each = 0;
    for (i64 i = from; i < to; i++) each += block_taps(s, block_column(s, b, i), depth);
    i64 end = (b + 1) * s->block_rows < s->rows ? (b + 1) * s->block_rows : s->rows;
    for (i64 row = b * s->block_rows; row < end; strips++) {
      i32 mr = strip_rows(s, row);
      if (k->strips) {
        k->strips[strips] = (sc_strip){(i32)row, mr, (i32)each, taps, weights};
        fill_strip(k, s, &k->strips[strips], from, to, start);
      }
      row += mr, taps += each, weights += each * mr;
    }
  }
  k->strip_count = strips, k->tap_count = k->column_count = taps;
  return weights;
}

/* The streams of a strip's cells: biases before the first, then weights by column, then row. `start` has room for depth + 1
   numbers. */
static void fill_streams(const sc_kernel *k, const sc_spec *s, i64 number, i64 *start)
{
  const sc_code *code = k->code;
  const sc_strip *strip = &k->strips[number];
  for (i64 c = 0; c <= code->depth; c++) start[c] = 0;
  for (i64 i = strip->tap; i < strip->tap + strip->taps; i++) start[s->index[i] % code->depth + 1]++;
  for (i64 chunk = 0; chunk < code->chunks; chunk++) {
    i64 c = sc_code_column(code, chunk), to = sc_code_cells(code)[chunk * code->strips + number].stream;
    for (i64 r = 0; !chunk && r < strip->mr; r++) k->packed[to++] = s->bias[strip->row + r];
    for (start[c] = to; c + 1 < sc_code_column(code, chunk + 1); c++) start[c + 1] += start[c];
  }
  for (i64 i = strip->tap; i < strip->tap + strip->taps; i++) k->packed[start[s->index[i] % code->depth]++] = s->values[i];
}

/* Like walk, for the strips of generated code. */
static i64 walk_code(sc_kernel *k, const sc_spec *s, i64 *start)
{
  k->strip_count = k->code->strips, k->tap_count = s->count, k->column_count = k->code->depth;
  for (i64 n = 0, from = 0; k->strips && n < k->strip_count; n++) {
    i64 row = sc_code_row(k->code, n), end = sc_code_row(k->code, n + 1), to = from;
    while (to < s->count && s->index[to] / k->code->depth < end) to++;
    k->strips[n] = (sc_strip){.row = (i32)row, .mr = (i32)(end - row), .taps = (i32)(to - from), .tap = from};
    fill_streams(k, s, n, start);
    from = to;
  }
  for (i64 c = 0; k->columns && c < k->column_count; c++) k->columns[c] = (i32)c;
  return s->count + s->rows;
}

/* Counts when there are no strips yet, fills them otherwise. */
static i64 plan(sc_kernel *k, const sc_spec *s, i64 *start) { return sc_code_of(k) ? walk_code(k, s, start) : walk(k, s, start); }

/* Whether values lie as the kernel reads them: a block row is a strip, its columns are in the order of their channels. */
static int in_place(const sc_kernel *k, const sc_spec *s)
{
  return s->lasting && !k->code && s->block_cols == 1 && s->kernel[0] * s->kernel[1] == 1 && s->block_rows <= SC_MAX_MR &&
         sc_widest[s->block_rows] && s->rows / s->group % s->block_rows == 0;
}

/* Kernel row i reads input rows of phase (i * dilation) mod stride: phases are numbered in the order of appearance. */
static void number_phases(sc_kernel *k)
{
  const sc_spec *s = &k->spec;
  for (i64 i = 0; i < s->kernel[0]; i++) {
    i64 at = i * s->dilation[0], same = 0;
    while (same * s->dilation[0] % s->stride[0] != at % s->stride[0]) same++;
    if (same == i) k->opens[k->phases] = (i32)i;
    k->phase[i] = same < i ? k->phase[same] : k->phases++;
    k->shift[i] = (i32)(at / s->stride[0]);
  }
}

int SC(sc_create)(const sc_spec *spec, const sc_host *host, sc_kernel **out)
{
  *out = 0;
  sc_kernel *k = get(host, sizeof *k);
  if (!k) return SC_MEMORY;
  *k = (sc_kernel){.host = *host, .spec = *spec};
  sc_scratch_retain(host);
  k->code = SC_RUNS_CODE && !spec->no_code ? sc_find_code(spec) : 0;
  i64 weights = plan(k, spec, 0), numbers = (sc_code_of(k) ? k->column_count : spec->channels) + 1;
  i64 *start = get(host, (u64)numbers * sizeof *start);
  k->columns = get(host, (u64)k->column_count * sizeof *k->columns);
  if (in_place(k, spec)) k->weights = spec->values;
  else k->weights = k->packed = get(host, (u64)weights * sizeof *k->packed);
  k->bias = get(host, (u64)(spec->rows + SC_MAX_MR) * sizeof *k->bias);
  k->phase = get(host, (u64)spec->kernel[0] * sizeof *k->phase);
  k->shift = get(host, (u64)spec->kernel[0] * sizeof *k->shift);
  k->opens = get(host, (u64)spec->kernel[0] * sizeof *k->opens);
  k->strips = get(host, (u64)k->strip_count * sizeof *k->strips);
  int ok = start && k->columns && k->weights && k->bias && k->phase && k->shift && k->opens && k->strips;
  if (ok) {
    plan(k, spec, start);
    for (i64 i = 0; i < spec->rows + SC_MAX_MR; i++) k->bias[i] = i < spec->rows ? spec->bias[i] : 0.f;
    number_phases(k);
    k->spec.values = 0, k->spec.index = 0, k->spec.bias = 0;
    *out = k;
  }
  drop(host, start);
  if (!ok) SC(sc_destroy)(k);
  return ok ? SC_OK : SC_MEMORY;
}

void SC(sc_drop_columns)(sc_kernel *k)
{
  drop(&k->host, k->columns);
  k->columns = 0;
}

void SC(sc_destroy)(sc_kernel *k)
{
  sc_host host = k->host;
  for (int i = 0; i < GEOMETRIES; i++)
    if (k->geometry[i]) drop(&host, k->geometry[i]->offsets), drop(&host, k->geometry[i]);
  drop(&host, k->columns), drop(&host, k->packed), drop(&host, k->bias);
  drop(&host, k->phase), drop(&host, k->shift), drop(&host, k->opens);
  drop(&host, k->strips);
  drop(&host, k);
  sc_scratch_release(&host);
}

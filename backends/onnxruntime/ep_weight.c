/* Finding and packing blocks of zeros. The estimate is that of sparsecc/cost/roofline.py, its figures are generated. */
#include "ep_weight.h"
#include "sc_ep.h"

typedef unsigned short u16;
enum { STRIP = 16 };             /* rows whose zeros are looked at together: the tallest block */

static i64 ceil_div(i64 a, i64 b) { return (a + b - 1) / b; }
static i64 least(i64 a, i64 b) { return a < b ? a : b; }

static const float *at(const ep_matrix *w, i64 row, i64 depth)
{
  return w->data + row * w->row_step + depth / w->channels * w->tap_step + depth % w->channels * w->channel_step;
}

/* Bit r: whether row `first` + r of this depth is not zero. */
static u32 nonzero_rows(const ep_matrix *w, i64 first, i64 depth)
{
  const float *p = at(w, first, depth);
  i64 rows = least(STRIP, w->rows - first);
  u32 mask = 0;
  for (i64 r = 0; r < rows; r++) mask |= (u32)(p[r * w->row_step] != 0) << r;
  return mask;
}

/* The mask of every strip and depth, depth the faster; null without memory. */
static u16 *find_nonzeros(const sc_host *host, const ep_matrix *w)
{
  i64 depth = w->taps * w->channels, strips = ceil_div(w->rows, STRIP);
  u16 *masks = host->alloc(host->self, (u64)(strips * depth) * sizeof *masks);
  for (i64 s = 0; masks && s < strips; s++)
    for (i64 d = 0; d < depth; d++) masks[s * depth + d] = (u16)nonzero_rows(w, s * STRIP, d);
  return masks;
}

/* blocks[i]: how many blocks of 2^i rows are not zero. */
static void count_blocks(const u16 *masks, i64 count, i64 *blocks)
{
  static const u32 firsts[SC_ROW_BLOCKS] = {0xffff, 0x5555, 0x1111, 0x0101, 0x0001};
  for (int i = 0; i < SC_ROW_BLOCKS; i++) blocks[i] = 0;
  for (i64 m = 0; m < count; m++) {
    u32 any = masks[m]; /* bit r: whether any of the 2^i rows from r on is not zero */
    for (int i = 0; i < SC_ROW_BLOCKS; any |= any >> (1 << i), i++) blocks[i] += __builtin_popcount(any & firsts[i]);
  }
}

/* ---- the roofline ---- */
static double milliseconds(double flops, double efficiency, double weight_bytes, double activation_bytes)
{
  double gbs = SC_DRAM_GBS * (weight_bytes + activation_bytes <= SC_CACHE_BYTES ? SC_CACHED : 1);
  double compute = flops / (SC_PEAK_GFLOPS * efficiency), memory = (weight_bytes + activation_bytes) / gbs;
  return (compute > memory ? compute : memory) * 1e-6;
}

static double activation_bytes(const ep_matrix *w, const ep_work *work)
{
  return 4. * ((double)work->input_elements + (double)w->rows * (double)work->points);
}

static double dense_ms(const ep_matrix *w, const ep_work *work)
{
  double depth = (double)(w->taps * w->channels), elements = (double)w->rows * depth;
  double efficiency = SC_DENSE_ETA * depth / (depth + SC_DENSE_HALF);
  double flops = 2 * elements * (double)work->points;
  return SC_NODE_MS + milliseconds(flops, efficiency, 4 * elements, activation_bytes(w, work));
}

static double sparse_ms(const ep_matrix *w, const ep_work *work, int log_rows, i64 blocks)
{
  double stored = (double)(blocks << log_rows), points = (double)work->points, moved = activation_bytes(w, work);
  double depth = (double)blocks / (double)ceil_div(w->rows, 1LL << log_rows), size = (double)(1 << log_rows);
  int few = !work->conv && work->points <= SC_FEW_POINTS;
  double filled = points / (double)(ceil_div(work->points, SC_LANES) * SC_LANES);
  double efficiency = sc_sparse_eta[log_rows][0] * depth / (depth + sc_sparse_eta[log_rows][1]) * filled;
  if (few) efficiency = 2. * size / (SC_FEW_WEIGHT * size > SC_FEW_BLOCK ? SC_FEW_WEIGHT * size : SC_FEW_BLOCK);
  if (efficiency < 1e-3) efficiency = 1e-3;
  return SC_NODE_MS + moved / SC_LAYOUT_GBS * 1e-6 +
         milliseconds(2 * stored * points, efficiency, 4 * stored + 4 * (double)blocks, moved);
}

i64 ep_choose_block(const sc_host *host, const ep_matrix *w, const ep_work *work)
{
  i64 blocks[SC_ROW_BLOCKS], depth = w->taps * w->channels, best = 0;
  u16 *masks = find_nonzeros(host, w);
  if (!masks) return -1;
  count_blocks(masks, ceil_div(w->rows, STRIP) * depth, blocks);
  host->free(host->self, masks);
  if (blocks[0] == w->rows * depth) return 0;
  double limit = SC_WORTHWHILE * dense_ms(w, work);
  for (int i = SC_ROW_BLOCKS - 1; i >= 0; i--) {
    int inside = work->rows_per_group == w->rows || work->rows_per_group % (1 << i) == 0;
    double ms = sparse_ms(w, work, i, blocks[i]);
    if (inside && blocks[i] << i <= 0x7fffffff && (best ? ms < limit : ms <= limit)) limit = ms, best = 1 << i;
  }
  return best;
}

/* ---- packing ---- */

/* Whether the block of r rows is stored. */
static int stored(const u16 *masks, const ep_matrix *w, i64 first, i64 r, i64 depth)
{
  if (!masks) return 1;
  u32 rows = masks[first / STRIP * (w->taps * w->channels) + depth];
  return rows >> first % STRIP & ((1u << r) - 1);
}

/* Counts the blocks when values is null, writes them otherwise. */
static i64 walk(const u16 *masks, const ep_matrix *w, i64 r, float *values, i32 *index)
{
  i64 depth = w->taps * w->channels, count = 0;
  for (i64 first = 0; first < w->rows; first += r)
    for (i64 d = 0; d < depth; d++) {
      if (!stored(masks, w, first, r, d)) continue;
      if (values) {
        const float *p = at(w, first, d);
        for (i64 i = 0; i < r; i++) values[count * r + i] = first + i < w->rows ? p[i * w->row_step] : 0.f;
        index[count] = (i32)(first / r * depth + d);
      }
      count++;
    }
  return count;
}

int ep_pack(const sc_host *host, const ep_matrix *w, i64 block, sc_spec *spec, void **memory)
{
  i64 r = block ? block : 1;
  u16 *masks = block ? find_nonzeros(host, w) : 0;
  if (block && !masks) return SC_MEMORY;
  i64 count = walk(masks, w, r, 0, 0);
  *memory = host->alloc(host->self, (u64)(count * (r + 1) + 1) * sizeof(float));
  if (*memory) {
    float *values = *memory;
    i32 *index = (i32 *)(values + count * r);
    walk(masks, w, r, values, index);
    spec->values = values, spec->index = index, spec->count = count;
    spec->block_rows = r, spec->block_cols = 1;
    spec->grid_rows = ceil_div(w->rows, r), spec->grid_cols = w->taps * w->channels;
  }
  if (masks) host->free(host->self, masks);
  return *memory ? SC_OK : SC_MEMORY;
}

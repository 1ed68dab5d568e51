/* Taps of a convolution in layout C16, from a packed weight with blocks of 16, 32, ... rows or from a dense one. */
#include "weight16.h"

static const char no_memory[] = "there is no memory for its weight";

/* One weight of either kind while its taps are being written. */
typedef struct {
  sc_weight16 *w;
  const sc_spec *packed;         /* or null */
  const float *dense;            /* [outputs, inputs, kh, kw] */
  i64 inputs, group;             /* of a group; groups */
  i32 *where;                    /* per depth (kh, kw, channel): 1 + its column of the block row's values, or 0 */
} source;

/* The 16 weights of a block at depth k. */
static void take(const source *s, i64 block, i64 k, float *to)
{
  const i64 window = s->w->kernel[0] * s->w->kernel[1], left = s->w->outputs - block * WIDE;
  const float *from = s->dense;
  i64 step = s->inputs * window;
  if (from) from += (block * WIDE * s->inputs + k % s->inputs) * window + k / s->inputs;
  else {
    i64 column = s->where[k] - 1, size = s->packed->block_cols, row = block * WIDE % s->packed->block_rows;
    from = s->packed->values + (column / size * s->packed->block_rows + row) * size + column % size, step = size;
  }
  for (i64 r = 0; r < WIDE; r++) to[r] = r < left ? from[r * step] : 0.f;
}

/* Notes which depths of a row of blocks are stored; `from` is its first block. Returns the first of the next row. */
static i64 note_row(const source *s, i64 row, i64 from)
{
  const sc_spec *p = s->packed;
  const i64 depth = s->inputs * s->w->kernel[0] * s->w->kernel[1];
  for (i64 k = 0; k < depth; k++) s->where[k] = 0;
  for (; from < p->count && p->index[from] / p->grid_cols == row; from++) {
    i64 k = p->index[from] % p->grid_cols * p->block_cols;
    for (i64 c = 0; c < p->block_cols && k + c < depth; c++) s->where[k + c] = (i32)(from * p->block_cols + c) + 1;
  }
  return from;
}

/* The taps of a block in their order: counted, and written where there is room. */
static i64 cut_block(const source *s, i64 block, i32 *index, float *weights)
{
  const sc_weight16 *w = s->w;
  const i64 window = w->kernel[0] * w->kernel[1], begin = block * WIDE / (w->outputs / s->group) * s->inputs;
  i64 taps = 0;
  for (i64 slot = begin / WIDE * window; slot < ceil_div(begin + s->inputs, WIDE) * window; slot++)
    for (i64 lane = 0; lane < WIDE; lane++) {
      i64 channel = slot / window * WIDE + lane - begin, k = slot % window * s->inputs + channel;
      if (channel < 0 || channel >= s->inputs || (s->where && !s->where[k])) continue;
      if (index) index[taps] = (i32)(slot * WIDE + lane);
      if (weights) take(s, block, k, weights + taps * WIDE);
      taps++;
    }
  return taps;
}

/* Counts the taps into starts, or writes them. */
static void cut_all(const source *s, i32 *index, float *weights)
{
  sc_weight16 *w = s->w;
  i64 taps = 0, next = 0, per_group = w->outputs / s->group;
  for (i64 block = 0; block < w->blocks; block++) {
    i64 strips = s->packed ? s->packed->block_rows / WIDE : 1, first = block * WIDE / per_group * per_group == block * WIDE;
    if (s->packed && block % strips == 0) next = note_row(s, block / strips, next);
    w->starts[block] = taps;
    w->lists[block] = s->packed ? taps : block * WIDE / per_group * s->inputs * w->kernel[0] * w->kernel[1];
    taps += cut_block(s, block, index && (s->packed || first) ? index + w->lists[block] : 0, weights ? weights + taps * WIDE : 0);
  }
  w->starts[w->blocks] = w->taps = taps;
}

static const char *cut(source *s, const sc_host *host)
{
  sc_weight16 *w = s->w;
  cut_all(s, 0, 0);
  i64 positions = s->packed ? w->taps : s->inputs * s->group * w->kernel[0] * w->kernel[1];
  if (positions > MAX_FLOATS / WIDE || w->taps > MAX_FLOATS / WIDE) return "its weight is too large";
  w->owned_index = sc_get(host, positions * 4), w->owned_weights = sc_get(host, w->taps * WIDE * 4);
  if (!w->owned_index || !w->owned_weights) return no_memory;
  cut_all(s, w->owned_index, w->owned_weights);
  w->index = w->owned_index, w->weights = w->owned_weights;
  return 0;
}

/* What does not depend on where the values are. */
static const char *size(sc_weight16 *w, i64 outputs, i64 inputs, i64 group, const float *bias, const sc_host *host)
{
  if (group > 1 && (outputs % group || outputs / group % WIDE)) return "the outputs of a group must be a multiple of 16";
  w->outputs = outputs, w->channels = inputs * group, w->blocks = ceil_div(outputs, WIDE);
  w->slots = ceil_div(w->channels, WIDE) * w->kernel[0] * w->kernel[1];
  w->starts = sc_get(host, (w->blocks + 1) * 8), w->lists = sc_get(host, w->blocks * 8);
  w->bias = sc_get(host, w->blocks * WIDE * 4);
  if (!w->starts || !w->lists || !w->bias) return no_memory;
  for (i64 i = 0; i < w->blocks * WIDE; i++) w->bias[i] = i < outputs ? bias[i] : 0.f;
  return 0;
}

static const char *from_dense(const sc_constant *c, i64 group, const sc_host *host, sc_weight16 *w)
{
  const sc_constant *b = c + 1;
  i64 depth = 1;
  if (c->type != SC_F32 || c->rank != 4) return "the weight must be float32 [O, I/group, kh, kw]";
  for (int i = 3; i >= 0; i--) {
    if (c->dims[i] < 1 || c->dims[i] > (1 << 30) / depth) return "its weight is empty or too large";
    if (i) depth *= c->dims[i];
  }
  if (c->dims[0] * depth != c->count || c->dims[2] > 1024 || c->dims[3] > 1024) return "its weight is too large";
  if (group > (1 << 30) / depth) return "its weight is too large";
  if (b->type != SC_F32 || b->rank != 1 || b->dims[0] != c->dims[0] || b->count != b->dims[0])
    return "the bias must be float32 [O]";
  w->kernel[0] = c->dims[2], w->kernel[1] = c->dims[3];
  const char *wrong = size(w, c->dims[0], c->dims[1], group, b->data, host);
  source s = {.w = w, .dense = c->data, .inputs = c->dims[1], .group = group};
  return wrong ? wrong : cut(&s, host);
}

static const char *from_packed(const sc_spec *p, const sc_host *host, sc_weight16 *w)
{
  if (p->block_rows % WIDE) return "its blocks must have a multiple of 16 rows";
  w->kernel[0] = p->kernel[0], w->kernel[1] = p->kernel[1];
  const char *wrong = size(w, p->rows, p->channels, p->group, p->bias, host);
  if (wrong) return wrong;
  i64 depth = p->channels * p->kernel[0] * p->kernel[1];
  source s = {.w = w, .packed = p, .inputs = p->channels, .group = p->group, .where = sc_get(host, depth * 4)};
  if (!s.where) return no_memory;
  int as_stored = p->block_rows == WIDE && p->block_cols == 1 && depth == p->channels && p->group == 1 && p->rows % WIDE == 0;
  if (!as_stored) wrong = cut(&s, host);
  else {
    cut_all(&s, 0, 0);
    w->weights = p->values, w->index = p->index, w->apart = p->grid_cols;
  }
  sc_drop(host, s.where);
  return wrong;
}

const char *SC(sc_weight16_create)(const sc_step_spec *spec, i64 first, int dense, i64 group, const sc_host *host,
                                   sc_weight16 *w)
{
  *w = (sc_weight16){0};
  if (group < 1) return "group must be positive";
  if (dense) return spec->constant_count < first + 2 ? "a dense weight and a bias are needed"
                                                     : from_dense(spec->constants + first, group, host, w);
  sc_spec packed = {.stride = {1, 1}, .dilation = {1, 1}, .group = group};
  const char *wrong = sc_read_packed(spec, first, 1, &packed);
  return wrong ? wrong : from_packed(&packed, host, w);
}

void SC(sc_weight16_free)(sc_weight16 *w, const sc_host *host)
{
  void *parts[] = {w->starts, w->lists, w->bias, w->owned_weights, w->owned_index};
  for (int i = 0; i < 5; i++) sc_drop(host, parts[i]);
}

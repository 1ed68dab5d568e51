/* Depthwise convolution, NCHW: one filter per channel, all of its taps stored. One tile of one channel is packed into planes
   (one per row phase and column phase of the stride) that stay in the first-level cache; every tap is then a shifted read. */
#include "lines.h"
#include "pack.h"

enum {
  MAX_SIDE = 16,                 /* of a kernel; larger ones take the general way */
  TILE = 6 * 1024,               /* packed floats of a tile: half of a first-level cache */
  MOST = 8,                      /* independent sums that hide the latency of the multiply-add */
  TASKS = 16
};

/* Kernel position i reads phase[i] of the stride, shift[i] positions below its first. */
typedef struct {
  i32 phases, reach, opens[MAX_SIDE], phase[MAX_SIDE], shift[MAX_SIDE];
} sc_axis;

typedef struct {
  const float *weights;
  float bias, low, high;
  i64 taps;
} sc_filter;

struct sc_job;
typedef void sc_columns(const struct sc_job *, const sc_filter *, const float *packed, i64 rows, i64 width, float *y,
                        const float *residual);

typedef struct sc_job {
  const sc_kernel *kernel;
  const sc_image *image;
  sc_columns *columns;
  const float *x, *residual;
  float *y;
  sc_axis down, across;
  i64 tile_rows, pitch, plane, packed, group, chunks;
  i64 direct;                    /* planes that need no packing, for which rows of zeros stand around X */
  const float *zeros;
  i32 narrow, failed;            /* narrow: a row is shorter than a vector */
  i32 offsets[MAX_SIDE * MAX_SIDE];
} sc_job;

static sc_axis number_axis(i64 kernel, i64 stride, i64 dilation)
{
  sc_axis a = {.phases = 0};
  for (i32 i = 0; i < kernel; i++) {
    i32 same = 0;
    while (same * dilation % stride != i * dilation % stride) same++;
    if (same == i) a.opens[a.phases] = (i32)(i * dilation % stride);
    a.phase[i] = same < i ? a.phase[same] : a.phases++;
    a.shift[i] = (i32)(i * dilation / stride);
  }
  a.reach = a.shift[kernel - 1];
  return a;
}

static void lay_out(sc_job *j)
{
  const sc_spec *s = &j->kernel->spec;
  j->down = number_axis(s->kernel[0], s->stride[0], s->dilation[0]);
  j->across = number_axis(s->kernel[1], s->stride[1], s->dilation[1]);
  i64 planes = (i64)j->down.phases * j->across.phases;
  j->pitch = ceil_div(j->image->out_width + j->across.reach, LINE) * LINE;
  j->tile_rows = clip(TILE / (planes * j->pitch) - j->down.reach, 1, j->image->out_height);
  j->plane = (j->tile_rows + j->down.reach) * j->pitch + 2 * LINE;
  j->packed = planes * j->plane;
  j->group = clip(TILE / j->packed, 1, MOST);
  j->narrow = j->image->out_width < VL;
  for (i64 h = 0, t = 0; h < s->kernel[0]; h++)
    for (i64 w = 0; w < s->kernel[1]; w++, t++) {
      i64 plane = j->down.phase[h] * j->across.phases + j->across.phase[w];
      j->offsets[t] = (i32)(plane * j->plane + j->down.shift[h] * j->pitch + j->across.shift[w]);
    }
}

/* Floats of one group's planes, and of a tile's sums when rows are narrow. */
static i64 scratch_floats(const sc_job *j)
{
  return j->group * j->packed + (j->narrow ? j->tile_rows * VL : 0);
}

#define LANE(lane, h) (lane)

/* At most VL pixels and zeros after them: a whole vector is written. `limit` floats from `from` on may be read. */
INLINE void narrow_row(float *to, const float *from, i64 n, i64 step, i64 limit)
{
  const vi lanes = {LANES(LANE, 0)};
  vf v = splat(0.f);
  if (step == 1 && limit >= VL) v = load(from);
  else if (step == 2 && limit >= 2 * VL) v = every_second(from);
  else for (i64 i = 0; i < n; i++) v[i] = from[i * step];
  store(to, select_vf(lanes < (i32)n, v, splat(0.f)));
}

/* pack_plane for rows shorter than a vector: what a row writes too much, the rows after it put right. */
static void pack_narrow(float *to, const float *x, const sc_plane *p)
{
  i64 step = p->stride[1], from = clip(ceil_div(-p->right, step), 0, p->columns);
  i64 n = clip(ceil_div(p->width - p->right, step), from, p->columns) - from;
  for (i64 r = 0; r < p->rows; r++, to += p->pitch) {
    i64 row = (p->top + r) * p->stride[0] + p->below, at = row * p->width + from * step + p->right;
    int inside = row >= 0 && row < p->height && n > 0;
    narrow_row(to, x, 0, 1, 0);
    if (inside) narrow_row(to + from, x + at, n, step, p->height * p->width - at);
  }
}

static void pack_tile(const sc_job *j, const float *x, i64 top, i64 rows, float *to)
{
  const sc_spec *s = &j->kernel->spec;
  for (i32 f = 0; f < j->down.phases; f++)
    for (i32 g = 0; g < j->across.phases; g++, to += j->plane) {
      sc_plane p = {.height = j->image->height, .width = j->image->width, .top = top, .rows = rows + j->down.reach,
                    .columns = j->image->out_width + j->across.reach, .pitch = j->pitch, .stride = {s->stride[0], s->stride[1]},
                    .below = j->down.opens[f] - s->pad[0], .right = j->across.opens[g] - s->pad[1]};
      if (p.columns <= VL) pack_narrow(to, x, &p);
      else pack_plane(to, x, &p);
    }
}

/* N vectors of outputs, one below the other: from[n * pitch] are their first inputs, to[n * below] where they go. */
INLINE void any_sums(const int N, const sc_job *j, const sc_filter *f, const float *from, vf *acc)
{
  for (i64 t = 0; t < f->taps; t++) {
    const float *x = from + j->offsets[t];
    vf w = splat(f->weights[t]);
    UNROLL for (int n = 0; n < N; n++) acc[n] += load(x + n * j->pitch) * w;
  }
}

/* The same for a K x K kernel of stride S: an input is loaded once for all the outputs above it. */
INLINE void square_sums(const int N, const int K, const int S, const sc_job *j, const sc_filter *f, const float *from, vf *acc)
{
  UNROLL for (int kw = 0; kw < K; kw++) UNROLL for (int phase = 0; phase < S; phase++) {
    const float *x = from + (phase * S + kw % S) * j->plane + kw / S;
    UNROLL for (int i = 0; i < N + (K - 1 - phase) / S; i++) {
      vf v = load(x + i * j->pitch);
      UNROLL for (int kh = phase; kh < K; kh += S)
        if (i >= kh / S && i - kh / S < N) acc[i - kh / S] += v * splat(f->weights[kh * K + kw]);
    }
  }
}

INLINE void sums(const int N, const int K, const int S, const sc_job *j, const sc_filter *f, const float *from, float *to,
                 i64 below, const float *residual)
{
  vf acc[MOST];
  UNROLL for (int n = 0; n < N; n++) acc[n] = splat(f->bias);
  if (K) square_sums(N, K, S, j, f, from, acc);
  else any_sums(N, j, f, from, acc);
  UNROLL for (int n = 0; n < N; n++) {
    if (residual) acc[n] += load(residual + n * below);
    store(to + n * below, at_most(at_least(acc[n], splat(f->low)), splat(f->high)));
  }
}

/* `width` >= VL columns of a tile; the last vector may overlap the one before. */
INLINE void columns(const int K, const int S, const sc_job *j, const sc_filter *f, const float *packed, i64 rows, i64 width,
                    float *y, const float *residual)
{
  for (i64 from = 0; from < width; from += VL) {
    i64 column = from + VL <= width ? from : width - VL, r = 0;
#define ROWS(N)                                                                                         \
  for (; r + N <= rows; r += N)                                                                         \
    sums(N, K, S, j, f, packed + column + r * j->pitch, y + column + r * width, width,                  \
         residual ? residual + column + r * width : 0);
    ROWS(MOST) ROWS(4) ROWS(2) ROWS(1)
#undef ROWS
  }
}

#define COLUMNS(name, K, S)                                                                              \
  static void name(const sc_job *j, const sc_filter *f, const float *packed, i64 rows, i64 width, float *y, \
                   const float *residual)                                                                \
  { columns(K, S, j, f, packed, rows, width, y, residual); }
COLUMNS(columns_any, 0, 1)
COLUMNS(columns_3_1, 3, 1)
COLUMNS(columns_3_2, 3, 2)
COLUMNS(columns_5_1, 5, 1)
COLUMNS(columns_5_2, 5, 2)

static sc_columns *pick(const sc_spec *s)
{
  i64 side = s->kernel[0], stride = s->stride[0];
  if (side != s->kernel[1] || stride != s->stride[1] || s->dilation[0] != 1 || s->dilation[1] != 1) return columns_any;
  if (side == 3 && stride == 1) return columns_3_1;
  if (side == 3 && stride == 2) return columns_3_2;
  if (side == 5 && stride == 1) return columns_5_1;
  if (side == 5 && stride == 2) return columns_5_2;
  return columns_any;
}

/* Rows shorter than a vector are summed as whole vectors, then brought together. */
static void narrow_tile(const sc_job *j, const sc_filter *f, const float *packed, i64 rows, float *run, float *y)
{
  i64 width = j->image->out_width;
  j->columns(j, f, packed, rows, VL, run, 0);
  for (i64 r = 0; r < rows; r++)
    if ((rows - r) * width >= VL) store(y + r * width, load(run + r * VL));
    else for (i64 c = 0; c < width; c++) y[r * width + c] = run[r * VL + c];
}

/* residual and activation of what the sums could not finish. */
static void finish(float *y, const float *residual, i64 count, i32 activation)
{
  for (i64 i = 0; residual && i < count; i++) y[i] += residual[i];
  SC(sc_activate)(y, count, activation);
}

static const float *input_of(const sc_job *j, i64 plane)
{
  return j->x + plane * j->image->height * j->image->width;
}

/* One packed tile of one channel; `plane` counts the channels of all images. */
static void compute(const sc_job *j, i64 plane, i64 top, i64 rows, const float *packed, float *run)
{
  const sc_kernel *k = j->kernel;
  const sc_spec *s = &k->spec;
  const float inf = __builtin_inff();
  i64 c = plane % s->rows, width = j->image->out_width, out = (plane * j->image->out_height + top) * width;
  int later = s->activation > SC_RELU6 || (j->narrow && j->residual), clamp = !later && s->activation != SC_NONE;
  sc_filter f = {.weights = k->weights + k->strips[c].weight, .bias = k->bias[c], .taps = s->kernel[0] * s->kernel[1],
                 .low = clamp ? 0.f : -inf, .high = clamp && s->activation == SC_RELU6 ? 6.f : inf};
  const float *residual = j->residual ? j->residual + out : 0;
  if (j->narrow) narrow_tile(j, &f, packed, rows, run, j->y + out);
  else j->columns(j, &f, packed, rows, width, j->y + out, residual);
  if (later) finish(j->y + out, j->narrow ? residual : 0, rows * width, s->activation);
}

/* A group of channels is packed before any of it is computed: what was just stored is not yet ready to be read askew. */
static void group(const sc_job *j, i64 from, i64 end, float *scratch)
{
  i64 height = j->image->out_height;
  for (i64 top = 0; top < height; top += j->tile_rows) {
    i64 rows = clip(height - top, 0, j->tile_rows);
    for (i64 i = from; i < end; i++) pack_tile(j, input_of(j, i), top, rows, scratch + (i - from) * j->packed);
    for (i64 i = from; i < end; i++) compute(j, i, top, rows, scratch + (i - from) * j->packed, scratch + j->group * j->packed);
  }
}

/* Planes [from, end), packed. */
static void packed_planes(sc_job *j, i64 from, i64 end)
{
  int slot;
  float *scratch = sc_scratch_get(&j->kernel->host, scratch_floats(j), &slot);
  if (!scratch) {
    __atomic_store_n(&j->failed, 1, __ATOMIC_RELAXED);
    return;
  }
  for (; from < end; from += j->group) group(j, from, from + j->group < end ? from + j->group : end, scratch);
  sc_scratch_put(&j->kernel->host, slot, scratch);
}

/* The planes [0, count) of which every read stays inside X; the others have to be packed. */
static i64 count_direct(const sc_kernel *k, const sc_image *image)
{
  i64 planes = k->spec.rows * image->batch, size = image->height * image->width;
  if (!SC(sc_is_same_depthwise)(k, image->height, image->width)) return 0;
  return clip(planes - ceil_div(SC_LINES_OVER, size), 0, planes);
}

/* Planes [from, end), read where they lie. */
static void direct_planes(const sc_job *j, i64 from, i64 end)
{
  const sc_image *i = j->image;
  i64 size = i->out_height * i->out_width;
  sc_lines x = {(float *)j->x, j->zeros, i->height * i->width, i->height, i->width, i->height, 0};
  sc_lines y = {j->y, 0, size, i->out_height, i->out_width, i->out_height, 0}, residual = y;
  residual.data = (float *)j->residual;
  SC(sc_same_depthwise)(j->kernel, &x, j->residual ? &residual : 0, &y, 0, i->out_height, from, end);
}

static void task_planes(void *data, u64 i)
{
  sc_job *j = data;
  i64 planes = j->kernel->spec.rows * j->image->batch;
  i64 from = planes * (i64)i / j->chunks, end = planes * ((i64)i + 1) / j->chunks, direct = clip(j->direct, from, end);
  if (direct > from) direct_planes(j, from, direct);
  if (end > direct) packed_planes(j, direct, end);
}

int SC(sc_is_depthwise)(const sc_kernel *k)
{
  const sc_spec *s = &k->spec;
  return s->channels == 1 && s->rows == s->group && k->tap_count == s->rows * s->kernel[0] * s->kernel[1] &&
         s->kernel[0] <= MAX_SIDE && s->kernel[1] <= MAX_SIDE;
}

int SC(sc_depthwise)(sc_kernel *k, const sc_image *image, const float *x, const float *residual, float *y,
                     const sc_parallel *parallel, void **host_error)
{
  sc_job j = {.kernel = k, .image = image, .x = x, .residual = residual, .y = y, .chunks = clip(k->spec.rows * image->batch, 1, TASKS)};
  lay_out(&j);
  j.columns = pick(&k->spec);
  j.direct = count_direct(k, image);
  if (scratch_floats(&j) > MAX_FLOATS) return SC_TOO_LARGE;
  int slot;
  float *zeros = sc_scratch_get(&k->host, sc_zeros(image->width), &slot);
  if (!zeros) return SC_MEMORY;
  clear_floats(zeros, sc_zeros(image->width));
  j.zeros = zeros + SC_LINES_BEFORE;
  *host_error = parallel->run(parallel->self, task_planes, (u64)j.chunks, &j);
  sc_scratch_put(&k->host, slot, zeros);
  if (*host_error) return SC_HOST_ERROR;
  return j.failed ? SC_MEMORY : SC_OK;
}

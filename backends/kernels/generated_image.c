/* Convolutions with generated code: how their inputs become panels. */
#include "chain.h"
#include "generated.h"
#include "pack.h"

enum {
  RUN = 8,                       /* panels packed side by side, at most; a power of two */
  MOST_STRIDE = 4                /* of images that are cut into phases */
};

/* ---- images ---- */
typedef struct { i64 image, first, count; } sc_spot;

/* The image of a panel, its first pixel there, and how many it has: all lanes, where an image has as many pixels, since its
   last panel then overlaps the one before. */
static sc_spot spot(const sc_job *j, i64 panel)
{
  i64 image = panel < j->each ? 0 : panel / j->each, first = (panel - image * j->each) * LANES, last = j->points - LANES;
  if (last < 0) return (sc_spot){image, 0, j->points};
  return (sc_spot){image, first < last ? first : last, LANES};
}

/* The most of 8, 4, 2 and 1 panels from `panel` on that lie in one image, before `end`; where each begins there. */
static i64 panels_side_by_side(const sc_job *j, i64 panel, i64 end, i64 *starts)
{
  i64 left = clip(j->each - panel % j->each, 1, end - panel), n = RUN;
  while (n > left) n /= 2;
  for (i64 p = 0; p < n; p++) starts[p] = spot(j, panel + p).first;
  return n;
}

INLINE void copy_lanes(float *out, const float *from)
{
  UNROLL for (int i = 0; i < LANES; i += VL) store(out + i, load(from + i));
}

/* Rows [first, last) of N panels at `to`, j->floats from each other; panel p begins `starts[p]` pixels from the first. */
INLINE void pack_run(const int N, const sc_job *j, const float *from, const i64 *starts, float *to, i64 first, i64 last)
{
  const i32 *offsets = j->offsets;
  const i64 floats = j->floats;
  i64 start[N]; /* a copy that no store can reach */
  UNROLL for (int p = 0; p < N; p++) start[p] = starts[p];
  for (i64 d = first; d < last; d++)
    UNROLL for (int p = 0; p < N; p++) copy_lanes(to + p * floats + (d - first) * LANES, from + offsets[d] + start[p]);
}

/* Rows of the only panel of a tile that has fewer pixels than lanes. */
static void pack_few(const sc_job *j, const float *from, float *to, i64 first, i64 last)
{
  for (i64 d = first; d < last; d++) {
    const float *row = from + j->offsets[d];
    for (i64 i = 0; i < LANES; i++) to[(d - first) * LANES + i] = i < j->points ? row[i] : 0.f;
  }
}

/* Rows [first, last) of panels [panel, end), whose pixels are contiguous for every tap. */
static void pack_pixels(const sc_job *j, i64 panel, i64 end, float *to, i64 first, i64 last)
{
  for (i64 n; panel < end; panel += n, to += n * j->floats) {
    i64 starts[RUN];
    const float *from = j->from + spot(j, panel).image * j->apart;
    n = panels_side_by_side(j, panel, end, starts);
    if (j->points < LANES) pack_few(j, from, to, first, last);
    else if (n == 8) pack_run(8, j, from, starts, to, first, last);
    else if (n == 4) pack_run(4, j, from, starts, to, first, last);
    else if (n == 2) pack_run(2, j, from, starts, to, first, last);
    else pack_run(1, j, from, starts, to, first, last);
  }
}

/* ---- images whose taps are phases of the image, moved ---- */
/* A phase is every stride-th row and column. A tap of output pixel (y, x) is pixel (y + down, x + right) of one phase; phases
   have the width of the output, so that this is a distance, and pixels outside of the phase are masked. With a stride of one
   the only phase is the image itself. */

/* Row and column of each pixel of a panel; far outside for lanes beyond the last pixel. */
typedef struct { i32 row[LANES], column[LANES]; } sc_pixels;

static sc_pixels pixels_of(const sc_job *j, i64 first)
{
  sc_pixels out;
  i64 width = j->image->out_width, row = first / width, column = first % width;
  for (i64 i = 0; i < LANES; i++) {
    out.row[i] = first + i < j->points ? (i32)row : -MAX_FLOATS, out.column[i] = (i32)column;
    if (++column == width) column = 0, row++;
  }
  return out;
}

/* Along one axis: the phase that a tap reads, its size, and how far its pixel is from the output's. */
typedef struct { i64 phase, size, by; } sc_axis;

static sc_axis axis_of(const sc_job *j, int axis, i64 tap)
{
  const sc_spec *s = &j->kernel->spec;
  i64 in = axis ? j->image->width : j->image->height, out = axis ? j->image->out_width : j->image->out_height;
  i64 stride = s->stride[axis], at = tap * s->dilation[axis] - s->pad[axis], phase = (at % stride + stride) % stride;
  i64 size = ceil_div(in - phase, stride);
  return (sc_axis){phase, size, clip((at - phase) / stride, -out, size)};
}

/* A tap of a few panels: where it is seen from a pixel, and in which lanes it is inside of its phase. */
typedef struct { i64 shift; vi inside[RUN][LANES / VL]; } sc_tap;

static void place_tap(const sc_job *j, i64 number, const sc_pixels *pixels, i64 n, sc_tap *out)
{
  const sc_spec *s = &j->kernel->spec;
  sc_axis down = axis_of(j, 0, number / s->kernel[1]), right = axis_of(j, 1, number % s->kernel[1]);
  out->shift = (down.phase * s->stride[1] + right.phase) * s->channels * j->plane + down.by * j->image->out_width + right.by;
  for (i64 p = 0; p < n; p++)
    for (int i = 0; i < LANES / VL; i++) {
      vi row = load_bits(pixels[p].row + i * VL) + (i32)down.by, column = load_bits(pixels[p].column + i * VL) + (i32)right.by;
      out->inside[p][i] = (row >= 0) & (row < (i32)down.size) & (column >= 0) & (column < (i32)right.size);
    }
}

/* One channel of a tap of n panels, where vectors would leave the memory; `at` is the first pixel seen. */
static void pack_edge(const sc_job *j, const sc_tap *tap, const i64 *starts, i64 n, i64 at, float *to)
{
  for (i64 p = 0; p < n; p++, to += j->floats)
    for (i64 i = 0; i < LANES; i++) to[i] = tap->inside[p][i / VL][i % VL] ? j->from[at + starts[p] + i] : 0.f;
}

/* Channels [first, last) of a tap of N panels at `to`; `at` is the first pixel of the image, in X. */
INLINE void pack_tap(const int N, const sc_job *j, const sc_tap *tap, const i64 *starts, i64 at, float *to, i64 first, i64 last)
{
  const i64 size = j->plane, floats = j->floats;
  i64 stop = last;
  vi inside[N][LANES / VL]; /* a copy that no store can reach */
  UNROLL for (int p = 0; p < N; p++) UNROLL for (int i = 0; i < LANES / VL; i++) inside[p][i] = tap->inside[p][i];
  at += tap->shift;
  for (; first < last && at + first * size + starts[0] < 0; first++, to += LANES) pack_edge(j, tap, starts, N, at + first * size, to);
  while (stop > first && at + (stop - 1) * size + starts[N - 1] + LANES > j->limit) stop--;
  const float *from[N];
  UNROLL for (int p = 0; p < N; p++) from[p] = j->from + at + first * size + starts[p];
  for (; first < stop; first++, to += LANES)
    UNROLL for (int p = 0; p < N; p++, from[p - 1] += size) UNROLL for (int i = 0; i < LANES / VL; i++)
      store(to + p * floats + i * VL, (vf)((vi)load(from[p] + i * VL) & inside[p][i]));
  for (; first < last; first++, to += LANES) pack_edge(j, tap, starts, N, at + first * size, to);
}

/* Rows [first, last) of panels [panel, end). */
static void pack_moved_pixels(const sc_job *j, i64 panel, i64 end, float *to, i64 first, i64 last)
{
  i64 channels = j->kernel->spec.channels;
  for (i64 n; panel < end; panel += n, to += n * j->floats) {
    i64 starts[RUN], at = spot(j, panel).image * channels * j->plane;
    sc_pixels pixels[RUN];
    n = panels_side_by_side(j, panel, end, starts);
    for (i64 p = 0; p < n; p++) pixels[p] = pixels_of(j, starts[p]);
    for (i64 d = first, more; d < last; d += more) {
      i64 c = d % channels;
      sc_tap tap;
      place_tap(j, d / channels, pixels, n, &tap);
      more = clip(channels - c, 0, last - d);
      if (n == 8) pack_tap(8, j, &tap, starts, at, to + (d - first) * LANES, c, c + more);
      else if (n == 4) pack_tap(4, j, &tap, starts, at, to + (d - first) * LANES, c, c + more);
      else if (n == 2) pack_tap(2, j, &tap, starts, at, to + (d - first) * LANES, c, c + more);
      else pack_tap(1, j, &tap, starts, at, to + (d - first) * LANES, c, c + more);
    }
  }
}

/* The columns of a row that a phase has: `step` apart, `n` of them. What is behind them up to a vector's end is overwritten
   as well; `limit` floats from `from` on may be read. */
static void split_row(float *to, const float *from, i64 n, i64 step, i64 limit)
{
  i64 i = 0;
  if (step == 1) for (; i < n && i + VL <= limit; i += VL) store(to + i, load(from + i));
  if (step == 2) for (; i < n && 2 * (i + VL) <= limit; i += VL) store(to + i, every_second(from + 2 * i));
  for (; i < n; i++) to[i] = from[i * step];
}

/* Channels of an image as planes of their phases. */
static void task_phases(void *data, u64 i)
{
  const sc_job *j = data;
  const sc_spec *s = &j->kernel->spec;
  const sc_image *image = j->image;
  i64 size = image->height * image->width, all = image->batch * s->channels * size;
  for (i64 c = s->channels * (i64)i / TASKS; c < s->channels * ((i64)i + 1) / TASKS; c++)
    for (i64 tap = 0; tap < s->kernel[0] * s->kernel[1]; tap++) {
      sc_axis down = axis_of(j, 0, tap / s->kernel[1]), right = axis_of(j, 1, tap % s->kernel[1]);
      if (tap / s->kernel[1] >= s->stride[0] || tap % s->kernel[1] >= s->stride[1]) continue; /* its phase is there */
      float *to = j->planes + ((down.phase * s->stride[1] + right.phase) * s->channels + c) * j->plane;
      i64 at = (j->tile * s->channels + c) * size + down.phase * image->width + right.phase;
      for (i64 r = 0; r < down.size; r++, to += image->out_width, at += s->stride[0] * image->width)
        split_row(to, j->x + at, right.size, s->stride[1], all - at);
    }
}

/* Floats of a phase of a channel, with room for a vector that ends behind it; zero where taps cannot be read like that. */
static i64 phase_floats(const sc_spec *s, const sc_image *image)
{
  i64 rows = ceil_div(image->height, s->stride[0]), size = rows * image->out_width;
  if (s->stride[0] > MOST_STRIDE || s->stride[1] > MOST_STRIDE || ceil_div(image->width, s->stride[1]) > image->out_width) return 0;
  if (size > MAX_FLOATS || image->out_height * image->out_width > MAX_FLOATS) return 0;
  size = (size + 2 * VL) / VL * VL;
  return size * s->channels <= MAX_FLOATS / (MOST_STRIDE * MOST_STRIDE) ? size : 0;
}

static int run_phases(sc_job *j, const sc_parallel *parallel, void **host_error)
{
  const sc_spec *s = &j->kernel->spec;
  int slot, status = SC_OK;
  j->pack = pack_moved_pixels;
  if (s->stride[0] == 1 && s->stride[1] == 1 && j->image->width == j->image->out_width) {
    j->plane = j->image->height * j->image->width;
    return SC(sc_run_panels)(j, parallel, host_error);
  }
  j->limit = s->stride[0] * s->stride[1] * s->channels * j->plane;
  j->planes = sc_scratch_get(&j->kernel->host, j->limit, &slot);
  if (!j->planes) return SC_MEMORY;
  j->from = j->planes, j->panels = j->each;
  for (j->tile = 0; j->tile < j->image->batch && !status; j->tile++) {
    j->origin = j->tile * s->rows * j->pitch;
    status = sc_run_job(parallel, task_phases, TASKS, j, host_error);
    if (!status) status = SC(sc_run_panels)(j, parallel, host_error);
  }
  sc_scratch_put(&j->kernel->host, slot, j->planes);
  return status;
}

/* ---- results ---- */
/* Rows of results, LANES apart, with their residuals, within bounds. */
static void store_rows(float *y, const float *from, const float *residual, i64 pitch, i64 other, i64 rows, const float *bound)
{
  const vf low = splat(bound[0]), high = splat(bound[1]);
  for (i64 r = 0; r < rows; r++, y += pitch, residual += other, from += LANES)
    UNROLL for (int i = 0; i < LANES; i += VL)
      store(y + i, at_most(at_least(load(from + i) + load(residual + i), low), high));
}

static void finish_pixels(const sc_job *j, i64 strip, i64 panel, const sc_input *in)
{
  const sc_kernel *k = j->kernel;
  const sc_strip *s = &k->strips[strip];
  sc_spot at = spot(j, panel);
  i64 pitch = j->pitch, to = j->origin + (at.image * k->spec.rows + s->row) * pitch + at.first, other = j->residual_pitch;
  const float *residual = j->residual ? j->residual + j->origin + (at.image * k->spec.rows + s->row) * other + at.first : 0;
  int bounded = k->spec.activation <= SC_RELU6;
  if (at.count == LANES && !residual && bounded) {
    call_cell(in, j->y + to, pitch, k->spec.activation);
    return;
  }
  float out[SUMS], *row = out;
  for (i64 r = 0; residual && r < s->mr; r++) __builtin_prefetch(residual + r * other + LANES); /* the next panel's */
  strip_results(j, strip, in, out);
  if (at.count == LANES && residual && bounded) {
    store_rows(j->y + to, out, residual, pitch, other, s->mr, bounds[k->spec.activation]);
    return;
  }
  for (i64 r = 0; residual && r < s->mr; r++)
    for (i64 i = 0; i < at.count; i++) out[r * LANES + i] += residual[r * other + i];
  if (residual) SC(sc_activate)(out, s->mr * LANES, k->spec.activation);
  for (i64 r = 0; r < s->mr; r++, row += LANES) copy_floats(j->y + to + r * pitch, row, at.count);
}

/* ---- other images: tiles in which the pixels of every tap are contiguous ---- */
static void task_planes(void *data, u64 i)
{
  const sc_job *j = data;
  i64 channels = j->kernel->spec.channels;
  SC(sc_pack_channels)(j->kernel, j->geometry, j->x, j->tile, j->planes, channels * (i64)i / TASKS, channels * ((i64)i + 1) / TASKS);
}

/* Tiles one after the other. */
static int run_tiles(sc_job *j, i64 tiles, const sc_parallel *parallel, void **host_error)
{
  int slot, status = SC_OK;
  j->planes = sc_scratch_get(&j->kernel->host, j->geometry->floats, &slot);
  if (!j->planes) return SC_MEMORY;
  j->from = j->planes;
  for (j->tile = 0; j->tile < tiles && !status; j->tile++) {
    sc_place at = SC(sc_place_of)(j->geometry, j->tile);
    j->points = at.count, j->panels = j->each = ceil_div(j->points, LANES);
    j->origin = at.image * j->kernel->spec.rows * j->pitch + at.top * j->geometry->image.out_width + at.left;
    status = sc_run_job(parallel, task_planes, TASKS, j, host_error);
    if (!status) status = SC(sc_run_panels)(j, parallel, host_error);
  }
  sc_scratch_put(&j->kernel->host, slot, j->planes);
  return status;
}

int SC(sc_code_conv)(sc_kernel *k, const sc_image *image, const float *x, const float *residual, float *y,
                     const sc_parallel *parallel, void **host_error)
{
  sc_job j = {.kernel = k, .image = image, .x = x, .residual = residual, .y = y, .from = x, .finish = finish_pixels};
  j.limit = image->batch * k->spec.channels * image->height * image->width;
  j.points = j.pitch = j.residual_pitch = image->out_height * image->out_width, j.each = ceil_div(j.points, LANES), j.panels = j.each * image->batch;
  j.plane = phase_floats(&k->spec, image);
  if (j.plane && !sc_is_plain_window(&k->spec)) return run_phases(&j, parallel, host_error);
  sc_geometry *g;
  int status = SC(sc_geometry_of)(k, image, &g);
  if (status) return status;
  j.geometry = g, j.pack = pack_pixels, j.offsets = g->offsets, j.apart = g->plane * k->spec.channels;
  status = g->direct ? SC(sc_run_panels)(&j, parallel, host_error) : run_tiles(&j, g->tiles * image->batch, parallel, host_error);
  SC(sc_geometry_done)(k, g);
  return status;
}


/* ---- stages of chains ---- */
int SC(sc_code_rows)(sc_kernel *k, const sc_grid *g, const sc_lines *x, const sc_lines *y, const sc_lines *residual, i64 top,
                     i64 rows, const sc_parallel *parallel, void **host_error)
{
  sc_job j = {.kernel = k, .from = sc_line(x, 0, top), .offsets = g->offsets, .pack = pack_pixels, .finish = finish_pixels,
              .y = sc_line(y, 0, top), .pitch = y->pitch, .points = rows * y->width};
  if (residual) j.residual = sc_line(residual, 0, top), j.residual_pitch = residual->pitch;
  j.each = j.panels = ceil_div(j.points, LANES);
  return parallel ? SC(sc_run_panels)(&j, parallel, host_error) : SC(sc_run_alone)(&j);
}

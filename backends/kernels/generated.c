/* Layers with generated code. Inputs are packed into panels of 16 pixels or tokens, depth-major, so that the code does not
   depend on sizes; then every strip of output rows is one call per panel. */
#include "tokens.h"

enum {
  LANES = SC_STRIP_LANES,
  GROUP_FLOATS = 512 * 1024 / 4, /* panels of a task of its own: half of a 1 MB second-level cache */
  SHARED_FLOATS = 1024 * 1024 / 4, /* panels that all tasks share: few groups, so that code is read seldom */
  MANY_GROUPS = 8, TASKS = 16,
  RUN = 8                        /* panels packed side by side */
};

typedef struct sc_job sc_job;
struct sc_job {
  sc_kernel *kernel;
  const sc_geometry *geometry;   /* of a convolution */
  const float *x, *residual;
  const float *from, *limit;     /* what panels of a convolution are packed from, and its end */
  i64 reach;                     /* floats from the first row of a panel to its last, where they may reach the end */
  float *y, *planes, *packed;    /* packed: the shared panels, or null */
  i64 points;                    /* tokens, or pixels of each tile */
  i64 tile, each;                /* the first tile, and the panels of each */
  i64 panels, floats;            /* in all; floats of one */
  i64 group, first;              /* panels of a group; the first of the shared one */
  i64 chunks, parts;             /* shares of strips and of panels */
  void (*pack)(const sc_job *, i64 panel, i64 end, float *to, i64 first, i64 last);
  void (*strip)(const sc_job *, i64 strip, i64 panel, const float *x);
  i32 failed;
};

/* ---- one strip times one panel ---- */
/* Least and greatest result of the activations that are nothing but bounds. */
static const float bounds[][2] = {[SC_NONE] = {-__builtin_inff(), __builtin_inff()},
                                  [SC_RELU] = {0.f, __builtin_inff()},
                                  [SC_RELU6] = {0.f, 6.f}};

static void call_strip(const sc_kernel *k, i64 strip, const float *x, float *y, i64 pitch, i32 activation)
{
  sc_code_entry(k->code, strip)(x + SC_STRIP_AHEAD * LANES, k->weights + k->strips[strip].weight + SC_STRIP_AHEAD, y,
                                pitch * (i64)sizeof *y, bounds[activation]);
}

/* All of a strip's results at `out`, finished but for the residual and what comes after it. */
static void strip_results(const sc_job *j, i64 strip, const float *x, float *out)
{
  const sc_kernel *k = j->kernel;
  i32 activation = j->residual ? SC_NONE : k->spec.activation, bounded = activation <= SC_RELU6;
  call_strip(k, strip, x, out, LANES, bounded ? activation : SC_NONE);
  if (!bounded) SC(sc_activate)(out, k->strips[strip].mr * LANES, activation);
}

/* ---- images ---- */
typedef struct { i64 tile, first, count; } sc_spot;

/* The tile of a panel, its first pixel there, and how many it has. */
static sc_spot spot(const sc_job *j, i64 panel)
{
  i64 first = panel % j->each * LANES;
  return (sc_spot){j->tile + panel / j->each, first, clip(j->points - first, 0, LANES)};
}

/* Row d of n panels from pixels side by side, `stride` floats between panels. */
INLINE void pack_row(float *to, i64 stride, const float *from, i64 n)
{
  for (i64 p = 0; p < n; p++) copy_floats(to + p * stride, from + p * LANES, LANES);
}

/* The same where the image ends within the panel. */
static void pack_end(float *to, const float *from, const float *limit)
{
  for (i64 i = 0; i < LANES; i++) to[i] = i < limit - from ? from[i] : 0.f;
}

/* Rows [first, last) of panels [panel, end): a run of panels at once, which lie side by side in the image. */
static void pack_pixels(const sc_job *j, i64 panel, i64 end, float *to, i64 first, i64 last)
{
  const i32 *offsets = j->geometry->offsets;
  while (panel < end) {
    sc_spot s = spot(j, panel);
    const float *from = j->from + (s.tile - j->tile) * j->geometry->plane * j->kernel->spec.channels + s.first;
    i64 n = clip(j->each - panel % j->each, 1, end - panel);
    if (j->limit - from < j->reach + n * LANES) n--; /* the last panel, which may reach beyond the image */
    if (n > RUN) n = RUN;
    if (n == RUN) for (i64 d = first; d < last; d++) pack_row(to + d * LANES, j->floats, from + offsets[d], RUN);
    else if (n) for (i64 d = first; d < last; d++) pack_row(to + d * LANES, j->floats, from + offsets[d], n);
    else for (i64 d = first; d < last; d++) pack_end(to + d * LANES, from + offsets[d], j->limit);
    n += !n;
    panel += n, to += n * j->floats;
  }
}

static void strip_pixels(const sc_job *j, i64 strip, i64 panel, const float *x)
{
  const sc_kernel *k = j->kernel;
  const sc_geometry *g = j->geometry;
  const sc_strip *s = &k->strips[strip];
  sc_spot at = spot(j, panel);
  sc_place place = SC(sc_place_of)(g, at.tile);
  i64 pitch = g->image.out_height * g->image.out_width;
  i64 to = (place.image * k->spec.rows + s->row) * pitch + place.top * g->image.out_width + place.left + at.first;
  if (at.count == LANES && !j->residual && k->spec.activation <= SC_RELU6) {
    call_strip(k, strip, x, j->y + to, pitch, k->spec.activation);
    return;
  }
  float out[SC_STRIP_ROWS * LANES];
  strip_results(j, strip, x, out);
  for (i64 r = 0; j->residual && r < s->mr; r++)
    for (i64 i = 0; i < at.count; i++) out[r * LANES + i] += j->residual[to + r * pitch + i];
  if (j->residual) SC(sc_activate)(out, s->mr * LANES, k->spec.activation);
  for (i64 r = 0; r < s->mr; r++)
    for (i64 i = 0; i < at.count; i++) j->y[to + r * pitch + i] = out[r * LANES + i];
}

/* ---- tokens ---- */
static void pack_panels(const sc_job *j, i64 panel, i64 end, float *to, i64 first, i64 last)
{
  i64 depth = j->kernel->spec.channels;
  for (; panel < end; panel++, to += j->floats) {
    i64 token = panel * LANES;
    pack_tokens(j->x + token * depth, depth, clip(j->points - token, 0, LANES), to, LANES, first, last);
  }
}

static void strip_tokens(const sc_job *j, i64 strip, i64 panel, const float *x)
{
  const sc_kernel *k = j->kernel;
  const sc_rows to = {j->y, j->residual, k->spec.rows, k->spec.activation};
  float out[(SC_STRIP_ROWS + LANES) * LANES];
  strip_results(j, strip, x, out);
  i64 token = panel * LANES;
  unpack_rows(&to, out, LANES, token, clip(j->points - token, 0, LANES), k->strips[strip].row, k->strips[strip].mr);
}

/* ---- groups of panels ---- */
/* Strips outside, panels inside: the code of a strip stays in cache. x holds the panels from `panel` on. */
static void compute(const sc_job *j, i64 strip, i64 last, i64 panel, i64 end, const float *x)
{
  for (; strip < last; strip++)
    for (i64 p = panel; p < end; p++) j->strip(j, strip, p, x + (p - panel) * j->floats);
}

static i64 group_end(const sc_job *j, i64 first) { return first + j->group < j->panels ? first + j->group : j->panels; }

static void task_own_group(void *data, u64 i)
{
  sc_job *j = data;
  i64 first = (i64)i * j->group, end = group_end(j, first);
  int slot;
  float *packed = sc_scratch_get(&j->kernel->host, j->group * j->floats, &slot);
  if (!packed) {
    __atomic_store_n(&j->failed, 1, __ATOMIC_RELAXED);
    return;
  }
  j->pack(j, first, end, packed, 0, j->kernel->code->depth);
  compute(j, 0, j->kernel->strip_count, first, end, packed);
  sc_scratch_put(&j->kernel->host, slot, packed);
}

static void task_pack(void *data, u64 i)
{
  const sc_job *j = data;
  i64 depth = j->kernel->code->depth, blocks = ceil_div(depth, VL), last = blocks * ((i64)i + 1) / TASKS * VL;
  j->pack(j, j->first, group_end(j, j->first), j->packed, blocks * (i64)i / TASKS * VL, last < depth ? last : depth);
}

static void task_compute(void *data, u64 i)
{
  const sc_job *j = data;
  i64 chunk = (i64)i / j->parts, part = (i64)i % j->parts, panels = group_end(j, j->first) - j->first;
  i64 from = panels * part / j->parts, to = panels * (part + 1) / j->parts;
  compute(j, sc_share(j->kernel, chunk, j->chunks), sc_share(j->kernel, chunk + 1, j->chunks), j->first + from, j->first + to,
          j->packed + from * j->floats);
}

static int run(const sc_parallel *p, void (*task)(void *, u64), i64 count, sc_job *j, void **host_error)
{
  *host_error = p->run(p->self, task, (u64)count, j);
  if (*host_error) return SC_HOST_ERROR;
  return j->failed ? SC_MEMORY : SC_OK;
}

static int run_shared(sc_job *j, const sc_parallel *parallel, void **host_error)
{
  int slot, status = SC_OK;
  j->packed = sc_scratch_get(&j->kernel->host, j->group * j->floats, &slot);
  if (!j->packed) return SC_MEMORY;
  j->chunks = clip(j->kernel->strip_count, 1, TASKS);
  for (j->first = 0; j->first < j->panels && !status; j->first += j->group) {
    j->parts = clip(ceil_div(TASKS, j->chunks), 1, group_end(j, j->first) - j->first);
    status = run(parallel, task_pack, TASKS, j, host_error);
    if (!status) status = run(parallel, task_compute, j->chunks * j->parts, j, host_error);
  }
  sc_scratch_put(&j->kernel->host, slot, j->packed);
  return status;
}

static int run_panels(sc_job *j, const sc_parallel *parallel, void **host_error)
{
  j->floats = (j->kernel->code->depth | 1) * LANES; /* an odd number of cache lines: neighbours fall into different sets */
  j->group = clip(GROUP_FLOATS / j->floats, 1, j->panels);
  i64 groups = ceil_div(j->panels, j->group);
  if (groups >= MANY_GROUPS) return run(parallel, task_own_group, groups, j, host_error);
  j->group = clip(SHARED_FLOATS / j->floats, 1, j->panels);
  return run_shared(j, parallel, host_error);
}

/* ---- a layer ---- */
static void task_planes(void *data, u64 i)
{
  const sc_job *j = data;
  i64 channels = j->kernel->spec.channels;
  SC(sc_pack_channels)(j->kernel, j->geometry, j->x, j->tile, j->planes, channels * (i64)i / TASKS, channels * ((i64)i + 1) / TASKS);
}

/* Tiles one after the other: each is packed into planes, in which the pixels of every tap are contiguous. */
static int run_tiles(sc_job *j, i64 tiles, const sc_parallel *parallel, void **host_error)
{
  int slot, status = SC_OK;
  j->planes = sc_scratch_get(&j->kernel->host, j->geometry->floats, &slot);
  if (!j->planes) return SC_MEMORY;
  j->from = j->planes, j->limit = j->planes + j->geometry->floats;
  for (j->tile = 0; j->tile < tiles && !status; j->tile++) {
    j->points = SC(sc_place_of)(j->geometry, j->tile).count;
    j->panels = j->each = ceil_div(j->points, LANES);
    status = run(parallel, task_planes, TASKS, j, host_error);
    if (!status) status = run_panels(j, parallel, host_error);
  }
  sc_scratch_put(&j->kernel->host, slot, j->planes);
  return status;
}

int SC(sc_code_conv)(sc_kernel *k, const sc_image *image, const float *x, const float *residual, float *y,
                     const sc_parallel *parallel, void **host_error)
{
  sc_geometry *g;
  int status = SC(sc_geometry_of)(k, image, &g);
  if (status) return status;
  sc_job j = {.kernel = k, .geometry = g, .x = x, .residual = residual, .y = y, .pack = pack_pixels, .strip = strip_pixels};
  if (g->direct) {
    j.from = x, j.limit = x + image->batch * k->spec.channels * g->plane, j.reach = (k->spec.channels - 1) * g->plane;
    j.points = g->image.out_width, j.each = ceil_div(j.points, LANES), j.panels = j.each * image->batch;
    status = run_panels(&j, parallel, host_error);
  } else status = run_tiles(&j, g->tiles * image->batch, parallel, host_error);
  SC(sc_geometry_done)(k, g);
  return status;
}

int SC(sc_code_matmul)(sc_kernel *k, i64 tokens, const float *x, const float *residual, float *y, const sc_parallel *parallel,
                       void **host_error)
{
  sc_job j = {.kernel = k, .x = x, .residual = residual, .y = y, .points = tokens, .panels = ceil_div(tokens, LANES),
              .pack = pack_panels, .strip = strip_tokens};
  return run_panels(&j, parallel, host_error);
}

/* Layers with generated code. Inputs are packed into panels of 16 pixels or tokens, depth-major, so that the code does not
   depend on sizes; then every strip of output rows is one call per panel. */
#include "tokens.h"

enum {
  LANES = SC_STRIP_LANES,
  GROUP_FLOATS = 512 * 1024 / 4, /* panels of a task of its own: half of a 1 MB second-level cache */
  SHARED_FLOATS = 2048 * 1024 / 4, /* panels that all tasks share: few groups, so that code is read seldom */
  SUM_FLOATS = 384 * 1024 / 4,   /* sums between chunks that a task keeps */
  SUMS = SC_STRIP_ROWS * LANES,  /* of a strip and a panel */
  BLOCK_BYTES = 24 * 1024,       /* of code that runs for all panels before the next: the processor keeps it decoded */
  MANY_GROUPS = 8, TASKS = 16,
  SHARE_STRIPS = 4, PART_PANELS = 8, /* least of a task: fewer would read inputs and code more often */
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
  i64 span;                      /* strips whose sums are kept at a time */
  i64 shares, parts;             /* of strips and of panels */
  void (*pack)(const sc_job *, i64 panel, i64 end, float *to, i64 first, i64 last);
  void (*finish)(const sc_job *, i64 strip, i64 panel, const float *x, float *sums); /* the last cell of a strip */
  i32 failed;
};

/* ---- one strip times one panel ---- */
/* Least and greatest result of the activations that are nothing but bounds. */
static const float bounds[][2] = {[SC_NONE] = {-__builtin_inff(), __builtin_inff()},
                                  [SC_RELU] = {0.f, __builtin_inff()},
                                  [SC_RELU6] = {0.f, 6.f}};

/* x: the panel, from its first row on. */
static void call_cell(const sc_kernel *k, i64 chunk, i64 strip, const float *x, float *y, i64 pitch, i32 activation, float *sums)
{
  i64 cell = chunk * k->code->strips + strip;
  sc_cell_fn code = (sc_cell_fn)(u64)sc_code_text(k->code, cell);
  code(x + (sc_code_column(k->code, chunk) + SC_STRIP_AHEAD) * LANES, k->weights + sc_code_cells(k->code)[cell].stream + SC_STRIP_AHEAD,
       y, pitch * (i64)sizeof *y, bounds[activation], sums);
}

static void last_cell(const sc_kernel *k, i64 strip, const float *x, float *y, i64 pitch, i32 activation, float *sums)
{
  call_cell(k, k->code->chunks - 1, strip, x, y, pitch, activation, sums);
}

/* All of a strip's results at `out`, finished but for the residual and what comes after it. */
static void strip_results(const sc_job *j, i64 strip, const float *x, float *out, float *sums)
{
  const sc_kernel *k = j->kernel;
  i32 activation = j->residual ? SC_NONE : k->spec.activation, bounded = activation <= SC_RELU6;
  last_cell(k, strip, x, out, LANES, bounded ? activation : SC_NONE, sums);
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

static void finish_pixels(const sc_job *j, i64 strip, i64 panel, const float *x, float *sums)
{
  const sc_kernel *k = j->kernel;
  const sc_geometry *g = j->geometry;
  const sc_strip *s = &k->strips[strip];
  sc_spot at = spot(j, panel);
  sc_place place = SC(sc_place_of)(g, at.tile);
  i64 pitch = g->image.out_height * g->image.out_width;
  i64 to = (place.image * k->spec.rows + s->row) * pitch + place.top * g->image.out_width + place.left + at.first;
  if (at.count == LANES && !j->residual && k->spec.activation <= SC_RELU6) {
    last_cell(k, strip, x, j->y + to, pitch, k->spec.activation, sums);
    return;
  }
  float out[SC_STRIP_ROWS * LANES];
  strip_results(j, strip, x, out, sums);
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

static void finish_tokens(const sc_job *j, i64 strip, i64 panel, const float *x, float *sums)
{
  const sc_kernel *k = j->kernel;
  const sc_rows to = {j->y, j->residual, k->spec.rows, k->spec.activation};
  float out[(SC_STRIP_ROWS + LANES) * LANES];
  strip_results(j, strip, x, out, sums);
  i64 token = panel * LANES;
  unpack_rows(&to, out, LANES, token, clip(j->points - token, 0, LANES), k->strips[strip].row, k->strips[strip].mr);
}

/* ---- blocks of cells ---- */
/* Strips [first, end) of a chunk: they run for every panel before the next block. */
typedef struct { i64 chunk, first, end; } sc_block;

/* Panels [panel, end), packed at x, and room for their sums. */
typedef struct { i64 panel, end; const float *x; float *sums; } sc_panels;

/* As many strips before `last` as stay decoded, at least one if there is one. */
static sc_block block_at(const sc_kernel *k, i64 chunk, i64 first, i64 last)
{
  const sc_code_cell *cells = sc_code_cells(k->code) + chunk * k->code->strips;
  i64 end = first < last ? first + 1 : last;
  while (end < last && cells[end + 1].entry - cells[first].entry <= BLOCK_BYTES) end++;
  return (sc_block){chunk, first, end};
}

/* The block after b in a span of strips; after its last one that of the strips that follow. */
static sc_block block_after(const sc_kernel *k, sc_block b, i64 first, i64 last)
{
  if (b.end < last) return block_at(k, b.chunk, b.end, last);
  return b.chunk + 1 < k->code->chunks ? block_at(k, b.chunk + 1, first, last) : block_at(k, 0, last, k->code->strips);
}

/* Memory that is brought into the second-level cache, a step at a time. */
typedef struct { const char *at, *end; i64 step; } sc_ahead;

static sc_ahead ahead(const void *from, const void *end, i64 steps)
{
  i64 lines = ceil_div((const char *)end - (const char *)from, 4 * LINE);
  return (sc_ahead){from, end, ceil_div(lines, steps) * 4 * LINE};
}

INLINE void fetch(sc_ahead *a)
{
  const char *stop = a->end - a->at < a->step ? a->end : a->at + a->step;
  for (; a->at < stop; a->at += 4 * LINE) __builtin_prefetch(a->at, 0, 2);
}

/* A block for all panels. Meanwhile the code and the weights of the next one are fetched as data: the processor foresees
   data, but not code. */
static void run_block(const sc_job *j, sc_block b, sc_block next, i64 span, const sc_panels *at)
{
  const sc_kernel *k = j->kernel;
  const sc_code_cell *cells = sc_code_cells(k->code) + next.chunk * k->code->strips;
  i64 calls = (at->end - at->panel) * (b.end - b.first);
  sc_ahead code = ahead(sc_codes.text + cells[next.first].entry, sc_codes.text + cells[next.end].entry, calls);
  sc_ahead weights = ahead(k->weights + cells[next.first].stream, k->weights + cells[next.end].stream, calls);
  for (i64 p = at->panel; p < at->end; p++)
    for (i64 s = b.first; s < b.end; s++) {
      const float *x = at->x + (p - at->panel) * j->floats;
      float *sums = at->sums + ((s - span) * (at->end - at->panel) + p - at->panel) * SUMS;
      fetch(&code), fetch(&weights);
      if (b.chunk + 1 < k->code->chunks) call_cell(k, b.chunk, s, x, 0, 0, SC_NONE, sums);
      else j->finish(j, s, p, x, sums);
    }
}

/* Strips [strip, last), a span at a time: chunk after chunk, so that inputs stay in cache. */
static void compute(const sc_job *j, i64 strip, i64 last, const sc_panels *at)
{
  for (i64 end; strip < last; strip = end) {
    end = strip + j->span < last ? strip + j->span : last;
    for (sc_block b = block_at(j->kernel, 0, strip, end), next; b.first < end; b = next) {
      next = block_after(j->kernel, b, strip, end);
      run_block(j, b, next, strip, at);
    }
  }
}

/* ---- groups of panels ---- */
/* Floats for the sums of `panels` panels: none where nothing goes from chunk to chunk. */
static i64 sum_floats(const sc_job *j, i64 panels) { return j->kernel->code->chunks > 1 ? j->span * panels * SUMS : 0; }

static i64 group_end(const sc_job *j, i64 first) { return first + j->group < j->panels ? first + j->group : j->panels; }

static void task_own_group(void *data, u64 i)
{
  sc_job *j = data;
  i64 first = (i64)i * j->group, end = group_end(j, first);
  int slot;
  float *packed = sc_scratch_get(&j->kernel->host, j->group * j->floats + sum_floats(j, j->group), &slot);
  if (!packed) {
    __atomic_store_n(&j->failed, 1, __ATOMIC_RELAXED);
    return;
  }
  j->pack(j, first, end, packed, 0, j->kernel->code->depth);
  compute(j, 0, j->kernel->strip_count, &(sc_panels){first, end, packed, packed + j->group * j->floats});
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
  sc_job *j = data;
  i64 share = (i64)i / j->parts, part = (i64)i % j->parts, panels = group_end(j, j->first) - j->first;
  i64 from = panels * part / j->parts, to = panels * (part + 1) / j->parts, floats = sum_floats(j, to - from);
  int slot = 0;
  float *sums = floats ? sc_scratch_get(&j->kernel->host, floats, &slot) : j->packed;
  if (!sums) {
    __atomic_store_n(&j->failed, 1, __ATOMIC_RELAXED);
    return;
  }
  compute(j, sc_share(j->kernel, share, j->shares), sc_share(j->kernel, share + 1, j->shares),
          &(sc_panels){j->first + from, j->first + to, j->packed + from * j->floats, sums});
  if (floats) sc_scratch_put(&j->kernel->host, slot, sums);
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
  j->shares = clip(j->kernel->strip_count / SHARE_STRIPS, clip(j->kernel->strip_count, 1, SHARE_STRIPS), TASKS);
  for (j->first = 0; j->first < j->panels && !status; j->first += j->group) {
    i64 panels = group_end(j, j->first) - j->first;
    j->parts = clip(ceil_div(TASKS, j->shares), 1, clip(panels / PART_PANELS, 1, panels));
    j->span = clip(SUM_FLOATS / (ceil_div(panels, j->parts) * SUMS), 1, j->kernel->strip_count);
    status = run(parallel, task_pack, TASKS, j, host_error);
    if (!status) status = run(parallel, task_compute, j->shares * j->parts, j, host_error);
  }
  sc_scratch_put(&j->kernel->host, slot, j->packed);
  return status;
}

static int run_panels(sc_job *j, const sc_parallel *parallel, void **host_error)
{
  j->floats = (j->kernel->code->depth | 1) * LANES; /* an odd number of cache lines: neighbours fall into different sets */
  j->group = clip(GROUP_FLOATS / j->floats, 1, j->panels);
  j->span = clip(SUM_FLOATS / (j->group * SUMS), 1, j->kernel->strip_count);
  i64 groups = ceil_div(j->panels, j->group);
  if (groups >= MANY_GROUPS) return run(parallel, task_own_group, groups, j, host_error);
  j->group = ceil_div(j->panels, ceil_div(j->panels, clip(SHARED_FLOATS / j->floats, 1, j->panels)));
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
  sc_job j = {.kernel = k, .geometry = g, .x = x, .residual = residual, .y = y, .pack = pack_pixels, .finish = finish_pixels};
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
              .pack = pack_panels, .finish = finish_tokens};
  return run_panels(&j, parallel, host_error);
}

/* Sparse convolution, NCHW. X is packed, a few tiles at a time, into planes, one per (channel, row phase, kernel column), in
   which the pixels of every tap are contiguous: then any convolution is a 1x1 one. */
#include "pack.h"

enum {
  MANY_GROUPS = 8,               /* from here on each task packs a group of tiles of its own */
  TASKS = 16,                    /* aim for so many tasks when a group is shared */
  PIECES = 8                     /* of a row read directly that one task takes: Y is written in runs of so many tiles */
};

typedef struct {
  const sc_kernel *kernel;
  const sc_geometry *geometry;
  const float *x, *residual;
  float *y, *packed;             /* packed: the shared group, or null */
  i64 tiles, group, chunks, parts; /* tiles of all images; the shared group's number; row chunks; shares of the packing */
  i32 failed;
} sc_job;

sc_place SC(sc_place_of)(const sc_geometry *g, i64 tile)
{
  i64 across = ceil_div(g->image.out_width, g->tile_width);
  i64 top = tile % g->tiles / across * g->tile_height, left = tile % g->tiles % across * g->tile_width;
  i64 rows = clip(g->image.out_height - top, 0, g->tile_height), columns = clip(g->image.out_width - left, 0, g->tile_width);
  return (sc_place){tile / g->tiles, top, left, rows, columns, rows * columns};
}

void SC(sc_pack_channels)(const sc_kernel *k, const sc_geometry *g, const float *x, i64 tile, float *to, i64 first, i64 end)
{
  const sc_spec *s = &k->spec;
  sc_place at = SC(sc_place_of)(g, tile);
  i64 size = g->image.height * g->image.width, planes = k->phases * s->kernel[1];
  x += at.image * s->channels * s->group * size;
  if (g->plain) {
    for (i64 c = first; c < end; c++) copy_floats(to + c * g->plane, x + c * size + at.left, at.columns);
    return;
  }
  for (i64 c = first; c < end; c++)
    for (i64 f = 0; f < k->phases; f++)
      for (i64 kw = 0; kw < s->kernel[1]; kw++) {
        sc_plane p = {.height = g->image.height, .width = g->image.width, .top = at.top, .left = at.left,
                      .rows = at.rows + k->shift[s->kernel[0] - 1], .columns = at.columns, .pitch = g->tile_width,
                      .stride = {s->stride[0], s->stride[1]},
                      .below = k->opens[f] * s->dilation[0] % s->stride[0] - s->pad[0],
                      .right = kw * s->dilation[1] - s->pad[1]};
        pack_plane(to + (c * planes + f * s->kernel[1] + kw) * g->plane, x + c * size, &p);
      }
}

/* Fewer pixels than a vector: computed into padded rows, then copied. */
static void tiny_tile(const sc_kernel *k, sc_tile t, i64 count, i64 first, i64 end)
{
  float rows[SC_MAX_MR * VL], *y = t.y;
  const float *residual = t.residual;
  i64 pitch = t.pitch, apart = t.residual_pitch;
  i32 activation = t.activation;
  t.y = rows, t.pitch = VL, t.residual = 0, t.activation = SC_NONE;
  for (const sc_strip *s = k->strips + first; s < k->strips + end; s++) {
    t.row = s->row;
    SC(sc_tile_strips)(k, s - k->strips, s - k->strips + 1, &t, 1, 0);
    for (i64 r = 0; r < s->mr; r++) {
      float *row = rows + r * VL;
      for (i64 p = 0; residual && p < count; p++) row[p] += residual[(s->row + r) * apart + p];
      SC(sc_activate)(row, count, activation);
      copy_floats(y + (s->row + r) * pitch, row, count);
    }
  }
}

typedef struct { i64 first, end; } sc_range;

static sc_cut cut_count(const sc_kernel *k, i64 count)
{
  return count < VL ? (sc_cut){1, 1, 0, count} : cut_pixels(count, k->strips[0].mr);
}

static sc_cut cut_tile(const sc_job *j, i64 tile) { return cut_count(j->kernel, SC(sc_place_of)(j->geometry, tile).count); }

/* Some strips over some pieces of the pixels of t. */
static void compute_pieces(const sc_kernel *k, const sc_tile *t, const sc_cut *cut, sc_range pieces, sc_range strips)
{
  if (cut->count < VL) {
    tiny_tile(k, *t, cut->count, strips.first, strips.end);
    return;
  }
  for (i64 i = pieces.first; i < pieces.end; i++) {
    sc_piece p = cut_piece(cut, i);
    sc_tile piece = *t;
    piece.x += p.start, piece.y += p.start, piece.last = p.last;
    if (t->residual) piece.residual += p.start;
    SC(sc_tile_strips)(k, strips.first, strips.end, &piece, p.nr, p.px);
  }
}

/* The same of a tile whose inputs begin at x. */
static void compute_tile(const sc_job *j, i64 tile, const float *x, const sc_cut *cut, sc_range pieces, sc_range strips)
{
  const sc_kernel *k = j->kernel;
  const sc_geometry *g = j->geometry;
  sc_place at = SC(sc_place_of)(g, tile);
  i64 pitch = g->image.out_height * g->image.out_width;
  i64 out = at.image * k->spec.rows * pitch + at.top * g->image.out_width + at.left;
  sc_tile t = {.x = x, .offsets = g->offsets, .y = j->y + out, .residual = j->residual ? j->residual + out : 0,
               .pitch = pitch, .residual_pitch = pitch, .activation = k->spec.activation};
  compute_pieces(k, &t, cut, pieces, strips);
}

/* The next few strips of a range: their weights stay in the first-level cache while all pixels at hand use them. */
static sc_range next_strips(const sc_kernel *k, i64 first, i64 end)
{
  i64 stop = first + 1;
  while (stop < end && k->strips[stop].weight - k->strips[first].weight < SC_WEIGHT_FLOATS) stop++;
  return (sc_range){first, stop};
}

void SC(sc_conv_pixels)(const sc_kernel *k, const sc_stretch *p, i64 first, i64 end)
{
  sc_cut cut = cut_count(k, p->count);
  sc_tile t = {.x = p->x, .offsets = p->offsets, .y = p->y, .residual = p->residual, .pitch = p->pitch,
               .residual_pitch = p->residual_pitch, .activation = p->activation};
  for (sc_range strips; first < end; first = strips.end) {
    strips = next_strips(k, first, end);
    compute_pieces(k, &t, &cut, (sc_range){0, cut.pieces}, strips);
  }
}

static sc_range group_tiles(const sc_job *j, i64 group)
{
  i64 first = group * j->geometry->group, end = first + j->geometry->group;
  return (sc_range){first, end < j->tiles ? end : j->tiles};
}

static void compute_group(const sc_job *j, i64 group, const float *packed, i64 first, i64 end)
{
  const sc_kernel *k = j->kernel;
  sc_range tiles = group_tiles(j, group);
  for (sc_range strips; first < end; first = strips.end) {
    strips = next_strips(k, first, end);
    for (i64 t = tiles.first; t < tiles.end; t++) {
      sc_cut cut = cut_tile(j, t);
      compute_tile(j, t, packed + (t - tiles.first) * j->geometry->floats, &cut, (sc_range){0, cut.pieces}, strips);
    }
  }
}

static void pack_group(const sc_job *j, i64 group, float *packed, i64 first, i64 end)
{
  sc_range tiles = group_tiles(j, group);
  for (i64 t = tiles.first; t < tiles.end; t++)
    SC(sc_pack_channels)(j->kernel, j->geometry, j->x, t, packed + (t - tiles.first) * j->geometry->floats, first, end);
}

static void task_own_group(void *data, u64 i)
{
  sc_job *j = data;
  const sc_kernel *k = j->kernel;
  int slot;
  float *packed = sc_scratch_get(&k->host, j->geometry->floats * j->geometry->group, &slot);
  if (!packed) {
    __atomic_store_n(&j->failed, 1, __ATOMIC_RELAXED);
    return;
  }
  pack_group(j, (i64)i, packed, 0, k->spec.channels * k->spec.group);
  compute_group(j, (i64)i, packed, 0, k->strip_count);
  sc_scratch_put(&k->host, slot, packed);
}

static void task_pack(void *data, u64 i)
{
  const sc_job *j = data;
  i64 channels = j->kernel->spec.channels * j->kernel->spec.group;
  pack_group(j, j->group, j->packed, channels * (i64)i / j->parts, channels * ((i64)i + 1) / j->parts);
}

static void task_compute(void *data, u64 i)
{
  const sc_job *j = data;
  const sc_kernel *k = j->kernel;
  compute_group(j, j->group, j->packed, sc_share(k, (i64)i, j->chunks), sc_share(k, (i64)i + 1, j->chunks));
}

static int run(const sc_parallel *p, void (*task)(void *, u64), i64 count, sc_job *j, void **host_error)
{
  *host_error = p->run(p->self, task, (u64)count, j);
  if (*host_error) return SC_HOST_ERROR;
  return j->failed ? SC_MEMORY : SC_OK;
}

/* A run of pieces and a chunk of rows of one image. */
static void task_direct(void *data, u64 i)
{
  const sc_job *j = data;
  const sc_kernel *k = j->kernel;
  i64 chunk = (i64)i % j->chunks, part = (i64)i / j->chunks % j->parts, image = (i64)i / j->chunks / j->parts;
  i64 end = sc_share(k, chunk + 1, j->chunks);
  const float *x = j->x + image * k->spec.channels * k->spec.group * j->geometry->plane;
  sc_cut cut = cut_tile(j, image);
  sc_range pieces = {cut.pieces * part / j->parts, cut.pieces * (part + 1) / j->parts};
  for (sc_range strips = {0, sc_share(k, chunk, j->chunks)}; strips.end < end;) {
    strips = next_strips(k, strips.end, end);
    compute_tile(j, image, x, &cut, pieces, strips);
  }
}

static int run_direct(sc_job *j, const sc_parallel *parallel, void **host_error)
{
  j->parts = ceil_div(cut_tile(j, 0).pieces, PIECES);
  j->chunks = clip(ceil_div(TASKS, j->parts * j->tiles), 1, j->kernel->strip_count);
  return run(parallel, task_direct, j->tiles * j->parts * j->chunks, j, host_error);
}

static int run_shared(sc_job *j, i64 groups, const sc_parallel *parallel, void **host_error)
{
  const sc_kernel *k = j->kernel;
  int slot, status = SC_OK;
  j->packed = sc_scratch_get(&k->host, j->geometry->floats * j->geometry->group, &slot);
  if (!j->packed) return SC_MEMORY;
  j->parts = clip(k->spec.channels * k->spec.group, 1, TASKS);
  j->chunks = clip(k->strip_count, 1, TASKS);
  for (j->group = 0; j->group < groups && !status; j->group++) {
    status = run(parallel, task_pack, j->parts, j, host_error);
    if (!status) status = run(parallel, task_compute, j->chunks, j, host_error);
  }
  sc_scratch_put(&k->host, slot, j->packed);
  return status;
}

int SC(sc_conv)(sc_kernel *k, const sc_image *image, const float *x, const float *residual, float *y,
                const sc_parallel *parallel, void **host_error)
{
  const sc_spec *s = &k->spec;
  if (image->batch == 0) return SC_OK;
  if (sc_code_of(k)) return SC(sc_code_conv)(k, image, x, residual, y, parallel, host_error);
  i64 pixels = image->height * image->width * image->out_height * image->out_width;
  if (pixels == 1 && s->group * s->kernel[0] * s->kernel[1] == 1 && !s->pad[0] && !s->pad[1])
    return SC(sc_matmul)(k, image->batch, x, residual, y, parallel, host_error);
  if (SC(sc_is_depthwise)(k)) return SC(sc_depthwise)(k, image, x, residual, y, parallel, host_error);
  sc_geometry *g;
  int status = SC(sc_geometry_of)(k, image, &g);
  if (status) return status;
  sc_job j = {.kernel = k, .geometry = g, .x = x, .residual = residual, .y = y};
  j.tiles = g->tiles * image->batch;
  i64 groups = ceil_div(j.tiles, g->group);
  if (g->direct) status = run_direct(&j, parallel, host_error);
  else status = groups >= MANY_GROUPS ? run(parallel, task_own_group, groups, &j, host_error)
                                      : run_shared(&j, groups, parallel, host_error);
  SC(sc_geometry_done)(k, g);
  return status;
}

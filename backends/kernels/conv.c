/* Sparse convolution, NCHW. A 1x1 convolution reads X where it lies. Any other is packed tile by tile into planes, one per
   (channel, row phase, kernel column), in which the pixels of every tap are contiguous: then it is a 1x1 one. */
#include "pack.h"

enum {
  MANY_TILES = 8,                /* from here on each task packs a tile of its own */
  TASKS = 16                     /* aim for so many tasks when a tile is shared */
};

typedef struct {
  const sc_kernel *kernel;
  const sc_geometry *geometry;
  const float *x, *residual;
  float *y, *packed;             /* packed: the shared tile, or null */
  i64 tile, chunks, parts;       /* the shared tile's number; row chunks; shares of the packing */
  i32 failed;
} sc_job;

typedef struct { i64 image, top, left, rows, columns, count; } sc_place;

static i64 tiles_of(const sc_geometry *g)
{
  return ceil_div(g->image.out_height, g->tile_height) * ceil_div(g->image.out_width, g->tile_width);
}

static sc_place place(const sc_geometry *g, i64 tile)
{
  i64 across = ceil_div(g->image.out_width, g->tile_width), each = tiles_of(g);
  i64 top = tile % each / across * g->tile_height, left = tile % across * g->tile_width;
  i64 rows = clip(g->image.out_height - top, 0, g->tile_height), columns = clip(g->image.out_width - left, 0, g->tile_width);
  return (sc_place){tile / each, top, left, rows, columns, rows * columns};
}

static void pack_channels(const sc_job *j, i64 tile, float *to, i64 first, i64 end)
{
  const sc_kernel *k = j->kernel;
  const sc_spec *s = &k->spec;
  const sc_geometry *g = j->geometry;
  sc_place at = place(g, tile);
  i64 size = g->image.height * g->image.width, planes = k->phases * s->kernel[1];
  const float *x = j->x + at.image * s->channels * s->group * size;
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
  i64 pitch = t.pitch;
  i32 activation = t.activation;
  t.y = rows, t.pitch = VL, t.residual = 0, t.activation = SC_NONE;
  for (const sc_strip *s = k->strips + first; s < k->strips + end; s++) {
    t.row = s->row;
    SC(sc_tile_strips)(k, s - k->strips, s - k->strips + 1, &t, 1, 0);
    for (i64 r = 0; r < s->mr; r++) {
      float *row = rows + r * VL;
      for (i64 p = 0; residual && p < count; p++) row[p] += residual[(s->row + r) * pitch + p];
      SC(sc_activate)(row, count, activation);
      copy_floats(y + (s->row + r) * pitch, row, count);
    }
  }
}

static sc_cut cut_tile(const sc_job *j, i64 tile)
{
  i64 count = place(j->geometry, tile).count;
  return count < VL ? (sc_cut){1, 1, 0, count} : cut_pixels(count, j->kernel->strips[0].mr);
}

/* Strips [first, end) of one piece of a tile whose inputs begin at x. */
static void compute(const sc_job *j, i64 tile, const float *x, const sc_cut *cut, i64 piece, i64 first, i64 end)
{
  const sc_kernel *k = j->kernel;
  const sc_geometry *g = j->geometry;
  sc_place at = place(g, tile);
  sc_piece p = cut->count < VL ? (sc_piece){0, 0, 1, 0} : cut_piece(cut, piece);
  i64 pitch = g->image.out_height * g->image.out_width;
  i64 out = at.image * k->spec.rows * pitch + at.top * g->image.out_width + at.left + p.start;
  sc_tile t = {.x = x + p.start, .offsets = g->offsets, .y = j->y + out, .residual = j->residual ? j->residual + out : 0,
               .pitch = pitch, .last = p.last, .activation = k->spec.activation};
  if (cut->count < VL) tiny_tile(k, t, cut->count, first, end);
  else SC(sc_tile_strips)(k, first, end, &t, p.nr, p.px);
}

static void task_own_tile(void *data, u64 i)
{
  sc_job *j = data;
  const sc_kernel *k = j->kernel;
  int slot;
  float *packed = sc_scratch_get(&k->host, j->geometry->floats, &slot);
  if (!packed) {
    __atomic_store_n(&j->failed, 1, __ATOMIC_RELAXED);
    return;
  }
  pack_channels(j, (i64)i, packed, 0, k->spec.channels * k->spec.group);
  sc_cut cut = cut_tile(j, (i64)i);
  for (i64 piece = 0; piece < cut.pieces; piece++) compute(j, (i64)i, packed, &cut, piece, 0, k->strip_count);
  sc_scratch_put(&k->host, slot, packed);
}

static void task_pack(void *data, u64 i)
{
  const sc_job *j = data;
  i64 channels = j->kernel->spec.channels * j->kernel->spec.group;
  pack_channels(j, j->tile, j->packed, channels * (i64)i / j->parts, channels * ((i64)i + 1) / j->parts);
}

/* Piece i / chunks and row chunk i % chunks: of the shared tile, or of all images where X is read directly. */
static void task_compute(void *data, u64 i)
{
  const sc_job *j = data;
  const sc_kernel *k = j->kernel;
  i64 chunk = (i64)i % j->chunks, piece = (i64)i / j->chunks, tile = j->tile;
  sc_cut cut = cut_tile(j, tile);
  const float *x = j->packed;
  if (!x) {
    tile = piece / cut.pieces, piece %= cut.pieces;
    x = j->x + tile * k->spec.channels * k->spec.group * j->geometry->plane;
  }
  compute(j, tile, x, &cut, piece, sc_share(k, chunk, j->chunks), sc_share(k, chunk + 1, j->chunks));
}

static int run(const sc_parallel *p, void (*task)(void *, u64), i64 count, sc_job *j, void **host_error)
{
  *host_error = p->run(p->self, task, (u64)count, j);
  if (*host_error) return SC_HOST_ERROR;
  return j->failed ? SC_MEMORY : SC_OK;
}

/* How many row chunks make about TASKS tasks of `pieces` pieces. */
static i64 row_chunks(const sc_kernel *k, i64 pieces)
{
  return clip(ceil_div(TASKS, pieces), 1, k->strip_count);
}

static int run_shared(sc_job *j, i64 tiles, const sc_parallel *parallel, void **host_error)
{
  const sc_kernel *k = j->kernel;
  int slot, status = SC_OK;
  j->packed = sc_scratch_get(&k->host, j->geometry->floats, &slot);
  if (!j->packed) return SC_MEMORY;
  j->parts = clip(k->spec.channels * k->spec.group, 1, TASKS);
  for (j->tile = 0; j->tile < tiles && !status; j->tile++) {
    i64 pieces = cut_tile(j, j->tile).pieces;
    j->chunks = row_chunks(k, pieces);
    status = run(parallel, task_pack, j->parts, j, host_error);
    if (!status) status = run(parallel, task_compute, pieces * j->chunks, j, host_error);
  }
  sc_scratch_put(&k->host, slot, j->packed);
  return status;
}

int SC(sc_conv)(sc_kernel *k, const sc_image *image, const float *x, const float *residual, float *y,
                const sc_parallel *parallel, void **host_error)
{
  const sc_spec *s = &k->spec;
  if (image->batch == 0) return SC_OK;
  i64 pixels = image->height * image->width * image->out_height * image->out_width;
  if (pixels == 1 && s->group * s->kernel[0] * s->kernel[1] == 1 && !s->pad[0] && !s->pad[1])
    return SC(sc_matmul)(k, image->batch, x, residual, y, parallel, host_error);
  sc_geometry *g;
  int status = SC(sc_geometry_of)(k, image, &g);
  if (status) return status;
  sc_job j = {.kernel = k, .geometry = g, .x = x, .residual = residual, .y = y};
  i64 tiles = tiles_of(g) * image->batch;
  if (!g->floats) {
    i64 pieces = cut_tile(&j, 0).pieces * image->batch;
    j.chunks = row_chunks(k, pieces);
    status = run(parallel, task_compute, pieces * j.chunks, &j, host_error);
  } else if (tiles >= MANY_TILES) status = run(parallel, task_own_tile, tiles, &j, host_error);
  else status = run_shared(&j, tiles, parallel, host_error);
  SC(sc_geometry_done)(k, g);
  return status;
}

/* Where the inputs of each tap lie for one image size: built at the first call of that size, shared by every later one. */
#include "kernel.h"

enum {
  TILE_FLOATS = 512 * 1024 / 4,  /* what the packed tiles of a group may take: half of a 1 MB second-level cache */
  GROUP = 8,                     /* tiles in a group: enough that rows of Y are written in long runs */
  LINE_FLOATS = 64 / 4,          /* vectors across two cache lines cost twice: then packing pays */
  ALIAS_FLOATS = 1024 / 4        /* planes a multiple of this apart fall into few sets of a cache */
};

static void place_taps(const sc_kernel *k, sc_geometry *g)
{
  const sc_spec *s = &k->spec;
  i64 depth = s->channels * s->kernel[0] * s->kernel[1], planes = k->phases * s->kernel[1];
  for (i64 i = 0; i < k->column_count; i++) {
    i64 group = k->columns[i] / depth, at = k->columns[i] % depth, c = group * s->channels + at % s->channels;
    i64 kh = at / s->channels / s->kernel[1], kw = at / s->channels % s->kernel[1];
    i64 plane = c * planes + k->phase[kh] * s->kernel[1] + kw;
    g->offsets[i] = (i32)(plane * g->plane + k->shift[kh] * g->tile_width);
  }
  for (i64 i = 0; i <= AHEAD; i++) g->offsets[k->column_count + i] = 0;
}

int SC(sc_is_pointwise)(const sc_kernel *k)
{
  return sc_is_plain_window(&k->spec);
}

/* Tiles of whole rows while they fit, of parts of one row otherwise. */
static void size_tiles(sc_geometry *g, i64 planes, i64 below)
{
  i64 height = g->image.out_height, width = g->image.out_width, least = 4 * SC_MAX_NR * VL, fits = TILE_FLOATS / planes;
  i64 columns = fits / (1 + below);
  g->tile_height = height, g->tile_width = width;
  if (columns < width && width > least) {
    i64 across = ceil_div(width, clip(columns, least, width));
    g->tile_width = ceil_div(ceil_div(width, across), VL) * VL, g->tile_height = 1;
  } else {
    i64 down = ceil_div(height, clip(fits / width - below, 1, height));
    g->tile_height = ceil_div(height, down);
  }
}

/* Tile and plane sizes; zero when an offset would not fit 32 bits. */
static int lay_out(const sc_kernel *k, sc_geometry *g)
{
  const sc_spec *s = &k->spec;
  i64 planes = s->channels * s->group * k->phases * s->kernel[1], below = k->shift[s->kernel[0] - 1];
  g->plain = SC(sc_is_pointwise)(k);
  if (g->plain) {
    g->image.width = g->image.out_width = g->image.width * g->image.height;
    g->image.height = g->image.out_height = 1;
  }
  /* Generated code reads panels, which are packed anyway. */
  g->direct = g->plain && (sc_code_of(k) || (g->image.width >= VL && g->image.width % LINE_FLOATS == 0 && g->image.width % ALIAS_FLOATS));
  if (g->direct) {
    g->tile_height = g->tiles = g->group = 1;
    g->tile_width = g->plane = g->image.width;
    return s->channels * s->group * g->plane <= MAX_FLOATS;
  }
  size_tiles(g, planes, below);
  g->plane = ceil_div((g->tile_height + below) * g->tile_width, LINE_FLOATS) * LINE_FLOATS;
  if (g->plane % ALIAS_FLOATS == 0) g->plane += LINE_FLOATS;
  if (g->plane > MAX_FLOATS) return 0;
  g->floats = planes * g->plane + VL;
  g->tiles = ceil_div(g->image.out_height, g->tile_height) * ceil_div(g->image.out_width, g->tile_width);
  g->group = clip(TILE_FLOATS / g->floats, 1, GROUP);
  return g->floats <= MAX_FLOATS;
}

static int same_image(const sc_image *a, const sc_image *b)
{
  return a->height == b->height && a->width == b->width && a->out_height == b->out_height && a->out_width == b->out_width;
}

static int build(sc_kernel *k, const sc_image *image, sc_geometry **out)
{
  sc_geometry laid = {.asked = *image, .image = *image};
  if (!lay_out(k, &laid)) return SC_TOO_LARGE;
  sc_geometry *g = k->host.alloc(k->host.self, sizeof *g);
  laid.offsets = k->host.alloc(k->host.self, (u64)(k->column_count + AHEAD + 1) * sizeof *laid.offsets);
  if (!g || !laid.offsets) {
    if (g) k->host.free(k->host.self, g);
    if (laid.offsets) k->host.free(k->host.self, laid.offsets);
    return SC_MEMORY;
  }
  place_taps(k, &laid);
  *g = laid;
  *out = g;
  return SC_OK;
}

int SC(sc_geometry_of)(sc_kernel *k, const sc_image *image, sc_geometry **out)
{
  for (int i = 0; i < GEOMETRIES; i++) {
    *out = __atomic_load_n(&k->geometry[i], __ATOMIC_ACQUIRE);
    if (*out && same_image(&(*out)->asked, image)) return SC_OK;
  }
  int status = build(k, image, out);
  if (status) return status;
  for (int i = 0; i < GEOMETRIES; i++) {
    sc_geometry *empty = 0;
    if (__atomic_compare_exchange_n(&k->geometry[i], &empty, *out, 0, __ATOMIC_ACQ_REL, __ATOMIC_RELAXED)) return SC_OK;
  }
  return SC_OK;
}

void SC(sc_geometry_done)(sc_kernel *k, sc_geometry *g)
{
  for (int i = 0; i < GEOMETRIES; i++)
    if (__atomic_load_n(&k->geometry[i], __ATOMIC_ACQUIRE) == g) return;
  k->host.free(k->host.self, g->offsets);
  k->host.free(k->host.self, g);
}

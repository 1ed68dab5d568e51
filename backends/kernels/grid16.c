/* Tiles and blocks of a convolution in layout C16, in the order that keeps inputs in cache. */
#include "activation.h"
#include "grid16.h"

enum {
  NEAREST = 1 << 12,             /* floats of inputs that the first-level cache keeps beside the rest */
  NEAR = 1 << 16,                /* the same for the second level */
  EACH = 4                       /* what a tap costs beside its multiply-adds, in multiply-adds */
};

sc_cut16 SC(sc_cut16)(i64 height, i64 width, i64 most, int exact, int planes)
{
  sc_cut16 best = {0};
  i64 least = 0;
  for (i64 rows = 1; rows <= (planes ? 1 : MOST16_ROWS) && rows <= height; rows++)
    for (i64 least_across = ceil_div(width * rows, most), across = least_across; across <= least_across + 1; across++) {
      i64 columns = SC(sc_tile16_columns)(rows, ceil_div(width, across)), down = ceil_div(height, rows);
      if (!columns || rows * columns > most || (columns > width && (exact || across > 1))) continue;
      i64 cost = down * across * (rows * columns + EACH);
      if (!best.rows || cost < least) least = cost, best = (sc_cut16){height, width, rows, columns, down, across};
    }
  return best;
}

sc_cut16 SC(sc_cut_flat16)(const sc_weight16 *w, i64 pixels)
{
  const i64 depth = w->slots * WIDE;
  int half = sc_is_thin16(w) && depth > WIDEST_NEAR / 2 && depth <= WIDEST_NEAR;
  return SC(sc_cut16)(1, pixels, half ? MOST16 / 2 : MOST16, 1, 0);
}

/* A piece has one row less than the others where there is a tile for it, otherwise it overlaps. */
sc_place16 SC(sc_place16)(const sc_cut16 *c, i64 tile)
{
  i64 piece = tile / c->across, top = c->height * piece / c->down, rows = c->height * (piece + 1) / c->down - top;
  if (rows != c->rows && SC(sc_tile16_columns)(rows, c->columns) != c->columns)
    rows = c->rows, top = clip(top, 0, c->height - rows);
  i64 left = clip(tile % c->across * c->columns, 0, c->columns < c->width ? c->width - c->columns : 0);
  return (sc_place16){top, left, rows};
}

#define LANE(lane, first) ((lane) + (first))

/* Sums of a tile that no clamp turns into results: 16 lanes of `columns` pixels of some rows. */
INLINE void finish_with(const sc_tile16 *t, const float *sums, i64 rows, i64 columns, i64 lanes, const i32 activation)
{
  const vi lane = {LANES(LANE, 0)};
  for (i64 r = 0; r < rows; r++)
    for (i64 q = 0; q < t->columns; q++) UNROLL for (int n = 0; n < WIDE_VECTORS; n++) {
      i64 to = r * t->pitch + q * WIDE + n * VL;
      vf v = load(sums + (r * columns + q) * WIDE + n * VL);
      if (t->residual) v += load(t->residual + to);
      v = activate_vf(v, activation);
      store(t->y + to, activation == SC_SIGMOID ? select_vf(lane < (i32)lanes - n * VL, v, splat(0.f)) : v);
    }
}

static void finish(const sc_tile16 *t, const float *sums, i64 rows, i64 columns, i64 lanes, i32 activation)
{
#define FINISH(a) case a: finish_with(t, sums, rows, columns, lanes, a); break;
  switch (activation) { FINISH(SC_HARDSWISH) FINISH(SC_SILU) FINISH(SC_GELU) FINISH(SC_GELU_TANH) FINISH(SC_SIGMOID) default: break; }
}

static void one_tile(const sc_grid16 *g, const sc_cut16 *c, const sc_tile16 *of_block, i64 tile, i64 lanes)
{
  const sc_place16 at = SC(sc_place16)(c, tile);
  sc_tile16 t = *of_block;
  i64 to = at.top * g->pitch + at.left * WIDE;
  t.x += g->panel ? tile * g->panel : at.top * g->row + at.left * (g->planes ? 1 : WIDE), t.y += to;
  if (t.residual) t.residual += to;
  if (g->activation <= SC_RELU6) {
    SC(sc_run_tile16)(&t, at.rows, c->columns, g->planes);
    return;
  }
  float sums[MOST16 * WIDE] __attribute__((aligned(64)));
  sc_tile16 raw = t;
  raw.y = sums, raw.pitch = c->columns * WIDE, raw.residual = 0;
  SC(sc_run_tile16)(&raw, at.rows, c->columns, g->planes);
  finish(&t, sums, at.rows, c->columns, lanes, g->activation);
}

/* Tiles that are read together: those the first-level cache holds, or, when it holds not even one, the second. */
static i64 tiles_together(const sc_weight16 *w, const sc_cut16 *c)
{
  i64 floats = w->slots / (w->kernel[0] * w->kernel[1]) * WIDE * (c->rows + w->kernel[0] - 1) * (c->columns + w->kernel[1] - 1);
  return floats <= 2 * NEAREST ? clip(NEAREST / floats, 1, NEAREST) : clip(NEAR / floats, 1, NEAR);
}

void SC(sc_grid16)(const sc_weight16 *w, const sc_grid16 *g, const sc_cut16 *c, i64 first, i64 end, i64 from, i64 to)
{
  const float inf = __builtin_inff();
  const i64 together = tiles_together(w, c);
  sc_tile16 t = {.x = g->x, .row = g->row, .offsets = g->offsets, .pitch = g->pitch,
                 .columns = c->columns < c->width ? c->columns : c->width,
                 .low = g->activation == SC_RELU || g->activation == SC_RELU6 ? 0.f : -inf,
                 .high = g->activation == SC_RELU6 ? 6.f : inf};
  for (; first < end; first += together)
    for (i64 b = from; b < to; b++) {
      i64 taps = w->starts[b + 1] - w->starts[b];
      t.tap = w->index + w->lists[b], t.end = t.tap + taps, t.first = b * w->apart;
      t.weights = w->weights + w->starts[b] * WIDE, t.bias = w->bias + b * WIDE;
      t.y = g->y + b * g->apart, t.residual = g->residual ? g->residual + b * g->apart : 0;
      for (i64 i = first; i < end && i < first + together; i++) one_tile(g, c, &t, i, w->outputs - b * WIDE);
    }
}

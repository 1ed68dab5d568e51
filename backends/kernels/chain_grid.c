/* Convolutions of a chain with a window larger than 1x1: rows of inputs are copied once, with zeros around, into planes in
   which every tap of every output pixel is one distance away; rows of a plane share the zeros between them. Results then
   have the pitch of a plane, and are brought together. */
#include "chain.h"
#include "pack.h"

enum { TOGETHER = 8 * 1024 };    /* floats of results that stay in the first-level cache until they are brought together */

static i64 most(i64 a, i64 b) { return a > b ? a : b; }

/* Inputs from the first tap of a pixel to its last, and what that is in planes: phases of the stride, and steps in one. */
static i64 span_of(const sc_spec *s, int axis) { return (s->kernel[axis] - 1) * s->dilation[axis]; }
static i64 phases_of(const sc_spec *s, int axis) { return span_of(s, axis) < s->stride[axis] ? span_of(s, axis) + 1 : s->stride[axis]; }
static i64 reach_of(const sc_spec *s, int axis) { return span_of(s, axis) / s->stride[axis]; }

static void place_taps(const sc_kernel *k, sc_grid *g)
{
  const sc_spec *s = &k->spec;
  const i64 depth = s->channels * s->kernel[0] * s->kernel[1], planes = phases_of(s, 0) * phases_of(s, 1);
  for (i64 i = 0; i < k->column_count; i++) {
    i64 group = k->columns[i] / depth, at = k->columns[i] % depth, c = group * s->channels + at % s->channels;
    i64 down = at / s->channels / s->kernel[1] * s->dilation[0], across = at / s->channels % s->kernel[1] * s->dilation[1];
    i64 phase = down % s->stride[0] * phases_of(s, 1) + across % s->stride[1];
    g->offsets[i] = (i32)((c * planes + phase) * g->plane + down / s->stride[0] * g->pitch + across / s->stride[1]);
  }
  for (i64 i = 0; i <= AHEAD; i++) g->offsets[k->column_count + i] = 0;
}

int SC(sc_grid_make)(const sc_chain *c, const sc_kernel *k, const sc_value *in, const sc_value *out, sc_grid *g)
{
  const sc_spec *s = &k->spec;
  if (SC(sc_is_pointwise)(k)) g->plane = in->pitch;
  else {
    i64 same = s->stride[1] == 1 && out->width == in->width;
    g->pitch = out->width + (same ? most(s->pad[1], span_of(s, 1) - s->pad[1]) : reach_of(s, 1));
    g->plane = (ceil_div((out->rows + reach_of(s, 0)) * g->pitch + reach_of(s, 1), LINE) | 1) * LINE;
    i64 planes = in->channels * phases_of(s, 0) * phases_of(s, 1);
    if (g->plane > MAX_FLOATS / planes) return SC_TOO_LARGE;
    g->floats = planes * g->plane + VL;
  }
  if (g->plane > MAX_FLOATS / (in->channels + 1)) return SC_TOO_LARGE;
  g->offsets = sc_get(&c->host, (k->column_count + AHEAD + 1) * (i64)sizeof *g->offsets);
  if (!g->offsets) return SC_MEMORY;
  place_taps(k, g);
  return SC_OK;
}

/* Entries [from, end) of a row of a plane are every `step`-th float from `x` on, of which `limit` may be read; zeros around.
   `room`: floats to the end of the plane, behind which another task may write. */
static void copy_row(float *to, i64 pitch, i64 room, const float *x, i64 from, i64 end, i64 step, i64 limit)
{
  const vi lanes = {LANES(LANE_NUMBER, 0)};
  i64 n = end - from;
  if (step == 1 && pitch <= VL && limit >= VL && room >= from + VL) { /* the row behind is written after this one */
    for (i64 i = 0; i < from; i++) to[i] = 0.f;
    store(to + from, select_vf(lanes < (i32)n, load(x), splat(0.f)));
    return;
  }
  clear_floats(to, from);
  copy_strided(to + from, x, n, step, limit);
  clear_floats(to + end, pitch - end);
}

void SC(sc_grid_pack)(const sc_kernel *k, const sc_grid *g, const sc_lines *x, i64 top, i64 rows, float *to, i64 first, i64 end)
{
  const sc_spec *s = &k->spec;
  const i64 down = phases_of(s, 0), across = phases_of(s, 1), all = rows + reach_of(s, 0);
  for (i64 c = first; c < end; c++)
    for (i64 p = 0; p < down * across; p++) {
      float *plane = to + (c * down * across + p) * g->plane, *behind = plane + g->plane;
      i64 right = p % across - s->pad[1], begin = clip(ceil_div(-right, s->stride[1]), 0, g->pitch);
      i64 stop = clip(ceil_div(x->width - right, s->stride[1]), begin, g->pitch);
      for (i64 r = 0; r < all; r++, plane += g->pitch) {
        i64 row = (top + r) * s->stride[0] + p / across - s->pad[0], at = begin * s->stride[1] + right;
        if (row < 0 || row >= x->height || begin == stop) clear_floats(plane, g->pitch);
        else {
          const float *from = sc_line(x, c, row);
          i64 limit = x->pitch - (from - (x->data + c * x->pitch)) - at;
          copy_row(plane, g->pitch, behind - plane, from + at, begin, stop, s->stride[1], limit);
        }
      }
      clear_floats(plane, behind - plane);
    }
  clear_floats(to + end * down * across * g->plane, end == s->channels * s->group ? VL : 0);
}

/* Rows of results at `from`, `pitch` apart, side by side, with the residual and what comes after it. */
static void bring_together(const sc_kernel *k, const float *from, i64 pitch, i64 rows, i64 width, float *y, const float *residual)
{
  for (i64 r = 0; r < rows; r++, from += pitch, y += width) {
    if (width < VL && r + 1 < rows && (rows - r) * width >= VL) store(y, load(from)); /* the row behind is written after this one */
    else copy_floats(y, from, width);
    if (!residual) continue;
    for (i64 i = 0; i < width; i++) y[i] += residual[r * width + i];
    SC(sc_activate)(y, width, k->spec.activation);
  }
}

void SC(sc_grid_rows)(const sc_kernel *k, const sc_grid *g, const float *packed, const sc_lines *y, const sc_lines *residual,
                      i64 top, i64 rows, i64 first, i64 end, float *together)
{
  const i64 count = (rows - 1) * g->pitch + y->width, pitch = ceil_div(count, LINE) * LINE + LINE;
  while (first < end) {
    i64 last = first + 1, row = k->strips[first].row;
    while (last < end && (k->strips[last].row + k->strips[last].mr - row) * pitch <= TOGETHER) last++;
    i64 height = k->strips[last - 1].row + k->strips[last - 1].mr - row;
    sc_stretch p = {.x = packed, .offsets = g->offsets, .y = together - row * pitch, .pitch = pitch, .count = count,
                   .activation = residual ? SC_NONE : k->spec.activation};
    SC(sc_conv_pixels)(k, &p, first, last);
    for (i64 r = row; r < row + height; r++)
      bring_together(k, together + (r - row) * pitch, g->pitch, rows, y->width, sc_line(y, r, top),
                     residual ? sc_line(residual, r, top) : 0);
    first = last;
  }
}

i64 SC(sc_grid_together)(const sc_grid *g, i64 rows)
{
  i64 pitch = ceil_div(rows * g->pitch, LINE) * LINE + LINE;
  return g->pitch ? most(TOGETHER, SC_MAX_MR * pitch) + VL : 0;
}

/* Bringing the inputs of a tile into rows that every tap can read contiguously. */
#ifndef SC_PACK_H
#define SC_PACK_H
#include "tile.h"
#include "vec.h"

INLINE void copy_floats(float *to, const float *from, i64 n)
{
  if (n < VL) {
    for (i64 i = 0; i < n; i++) to[i] = from[i];
    return;
  }
  for (i64 i = 0; i < n - VL; i += VL) store(to + i, load(from + i));
  store(to + n - VL, load(from + n - VL));
}

INLINE void clear_floats(float *to, i64 n)
{
  i64 i = 0;
  for (; i + VL <= n; i += VL) store(to + i, splat(0.f));
  for (; i < n; i++) to[i] = 0.f;
}

/* from[0], from[step], ...: n of them; `limit` floats from `from` on may be read. */
INLINE void copy_strided(float *to, const float *from, i64 n, i64 step, i64 limit)
{
  if (step == 1) {
    copy_floats(to, from, n);
    return;
  }
  i64 i = 0;
  if (step == 2) {
    for (; i + VL <= n && 2 * (i + VL) <= limit; i += VL) store(to + i, every_second(from + 2 * i));
    if (i < n && n >= VL && 2 * n <= limit) store(to + n - VL, every_second(from + 2 * (n - VL))), i = n;
  }
  for (; i < n; i++) to[i] = from[i * step];
}

/* One plane: output pixels (rows, width) of a tile whose first output pixel is (top, left), all read through one kernel
   column `kw` and one row phase (`below` input rows under top * stride). */
typedef struct {
  i64 height, width;             /* of the image */
  i64 top, left, rows, columns, pitch;
  i64 stride[2], below, right;   /* right: input columns from the pixel's to the tap's, may be negative; same for below */
} sc_plane;

/* Same width and stride one: the plane is the image itself, moved; what wraps round the edge is cleared afterwards. */
static inline void pack_moved(float *to, const float *x, const sc_plane *p)
{
  i64 w = p->width, from = clip(-(p->top + p->below), 0, p->rows), end = clip(p->height - p->top - p->below, from, p->rows);
  i64 start = (p->top + p->below + from) * w + p->right, n = (end - from) * w, size = p->height * w;
  i64 skip = start < 0 ? -start : 0, over = start + n > size ? start + n - size : 0;
  clear_floats(to, from * w);
  if (n > skip + over) copy_floats(to + from * w + skip, x + start + skip, n - skip - over);
  clear_floats(to + end * w, (p->rows - end) * w);
  i64 edge = p->right < 0 ? 0 : clip(w - p->right, 0, w), stop = p->right < 0 ? clip(-p->right, 0, w) : w;
  for (i64 r = from; r < end; r++)
    for (i64 j = edge; j < stop; j++) to[r * w + j] = 0.f;
}

static inline void pack_plane(float *to, const float *x, const sc_plane *p)
{
  if (p->stride[0] == 1 && p->stride[1] == 1 && p->columns == p->width && p->pitch == p->width) {
    pack_moved(to, x, p);
    return;
  }
  i64 step = p->stride[1];
  i64 from = clip(ceil_div(-p->right, step) - p->left, 0, p->columns);
  i64 end = clip(ceil_div(p->width - p->right, step) - p->left, from, p->columns);
  for (i64 r = 0; r < p->rows; r++, to += p->pitch) {
    i64 row = (p->top + r) * p->stride[0] + p->below, at = row * p->width + (p->left + from) * step + p->right;
    if (row < 0 || row >= p->height || from == end) {
      clear_floats(to, p->columns);
      continue;
    }
    clear_floats(to, from);
    copy_strided(to + from, x + at, end - from, step, p->height * p->width - at);
    clear_floats(to + end, p->columns - end);
  }
}
#endif

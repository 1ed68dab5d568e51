/* Planes of bytes in which the pixels of every tap are contiguous: then any convolution is a 1x1 one. A pixel of four
   channels is moved as one dword. */
#include "int8.h"

INLINE void fill(dword *to, i64 n, i32 value)
{
  for (i64 i = 0; i < n; i++) {
    to[i] = value;
    __asm__("" ::: "memory"); /* mostly one or two: no vectors */
  }
}

INLINE void copy(dword *to, const dword *from, i64 n)
{
  i64 i = 0;
  for (; i + VL <= n; i += VL) *(vi_at *)(to + i) = load_bits(from + i);
  if (i < n && n >= VL) {
    *(vi_at *)(to + n - VL) = load_bits(from + n - VL);
    return;
  }
  for (; i + 4 <= n; i += 4) *(i32x4_at *)(to + i) = *(const i32x4_at *)(from + i);
  if (i < n && n >= 4) *(i32x4_at *)(to + n - 4) = *(const i32x4_at *)(from + n - 4), i = n;
  for (; i < n; i++) to[i] = from[i];
}

/* from[0], from[2], ...: n of them, read no further than the last. */
INLINE void copy_second(dword *to, const dword *from, i64 n)
{
  i64 i = 0;
  for (; i + VL < n; i += VL) {
    vi a = load_bits(from + 2 * i), b = load_bits(from + 2 * i + VL);
    *(vi_at *)(to + i) = __builtin_shufflevector(a, b, LANES(EVERY_SECOND, 0));
  }
  if (i && n > VL) {
    vi a = load_bits(from + 2 * (n - VL) - 1), b = load_bits(from + 2 * (n - VL) - 1 + VL);
    *(vi_at *)(to + n - VL) = __builtin_shufflevector(a, b, LANES(EVERY_SECOND, 1));
    return;
  }
  for (; i + 4 < n; i += 4) {
    i32x4 a = *(const i32x4_at *)(from + 2 * i), b = *(const i32x4_at *)(from + 2 * i + 4);
    *(i32x4_at *)(to + i) = __builtin_shufflevector(a, b, 0, 2, 4, 6);
  }
  for (; i < n; i++) to[i] = from[2 * i];
}

/* Same width, stride one: the rows [from, end) are the image itself, moved; what wraps round its edge is filled after. */
static void pack_moved(dword *to, const dword *x, const sc_int8_planes *p, i64 first, i64 from, i64 end, i64 right)
{
  i64 w = p->width, start = (first + from) * w + right, n = (end - from) * w, size = p->height * w;
  i64 skip = start < 0 ? -start : 0, over = start + n > size ? start + n - size : 0;
  if (n > skip + over) copy(to + from * w + skip, x + start + skip, n - skip - over);
  i64 edge = right < 0 ? 0 : clip(w - right, 0, w), stop = right < 0 ? clip(-right, 0, w) : w;
  for (i64 r = from; r < end; r++)
    for (i64 j = edge; j < stop; j++) to[r * w + j] = p->fill;
}

/* Rows of a plane; x: the row of the image that the first is from, `pitch` dwords before the one of the next. */
static void pack_rows(dword *to, const dword *x, const sc_int8_planes *p, i64 right, i64 count, i64 pitch)
{
  const i64 n = p->columns, step = p->stride[1];
  const i64 from = clip(ceil_div(-right, step), 0, n), end = clip(ceil_div(p->width - right, step), from, n);
  x += from * step + right;
  for (i64 r = 0; r < count; r++, to += n, x += pitch) {
    fill(to, from, p->fill);
    if (step == 1) copy(to + from, x, end - from);
    else if (step == 2) copy_second(to + from, x, end - from);
    else
      for (i64 j = from; j < end; j++) to[j] = x[(j - from) * step];
    fill(to + end, n - end, p->fill);
  }
}

void SC(sc_int8_pack)(const sc_int8_planes *p, x8 *to, const x8 *x, i64 top, i64 rows)
{
  const i64 count = rows + p->below, n = p->columns, step = p->stride[0];
  for (i64 f = 0; f < p->phases; f++)
    for (i64 v = 0; v < p->variants; v++) {
      dword *plane = (dword *)(to + (f * p->variants + v) * p->plane);
      i64 first = top * step + f - p->pad[0], right = v * p->spread - p->pad[1];
      i64 from = clip(ceil_div(-first, step), 0, count), end = clip(ceil_div(p->height - first, step), from, count);
      fill(plane, from * n, p->fill);
      fill(plane + end * n, (count - end) * n, p->fill);
      if (step == 1 && p->stride[1] == 1 && n == p->width) {
        pack_moved(plane, (const dword *)x, p, first, from, end, right);
        continue;
      }
      pack_rows(plane + from * n, (const dword *)x + (first + from * step) * p->width, p, right, end - from, step * p->width);
    }
}

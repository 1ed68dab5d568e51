/* Zero-padded copies of images in layout C16 or plain. */
#include "pad16.h"
#include "pack.h"

enum { MAX_SIDE = 1 << 20, MAX_STEP = 1024 };

static i64 times(i64 a, i64 b) { return a && b > MAX_FLOATS / a ? MAX_FLOATS + 1LL : a * b; }
static int within(i64 v, i64 low, i64 high) { return v >= low && v <= high; }

const char *SC(sc_window16)(const i64 *attributes, const i64 *kernel, sc_pad16 *w)
{
  *w = (sc_pad16){.stride = {attributes[0], attributes[1]}, .dilation = {attributes[6], attributes[7]}};
  for (int i = 0; i < 4; i++) {
    w->pad[i] = attributes[2 + i];
    if (!within(w->pad[i], 0, MAX_SIDE)) return "pads must be within 0..1048576";
  }
  for (int i = 0; i < 2; i++) {
    w->kernel[i] = kernel[i];
    if (!within(w->kernel[i], 1, MAX_STEP)) return "the kernel size is outside 1..1024";
    if (!within(w->stride[i], 1, MAX_STEP)) return "strides must be within 1..1024";
    if (!within(w->dilation[i], 1, MAX_STEP)) return "dilations must be within 1..1024";
    i64 reach = (kernel[i] - 1) * w->dilation[i];
    w->phases[i] = reach + 1 < w->stride[i] ? reach + 1 : w->stride[i], w->beyond[i] = reach / w->stride[i];
  }
  return 0;
}

const char *SC(sc_size16)(sc_pad16 *w, const sc_tensor *x)
{
  if (x->type != SC_F32 || x->rank != 4 || (x->layout != SC_C16 && x->layout != SC_PLAIN))
    return "its input must be float32 [N, C, H, W] in layout C16 or plain";
  w->lanes = x->layout == SC_C16 ? 16 : 1, w->planes = ceil_div(x->dims[1], w->lanes);
  for (int i = 0; i < 2; i++) {
    w->size[i] = x->dims[2 + i];
    w->out[i] = sc_out_size(w->size[i], w->pad[i], w->pad[2 + i], w->kernel[i], w->stride[i], w->dilation[i]);
    if (w->out[i] < 1) return "the padded window does not fit into its input";
  }
  w->step = times(w->phases[1] * (w->out[1] + w->beyond[1]), w->lanes);
  i64 copy = times(SC(sc_plane16)(w, w->out[0]), w->planes), image = times(times(w->size[0], w->size[1]), w->planes * w->lanes);
  i64 output = times(w->out[0], w->out[1]);
  return copy > MAX_FLOATS / 2 || image > MAX_FLOATS || output > MAX_FLOATS / 16 ? "its input is too large" : 0;
}

int SC(sc_moves_freely16)(const sc_pad16 *w)
{
  return w->lanes == 16 && w->stride[0] == 1 && w->stride[1] == 1 && !w->pad[0] && !w->pad[1] && !w->pad[2] && !w->pad[3];
}

i64 SC(sc_plane16)(const sc_pad16 *w, i64 rows)
{
  i64 floats = times(w->phases[0] * (rows + w->beyond[0]), w->step);
  return floats % 1024 ? floats : floats + 16; /* planes so far apart would fall into few sets of a cache */
}

i64 SC(sc_distance16)(const sc_pad16 *w, i64 rows, i64 i, i64 j)
{
  i64 down = i * w->dilation[0], right = j * w->dilation[1];
  i64 row = down % w->stride[0] * (rows + w->beyond[0]) + down / w->stride[0];
  return row * w->step + (right % w->stride[1] * (w->out[1] + w->beyond[1]) + right / w->stride[1]) * w->lanes;
}

/* One row of a phase: columns c of which c * stride + phase - pad lies in the image, zeros around. */
static void copy_row(const sc_pad16 *w, const float *x, float *to, i64 phase, i64 limit)
{
  i64 columns = w->out[1] + w->beyond[1], step = w->stride[1], before = w->pad[1] - phase, lanes = w->lanes;
  i64 from = clip(ceil_div(before, step), 0, columns), end = clip(ceil_div(w->size[1] + before, step), from, columns);
  i64 at = from * step - before;
  clear_floats(to, from * lanes);
  clear_floats(to + end * lanes, (columns - end) * lanes);
  if (from == end) return;
  if (lanes == 1) copy_strided(to + from, x + at, end - from, step, limit - at);
  else if (step == 1) copy_floats(to + from * lanes, x + at * lanes, (end - from) * lanes);
  else for (i64 c = from; c < end; c++) copy_floats(to + c * lanes, x + (c * step - before) * lanes, lanes);
}

void SC(sc_copy16)(const sc_pad16 *w, const float *x, float *to, i64 top, i64 rows)
{
  const i64 columns = (w->out[1] + w->beyond[1]) * w->lanes, row = w->size[1] * w->lanes;
  for (i64 phase = 0; phase < w->phases[0]; phase++)
    for (i64 r = top; r < top + rows + w->beyond[0]; r++, to += w->step) {
      i64 from = r * w->stride[0] + phase - w->pad[0], limit = (w->size[0] - from) * w->size[1];
      if (from < 0 || from >= w->size[0]) clear_floats(to, w->step);
      else for (i64 p = 0; p < w->phases[1]; p++) copy_row(w, x + from * row, to + p * columns, p, limit);
    }
}

/* What the int8 step kinds share: windows, zero points, and the constants that turn sums into bytes. */
#ifndef SC_INT8_STEP_H
#define SC_INT8_STEP_H
#include "cpu.h"
#include "int8.h"

enum { INT8_WINDOW = 8, INT8_QUANT = 4 }; /* attributes of a window; zero points of X and Y, least and largest byte of Y */
enum { INT8_LARGEST = 1 << 26, INT8_KERNEL = 64 };

typedef struct { i64 kernel[2], stride[2], pad[4], dilation[2]; } int8_window;

static const char int8_no_memory[] = "there is not enough memory to prepare the weights";

/* ---- one allocation cut into aligned pieces ---- */
typedef struct { i64 size; } arena;
static inline i64 reserve(arena *a, i64 bytes)
{
  i64 at = a->size;
  a->size += (bytes + 63) / 64 * 64;
  return at;
}

#if defined(SC_DOT_SUFFIX)
extern HIDDEN const sc_int8_cores SC_PASTE(sc_int8_cores, SC_DOT_SUFFIX);
static inline const sc_int8_cores *int8_pick_cores(void)
{
  return sc_has_dot4(VB) ? &SC_PASTE(sc_int8_cores, SC_DOT_SUFFIX) : &SC(sc_int8_cores);
}
#else
static inline const sc_int8_cores *int8_pick_cores(void) { return &SC(sc_int8_cores); }
#endif

/* ---- checks ---- */
static inline int int8_constant(const sc_constant *c, i32 type, i32 rank) { return c->type == type && c->rank == rank; }

static inline const char *int8_read_window(const i64 *attributes, const i64 *kernel, int8_window *w)
{
  for (int i = 0; i < 2; i++)
    w->kernel[i] = kernel[i], w->stride[i] = attributes[i], w->dilation[i] = attributes[6 + i];
  for (int i = 0; i < 4; i++) w->pad[i] = attributes[2 + i];
  for (int i = 0; i < 2; i++) {
    if (w->stride[i] < 1 || w->stride[i] > INT8_KERNEL || w->dilation[i] < 1 || w->dilation[i] > INT8_KERNEL)
      return "a stride or dilation is outside 1..64";
    if (w->pad[i] < 0 || w->pad[i] > 4096 || w->pad[2 + i] < 0 || w->pad[2 + i] > 4096) return "a pad is outside 0..4096";
  }
  return 0;
}

static inline const char *int8_check_quant(const i64 *quant)
{
  for (int i = 0; i < INT8_QUANT; i++)
    if (quant[i] < 0 || quant[i] > 255) return "a zero point or bound is outside 0..255";
  return quant[2] > quant[3] ? "the least byte is larger than the largest" : 0;
}

static inline const char *int8_check_requant(const sc_constant *bias, const sc_constant *multiplier, i64 rows)
{
  if (!int8_constant(bias, SC_I32, 1) || bias->count != rows) return "bias is not int32 [R]";
  if (!int8_constant(multiplier, SC_F32, 1) || multiplier->count != rows) return "multiplier is not float32 [R]";
  return 0;
}

/* Four bytes of a zero point as they lie in memory. */
static inline i32 int8_fill(i64 zero) { return (i32)((u32)(unsigned char)(zero - SC_X_BIAS) * 0x01010101u); }

/* Of the weights of a row: their sum, which the zero point of X is multiplied by, and that of their magnitudes. */
typedef struct { i64 sum, size; } int8_row;
static inline void int8_count(int8_row *row, signed char weight)
{
  row->sum += weight, row->size += weight < 0 ? -weight : weight;
}

/* Rows beyond those of bias give zero. Sums fit 31 bits, and so do they times the multiplier. */
static inline const char *int8_requant(sc_requant *out, const sc_constant *bias, const sc_constant *multiplier,
                                       const int8_row *weights, i64 rows, const i64 *quant)
{
  const i32 *b = bias->data;
  const float *m = multiplier->data;
  for (i64 r = 0; r < rows; r++) {
    i64 all = r < bias->count ? b[r] + (SC_X_BIAS - quant[0]) * weights[r].sum : 0;
    i64 most = 255 * weights[r].size + (all < 0 ? -all : all);
    if (most > 0x7fffffff) return "bias, zero point and weights together overflow int32";
    if (r < bias->count && !(m[r] >= 0.f && (float)most * m[r] <= 0x1p30f)) return "a multiplier is negative or too large";
    out->bias[r] = (i32)all;
    out->multiplier[r] = r < bias->count ? m[r] : 0.f;
  }
  out->zero = (i32)quant[1] - SC_X_BIAS, out->low = (i32)quant[2] - SC_X_BIAS, out->high = (i32)quant[3] - SC_X_BIAS;
  return 0;
}

static inline i64 int8_groups(i64 channels) { return (channels + 3) / 4; }

static inline const char *int8_check_image(const sc_tensor *x)
{
  return x->type == SC_U8 && x->layout == SC_C4 && x->rank == 4 ? 0 : "X is not bytes [N, C, H, W] in layout C4";
}

static inline const char *int8_infer_window(const int8_window *w, const sc_tensor *x, i64 groups, i64 rows, sc_tensor *y)
{
  const char *wrong = int8_check_image(x);
  if (wrong) return wrong;
  if (int8_groups(x->dims[1]) != groups) return "X has another number of channels than the weight";
  y->type = SC_U8, y->layout = SC_C4, y->rank = 4;
  y->dims[0] = x->dims[0], y->dims[1] = rows;
  for (int i = 0; i < 2; i++) {
    y->dims[2 + i] = sc_out_size(x->dims[2 + i], w->pad[i], w->pad[2 + i], w->kernel[i], w->stride[i], w->dilation[i]);
    if (y->dims[2 + i] < 1) return "the padded window does not fit into X";
  }
  return 0;
}

/* Planes of bands of as many rows as fit into `bytes` for one group. by_column: each kernel column has planes of its own. */
static inline void int8_planes(const int8_window *w, const sc_tensor *x, const sc_tensor *y, int by_column, i32 fill,
                               i64 bytes, sc_int8_planes *p, i64 *rows)
{
  i64 reach[2], phases[2], beyond[2];
  for (int i = 0; i < 2; i++) {
    reach[i] = (w->kernel[i] - 1) * w->dilation[i];
    phases[i] = reach[i] + 1 < w->stride[i] ? reach[i] + 1 : w->stride[i];
    beyond[i] = reach[i] / w->stride[i];
  }
  *p = (sc_int8_planes){.height = x->dims[2], .width = x->dims[3],
                        .columns = y->dims[3] + (by_column ? 0 : beyond[1]), .variants = by_column ? w->kernel[1] : phases[1],
                        .spread = by_column ? w->dilation[1] : 1, .stride = {w->stride[0], w->stride[1]},
                        .pad = {w->pad[0], w->pad[1]}, .phases = phases[0], .below = beyond[0], .fill = fill};
  i64 row = p->columns * 4;
  *rows = clip(bytes / (p->phases * p->variants * row) - p->below, 1, y->dims[2]);
  p->plane = ((*rows + p->below) * row + 63) / 64 * 64;
  if (p->plane % 1024 == 0) p->plane += 64; /* planes so far apart would fall into few sets of a cache */
}

/* Bytes from a group's first plane to what tap (kh, kw) reads for the first pixel. */
static inline i64 int8_tap(const int8_window *w, const sc_int8_planes *p, int by_column, i64 kh, i64 kw)
{
  i64 row = kh * w->dilation[0], column = by_column ? 0 : kw * w->dilation[1];
  i64 variant = by_column ? kw : column % w->stride[1];
  return (row % w->stride[0] * p->variants + variant) * p->plane + (row / w->stride[0] * p->columns + column / w->stride[1]) * 4;
}

static inline int int8_parallel(const sc_call *call, void (*task)(void *, u64), i64 count, void *data)
{
  if (count == 1) {
    task(data, 0);
    return SC_OK;
  }
  *call->host_error = call->parallel->run(call->parallel->self, task, (u64)count, data);
  return *call->host_error ? SC_HOST_ERROR : SC_OK;
}
#endif

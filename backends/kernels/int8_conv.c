/* Step kind int8_conv: a convolution of bytes whose weight is packed in 4x4 blocks.
   Attributes: strides 2, pads 4, dilations 2, zero points of X and Y, least and largest byte of Y.
   Constants: values i8 [blocks, 16], index i32 [blocks], grid i64 [4], shape i64 [4], bias i32 [R], multiplier f32 [R].
   Y = clamp(round((sum of W * (X - x_zero) + bias) * multiplier) + y_zero), X and Y bytes in layout C4. */
#include "int8_step.h"

enum { VALUES, INDEX, GRID, SHAPE, BIAS, MULTIPLIER, CONSTANTS };
enum { ATTRIBUTES = INT8_WINDOW + INT8_QUANT };
enum {
  PLACES = 4,                    /* image sizes whose offsets are kept */
  BAND_BYTES = 384 * 1024,       /* of packed planes at a time */
  WEIGHT_DWORDS = 8 * 1024 / 4,  /* of weights used on all pixels before the next: they stay in the first-level cache */
  TASKS = 16,                    /* aim for so many tasks */
  PIECES = 4                     /* tiles of pixels that one task takes */
};

/* Where the taps lie for one image size. Immutable once published. */
typedef struct {
  i64 height, width;
  sc_int8_planes planes;
  i64 group, rows;               /* bytes of a group's planes; output rows of a band */
  i32 *offsets;
} placed;

typedef struct {
  sc_host host;
  const sc_int8_cores *cores;
  int8_window window;
  i64 rows, groups;              /* outputs; groups of four inputs */
  sc_int8_weight weight;
  i32 *columns;                  /* per tap: (kh, kw, group) in that order */
  placed *places[PLACES];
  void *memory;
  i32 fill;
} conv;

typedef struct {
  const conv *conv;
  const placed *place;
  const x8 *x;                   /* first pixel of the image, or of the packed band */
  x8 *y, *packed;
  i64 count, pitch;              /* pixels; bytes between planes of y */
  i64 vectors, pieces, parts, chunks;
  i64 top, band;                 /* rows of the band */
} job;

/* ---- making ---- */
static const char *check_constants(const sc_step_spec *s)
{
  const sc_constant *c = s->constants;
  if (!int8_constant(&c[INDEX], SC_I32, 1) || !int8_constant(&c[VALUES], SC_I8, 2)) return "values or index have another type or rank";
  if (!int8_constant(&c[GRID], SC_I64, 1) || c[GRID].count != 4) return "grid is not int64 [4]";
  if (!int8_constant(&c[SHAPE], SC_I64, 1) || c[SHAPE].count != 4) return "shape is not int64 [4]";
  const i64 *grid = c[GRID].data, *shape = c[SHAPE].data;
  for (int i = 0; i < 4; i++)
    if (shape[i] < 1 || shape[i] > INT8_LARGEST || grid[i] < 0) return "shape or grid has an empty or huge dimension";
  if (shape[1] > INT8_KERNEL || shape[2] > INT8_KERNEL) return "the kernel is larger than 64 pixels";
  if (shape[3] % 4) return "the inputs of an int8 weight are not padded to a multiple of four";
  i64 depth = shape[1] * shape[2] * shape[3];
  if (depth > INT8_LARGEST) return "shape has an empty or huge dimension";
  if (grid[2] != 4 || grid[3] != 4 || grid[0] != (shape[0] + 3) / 4 || grid[1] != depth / 4) return "grid is not that of 4x4 blocks";
  if (grid[0] * grid[1] > 0x7fffffff) return "the block grid has more than 2^31 cells";
  if (c[VALUES].dims[0] != c[INDEX].count || c[VALUES].dims[1] != 16) return "values is not [blocks, 16]";
  const i32 *index = c[INDEX].data;
  for (i64 i = 0; i < c[INDEX].count; i++)
    if (index[i] < 0 || index[i] >= grid[0] * grid[1] || (i && index[i] <= index[i - 1])) return "index is not ascending inside the grid";
  return int8_check_requant(&c[BIAS], &c[MULTIPLIER], shape[0]);
}

/* Taps, weights, and the sums of each row's weights, for the zero point. */
static void read_taps(conv *k, const sc_step_spec *s, i64 *tap, i32 *weights, int8_row *rows)
{
  const i64 *grid = s->constants[GRID].data;
  const i32 *index = s->constants[INDEX].data;
  const signed char *values = s->constants[VALUES].data;
  i64 count = s->constants[INDEX].count, at = 0;
  for (i64 strip = 0; strip < grid[0]; strip++) {
    tap[strip] = at;
    for (; at < count && index[at] / grid[1] == strip; at++) {
      k->columns[at] = (i32)(index[at] % grid[1]);
      __builtin_memcpy(weights + 4 * at, values + 16 * at, 16);
      for (int i = 0; i < 16; i++) int8_count(&rows[4 * strip + i / 4], values[16 * at + i]);
    }
  }
  tap[grid[0]] = at;
}

static void destroy(void *state, const sc_host *host)
{
  conv *k = state;
  for (int i = 0; i < PLACES; i++)
    if (k->places[i]) host->free(host->self, k->places[i]);
  if (k->memory) host->free(host->self, k->memory);
  host->free(host->self, k);
}

static const char *create(const sc_step_spec *s, const sc_host *host, void **state)
{
  *state = 0;
  if (s->inputs != 1 || s->outputs != 1 || s->constant_count != CONSTANTS || s->attribute_count != ATTRIBUTES)
    return "an int8_conv has one input, one output, 6 constants and 12 attributes";
  int8_window window;
  const char *wrong = check_constants(s);
  const i64 *shape = s->constants[SHAPE].data, *grid = s->constants[GRID].data;
  if (!wrong) wrong = int8_read_window(s->attributes, shape + 1, &window);
  if (!wrong) wrong = int8_check_quant(s->attributes + INT8_WINDOW);
  if (wrong) return wrong;
  conv *k = host->alloc(host->self, sizeof *k);
  if (!k) return int8_no_memory;
  *k = (conv){.host = *host, .cores = int8_pick_cores(), .window = window, .rows = shape[0], .groups = shape[3] / 4};
  *state = k;
  i64 strips = grid[0], count = s->constants[INDEX].count;
  arena a = {.size = 0};
  i64 tap_at = reserve(&a, (strips + 1) * 8), weights_at = reserve(&a, count * 16), columns_at = reserve(&a, count * 4);
  i64 bias_at = reserve(&a, strips * 16), multiplier_at = reserve(&a, strips * 16), rows_at = reserve(&a, strips * 4 * (i64)sizeof(int8_row));
  char *m = k->memory = host->alloc(host->self, (u64)a.size);
  if (!m) return int8_no_memory;
  i64 *tap = (i64 *)(m + tap_at);
  int8_row *rows = (int8_row *)(m + rows_at);
  k->columns = (i32 *)(m + columns_at);
  k->weight = (sc_int8_weight){strips, tap, (i32 *)(m + weights_at), {(i32 *)(m + bias_at), (float *)(m + multiplier_at), 0, 0, 0}};
  for (i64 i = 0; i < 4 * strips; i++) rows[i] = (int8_row){0, 0};
  read_taps(k, s, tap, (i32 *)(m + weights_at), rows);
  const i64 *quant = s->attributes + INT8_WINDOW;
  k->fill = int8_fill(quant[0]);
  return int8_requant(&k->weight.out, &s->constants[BIAS], &s->constants[MULTIPLIER], rows, 4 * strips, quant);
}

static const char *infer(const void *state, const sc_tensor *const *in, sc_tensor *const *out)
{
  const conv *k = state;
  return int8_infer_window(&k->window, in[0], k->groups, k->rows, out[0]);
}

/* ---- where the taps lie ---- */
static int is_plain(const int8_window *w)
{
  return w->kernel[0] == 1 && w->kernel[1] == 1 && w->stride[0] == 1 && w->stride[1] == 1 &&
         !w->pad[0] && !w->pad[1] && !w->pad[2] && !w->pad[3];
}

static int build_place(const conv *k, const sc_tensor *x, const sc_tensor *y, placed **out)
{
  placed p = {.height = x->dims[2], .width = x->dims[3]};
  if (is_plain(&k->window)) {
    p.group = p.planes.plane = p.height * p.width * 4;
    p.rows = y->dims[2];
  } else {
    int8_planes(&k->window, x, y, 1, k->fill, BAND_BYTES / k->groups, &p.planes, &p.rows);
    p.group = p.planes.phases * p.planes.variants * p.planes.plane;
  }
  if (p.group > 0x7fffffff || p.group * k->groups > 0x7fffffff) return SC_TOO_LARGE;
  i64 taps = k->weight.tap[k->weight.strips];
  *out = k->host.alloc(k->host.self, sizeof p + (u64)taps * 4);
  if (!*out) return SC_MEMORY;
  p.offsets = (i32 *)(*out + 1);
  **out = p;
  for (i64 i = 0; i < taps; i++) {
    i64 at = k->columns[i] / k->groups, group = k->columns[i] % k->groups;
    i64 tap = is_plain(&k->window) ? 0 : int8_tap(&k->window, &p.planes, 1, at / k->window.kernel[1], at % k->window.kernel[1]);
    p.offsets[i] = (i32)(group * p.group + tap);
  }
  return SC_OK;
}

/* The place of this image size: kept while there is room, otherwise the caller's to free (*own). */
static int place_of(conv *k, const sc_tensor *x, const sc_tensor *y, placed **out, int *own)
{
  *own = 0;
  for (int i = 0; i < PLACES; i++) {
    *out = __atomic_load_n(&k->places[i], __ATOMIC_ACQUIRE);
    if (*out && (*out)->height == x->dims[2] && (*out)->width == x->dims[3]) return SC_OK;
  }
  int status = build_place(k, x, y, out);
  if (status) return status;
  for (int i = 0; i < PLACES; i++) {
    placed *empty = 0;
    if (__atomic_compare_exchange_n(&k->places[i], &empty, *out, 0, __ATOMIC_ACQ_REL, __ATOMIC_RELAXED)) return SC_OK;
  }
  *own = 1;
  return SC_OK;
}

/* ---- running ---- */

/* Strips [first, end) over some pieces of the pixels, a few strips at a time so that their weights stay cached. */
static void compute(const job *j, i64 first, i64 end, i64 piece, i64 last_piece)
{
  const sc_int8_weight *w = &j->conv->weight;
  const sc_int8_cores *cores = j->conv->cores;
  sc_int8_tile whole = {j->x, j->place->offsets, j->y, j->pitch, 0};
  i64 single = j->vectors * VL < j->count ? j->vectors * VL : j->count;
  for (i64 stop; first < end; first = stop) {
    stop = first + 1;
    while (stop < end && 4 * (w->tap[stop + 1] - w->tap[first]) <= WEIGHT_DWORDS) stop++;
    for (i64 i = piece; i < last_piece; i++) {
      i64 from = j->vectors * i / j->pieces, to = j->vectors * (i + 1) / j->pieces;
      sc_int8_tile t = whole;
      t.last = (to - from - 1) * VB;
      if (to * VL > j->count) t.last = (j->count - VL - from * VL) * 4;
      i64 move = from * VB;
      if (t.last < 0) move += t.last, t.last = 0;
      t.x += move, t.y += move;
      if (to > from) cores->tile(w, first, stop, &t, (i32)(to - from));
    }
    for (i64 p = single; last_piece == j->pieces && p < j->count; p += SC_INT8_PIXELS) {
      sc_int8_tile t = whole;
      t.x += 4 * p, t.y += 4 * p;
      cores->pixels(w, first, stop, &t, (i32)clip(j->count - p, 1, SC_INT8_PIXELS));
    }
  }
}

static void task_compute(void *data, u64 i)
{
  const job *j = data;
  i64 strips = j->conv->weight.strips, chunk = (i64)i % j->chunks, part = (i64)i / j->chunks;
  compute(j, strips * chunk / j->chunks, strips * (chunk + 1) / j->chunks, j->pieces * part / j->parts,
          j->pieces * (part + 1) / j->parts);
}

/* A few pixels beyond the last whole vector go one by one, more make one more vector, which overlaps its neighbour. */
static int run_pixels(job *j, const sc_call *call)
{
  i64 whole = j->count / VL, over = j->count % VL;
  j->vectors = whole && over > SC_INT8_PIXELS ? whole + 1 : whole;
  j->pieces = clip(ceil_div(j->vectors, SC_INT8_NR), 1, j->count);
  j->parts = ceil_div(j->pieces, PIECES);
  j->chunks = clip(ceil_div(TASKS, j->parts), 1, j->conv->weight.strips);
  return int8_parallel(call, task_compute, j->parts * j->chunks, j);
}

static void task_pack(void *data, u64 i)
{
  const job *j = data;
  const placed *p = j->place;
  i64 from = j->conv->groups * (i64)i / TASKS, end = j->conv->groups * ((i64)i + 1) / TASKS;
  for (i64 g = from; g < end; g++)
    SC(sc_int8_pack)(&p->planes, j->packed + g * p->group, j->x + g * p->height * p->width * 4, j->top, j->band);
}

static int run_bands(const job *image, const sc_call *call, i64 out_height)
{
  const placed *p = image->place;
  int slot, status = SC_OK;
  float *packed = sc_scratch_get(call->host, image->conv->groups * p->group / 4 + VL, &slot);
  if (!packed) return SC_MEMORY;
  for (i64 top = 0; top < out_height && !status; top += p->rows) {
    job j = *image;
    j.packed = (x8 *)packed, j.top = top, j.band = clip(out_height - top, 1, p->rows);
    status = int8_parallel(call, task_pack, TASKS, &j);
    j.x = j.packed, j.y = image->y + top * p->planes.columns * 4, j.count = j.band * p->planes.columns;
    if (!status) status = run_pixels(&j, call);
  }
  sc_scratch_put(call->host, slot, packed);
  return status;
}

static int run(void *state, const sc_tensor *const *in, sc_tensor *const *out, const sc_call *call)
{
  conv *k = state;
  const sc_tensor *x = in[0], *y = out[0];
  placed *place;
  int own, status = place_of(k, x, y, &place, &own);
  if (status) return status;
  i64 pixels = y->dims[2] * y->dims[3], plane = x->dims[2] * x->dims[3] * 4;
  for (i64 n = 0; n < x->dims[0] && !status; n++) {
    job j = {.conv = k, .place = place, .x = (const x8 *)x->data + n * k->groups * plane,
             .y = (x8 *)y->data + n * k->weight.strips * pixels * 4, .count = pixels, .pitch = pixels * 4};
    status = is_plain(&k->window) ? run_pixels(&j, call) : run_bands(&j, call, y->dims[2]);
  }
  if (own) k->host.free(k->host.self, place);
  return status;
}

HIDDEN const sc_step_kind SC(sc_step_int8_conv) = {"int8_conv", create, destroy, infer, run};

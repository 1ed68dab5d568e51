/* The step kind conv16: a convolution of 16 output channels at a time, into layout C16. */
#include "conv16.h"

enum {
  ATTRIBUTES = 11,
  SMALL = 1 << 14,               /* multiply-adds of vectors that are not worth a second thread */
  BAND = 1 << 16,                /* floats of a copied band */
  BANDS = 4,                     /* fewer do not occupy the threads */
  WORTH_PANELS = 8,              /* blocks of outputs that make up for the packing */
  PITCH = 32,                    /* floats between rows of a panel */
  CHUNK = 1 << 24                /* floats of copies at once, but for one image */
};

typedef struct { sc_conv16 conv; int residual; } conv16;

typedef struct {
  const sc_conv16 *c;
  const sc_pad16 *window;
  const sc_host *host;
  const float *x, *residual;
  float *y, *copies;             /* copies of images, or null where X is read itself or copied by bands */
  i32 *offsets;
  sc_cut16 cut;
  i64 first, images;             /* of this round */
  i64 rows;                      /* of outputs in a copy or in X */
  i64 plane, image;              /* floats of a plane and of an image of what is read, ... */
  i64 x_plane, x_image, y_plane; /* ... of X and of Y */
  i64 parts, shares, bands;
  i64 panel;                     /* floats of a panel, or 0 */
  int failed;
} job;

/* Attributes: strides, pads, dilations, group, activation, whether the weight is dense. Constants: the packed weight, or W
   [O, I/group, kh, kw] and the bias. Inputs: X, and perhaps a residual. */
static const char *create(const sc_step_spec *spec, const sc_host *host, void **state)
{
  *state = 0;
  if (spec->attribute_count != ATTRIBUTES) return "it has eleven attributes";
  if (spec->inputs < 1 || spec->inputs > 2 || spec->outputs != 1) return "it has one or two inputs and one output";
  const i64 *a = spec->attributes;
  if (a[9] < 0 || a[9] >= SC_ACTIVATIONS) return "unknown activation";
  conv16 *c = sc_get(host, sizeof *c);
  if (!c) return "there is no memory for it";
  *c = (conv16){.conv.activation = (i32)a[9], .residual = spec->inputs == 2};
  *state = c;
  const char *wrong = SC(sc_weight16_create)(spec, 0, a[10] != 0, a[8], host, &c->conv.weight);
  return wrong ? wrong : SC(sc_window16)(a, c->conv.weight.kernel, &c->conv.window);
}

static void destroy(void *state, const sc_host *host)
{
  conv16 *c = state;
  SC(sc_weight16_free)(&c->conv.weight, host);
  sc_drop(host, c);
}

static const char *infer(const void *state, const sc_tensor *const *in, sc_tensor *const *out)
{
  const conv16 *c = state;
  sc_pad16 w = c->conv.window;
  const char *wrong = SC(sc_size16)(&w, in[0]);
  if (wrong) return wrong;
  if (in[0]->dims[1] != c->conv.weight.channels) return "its input has another number of channels than the weight";
  *out[0] = (sc_tensor){.type = SC_F32, .layout = SC_C16, .rank = 4,
                        .dims = {in[0]->dims[0], c->conv.weight.outputs, w.out[0], w.out[1]}};
  return c->residual && !sc_same_dims(in[1], out[0]) ? "the residual must have the shape and layout of the output" : 0;
}

/* ---- where inputs lie ---- */
/* Whether rows make no difference: the image is one long row. */
static int is_flat(const sc_pad16 *w) { return SC(sc_moves_freely16)(w) && w->kernel[0] == 1 && w->kernel[1] == 1; }

static i64 distance(const job *j, i64 i, i64 k)
{
  const sc_pad16 *w = j->window;
  if (SC(sc_moves_freely16)(w)) return (i * w->dilation[0] * w->size[1] + k * w->dilation[1]) * WIDE;
  return SC(sc_distance16)(w, j->rows, i, k);
}

/* C16: per slot; planes: per position, those of channels that do not exist are not used. */
static i64 offset_count(const job *j) { return j->c->weight.slots * WIDE / (j->panel ? 1 : j->window->lanes); }

static void fill_offsets(job *j)
{
  const i64 *kernel = j->c->weight.kernel, window = kernel[0] * kernel[1], per = WIDE / j->window->lanes;
  for (i64 slot = 0; slot < j->c->weight.slots; slot++) {
    i64 at = distance(j, slot % window / kernel[1], slot % kernel[1]);
    for (i64 lane = 0; lane < per; lane++) {
      i64 plane = slot / window * per + lane;
      j->offsets[slot * per + lane] = (i32)(plane < j->window->planes ? plane * j->plane + at : 0);
    }
  }
}

/* ---- tasks ---- */
static sc_grid16 grid_of(const job *j, const float *x, i64 image, i64 top)
{
  i64 row = j->window->out[1] * WIDE, at = image * j->c->weight.blocks * j->y_plane + top * row;
  return (sc_grid16){.x = x, .row = SC(sc_moves_freely16)(j->window) ? row + (j->window->size[1] - j->window->out[1]) * WIDE : j->window->step,
                     .offsets = j->offsets, .planes = j->panel || j->window->lanes == 1, .panel = j->panel, .y = j->y + at,
                     .residual = j->residual ? j->residual + at : 0, .pitch = row, .apart = j->y_plane, .activation = j->c->activation};
}

/* Some tiles of one image for a share of the outputs. */
static void task_tiles(void *data, u64 i)
{
  const job *j = data;
  i64 share = (i64)i % j->shares, part = (i64)i / j->shares % j->parts, slot = (i64)i / j->shares / j->parts;
  i64 tiles = j->cut.down * j->cut.across, image = j->first + slot;
  const float *x = j->copies ? j->copies + slot * j->image : j->x + image * j->x_image;
  sc_grid16 grid = grid_of(j, x, image, 0);
  const sc_weight16 *w = &j->c->weight;
  SC(sc_grid16)(w, &grid, &j->cut, tiles * part / j->parts, tiles * (part + 1) / j->parts, sc_share16(w, share, j->shares),
                sc_share16(w, share + 1, j->shares));
}

/* Some planes of the images of this round. */
static void task_copy(void *data, u64 i)
{
  const job *j = data;
  i64 planes = j->window->planes, all = planes * j->images, tasks = j->parts;
  for (i64 p = all * (i64)i / tasks; p < all * ((i64)i + 1) / tasks; p++) {
    i64 slot = p / planes, plane = p % planes;
    SC(sc_copy16)(j->window, j->x + (j->first + slot) * j->x_image + plane * j->x_plane,
                  j->copies + slot * j->image + plane * j->plane, 0, j->rows);
  }
}

/* Some 16 channels of some tiles, turned into panels: one row of pixels per channel. */
static void task_panels(void *data, u64 i)
{
  const job *j = data;
  i64 tiles = j->cut.across, planes = j->window->planes, all = j->images * tiles * planes;
  for (i64 p = all * (i64)i / j->parts; p < all * ((i64)i + 1) / j->parts; p++) {
    i64 tile = p / planes % tiles, plane = p % planes, slot = p / planes / tiles, left = SC(sc_place16)(&j->cut, tile).left;
    const float *x = j->x + (j->first + slot) * j->x_image + plane * j->x_plane + left * WIDE;
    float *to = j->copies + slot * j->image + tile * j->panel + plane * WIDE * PITCH;
    for (i64 q = 0; q < j->cut.columns; q += VL) {
      i64 from = clip(q, 0, j->cut.columns - VL);
      for (i64 n = 0; n < WIDE; n += VL) {
        vf v[VL];
        UNROLL for (int r = 0; r < VL; r++) v[r] = load(x + (from + r) * WIDE + n);
        transpose(v);
        UNROLL for (int r = 0; r < VL; r++) store(to + (n + r) * PITCH + from, v[r]);
      }
    }
  }
}

/* A band of rows, copied and used at once; the last one may overlap. */
static void task_band(void *data, u64 i)
{
  job *j = data;
  const sc_pad16 *w = j->window;
  i64 image = (i64)i / j->bands, top = clip((i64)i % j->bands * j->rows, 0, w->out[0] - j->rows);
  int slot;
  float *band = sc_scratch_get(j->host, j->image, &slot);
  if (!band) {
    __atomic_store_n(&j->failed, 1, __ATOMIC_RELAXED);
    return;
  }
  for (i64 p = 0; p < w->planes; p++)
    SC(sc_copy16)(w, j->x + image * j->x_image + p * j->x_plane, band + p * j->plane, top, j->rows);
  sc_grid16 grid = grid_of(j, band, image, top);
  SC(sc_grid16)(&j->c->weight, &grid, &j->cut, 0, j->cut.down * j->cut.across, 0, j->c->weight.blocks);
  sc_scratch_put(j->host, slot, band);
}

/* ---- ways to run ---- */
static int run_tasks(const sc_call *call, void (*task)(void *, u64), i64 count, job *j)
{
  if (count > 1) return sc_run_tasks(call, task, count, j);
  task(j, 0);
  return SC_OK;
}

static int run_tiles(job *j, const sc_call *call)
{
  i64 tiles = j->cut.down * j->cut.across, pixels = j->cut.rows * j->cut.columns;
  i64 work = (j->c->weight.taps + j->c->weight.blocks) * pixels * WIDE_VECTORS * tiles * j->images;
  i64 tasks = clip(work / SMALL, 1, STEP_TASKS);
  j->parts = clip(tasks / j->images, 1, tiles);
  j->shares = clip(tasks / (j->images * j->parts), 1, j->c->weight.blocks);
  return run_tasks(call, task_tiles, j->images * j->parts * j->shares, j);
}

static int run_direct(job *j, i64 batch, const sc_call *call)
{
  const sc_pad16 *w = j->window;
  j->plane = j->x_plane, j->images = batch;
  if (!is_flat(w)) j->cut = SC(sc_cut16)(w->out[0], w->out[1], MOST16, 1, 0);
  fill_offsets(j);
  return run_tiles(j, call);
}

static int run_panels(job *j, i64 batch, const sc_call *call)
{
  i64 most = clip(CHUNK / j->image, 1, batch);
  int slot, status = SC_OK;
  j->copies = sc_scratch_get(call->host, most * j->image, &slot);
  if (!j->copies) return SC_MEMORY;
  for (i64 k = 0; k < offset_count(j); k++) j->offsets[k] = (i32)(k * PITCH);
  for (j->first = 0; j->first < batch && !status; j->first += most) {
    j->images = batch - j->first < most ? batch - j->first : most;
    j->parts = clip(j->images * j->image / SMALL, 1, STEP_TASKS);
    status = run_tasks(call, task_panels, j->parts, j);
    if (!status) status = run_tiles(j, call);
  }
  sc_scratch_put(call->host, slot, j->copies);
  return status;
}

static int run_bands(job *j, i64 batch, const sc_call *call)
{
  j->cut = SC(sc_cut16)(j->rows, j->window->out[1], MOST16, 0, j->window->lanes == 1);
  fill_offsets(j);
  int status = run_tasks(call, task_band, batch * j->bands, j);
  return status ? status : j->failed ? SC_MEMORY : SC_OK;
}

static int run_copied(job *j, i64 batch, const sc_call *call)
{
  const sc_pad16 *w = j->window;
  i64 most = clip(CHUNK / j->image, 1, batch);
  int slot, status = SC_OK;
  j->copies = sc_scratch_get(call->host, most * j->image, &slot);
  if (!j->copies) return SC_MEMORY;
  j->cut = SC(sc_cut16)(w->out[0], w->out[1], MOST16, 0, w->lanes == 1);
  fill_offsets(j);
  for (j->first = 0; j->first < batch && !status; j->first += most) {
    j->images = batch - j->first < most ? batch - j->first : most;
    j->parts = clip(w->planes * j->images, 1, clip(j->images * j->image / SMALL, 1, STEP_TASKS));
    status = run_tasks(call, task_copy, j->parts, j);
    if (!status) status = run_tiles(j, call);
  }
  sc_scratch_put(call->host, slot, j->copies);
  return status;
}

/* Rows of outputs of which a copy stays in the second-level cache, a multiple of the rows of a tile. */
static i64 band_rows(const sc_pad16 *w)
{
  i64 rows = SC(sc_cut16)(w->out[0], w->out[1], MOST16, 0, w->lanes == 1).rows, each = w->phases[0] * w->step * w->planes;
  i64 most = clip(BAND / each - w->beyond[0], 1, w->out[0]);
  i64 bands = ceil_div(w->out[0], most);
  return clip(ceil_div(ceil_div(w->out[0], bands), rows) * rows, 1, w->out[0]);
}

/* Of a thin weight whose tiles do not fit the first-level cache: panels, of which a tap reads two cache lines. */
static void cut_flat(job *j)
{
  const sc_weight16 *c = &j->c->weight;
  const i64 depth = c->slots * WIDE;
  j->cut = SC(sc_cut_flat16)(c, j->window->out[0] * j->window->out[1]);
  if (!sc_is_thin16(c) || depth <= WIDEST_NEAR || j->cut.columns < VL || c->blocks < WORTH_PANELS) return;
  j->panel = depth * PITCH, j->image = j->panel * j->cut.across;
}

int SC(sc_conv16_run)(const sc_conv16 *c, const sc_tensor *x, const float *residual, float *y, const sc_call *call)
{
  sc_pad16 w = c->window;
  if (SC(sc_size16)(&w, x)) return SC_TOO_LARGE;
  i64 batch = x->dims[0];
  if (batch < 1) return SC_OK;
  job j = {.c = c, .window = &w, .host = call->host, .x = x->data, .residual = residual, .y = y,
           .x_plane = w.size[0] * w.size[1] * w.lanes, .y_plane = w.out[0] * w.out[1] * WIDE};
  j.x_image = j.x_plane * w.planes;
  j.rows = band_rows(&w), j.bands = ceil_div(w.out[0], j.rows);
  int direct = SC(sc_moves_freely16)(&w), banded = !direct && batch * j.bands >= BANDS && j.bands > 1, slot;
  if (!banded) j.rows = w.out[0];
  j.plane = SC(sc_plane16)(&w, j.rows), j.image = j.plane * w.planes + MOST16 * WIDE;
  if (is_flat(&w)) cut_flat(&j);
  j.offsets = (i32 *)sc_scratch_get(call->host, offset_count(&j), &slot);
  if (!j.offsets) return SC_MEMORY;
  int status = j.panel ? run_panels(&j, batch, call) : direct ? run_direct(&j, batch, call)
             : banded ? run_bands(&j, batch, call) : run_copied(&j, batch, call);
  sc_scratch_put(call->host, slot, (float *)j.offsets);
  return status;
}

static int run(void *state, const sc_tensor *const *in, sc_tensor *const *out, const sc_call *call)
{
  const conv16 *c = state;
  return SC(sc_conv16_run)(&c->conv, in[0], c->residual ? in[1]->data : 0, out[0]->data, call);
}

extern const sc_step_kind SC(sc_step_conv16);
HIDDEN const sc_step_kind SC(sc_step_conv16) = {"conv16", create, destroy, infer, run};

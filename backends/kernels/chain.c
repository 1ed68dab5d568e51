/* The step kind chain. */
#include "chain.h"
#include "pack.h"
#include "tile.h"

enum {
  STAGE = 11,                    /* numbers of a stage: strides, pads, dilations, group, activation, residual */
  PACKED = 5,                    /* constants of a stage */
  SMALL = 1 << 13                /* multiply-adds of vectors that are not worth a second thread */
};

/* ---- making one ---- */
static const char *create_stage(const sc_step_spec *spec, sc_chain *c, i64 i)
{
  const i64 *a = spec->attributes + i * STAGE;
  sc_stage *stage = &c->stages[i];
  sc_spec s = {.stride = {a[0], a[1]}, .pad = {a[2], a[3], a[4], a[5]}, .dilation = {a[6], a[7]}, .group = a[8]};
  if (a[9] < 0 || a[9] >= SC_ACTIVATIONS) return "unknown activation";
  i64 beside = a[10] - SC_CHAIN_BESIDE;
  if (a[10] < -1 || (a[10] > i && (beside < 0 || beside >= spec->inputs - 1))) return "a residual is not a value before it";
  s.activation = (i32)a[9];
  const char *wrong = sc_read_packed(spec, i * PACKED, 1, &s);
  if (wrong) return wrong;
  int multiplied = !i && spec->attributes[c->count * STAGE] >= 0;
  s.no_code = multiplied || !sc_is_plain_window(&s); /* code reads its inputs side by side, and weights in an order of its own */
  if (SC(sc_create)(&s, &c->host, &stage->kernel)) return "there is not enough memory to prepare the weights";
  stage->residual = a[10], stage->depthwise = SC(sc_is_depthwise)(stage->kernel) && !SC(sc_is_pointwise)(stage->kernel);
  const sc_spec *before = i ? &stage[-1].kernel->spec : 0;
  return before && before->rows != s.channels * s.group ? "a layer has another number of inputs than the one before has outputs" : 0;
}

/* The last attribute: the input beside the first that has a factor for each channel the chain reads, or -1. */
static const char *create_gate(const sc_step_spec *spec, sc_chain *c)
{
  i64 input = spec->attributes[c->count * STAGE];
  c->gate.input = input < 0 ? -1 : input - SC_CHAIN_BESIDE;
  if (input == -1) return 0;
  if (c->gate.input < 0 || c->gate.input >= spec->inputs - 1) return "its factors are not one of its inputs";
  for (i64 i = 0; i < c->count; i++) if (!c->stages[i].residual) return "a residual is its input before the factors";
  return SC(sc_gate_make)(&c->host, c->stages[0].kernel, &c->gate);
}

static const char *create(const sc_step_spec *spec, const sc_host *host, void **state)
{
  *state = 0;
  i64 count = spec->attribute_count / STAGE;
  if (count < 1 || count > SC_CHAIN_STAGES || spec->attribute_count % STAGE != 1 || spec->constant_count != count * PACKED ||
      spec->inputs < 1 || spec->inputs > 1 + SC_CHAIN_INPUTS || spec->outputs != 1)
    return "a malformed step";
  sc_chain *c = *state = sc_get(host, sizeof *c);
  if (!c) return "there is no memory for it";
  *c = (sc_chain){.host = *host, .count = count, .gate = {.input = -1}};
  const char *wrong = 0;
  for (i64 i = 0; i < count && !wrong; i++) wrong = create_stage(spec, c, i);
  if (!wrong) wrong = create_gate(spec, c);
  i64 beside = c->gate.input + 1;
  for (i64 i = 0; i < count && !wrong; i++) {
    i64 r = c->stages[i].residual - SC_CHAIN_BESIDE + 1;
    if (r > beside) beside = r;
  }
  return !wrong && beside != spec->inputs - 1 ? "a malformed step" : wrong;
}

static void destroy(void *state, const sc_host *host)
{
  sc_chain *c = state;
  for (i64 i = 0; i < CHAIN_PLANS; i++) SC(sc_chain_plan_free)(c, c->plans[i]);
  for (i64 i = 0; i < c->count; i++) if (c->stages[i].kernel) SC(sc_destroy)(c->stages[i].kernel);
  sc_drop(host, c->gate.channels);
  sc_drop(host, c);
}

static const char *infer(const void *state, const sc_tensor *const *in, sc_tensor *const *out)
{
  const sc_chain *c = state;
  sc_value values[SC_CHAIN_STAGES + 1];
  const sc_spec *first = &c->stages[0].kernel->spec;
  if (!sc_is_plain(in[0]) || in[0]->rank != 4) return "its input is not a float32 image [N, C, H, W]";
  if (in[0]->dims[1] != first->channels * first->group) return "its input has another number of channels than its weight";
  if (in[0]->dims[2] < 1 || in[0]->dims[3] < 1) return "its input is empty";
  const char *wrong = SC(sc_chain_sizes)(c, in[0]->dims[2], in[0]->dims[3], values);
  if (wrong) return wrong;
  const sc_value *last = &values[c->count];
  if (c->gate.input >= 0 && !sc_is_factors(in[1 + c->gate.input], in[0])) wrong = "there is not one factor for each channel";
  for (i64 i = 0; i < c->count && !wrong; i++) {
    const sc_tensor *r = c->stages[i].residual < SC_CHAIN_BESIDE ? 0 : in[1 + c->stages[i].residual - SC_CHAIN_BESIDE];
    const sc_value *v = &values[i + 1];
    if (r && (!sc_is_plain(r) || r->rank != 4 || r->dims[0] != in[0]->dims[0] || r->dims[1] != v->channels ||
              r->dims[2] != v->height || r->dims[3] != v->width))
      wrong = "a residual has another shape than what it is added to";
  }
  *out[0] = (sc_tensor){.type = SC_F32, .layout = SC_PLAIN, .rank = 4,
                        .dims = {in[0]->dims[0], last->channels, last->height, last->width}};
  return wrong;
}

/* ---- one image ---- */
typedef struct {
  sc_chain *c;
  const sc_chain_plan *p;
  const sc_host *host;
  const sc_segment *segment;
  const sc_kernel *first;        /* of the first stage, its weights multiplied */
  const char *frame;             /* of the caller */
  i64 stage, parts, tasks;       /* of a layer that is shared: parts of its rows, and shares of units in each */
  const i64 *origin;             /* rows that windows begin at */
  const float *x, *beside[SC_CHAIN_INPUTS];
  float *y, *whole, *task;       /* memory of the image, and of the task: windows, copies, results */
  int company, failed;           /* company: rows are made in parts, for several threads */
} image;

static sc_lines lines_of(const image *m, i64 v)
{
  const sc_value *value = &m->p->values[v];
  int window = m->segment->streamed && v > m->segment->first && v < m->segment->end;
  float *at = v == m->c->count ? m->y : !v && !m->p->copies ? (float *)m->x : (window ? m->task : m->whole) + value->offset;
  i64 origin = window && value->held < value->height ? m->origin[v] : 0;
  return (sc_lines){at, m->whole + m->p->zeros, value->pitch, value->height, value->width, value->held, origin};
}

/* What is added to the output of a stage: nothing, a value of the chain, or an input beside the first. */
static sc_lines residual_of(const image *m, i64 stage)
{
  i64 r = m->c->stages[stage].residual;
  const sc_value *v = &m->p->values[stage + 1];
  if (r < 0) return (sc_lines){0};
  if (r < SC_CHAIN_BESIDE) return lines_of(m, r);
  return (sc_lines){(float *)m->beside[r - SC_CHAIN_BESIDE], 0, v->height * v->width, v->height, v->width, v->height, 0};
}

/* Rows of a stage's output, units [from, end): channels, or strips of a convolution. `copies`: what its window reads, and
   `together` room for its results. */
static void run_rows(const image *m, i64 stage, i64 top, i64 rows, i64 from, i64 end, const float *copies, float *together)
{
  const sc_kernel *k = stage ? m->c->stages[stage].kernel : m->first;
  const sc_grid *g = &m->p->grids[stage];
  sc_lines x = lines_of(m, stage), y = lines_of(m, stage + 1), residual = residual_of(m, stage);
  const sc_lines *add = residual.data ? &residual : 0;
  if (g->in_place) SC(sc_same_depthwise)(k, &x, add, &y, top, rows, from, end);
  else if (g->pitch) SC(sc_grid_rows)(k, g, copies, &y, add, top, rows, from, end, together);
  else {
    sc_stretch p = {.x = sc_line(&x, 0, top), .offsets = g->offsets, .y = sc_line(&y, 0, top), .pitch = y.pitch,
                   .residual = add ? sc_line(add, 0, top) : 0, .residual_pitch = residual.pitch, .count = rows * y.width,
                   .activation = k->spec.activation};
    SC(sc_conv_pixels)(k, &p, from, end);
  }
}

/* The same for a layer with generated code, all of its strips; parallel: or null, in a task. */
static int run_code(const image *m, i64 stage, i64 top, i64 rows, const sc_parallel *parallel, void **host_error)
{
  sc_lines x = lines_of(m, stage), y = lines_of(m, stage + 1), residual = residual_of(m, stage);
  return SC(sc_code_rows)(m->c->stages[stage].kernel, &m->p->grids[stage], &x, &y, residual.data ? &residual : 0, top, rows,
                          parallel, host_error);
}

static i64 units_of(const image *m, i64 stage)
{
  const sc_kernel *k = m->c->stages[stage].kernel;
  return m->p->grids[stage].in_place ? k->spec.rows : k->strip_count;
}

static void pack_rows(const image *m, i64 stage, i64 top, i64 rows, float *to, i64 from, i64 end)
{
  sc_lines x = lines_of(m, stage);
  SC(sc_grid_pack)(m->c->stages[stage].kernel, &m->p->grids[stage], &x, top, rows, to, from, end);
}

static void stream_rows(sc_stream *s, i64 stage, i64 top, i64 rows)
{
  image *m = s->data;
  float *copies = m->task + m->segment->floats;
  if (m->p->grids[stage].pitch) pack_rows(m, stage, top, rows, copies, 0, m->p->values[stage].channels);
  if (!sc_code_of(m->c->stages[stage].kernel))
    run_rows(m, stage, top, rows, 0, units_of(m, stage), copies, copies + m->segment->copies);
  else if (run_code(m, stage, top, rows, 0, 0)) m->failed = 1;
}

/* Notes whether this is another thread than the caller's. */
static void note_thread(const image *m)
{
  if (sc_same_thread(__builtin_frame_address(0), m->frame) || __atomic_load_n(&m->c->company, __ATOMIC_RELAXED)) return;
  __atomic_store_n(&m->c->company, 1, __ATOMIC_RELAXED);
}

static void task_part(void *data, u64 i)
{
  note_thread(data);
  image own = *(const image *)data;
  const sc_segment *g = own.segment;
  int slot;
  own.task = sc_scratch_get(own.host, g->floats + g->together + LINE, &slot);
  if (!own.task) {
    __atomic_store_n(&((image *)data)->failed, 1, __ATOMIC_RELAXED);
    return;
  }
  sc_stream s = {.chain = own.c, .values = own.p->values, .first = g->first, .end = g->end, .run = stream_rows, .data = &own};
  own.origin = s.start;
  SC(sc_stream_part)(&s, (i64)i, own.parts);
  if (own.failed) __atomic_store_n(&((image *)data)->failed, 1, __ATOMIC_RELAXED);
  sc_scratch_put(own.host, slot, own.task);
}

static void task_pack(void *data, u64 i)
{
  const image *m = data;
  i64 channels = m->p->values[m->stage].channels;
  pack_rows(m, m->stage, 0, m->p->values[m->stage + 1].height, m->task, channels * (i64)i / m->tasks, channels * ((i64)i + 1) / m->tasks);
}

/* A share of the units of a part of the rows. A part packs what it reads itself; one that is everything was packed before. */
static void task_stage(void *data, u64 i)
{
  image *m = data;
  const sc_stage *s = &m->c->stages[m->stage];
  const sc_grid *g = &m->p->grids[m->stage];
  i64 part = (i64)i / m->tasks, share = (i64)i % m->tasks, units = units_of(m, m->stage);
  const sc_value *out = &m->p->values[m->stage + 1];
  i64 top = sc_part_row(out, part, m->parts), rows = sc_part_row(out, part + 1, m->parts) - top;
  i64 from = units * share / m->tasks, end = units * (share + 1) / m->tasks, own = m->parts > 1 && g->pitch ? g->floats : 0;
  if (!g->in_place) from = sc_share(s->kernel, share, m->tasks), end = sc_share(s->kernel, share + 1, m->tasks);
  note_thread(m);
  int slot;
  float *memory = sc_scratch_get(m->host, own + m->segment->together - m->segment->copies + LINE, &slot);
  if (!memory) {
    __atomic_store_n(&m->failed, 1, __ATOMIC_RELAXED);
    return;
  }
  if (own) pack_rows(m, m->stage, top, rows, memory, 0, m->p->values[m->stage].channels);
  run_rows(m, m->stage, top, rows, from, end, own ? memory : m->task, memory + own);
  sc_scratch_put(m->host, slot, memory);
}

static int run_tasks(image *m, void (*task)(void *, u64), i64 count, const sc_parallel *parallel, void **host_error)
{
  *host_error = 0;
  if (count > 1) *host_error = parallel->run(parallel->self, task, (u64)count, m);
  else task(m, 0);
  return *host_error ? SC_HOST_ERROR : m->failed ? SC_MEMORY : SC_OK;
}

static int run_stage(image *m, const sc_parallel *parallel, void **host_error)
{
  const sc_stage *s = &m->c->stages[m->stage];
  const sc_grid *g = &m->p->grids[m->stage];
  const sc_value *out = &m->p->values[m->stage + 1];
  if (sc_code_of(s->kernel)) return run_code(m, m->stage, 0, out->height, parallel, host_error);
  i64 weights = s->kernel->strip_count ? s->kernel->tap_count * s->kernel->strips[0].mr : 0;
  int slot, status = SC_OK, packs = g->pitch > 0;
  i64 work = (weights + out->channels) * ceil_div(out->height * out->width, VL);
  m->tasks = clip(work / SMALL, 1, clip(units_of(m, m->stage), 1, STEP_TASKS));
  m->parts = m->tasks > 1 ? sc_parts_of(out, m->company) : 1;
  if (m->parts > 1) {
    m->tasks = packs ? 1 : CHAIN_PARTS;
    return run_tasks(m, task_stage, m->parts * m->tasks, parallel, host_error);
  }
  if (packs) {
    m->task = sc_scratch_get(m->host, g->floats, &slot);
    if (!m->task) return SC_MEMORY;
    status = run_tasks(m, task_pack, m->tasks, parallel, host_error);
  }
  if (!status) status = run_tasks(m, task_stage, m->tasks, parallel, host_error);
  if (packs) sc_scratch_put(m->host, slot, m->task);
  return status;
}

static int run_segments(image *m, const sc_parallel *parallel, void **host_error)
{
  const sc_chain_plan *p = m->p;
  int slot, status = SC_OK;
  m->whole = sc_scratch_get(m->host, p->floats, &slot);
  if (!m->whole) return SC_MEMORY;
  i64 widest = p->floats - p->zeros + SC_LINES_BEFORE;
  clear_floats(m->whole + p->zeros - SC_LINES_BEFORE, widest);
  const sc_value *first = &p->values[0];
  for (i64 ch = 0; p->copies && ch < first->channels; ch++)
    copy_floats(m->whole + first->offset + ch * first->pitch, m->x + ch * first->height * first->width, first->height * first->width);
  for (i64 n = 0; n < p->count && !status; n++) {
    m->segment = &p->segments[n];
    m->parts = m->segment->streamed ? sc_parts_of(&p->values[m->segment->end], m->company) : 1;
    if (m->segment->streamed) status = run_tasks(m, task_part, m->parts, parallel, host_error);
    else for (m->stage = m->segment->first; m->stage < m->segment->end && !status; m->stage++) status = run_stage(m, parallel, host_error);
  }
  sc_scratch_put(m->host, slot, m->whole);
  return status;
}

static int run_image(image *m, const sc_parallel *parallel, void **host_error)
{
  const sc_gate *g = &m->c->gate;
  const sc_kernel *plain = m->c->stages[0].kernel;
  m->first = plain;
  if (g->input < 0) return run_segments(m, parallel, host_error);
  int slot;
  sc_kernel scaled = *plain;
  scaled.weights = scaled.packed = sc_scratch_get(m->host, g->floats + LINE, &slot);
  if (!scaled.packed) return SC_MEMORY;
  SC(sc_gate_scale)(g, plain, m->beside[g->input], scaled.packed);
  m->first = &scaled;
  int status = run_segments(m, parallel, host_error);
  sc_scratch_put(m->host, slot, scaled.packed);
  return status;
}

/* ---- a batch: images beside each other where there are several ---- */
typedef struct {
  sc_chain *c;
  const sc_chain_plan *p;
  const sc_call *call;
  const sc_tensor *const *in;
  float *y;
  int company, failed;
} batch;

static void *serial(void *self, void (*task)(void *, u64), u64 count, void *data)
{
  (void)self;
  for (u64 i = 0; i < count; i++) task(data, i);
  return 0;
}

static int run_one(const batch *b, i64 i, const sc_parallel *parallel, void **host_error)
{
  const sc_value *first = &b->p->values[0], *last = &b->p->values[b->c->count];
  image m = {.c = b->c, .p = b->p, .host = b->call->host, .company = b->company,
             .frame = __builtin_frame_address(0),
             .x = (const float *)b->in[0]->data + i * first->channels * first->height * first->width,
             .y = b->y + i * last->channels * last->height * last->width};
  for (i64 n = 0; b->in[1 + n]; n++) {
    const sc_tensor *r = b->in[1 + n];
    m.beside[n] = (const float *)r->data + i * sc_product(r->dims, 1, 4);
  }
  return run_image(&m, parallel, host_error);
}

static void task_image(void *data, u64 i)
{
  batch *b = data;
  const sc_parallel alone = {serial, 0};
  void *host_error;
  if (run_one(b, (i64)i, &alone, &host_error)) __atomic_store_n(&b->failed, 1, __ATOMIC_RELAXED);
}

/* Whether rows are made in parts: for a second thread, and in the first runs, which show whether there is one. */
static int has_company(sc_chain *c)
{
  if (__atomic_load_n(&c->company, __ATOMIC_RELAXED)) return 1;
  if (__atomic_load_n(&c->runs, __ATOMIC_RELAXED) >= CHAIN_TRIALS) return 0;
  __atomic_add_fetch(&c->runs, 1, __ATOMIC_RELAXED);
  return 1;
}

static int run(void *state, const sc_tensor *const *in, sc_tensor *const *out, const sc_call *call)
{
  sc_chain *c = state;
  sc_chain_plan *p;
  int status = SC(sc_chain_plan_of)(c, in[0]->dims[2], in[0]->dims[3], &p);
  if (status) return status;
  batch b = {.c = c, .p = p, .call = call, .in = in, .y = out[0]->data};
  i64 images = in[0]->dims[0];
  b.company = images == 1 && has_company(c);
  if (images == 1) status = run_one(&b, 0, call->parallel, call->host_error);
  else if (images > 1) status = sc_run_tasks(call, task_image, images, &b);
  SC(sc_chain_plan_done)(c, p);
  return status ? status : b.failed ? SC_MEMORY : SC_OK;
}

extern const sc_step_kind SC(sc_step_chain);
HIDDEN const sc_step_kind SC(sc_step_chain) = {"chain", create, destroy, infer, run};

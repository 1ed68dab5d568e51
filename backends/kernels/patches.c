/* Tokens of an image whose pixels are patches: [N, C, H, W] to [N, tokens, C], constant tokens first, constant terms added. The
   pixels of a channel follow each other, as tokens in the lanes do. */
#include "t64.h"

enum { IN_LANES, BEFORE, AFTER, FIRST, PATCH_ATTRIBUTES };

typedef struct {
  i64 first;                     /* constant tokens */
  i64 rows, width;               /* of the table; width 0: there is none */
  i64 tokens;                    /* that the terms are for; 0: any number */
  int lanes;
  float *table;                  /* [width][rows]: constant tokens, and what is added to the others */
} patches;

typedef struct {
  const patches *p;
  const float *x;
  float *y;
  i64 batch, tokens, width;
} job;

/* Adds rows of a constant to the table, from token `row` on. */
static void add_rows(patches *p, const sc_constant *c, i64 row)
{
  const float *from = c->data;
  for (i64 t = 0; t < c->count / p->width; t++)
    for (i64 f = 0; f < p->width; f++) p->table[f * p->rows + row + t] += from[t * p->width + f];
}

/* Attributes: whether tokens go to the lanes, whether there are terms of the image's tokens and of all tokens, how many constants
   are tokens. Constants: these, then the terms. */
static const char *create(const sc_step_spec *spec, const sc_host *host, void **state)
{
  *state = 0;
  const i64 *a = spec->attributes, most = 1 << 20;
  if (spec->attribute_count != PATCH_ATTRIBUTES || spec->inputs != 1 || spec->outputs != 1) return "a malformed step";
  for (int i = 0; i < FIRST; i++) if (a[i] != 0 && a[i] != 1) return "a malformed step";
  if (a[FIRST] < 0 || a[FIRST] > most || a[FIRST] + a[BEFORE] + a[AFTER] != spec->constant_count) return "a malformed step";
  i64 width = 0, first = 0;
  for (i64 i = 0; i < spec->constant_count; i++) {
    const sc_constant *c = spec->constants + i;
    if (c->type != SC_F32 || c->rank < 2 || c->count < 1) return "its constants must be float32 [tokens, features]";
    if (i == 0) width = c->dims[c->rank - 1];
    if (c->dims[c->rank - 1] != width || c->count / width > most || width > most) return "its constants have different sizes";
    if (i < a[FIRST]) first += c->count / width;
  }
  const sc_constant *before = spec->constants + a[FIRST], *after = before + a[BEFORE];
  i64 rows = first;
  if (a[BEFORE]) rows = first + before->count / width;
  if (a[AFTER] && a[BEFORE] && after->count / width != rows) return "its terms are for different numbers of tokens";
  if (a[AFTER]) rows = after->count / width;
  if (rows < first || first > most) return "its terms are for fewer tokens than there are";
  patches *p = sc_get(host, sizeof *p);
  if (!p) return "there is no memory for it";
  *p = (patches){.first = first, .rows = rows, .width = width, .tokens = a[BEFORE] || a[AFTER] ? rows : 0, .lanes = (int)a[IN_LANES]};
  *state = p;
  p->table = sc_get(host, rows * width * 4);
  if (!p->table) return "there is no memory for it";
  for (i64 i = 0; i < rows * width; i++) p->table[i] = 0.f;
  i64 row = 0;
  for (i64 i = 0; i < a[FIRST]; i++) {
    add_rows(p, spec->constants + i, row);
    row += spec->constants[i].count / width;
  }
  if (a[BEFORE]) add_rows(p, before, first);
  if (a[AFTER]) add_rows(p, after, 0);
  return 0;
}

static void destroy(void *state, const sc_host *host)
{
  sc_drop(host, ((patches *)state)->table);
  sc_drop(host, state);
}

static const char *infer(const void *state, const sc_tensor *const *in, sc_tensor *const *out)
{
  const patches *p = state;
  const i64 *dims = in[0]->dims;
  if (!sc_is_plain(in[0]) || in[0]->rank != 4) return "its input is not a float32 image [N, C, H, W]";
  if (p->width && dims[1] != p->width) return "the image has other channels than its constants";
  if (dims[2] < 1 || dims[3] < 1 || dims[2] > MAX_FLOATS / dims[3]) return "the image has no size";
  const i64 tokens = p->first + dims[2] * dims[3];
  if (p->tokens && tokens != p->tokens) return "the image has another number of patches than there are positions";
  if (p->lanes && dims[1] < T64_LEAST_FEATURES) return "with tokens in the lanes, there must be 16 features";
  *out[0] = (sc_tensor){.type = SC_F32, .layout = p->lanes ? SC_T64 : SC_PLAIN, .rank = 3, .dims = {dims[0], tokens, dims[1]}};
  return 0;
}

/* Tokens [from, from + count) of image n: token from at y, `step` floats to the next one and `apart` to the next feature. */
static void write_tokens(const job *j, i64 n, i64 from, i64 count, float *y, i64 step, i64 apart)
{
  const patches *p = j->p;
  const i64 pixels = j->tokens - p->first, constant = clip(p->first - from, 0, count), added = clip(p->rows - from, constant, count);
  for (i64 f = 0; f < j->width; f++, y += apart) {
    const float *x = j->x + (n * j->width + f) * pixels + from - p->first, *table = p->table + f * p->rows + from;
    for (i64 i = 0; i < constant; i++) y[i * step] = table[i];
    for (i64 i = constant; i < added; i++) y[i * step] = x[i] + table[i];
    for (i64 i = added; i < count; i++) y[i * step] = x[i];
  }
}

static void task_lanes(void *data, u64 i)
{
  const job *j = data;
  const i64 start = (i64)i * T64, all = j->batch * j->tokens, end = start + T64 < all ? start + T64 : all;
  for (i64 token = start; token < end;) {
    const i64 n = token / j->tokens, from = token % j->tokens, left = j->tokens - from;
    const i64 count = left < end - token ? left : end - token;
    write_tokens(j, n, from, count, j->y + start * j->width + (token - start), 1, T64);
    token += count;
  }
}

static void task_rows(void *data, u64 i)
{
  const job *j = data;
  write_tokens(j, (i64)i, 0, j->tokens, j->y + (i64)i * j->tokens * j->width, j->width, 1);
}

static int run(void *state, const sc_tensor *const *in, sc_tensor *const *out, const sc_call *call)
{
  const patches *p = state;
  const i64 *dims = out[0]->dims;
  job j = {.p = p, .x = in[0]->data, .y = out[0]->data, .batch = dims[0], .tokens = dims[1], .width = dims[2]};
  if (j.batch * j.width < 1) return SC_OK;
  return p->lanes ? sc_run_tasks(call, task_lanes, ceil_div(j.batch * j.tokens, T64), &j) : sc_run_tasks(call, task_rows, j.batch, &j);
}

extern const sc_step_kind SC(sc_step_patches);
HIDDEN const sc_step_kind SC(sc_step_patches) = {"patches", create, destroy, infer, run};

/* Plans of chains: what is streamed, through which windows, and where values lie. */
#include "arena.h"
#include "chain.h"

enum {
  PIXELS = 448,                  /* about so many are made at once */
  LARGE = 256 * 1024,            /* floats between which a layer is streamed: a second-level cache of 1 MB */
  WINDOWS = 160 * 1024,          /* floats of all windows of a segment */
  REACH = 24,                    /* most stages of one */
  ROOM = 16                      /* floats behind a channel that may be written */
};

const char *SC(sc_chain_sizes)(const sc_chain *c, i64 height, i64 width, sc_value *values)
{
  const sc_spec *first = &c->stages[0].kernel->spec;
  values[0] = (sc_value){.height = height, .width = width, .channels = first->channels * first->group};
  for (i64 i = 0; i < c->count; i++) {
    const sc_spec *s = &c->stages[i].kernel->spec;
    sc_value *in = &values[i], *out = &values[i + 1];
    *out = (sc_value){.channels = s->rows};
    out->height = sc_out_size(in->height, s->pad[0], s->pad[2], s->kernel[0], s->stride[0], s->dilation[0]);
    out->width = sc_out_size(in->width, s->pad[1], s->pad[3], s->kernel[1], s->stride[1], s->dilation[1]);
    if (out->height < 1 || out->width < 1) return "the padded window does not fit into its input";
    if (out->height > MAX_FLOATS / out->width / (out->channels + 1)) return "its image is too large";
    i64 r = c->stages[i].residual;
    const sc_value *add = r >= 0 && r < SC_CHAIN_BESIDE ? &values[r] : 0;
    if (add && (add->height != out->height || add->width != out->width || add->channels != out->channels))
      return "a residual has another shape than what it is added to";
  }
  return 0;
}

/* ---- streaming ---- */
/* Rows from the top of an input that rows [0, end) of a stage's output read. */
static i64 rows_below(const sc_stage *s, i64 end, i64 height)
{
  const sc_spec *p = &s->kernel->spec;
  return clip((end - 1) * p->stride[0] - p->pad[0] + (p->kernel[0] - 1) * p->dilation[0] + 1, 0, height);
}

static void advance(sc_stream *s, i64 stage, i64 want)
{
  const sc_value *out = &s->values[stage + 1];
  const sc_stage *how = &s->chain->stages[stage];
  while (s->made[stage + 1] < want) {
    i64 top = s->made[stage + 1], rows = clip(out->rows - (top - s->start[stage + 1]) % out->rows, 1, s->stop[stage + 1] - top);
    if (stage > s->first) advance(s, stage - 1, rows_below(how, top + rows, s->values[stage].height));
    if (how->residual > s->first && how->residual < SC_CHAIN_BESIDE) advance(s, how->residual - 1, top + rows);
    s->run(s, stage, top, rows);
    s->made[stage + 1] = top + rows;
  }
}

/* 1x1 layers and sums find the rows of a batch side by side, so batches of what they read begin where theirs do: the value
   whose batches those of v follow, or v. Among values of one height that are added, all follow the last. */
static i64 leader(const sc_stream *s, i64 v)
{
  for (i64 stage = s->first; stage < s->end; stage++) {
    i64 r = s->chain->stages[stage].residual, last = v;
    if (r <= s->first || r >= s->end || s->values[r].height != s->values[v].height) continue;
    while (last < s->end && s->values[last + 1].height == s->values[v].height) last++;
    return last;
  }
  return v < s->end && SC(sc_is_pointwise)(s->chain->stages[v].kernel) ? v + 1 : v;
}

/* A part needs rows [low, high) of a value, beside others. */
static void need(sc_stream *s, i64 v, i64 low, i64 high)
{
  if (low < s->start[v]) s->start[v] = low;
  if (high > s->stop[v]) s->stop[v] = high;
}

void SC(sc_stream_part)(sc_stream *s, i64 part, i64 parts)
{
  const sc_value *last = &s->values[s->end];
  for (i64 v = s->first; v <= s->end; v++) s->start[v] = s->values[v].height, s->stop[v] = 0;
  need(s, s->end, sc_part_row(last, part, parts), sc_part_row(last, part + 1, parts));
  for (i64 stage = s->end - 1; stage >= s->first; stage--) {
    const sc_stage *how = &s->chain->stages[stage];
    i64 rows = s->values[stage + 1].rows, late = (s->start[stage + 1] - s->start[leader(s, stage + 1)]) % rows;
    s->start[stage + 1] -= (late + rows) % rows; /* the first batch may begin above the image */
    i64 from = s->start[stage + 1], end = s->stop[stage + 1];
    need(s, stage, sc_lowest_row(how, from), rows_below(how, end, s->values[stage].height));
    if (how->residual > s->first && how->residual < SC_CHAIN_BESIDE) need(s, how->residual, from, end);
  }
  for (i64 v = s->first + 1; v <= s->end; v++) s->made[v] = clip(s->start[v], 0, s->stop[v]);
  s->made[s->first] = s->values[s->first].height;
  advance(s, s->end - 1, s->stop[s->end]);
}

/* The lowest row of value v that a stage of the stream has yet to read. */
static i64 lowest_live(const sc_stream *s, i64 v)
{
  i64 low = s->values[v].height;
  for (i64 stage = v; stage < s->end; stage++) {
    const sc_stage *how = &s->chain->stages[stage];
    i64 next = s->made[stage + 1];
    if (stage == v && sc_lowest_row(how, next) < low) low = sc_lowest_row(how, next);
    if (how->residual == v && next < low) low = next;
  }
  return low;
}

/* Instead of computing: how many rows are alive once these are made. */
static void note_window(sc_stream *s, i64 stage, i64 top, i64 rows)
{
  sc_value *values = s->data, *v = &values[stage + 1];
  i64 alive = ceil_div(top + rows - lowest_live(s, stage + 1), v->rows) * v->rows;
  if (alive > v->held) v->held = alive;
  if (rows < v->least) v->least = rows;
}

static i64 batch_rows(const sc_value *v) { return clip(PIXELS / v->width, 1, v->height); }

/* Floats between channels: an odd number of cache lines, so that neighbours fall into different sets of a cache. */
static i64 pitch_of(i64 rows, i64 width) { return (ceil_div(rows * width + ROOM - 1, LINE) | 1) * LINE; }

/* Windows of the values between the stages [first, end), laid out in the memory of a task; its floats. */
static i64 lay_windows(const sc_chain *c, sc_value *values, i64 first, i64 end, int whole)
{
  for (i64 v = first + 1; v <= end; v++) {
    values[v].rows = whole ? values[v].height : batch_rows(&values[v]);
    values[v].least = values[v].height;
  }
  sc_stream s = {.chain = c, .values = values, .first = first, .end = end, .run = note_window, .data = values};
  i64 floats = 0;
  for (i64 v = first + 1; v < end; v++) values[v].held = values[v].rows;
  values[end].held = values[end].height;
  for (int company = 0; company < 2; company++)
    for (i64 part = 0, parts = sc_parts_of(&values[end], company); part < parts; part++) SC(sc_stream_part)(&s, part, parts);
  values[end].held = values[end].height;
  for (i64 v = first + 1; v < end; v++) {
    if (values[v].held > values[v].height) values[v].held = values[v].height;
    values[v].pitch = pitch_of(values[v].held, values[v].width), values[v].offset = floats;
    floats += values[v].channels * values[v].pitch + SC_LINES_OVER;
  }
  return ceil_div(floats, LINE) * LINE;
}

/* ---- segments ---- */
static i64 floats_of(const sc_value *v) { return v->channels * v->height * v->width; }

static int is_large(const sc_value *values, i64 stage) { return floats_of(&values[stage]) + floats_of(&values[stage + 1]) > LARGE; }

/* Whether values between the stages [first, end) are read by none behind. */
static int is_closed(const sc_chain *c, i64 first, i64 end)
{
  for (i64 stage = end; stage < c->count; stage++)
    if (c->stages[stage].residual > first && c->stages[stage].residual < end) return 0; /* SC_CHAIN_BESIDE is beyond */
  return 1;
}

/* Floats of windows when the stages [first, end) are streamed, or -1 when they cannot be or it gains nothing. Small images
   stay in cache without, but threads then meet once for several layers: those whose rows need no others. */
static i64 stream_floats(const sc_chain *c, sc_chain_plan *p, i64 first, i64 end)
{
  sc_value *values = p->values;
  int large = 1, several = end > first + 1, rows_alone = several && sc_parts_of(&values[end], 1) > 1;
  int worth = several || !(p->grids[first].in_place || SC(sc_is_pointwise)(c->stages[first].kernel));
  for (i64 stage = first; stage < end; stage++) {
    large &= is_large(values, stage);
    if (stage > first) rows_alone &= SC(sc_is_pointwise)(c->stages[stage].kernel);
  }
  if (!worth || !(large || rows_alone) || !is_closed(c, first, end)) return -1;
  i64 floats = lay_windows(c, values, first, end, !large);
  return floats > (large ? WINDOWS : LARGE) ? -1 : floats;
}

/* The segments with the least memory between them. */
static void cut_segments(const sc_chain *c, sc_chain_plan *p)
{
  i64 least[SC_CHAIN_STAGES + 1] = {0}, from[SC_CHAIN_STAGES + 1];
  for (i64 end = 1; end <= c->count; end++) {
    least[end] = least[end - 1] + floats_of(&p->values[end]), from[end] = end - 1;
    for (i64 first = end - 1; first >= 0 && first >= end - REACH; first--) {
      if (least[first] + floats_of(&p->values[end]) >= least[end] && first < end - 1) continue;
      if (stream_floats(c, p, first, end) >= 0) least[end] = least[first] + floats_of(&p->values[end]), from[end] = first;
    }
  }
  for (i64 end = c->count; end > 0; end = from[end]) p->count++;
  for (i64 end = c->count, n = p->count; end > 0; end = from[end]) p->segments[--n] = (sc_segment){.first = from[end], .end = end};
  for (i64 n = 0; n < p->count; n++) {
    sc_segment *s = &p->segments[n];
    i64 floats = stream_floats(c, p, s->first, s->end);
    s->streamed = floats >= 0, s->floats = floats >= 0 ? floats : 0;
  }
}

/* The last stage that runs at the same time as one that reads a value: those of a stream all do. */
static i64 last_reader(const sc_chain *c, const sc_chain_plan *p, i64 v)
{
  i64 last = v;
  for (i64 stage = v; stage < c->count; stage++) if (c->stages[stage].residual == v) last = stage;
  for (i64 n = 0; n < p->count; n++) {
    const sc_segment *s = &p->segments[n];
    if (s->streamed && s->first <= last && last < s->end) return s->end - 1;
  }
  return last;
}

/* Whether the first layer reads beyond its input: a depthwise one, and a 1x1 one of whose rows the last ones are no vector. */
static int reads_beyond(const sc_chain *c, const sc_chain_plan *p)
{
  const sc_value *out = &p->values[1];
  return p->grids[0].in_place || (SC(sc_is_pointwise)(c->stages[0].kernel) && out->least * out->width < VL);
}

/* Memory of the values that are held whole, but for the first and the last, which the host has. */
static void place_whole(const sc_chain *c, sc_chain_plan *p)
{
  sc_space placed[SC_CHAIN_STAGES + 1];
  i64 count = 0, widest = 0;
  for (i64 n = 0; n < p->count; n++) {
    sc_segment *s = &p->segments[n];
    for (i64 v = n ? s->first + 1 : 0; v <= s->end; v++) {
      sc_value *value = &p->values[v];
      if (s->streamed && v > s->first && v < s->end) continue;
      int outside = v == c->count || (!v && !p->copies);
      value->held = value->height;
      value->pitch = outside ? value->height * value->width : pitch_of(value->height, value->width);
      if (outside) continue;
      sc_space mine = {0, ceil_div(value->channels * value->pitch + SC_LINES_OVER, LINE) * LINE, s->streamed ? s->first : v - 1,
                       last_reader(c, p, v), v};
      mine.at = value->offset = sc_lowest_place(placed, count, &mine);
      placed[count++] = mine;
      if (mine.at + mine.size > p->floats) p->floats = mine.at + mine.size;
    }
  }
  for (i64 v = 0; v <= c->count; v++) if (p->values[v].width > widest) widest = p->values[v].width;
  p->zeros = p->floats + SC_LINES_BEFORE;
  p->floats += ceil_div(sc_zeros(widest), LINE) * LINE;
}

/* ---- how convolutions read a batch of rows ---- */
static int lay_grids(const sc_chain *c, sc_chain_plan *p)
{
  for (i64 n = 0; n < p->count; n++) {
    sc_segment *s = &p->segments[n];
    for (i64 stage = s->first; stage < s->end; stage++) {
      const sc_value *in = &p->values[stage], *out = &p->values[stage + 1];
      sc_grid *g = &p->grids[stage];
      if (g->in_place) continue;
      int status = SC(sc_grid_make)(c, c->stages[stage].kernel, in, out, g);
      if (status) return status;
      i64 together = SC(sc_grid_together)(g, out->rows);
      if (g->floats > s->copies) s->copies = g->floats;
      if (together > s->together) s->together = together;
    }
    s->copies = ceil_div(s->copies, LINE) * LINE, s->together += s->copies;
  }
  return SC_OK;
}

static int build(const sc_chain *c, i64 height, i64 width, sc_chain_plan **out)
{
  sc_chain_plan *p = *out = sc_get(&c->host, sizeof *p);
  if (!p) return SC_MEMORY;
  *p = (sc_chain_plan){.height = height, .width = width};
  if (SC(sc_chain_sizes)(c, height, width, p->values)) return SC_TOO_LARGE;
  for (i64 i = 0; i < c->count; i++)
    p->grids[i].in_place = c->stages[i].depthwise && SC(sc_is_same_depthwise)(c->stages[i].kernel, p->values[i].height, p->values[i].width);
  cut_segments(c, p);
  for (i64 n = 0; n < p->count; n++)
    for (i64 v = p->segments[n].first + 1; !p->segments[n].streamed && v <= p->segments[n].end; v++) {
      i64 parts = sc_parts_of(&p->values[v], 1);
      p->values[v].rows = p->values[v].height, p->values[v].least = p->values[v].height - sc_part_row(&p->values[v], parts - 1, parts);
    }
  p->copies = reads_beyond(c, p);
  place_whole(c, p);
  return lay_grids(c, p);
}

void SC(sc_chain_plan_free)(const sc_chain *c, sc_chain_plan *p)
{
  for (i64 i = 0; p && i < c->count; i++) sc_drop(&c->host, p->grids[i].offsets);
  sc_drop(&c->host, p);
}

int SC(sc_chain_plan_of)(sc_chain *c, i64 height, i64 width, sc_chain_plan **out)
{
  for (int i = 0; i < CHAIN_PLANS; i++) {
    *out = __atomic_load_n(&c->plans[i], __ATOMIC_ACQUIRE);
    if (*out && (*out)->height == height && (*out)->width == width) return SC_OK;
  }
  int status = build(c, height, width, out);
  if (status) {
    SC(sc_chain_plan_free)(c, *out);
    return status;
  }
  for (int i = 0; i < CHAIN_PLANS; i++) {
    sc_chain_plan *empty = 0;
    if (__atomic_compare_exchange_n(&c->plans[i], &empty, *out, 0, __ATOMIC_ACQ_REL, __ATOMIC_RELAXED)) break;
  }
  return SC_OK;
}

void SC(sc_chain_plan_done)(sc_chain *c, sc_chain_plan *p)
{
  for (int i = 0; i < CHAIN_PLANS; i++)
    if (__atomic_load_n(&c->plans[i], __ATOMIC_ACQUIRE) == p) return;
  SC(sc_chain_plan_free)(c, p);
}

/* Panels times generated code, in an order that reads code and inputs seldom; tokens. */
#include "generated.h"
#include "t64.h"
#include "tokens.h"

enum {
  LINE_BYTES = 64,               /* of a cache line */
  GROUP_FLOATS = 64 * 1024 / 4,  /* panels of a task of its own: about what a first-level cache holds */
  GROUP_BYTES = 48 * 1024,       /* of code that may run anew for every group */
  SHARED_FLOATS = 2048 * 1024 / 4, /* panels that all tasks share: few groups, so that code is read seldom */
  SUM_FLOATS = 384 * 1024 / 4,   /* sums between chunks that a task keeps */
  BLOCK_BYTES = 32 * 1024,       /* of code that runs for all panels before the next: the processor keeps it decoded, */
  BLOCK_CELLS = 32,              /* of at most so many cells */
  GROUP_PANELS = 4,              /* at least: packing several at once is quicker */
  MANY_GROUPS = 8,
  LARGE_GROUP = 12, FEW_GROUPS = 2, /* panels of a task of its own where code is large, about, and least tasks */
  LARGE_FLOATS = 768 * 1024 / 4, /* panels that would not stay in the second-level cache */
  PASS_FLOATS = 256 * 1024 / 4,  /* of those panels, packed at a time: they stay in the second-level cache */
  SHARE_STRIPS = 4, PART_PANELS = 8 /* least of a task: fewer would read inputs and code more often */
};

/* ---- tokens ---- */
static void pack_panels(const sc_job *j, i64 panel, i64 end, float *to, i64 first, i64 last)
{
  i64 depth = j->kernel->spec.channels;
  for (; panel < end; panel++, to += j->floats) {
    i64 token = panel * LANES;
    pack_tokens(j->x + token * depth + first, depth, clip(j->points - token, 0, LANES), to, LANES, 0, last - first);
  }
}

static void finish_tokens(const sc_job *j, i64 strip, i64 panel, const sc_input *in)
{
  const sc_kernel *k = j->kernel;
  const sc_rows to = {j->y, j->residual, k->spec.rows, k->spec.activation};
  float out[(SC_STRIP_ROWS + LANES) * LANES];
  strip_results(j, strip, in, out);
  i64 token = panel * LANES;
  unpack_rows(&to, out, LANES, token, clip(j->points - token, 0, LANES), k->strips[strip].row, k->strips[strip].mr);
}

/* ---- tokens in the lanes: a piece of T64 has a few panels ---- */
static i64 lane_of(i64 panel) { return panel * LANES % T64; }

/* Floats before the rows of a panel's piece. */
static i64 piece_at(i64 panel, i64 rows) { return panel * LANES / T64 * rows * T64; }

static inline void copy_rows(const float *from, i64 from_pitch, float *to, i64 to_pitch, i64 rows)
{
  for (i64 r = 0; r < rows; r++, from += from_pitch, to += to_pitch)
    UNROLL for (int i = 0; i < LANES; i += VL) store(to + i, load(from + i));
}

static void copy_panels(const sc_job *j, i64 panel, i64 end, float *to, i64 first, i64 last)
{
  for (; panel < end; panel++, to += j->floats)
    copy_rows(j->x + piece_at(panel, j->kernel->spec.channels) + first * T64 + lane_of(panel), T64, to, LANES, last - first);
}

static void finish_lanes(const sc_job *j, i64 strip, i64 panel, const sc_input *in)
{
  const sc_spec *s = &j->kernel->spec;
  const i64 rows = j->kernel->strips[strip].mr;
  const i64 at = piece_at(panel, s->rows) + j->kernel->strips[strip].row * T64 + lane_of(panel);
  if (!j->residual && s->activation <= SC_RELU6) {
    call_cell(in, j->y + at, T64, s->activation);
    return;
  }
  float out[SUMS];
  strip_results(j, strip, in, out);
  for (i64 r = 0; j->residual && r < rows; r++)
    UNROLL for (int i = 0; i < LANES; i += VL) store(out + r * LANES + i, load(out + r * LANES + i) + load(j->residual + at + r * T64 + i));
  if (j->residual && s->activation) SC(sc_activate)(out, rows * LANES, s->activation);
  copy_rows(out, LANES, j->y + at, T64, rows);
}

/* ---- blocks of cells ---- */
/* Strips [first, end) of a chunk: they run for every panel before the next block. */
typedef struct { i64 chunk, first, end; } sc_block;

/* Panels [panel, end), room for their sums, and their rows of chunks [chunk, stop), packed at x. */
typedef struct { i64 panel, end; float *sums; i64 chunk, stop; const float *x; } sc_panels;

/* As many strips before `last` as stay decoded, at least one if there is one. */
static sc_block block_at(const sc_kernel *k, i64 chunk, i64 first, i64 last)
{
  const sc_code_cell *cells = sc_code_cells(k->code) + chunk * k->code->strips;
  i64 end = first < last ? first + 1 : last;
  while (end < last && end - first < BLOCK_CELLS && cells[end + 1].entry - cells[first].entry <= BLOCK_BYTES) end++;
  return (sc_block){chunk, first, end};
}

/* Goes on to the next block in a span of strips [first, last). After its last one *b is what is likely to run then, which may
   be nothing, and the answer is zero. */
static int next_block(const sc_kernel *k, const sc_panels *at, i64 first, i64 last, sc_block *b)
{
  i64 strips = k->code->strips;
  int more = b->end < last || b->chunk + 1 < at->stop;
  if (b->end < last) *b = block_at(k, b->chunk, b->end, last);
  else if (more) *b = block_at(k, b->chunk + 1, first, last);
  else if (last < strips) *b = block_at(k, at->chunk, last, strips);
  else *b = at->stop < k->code->chunks ? block_at(k, at->stop, 0, strips) : (sc_block){0, strips, strips};
  return more;
}

/* A cell of a block: its code and stream, and how many lines of code and of weights it prefetches. */
typedef struct { sc_cell_fn run; const float *stream; i64 code, weights; } sc_block_cell;

static sc_block_cell block_cell(const sc_kernel *k, i64 chunk, i64 strip)
{
  i64 number = chunk * k->code->strips + strip;
  const sc_code_cell *cell = &sc_code_cells(k->code)[number];
  i64 biases = chunk ? 0 : k->strips[strip].mr;
  i64 lines = (cell[1].stream - cell->stream - biases + SC_FETCH_EVERY / 2 - 1) / SC_FETCH_EVERY;
  return (sc_block_cell){(sc_cell_fn)(u64)sc_code_text(k->code, number), k->weights + cell->stream, lines - lines / SC_FETCH_KINDS,
                         lines / SC_FETCH_KINDS};
}

/* Memory to prefetch in a number of calls: `extra` lines before each, the others during it. */
typedef struct { const char *at, *end; i64 extra; } sc_ahead;

static sc_ahead ahead(const void *from, const void *end, i64 calls, i64 during)
{
  i64 left = ceil_div((const char *)end - (const char *)from, LINE_BYTES) - during;
  return (sc_ahead){from, end, left > 0 ? ceil_div(left, calls) : 0};
}

/* Where the `during` lines of the next call begin. */
INLINE const char *fetch(sc_ahead *a, i64 during)
{
  for (i64 i = 0; i < a->extra && a->at < a->end; i++, a->at += LINE_BYTES) __builtin_prefetch(a->at);
  const char *at = a->at;
  if (at < a->end) a->at += during * LINE_BYTES;
  return at;
}

/* A block for all panels. Meanwhile the code and the weights of the next one are prefetched. */
static void run_block(const sc_job *j, sc_block b, sc_block next, i64 span, const sc_panels *at)
{
  const sc_kernel *k = j->kernel;
  const sc_code_cell *cells = sc_code_cells(k->code) + next.chunk * k->code->strips;
  i64 panels = at->end - at->panel, calls = panels * (b.end - b.first), code_lines = 0, weight_lines = 0;
  sc_block_cell block[BLOCK_CELLS];
  for (i64 s = b.first; s < b.end; s++) {
    sc_block_cell *cell = &block[s - b.first];
    *cell = block_cell(k, b.chunk, s);
    code_lines += panels * cell->code, weight_lines += panels * cell->weights;
  }
  sc_ahead code = ahead(sc_codes.text + cells[next.first].entry, sc_codes.text + cells[next.end].entry, calls, code_lines);
  sc_ahead weights = ahead(k->weights + cells[next.first].stream, k->weights + cells[next.end].stream, calls, weight_lines);
  const float *x = at->x + (sc_code_column(k->code, b.chunk) - sc_code_column(k->code, at->chunk)) * LANES;
  for (i64 p = 0; p < panels; p++, x += j->floats)
    for (i64 s = b.first; s < b.end; s++) {
      const sc_block_cell *cell = &block[s - b.first];
      sc_input in = {cell->run, cell->stream, x, at->sums + ((s - span) * panels + p) * SUMS, fetch(&code, cell->code),
                     fetch(&weights, cell->weights)};
      if (b.chunk + 1 < k->code->chunks) call_cell(&in, 0, 0, SC_NONE);
      else j->finish(j, s, at->panel + p, &in);
    }
}

/* Strips [strip, last), a span at a time: chunk after chunk, so that inputs stay in cache. */
static void compute(const sc_job *j, i64 strip, i64 last, const sc_panels *at)
{
  for (i64 end; strip < last; strip = end) {
    end = strip + j->span < last ? strip + j->span : last;
    int more = strip < end;
    for (sc_block b = block_at(j->kernel, at->chunk, strip, end), next = b; more; b = next) {
      more = next_block(j->kernel, at, strip, end, &next);
      run_block(j, b, next, strip, at);
    }
  }
}

/* ---- groups of panels ---- */
/* Floats for the sums of `panels` panels: none where nothing goes from chunk to chunk. */
static i64 sum_floats(const sc_job *j, i64 panels) { return j->kernel->code->chunks > 1 ? j->span * panels * SUMS : 0; }

static i64 group_end(const sc_job *j, i64 first) { return first + j->group < j->panels ? first + j->group : j->panels; }

static void task_own_group(void *data, u64 i)
{
  sc_job *j = data;
  i64 first = (i64)i * j->group, end = group_end(j, first);
  int slot;
  float *packed = sc_scratch_get(&j->kernel->host, j->group * j->floats + sum_floats(j, j->group), &slot);
  if (!packed) {
    __atomic_store_n(&j->failed, 1, __ATOMIC_RELAXED);
    return;
  }
  const sc_code *code = j->kernel->code;
  for (i64 c = 0; c < code->chunks; c += j->pass) {
    i64 stop = clip(c + j->pass, 0, code->chunks);
    j->pack(j, first, end, packed, sc_code_column(code, c), sc_code_column(code, stop));
    compute(j, 0, code->strips, &(sc_panels){first, end, packed + j->group * j->floats, c, stop, packed});
  }
  sc_scratch_put(&j->kernel->host, slot, packed);
}

static void task_pack(void *data, u64 i)
{
  const sc_job *j = data;
  i64 depth = j->kernel->code->depth, blocks = ceil_div(depth, VL), last = blocks * ((i64)i + 1) / TASKS * VL;
  i64 first = blocks * (i64)i / TASKS * VL;
  j->pack(j, j->first, group_end(j, j->first), j->packed + first * LANES, first, last < depth ? last : depth);
}

static void task_compute(void *data, u64 i)
{
  sc_job *j = data;
  i64 share = (i64)i / j->parts, part = (i64)i % j->parts, panels = group_end(j, j->first) - j->first;
  i64 from = panels * part / j->parts, to = panels * (part + 1) / j->parts, floats = sum_floats(j, to - from);
  int slot = 0;
  float *sums = floats ? sc_scratch_get(&j->kernel->host, floats, &slot) : j->packed;
  if (!sums) {
    __atomic_store_n(&j->failed, 1, __ATOMIC_RELAXED);
    return;
  }
  compute(j, sc_share(j->kernel, share, j->shares), sc_share(j->kernel, share + 1, j->shares),
          &(sc_panels){j->first + from, j->first + to, sums, 0, j->kernel->code->chunks, j->packed + from * j->floats});
  if (floats) sc_scratch_put(&j->kernel->host, slot, sums);
}

static int run_shared(sc_job *j, const sc_parallel *parallel, void **host_error)
{
  int slot, status = SC_OK;
  j->packed = sc_scratch_get(&j->kernel->host, j->group * j->floats, &slot);
  if (!j->packed) return SC_MEMORY;
  j->shares = clip(j->kernel->strip_count / SHARE_STRIPS, clip(j->kernel->strip_count, 1, SHARE_STRIPS), TASKS);
  for (j->first = 0; j->first < j->panels && !status; j->first += j->group) {
    i64 panels = group_end(j, j->first) - j->first;
    j->parts = clip(ceil_div(TASKS, j->shares), 1, clip(panels / PART_PANELS, 1, panels));
    j->span = clip(SUM_FLOATS / (ceil_div(panels, j->parts) * SUMS), 1, j->kernel->strip_count);
    status = sc_run_job(parallel, task_pack, TASKS, j, host_error);
    if (!status) status = sc_run_job(parallel, task_compute, j->shares * j->parts, j, host_error);
  }
  sc_scratch_put(&j->kernel->host, slot, j->packed);
  return status;
}

/* Floats between panels of some rows: an odd number of cache lines, so that neighbours fall into different sets. */
static i64 panel_floats(i64 rows) { return (rows | 1) * LANES; }

/* Panels that about fill a first-level cache, where code may run anew for each such group; otherwise zero. */
static i64 small_group(const sc_job *j)
{
  const sc_code *code = j->kernel->code;
  i64 bytes = sc_code_text(code, code->strips * code->chunks) - sc_code_text(code, 0);
  return bytes > GROUP_BYTES ? 0 : clip(GROUP_FLOATS / panel_floats(code->depth), clip(j->panels, 1, GROUP_PANELS), j->panels);
}

/* Groups of j->group panels, each a task that packs its own, a few chunks at a time. */
static i64 lay_groups(sc_job *j)
{
  const sc_code *code = j->kernel->code;
  i64 chunk = ceil_div(code->depth, code->chunks);
  j->pass = clip(PASS_FLOATS / (j->group * chunk * LANES), 1, code->chunks);
  j->floats = panel_floats(chunk * j->pass), j->span = code->strips;
  return ceil_div(j->panels, j->group);
}

/* The groups of a job for all threads; zero where tasks had better share panels. */
static i64 own_groups(sc_job *j)
{
  i64 small = small_group(j);
  if (small && ceil_div(j->panels, small) >= MANY_GROUPS) j->group = small;
  else if (j->panels >= LARGE_GROUP && j->panels * panel_floats(j->kernel->code->depth) >= LARGE_FLOATS)
    j->group = ceil_div(j->panels, clip(j->panels / LARGE_GROUP, FEW_GROUPS, j->panels));
  else return 0;
  return lay_groups(j);
}

int SC(sc_run_alone)(sc_job *j)
{
  i64 small = small_group(j);
  j->group = small ? small : j->panels;
  for (i64 i = 0, groups = lay_groups(j); i < groups; i++) task_own_group(j, (u64)i);
  return j->failed ? SC_MEMORY : SC_OK;
}

int SC(sc_run_panels)(sc_job *j, const sc_parallel *parallel, void **host_error)
{
  i64 groups = own_groups(j);
  if (groups) return sc_run_job(parallel, task_own_group, groups, j, host_error);
  j->floats = panel_floats(j->kernel->code->depth);
  j->group = ceil_div(j->panels, ceil_div(j->panels, clip(SHARED_FLOATS / j->floats, 1, j->panels)));
  return run_shared(j, parallel, host_error);
}

int SC(sc_code_matmul)(sc_kernel *k, i64 tokens, const float *x, const float *residual, float *y, const sc_parallel *parallel,
                       void **host_error)
{
  sc_job j = {.kernel = k, .x = x, .residual = residual, .y = y, .points = tokens, .panels = ceil_div(tokens, LANES),
              .pack = pack_panels, .finish = finish_tokens};
  return SC(sc_run_panels)(&j, parallel, host_error);
}

int SC(sc_code_lanes)(sc_kernel *k, i64 tokens, const float *x, const float *residual, float *y, const sc_parallel *parallel,
                      void **host_error)
{
  sc_job j = {.kernel = k, .x = x, .residual = residual, .y = y, .points = tokens, .panels = ceil_div(tokens, LANES),
              .pack = copy_panels, .finish = finish_lanes};
  return SC(sc_run_panels)(&j, parallel, host_error);
}

/* Shapes of all values of a region for one set of input sizes, their places in the arena, and the run. */
#include "arena.h"
#include "region_plan.h"

enum { ALIGN = 64, SLACK = 64 /* kernels may read a vector beyond a tensor */ };
#define TOO_LARGE (1LL << 40)

i64 sc_tensor_bytes(const sc_tensor *t)
{
  const i64 type = sc_size_type(t->type);
  i64 size = 1, lanes = t->layout == SC_C4 ? 4 : 1;
  for (i32 i = 0; i < t->rank; i++) {
    i64 d = t->dims[i];
    if (d < 0 || d > TOO_LARGE) return -1;
    if (i == 1 && lanes > 1) d = (d + lanes - 1) / lanes * lanes;
    if (i == t->rank - 1 && t->layout == SC_T64) size = (size + T64 - 1) / T64 * T64;
    size *= d;
    if (size > TOO_LARGE / type) return -1;
  }
  return (size * type + ALIGN - 1) / ALIGN * ALIGN;
}

/* ---- places: larger values first, each at the lowest address free during its life ---- */
static void measure_lives(const sc_region *g, const sc_plan *p, sc_space *lives)
{
  for (i64 i = 0; i < g->values; i++) lives[i] = (sc_space){-1, 0, -1, -1, i};
  for (i64 s = 0; s < g->step_count; s++) {
    const sc_step *step = &g->steps[s];
    for (i64 i = 0; i < step->inputs + step->outputs; i++) {
      sc_space *l = &lives[step->ids[i]];
      if (i >= step->inputs) l->from = s, l->size = sc_tensor_bytes(&p->tensors[l->id]) + SLACK;
      l->end = s;
    }
  }
  for (i64 i = 0; i < g->inputs; i++) lives[i].from = -1;
  for (i64 i = 0; i < g->outputs; i++) lives[g->output_ids[i]].from = -1;
}

static void sort_by_size(sc_space *lives, i64 n)
{
  for (i64 i = 1; i < n; i++) {
    sc_space moved = lives[i];
    i64 j = i;
    for (; j > 0 && (lives[j - 1].size < moved.size || (lives[j - 1].size == moved.size && lives[j - 1].id > moved.id)); j--)
      lives[j] = lives[j - 1];
    lives[j] = moved;
  }
}

static void place_values(const sc_region *g, sc_plan *p, sc_space *lives)
{
  measure_lives(g, p, lives);
  sort_by_size(lives, g->values);
  for (i64 i = 0; i < g->values; i++) {
    sc_space *l = &lives[i];
    if (l->from >= 0) l->at = sc_lowest_place(lives, i, l);
    p->offsets[l->id] = l->at;
    if (l->at >= 0 && l->at + l->size > p->bytes) p->bytes = l->at + l->size;
  }
}

/* ---- shapes ---- */
/* Null after the last operand, so that an optional one that is missing reads as null. */
typedef struct { sc_tensor *in[MAX_OPERANDS + 1], *out[MAX_OPERANDS + 1]; } operands;

static void gather(const sc_step *s, sc_tensor *tensors, operands *o)
{
  for (i64 i = 0; i < s->inputs; i++) o->in[i] = &tensors[s->ids[i]];
  for (i64 i = 0; i < s->outputs; i++) o->out[i] = &tensors[s->ids[s->inputs + i]];
  o->in[s->inputs] = o->out[s->outputs] = 0;
}

static int infer_all(const sc_region *g, sc_plan *p, sc_wrong *wrong)
{
  for (i64 s = 0; s < g->step_count; s++) {
    operands o;
    gather(&g->steps[s], p->tensors, &o);
    wrong->step = s;
    wrong->what = g->steps[s].kind->infer(g->steps[s].state, (const sc_tensor *const *)o.in, o.out);
    for (i64 i = 0; !wrong->what && i < g->steps[s].outputs; i++)
      if (sc_tensor_bytes(o.out[i]) < 0) wrong->what = "a tensor is too large";
    if (wrong->what) return SC_WRONG;
  }
  for (i64 i = 0; i < g->outputs; i++)
    if (p->tensors[g->output_ids[i]].layout != SC_PLAIN) {
      *wrong = (sc_wrong){-1, "an output is not in plain layout"};
      return SC_WRONG;
    }
  return SC_OK;
}

static int same_inputs(const sc_region *g, const sc_plan *p, const sc_tensor *inputs)
{
  for (i64 i = 0; i < g->inputs; i++) {
    const sc_tensor *a = &p->tensors[i], *b = &inputs[i];
    if (a->rank != b->rank || a->type != b->type) return 0;
    for (i32 d = 0; d < a->rank; d++)
      if (a->dims[d] != b->dims[d]) return 0;
  }
  return 1;
}

static int make_plan(const sc_region *g, const sc_tensor *inputs, sc_plan **out, sc_wrong *wrong)
{
  u64 tensors = (u64)g->values * sizeof(sc_tensor), offsets = (u64)g->values * sizeof(i64);
  sc_plan *p = g->host.alloc(g->host.self, sizeof *p + tensors + offsets);
  sc_space *lives = g->host.alloc(g->host.self, (u64)g->values * sizeof *lives);
  int status = p && lives ? SC_OK : SC_MEMORY;
  if (!status) {
    *p = (sc_plan){0, (i64 *)((char *)(p + 1) + tensors)};
    for (i64 i = 0; i < g->values; i++) p->tensors[i] = i < g->inputs ? inputs[i] : (sc_tensor){.rank = 0};
    for (i64 i = 0; i < g->inputs; i++) p->tensors[i].layout = SC_PLAIN, p->tensors[i].data = 0;
    status = infer_all(g, p, wrong);
  }
  if (!status) place_values(g, p, lives);
  if (lives) g->host.free(g->host.self, lives);
  if (status && p) g->host.free(g->host.self, p);
  *out = status ? 0 : p;
  return status;
}

int sc_region_plan(sc_region *g, const sc_tensor *inputs, sc_plan **out, sc_wrong *wrong)
{
  for (int i = 0; i < PLANS; i++) {
    *out = __atomic_load_n(&g->plans[i], __ATOMIC_ACQUIRE);
    if (*out && same_inputs(g, *out, inputs)) return SC_OK;
  }
  int status = make_plan(g, inputs, out, wrong);
  if (status) return status;
  for (int i = 0; i < PLANS; i++) {
    sc_plan *empty = 0;
    if (__atomic_compare_exchange_n(&g->plans[i], &empty, *out, 0, __ATOMIC_ACQ_REL, __ATOMIC_RELAXED)) break;
  }
  return SC_OK;
}

void sc_plan_done(sc_region *g, sc_plan *plan)
{
  for (int i = 0; i < PLANS; i++)
    if (__atomic_load_n(&g->plans[i], __ATOMIC_ACQUIRE) == plan) return;
  g->host.free(g->host.self, plan);
}

const sc_tensor *sc_plan_output(const sc_region *g, const sc_plan *p, i64 i) { return &p->tensors[g->output_ids[i]]; }
i64 sc_plan_bytes(const sc_plan *p) { return p->bytes; }

/* ---- run ---- */
static void place_tensors(const sc_region *g, const sc_plan *p, sc_tensor *tensors, char *arena, void *const *inputs,
                          void *const *outputs)
{
  for (i64 i = 0; i < g->values; i++) {
    tensors[i] = p->tensors[i];
    tensors[i].data = p->offsets[i] < 0 ? 0 : arena + p->offsets[i];
  }
  for (i64 i = 0; i < g->inputs; i++) tensors[i].data = inputs[i];
  for (i64 i = 0; i < g->outputs; i++) tensors[g->output_ids[i]].data = outputs[i];
}

int sc_region_run(sc_region *g, sc_plan *p, void *const *inputs, void *const *outputs, const sc_parallel *parallel,
                  void **host_error, sc_wrong *wrong)
{
  i64 table = ((i64)sizeof(sc_tensor) * g->values + ALIGN - 1) / ALIGN * ALIGN;
  int slot, status = SC_OK;
  char *memory = (char *)sc_scratch_get(&g->host, (p->bytes + table) / 4, &slot);
  if (!memory) return SC_MEMORY;
  sc_tensor *tensors = (sc_tensor *)(memory + p->bytes);
  place_tensors(g, p, tensors, memory, inputs, outputs);
  sc_call call = {&g->host, parallel, host_error, &wrong->what};
  for (i64 s = 0; s < g->step_count && !status; s++) {
    operands o;
    gather(&g->steps[s], tensors, &o);
    wrong->step = s;
    status = g->steps[s].kind->run(g->steps[s].state, (const sc_tensor *const *)o.in, o.out, &call);
  }
  sc_scratch_put(&g->host, slot, (float *)memory);
  return status;
}

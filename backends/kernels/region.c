/* Reading a program into steps. Nothing of it is trusted. */
#include "region_plan.h"

enum { FORMAT = 1, HEADER = 6, STEP_HEADER = 5, MAX_VALUES = 1 << 16 };

static void *get(const sc_host *host, i64 count, i64 size)
{
  char *p = host->alloc(host->self, (u64)(count * size ? count * size : 1));
  for (i64 i = 0; p && i < count * size; i++) p[i] = 0;
  return p;
}

static int wrong_at(sc_wrong *wrong, i64 step, const char *what)
{
  *wrong = (sc_wrong){step, what};
  return SC_WRONG;
}

typedef struct { const i64 *at, *end; } reader;

/* The next n numbers, or null when there are fewer. */
static const i64 *take(reader *r, i64 n)
{
  if (n < 0 || n > r->end - r->at) return 0;
  const i64 *p = r->at;
  r->at += n;
  return p;
}

static const char changed[] = "the program is damaged or of another version of sparsecc";

/* Every value is defined once, before it is used. */
static int read_values(sc_region *g, sc_step *s, const i64 *ids, char *defined)
{
  for (i64 i = 0; i < s->inputs; i++)
    if (ids[i] < 0 || ids[i] >= g->values || !defined[ids[i]]) return 0;
  for (i64 i = 0; i < s->outputs; i++) {
    i64 id = ids[s->inputs + i];
    if (id < 0 || id >= g->values || defined[id]) return 0;
    defined[id] = 1;
  }
  s->ids = ids;
  return 1;
}

static int read_step(sc_region *g, const sc_isa *isa, reader *r, const sc_constant *constants, i64 constant_count,
                     char *defined, sc_step *s, sc_wrong *wrong)
{
  i64 number = s - g->steps;
  const i64 *head = take(r, STEP_HEADER);
  if (!head || head[0] < 0 || head[0] >= SC_STEP_KINDS) return wrong_at(wrong, number, changed);
  s->kind = isa->steps[head[0]];
  if (!s->kind) return wrong_at(wrong, number, "its kind of step is not in this library");
  s->inputs = head[1], s->outputs = head[2];
  if (s->inputs < 1 || s->inputs > MAX_OPERANDS || s->outputs < 1 || s->outputs > MAX_OPERANDS)
    return wrong_at(wrong, number, changed);
  const i64 *ids = take(r, s->inputs + s->outputs), *uses = take(r, head[3]), *attributes = take(r, head[4]);
  if (!ids || !uses || !attributes || !read_values(g, s, ids, defined)) return wrong_at(wrong, number, changed);
  sc_constant *chosen = get(&g->host, head[3], sizeof *chosen);
  if (!chosen) return SC_MEMORY;
  const char *what = 0;
  for (i64 i = 0; i < head[3] && !what; i++) {
    if (uses[i] < 0 || uses[i] >= constant_count) what = changed;
    else chosen[i] = constants[uses[i]];
  }
  sc_step_spec spec = {attributes, head[4], chosen, head[3], s->inputs, s->outputs};
  if (!what) what = s->kind->create(&spec, &g->host, &s->state);
  g->host.free(g->host.self, chosen);
  return what ? wrong_at(wrong, number, what) : SC_OK;
}

static int read_program(sc_region *g, const sc_isa *isa, const i64 *program, i64 length, const sc_constant *constants,
                        i64 constant_count, sc_wrong *wrong)
{
  reader r = {program, program + length};
  const i64 *head = take(&r, HEADER);
  if (!head || head[0] != FORMAT || head[1] != SC_STEPS_KEY || head[2] < 1 || head[2] > MAX_VALUES || head[3] < 1 ||
      head[3] > head[2] || head[4] < 1 || head[4] > head[2] || head[5] < 1 || head[5] > MAX_VALUES)
    return wrong_at(wrong, -1, changed);
  g->values = head[2], g->inputs = head[3], g->outputs = head[4], g->step_count = head[5];
  const i64 *outputs = take(&r, g->outputs);
  g->steps = get(&g->host, g->step_count, sizeof *g->steps);
  g->program = get(&g->host, length, sizeof *g->program);
  char *defined = get(&g->host, g->values, 1);
  int status = g->steps && g->program && defined ? SC_OK : SC_MEMORY;
  if (!status && !outputs) status = wrong_at(wrong, -1, changed);
  for (i64 i = 0; !status && i < g->inputs; i++) defined[i] = 1;
  for (i64 i = 0; !status && i < length; i++) g->program[i] = program[i];
  r = (reader){g->program + (r.at - program), g->program + length};
  g->output_ids = g->program + HEADER;
  for (i64 i = 0; !status && i < g->step_count; i++)
    status = read_step(g, isa, &r, constants, constant_count, defined, &g->steps[i], wrong);
  for (i64 i = 0; !status && i < g->outputs; i++)
    if (g->output_ids[i] < g->inputs || g->output_ids[i] >= g->values || !defined[g->output_ids[i]])
      status = wrong_at(wrong, -1, changed);
  if (defined) g->host.free(g->host.self, defined);
  return status;
}

int sc_region_create(const sc_isa *isa, const i64 *program, i64 length, const sc_constant *constants, i64 constant_count,
                     const sc_host *host, sc_region **out, sc_wrong *wrong)
{
  *out = 0;
  sc_region *g = get(host, 1, sizeof *g);
  if (!g) return SC_MEMORY;
  g->host = *host;
  sc_scratch_retain(host);
  int status = read_program(g, isa, program, length, constants, constant_count, wrong);
  if (status) sc_region_destroy(g);
  else *out = g;
  return status;
}

void sc_region_destroy(sc_region *g)
{
  sc_host host = g->host;
  for (int i = 0; i < PLANS; i++)
    if (g->plans[i]) host.free(host.self, g->plans[i]);
  for (i64 i = 0; g->steps && i < g->step_count; i++)
    if (g->steps[i].state) g->steps[i].kind->destroy(g->steps[i].state, &host);
  if (g->steps) host.free(host.self, g->steps);
  if (g->program) host.free(host.self, g->program);
  host.free(host.self, g);
  sc_scratch_release(&host);
}

i64 sc_region_inputs(const sc_region *g) { return g->inputs; }
i64 sc_region_outputs(const sc_region *g) { return g->outputs; }
const char *sc_region_step_kind(const sc_region *g, i64 step)
{
  return g->steps[step].kind ? g->steps[step].kind->name : "step";
}

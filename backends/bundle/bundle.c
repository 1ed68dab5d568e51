/* A model that runs by itself: weights where they lie, memory and threads from the host, errors as sentences. */
#include "bundle.h"
#include "cpu.h"
#include "say.h"

struct sc_bundle {
  const sc_bundle_plan *plan;
  sc_bundle_host host;
  sc_pool pool;                  /* this host's memory alone */
  sc_region *region;
  int starved;                   /* the host had no memory */
  message error;
};

/* ---- services of the host ---- */
static void *allocate(void *self, u64 bytes)
{
  sc_bundle *b = self;
  void *memory = b->host.alloc(b->host.self, bytes);
  if (!memory) __atomic_store_n(&b->starved, 1, __ATOMIC_RELAXED);
  return memory;
}

static void release(void *self, void *memory)
{
  sc_bundle *b = self;
  b->host.free(b->host.self, memory);
}

static void *serial(void *self, void (*task)(void *, u64), u64 count, void *data)
{
  (void)self;
  for (u64 i = 0; i < count; i++) task(data, i);
  return 0;
}

static sc_host host_of(sc_bundle *b) { return (sc_host){allocate, release, b, &b->pool}; }

/* ---- errors: "model: layer 'conv1' (SparseConv): what is wrong; fix: what to do" ---- */
static const char again[] = "compile the model again, and use the files of one compilation together";
static const char more_memory[] = "give it more memory, or smaller inputs";

static message *begin(sc_bundle *b)
{
  b->error.used = 0;
  say(&b->error, b->plan->name);
  say(&b->error, ": ");
  return &b->error;
}

static int end(message *m, const char *fix)
{
  say(m, "; fix: ");
  say(m, fix);
  return SC_WRONG;
}

static int refuse(sc_bundle *b, const char *what, const char *fix)
{
  message *m = begin(b);
  say(m, what);
  return end(m, fix);
}

static message *begin_layer(sc_bundle *b, i64 step)
{
  message *m = begin(b);
  if (step < 0) return m;
  say(m, "layer '");
  say(m, b->plan->layers[step]);
  say(m, "': ");
  return m;
}

/* What a region answered; zero is no error. */
static int report(sc_bundle *b, int status, const sc_wrong *wrong, const char *fix)
{
  if (!status) return status;
  const char *what = wrong->what;
  if (status == SC_MEMORY || b->starved) what = "there is not enough memory", fix = more_memory, status = SC_MEMORY;
  else if (status == SC_TOO_LARGE) what = "its input is too large", fix = "feed smaller inputs";
  else if (status == SC_HOST_ERROR) what = "the parallel loop of the host failed", fix = "see what the host says";
  else if (!what) what = "it failed";
  message *m = begin_layer(b, wrong->step);
  say(m, what);
  end(m, fix);
  return status;
}

const char *sc_bundle_error(const sc_bundle *b) { return b->error.text; }

/* ---- making it ---- */
static int make_region(sc_bundle *b, const char *payload)
{
  const sc_bundle_plan *p = b->plan;
  const sc_isa *isa = sc_pick_isa();
  if (!isa) {
    message *m = begin(b);
    say(m, "this processor is not one it was compiled for; it needs ");
    say(m, sc_cpu_needs());
    return end(m, "compile the model for this machine");
  }
  const sc_host host = host_of(b);
  sc_wrong wrong = {-1, 0};
  sc_constant *constants = allocate(b, (u64)(p->constant_count + 1) * sizeof *constants);
  if (!constants) return report(b, SC_MEMORY, &wrong, 0);
  for (i64 i = 0; i < p->constant_count; i++) {
    const sc_stored *s = &p->constants[i];
    constants[i] = (sc_constant){.type = s->type, .rank = s->rank, .data = payload + (u64)s->line * SC_WEIGHTS_ALIGN, .count = 1};
    for (i32 d = 0; d < s->rank; d++) constants[i].dims[d] = s->dims[d], constants[i].count *= constants[i].dims[d];
  }
  int status = sc_region_create(isa, p->program, p->length, constants, p->constant_count, &host, &b->region, &wrong);
  release(b, constants);
  return report(b, status, &wrong, again);
}

/* The text of an error where there is no bundle to keep it. */
static void tell(char *to, u64 room, const char *text)
{
  u64 used = 0;
  for (; to && used + 1 < room && text[used]; used++) to[used] = text[used];
  if (to && room) to[used] = 0;
}

int sc_bundle_create(const sc_bundle_plan *plan, const void *weights, u64 bytes, const sc_bundle_host *host, sc_bundle **out,
                     char *text, u64 room)
{
  return sc_bundle_open(plan, weights, bytes, 0, host, out, text, room);
}

int sc_bundle_open(const sc_bundle_plan *plan, const void *weights, u64 bytes, const u64 *hash, const sc_bundle_host *host,
                   sc_bundle **out, char *text, u64 room)
{
  tell(text, room, "");
  *out = 0;
  const char *wrong = host && host->alloc && host->free ? sc_weights_check(plan, weights, bytes, hash)
                                                        : "the host has no alloc or no free; fix: give both functions";
  sc_bundle *b = wrong ? 0 : host->alloc(host->self, sizeof *b);
  if (!b) {
    message m = {.used = 0};
    say(&m, plan->name), say(&m, ": "), say(&m, wrong ? wrong : "there is not enough memory; fix: give it more memory");
    tell(text, room, m.text);
    return wrong ? SC_WRONG : SC_MEMORY;
  }
  *b = (sc_bundle){.plan = plan, .host = *host};
  const int status = make_region(b, (const char *)weights + SC_WEIGHTS_ALIGN);
  if (status) tell(text, room, b->error.text), sc_bundle_destroy(b);
  else *out = b;
  return status;
}

void sc_bundle_destroy(sc_bundle *b)
{
  if (!b) return;
  const sc_bundle_host host = b->host;
  if (b->region) sc_region_destroy(b->region);
  host.free(host.self, b);
}

/* ---- inputs and outputs ---- */
static int same_text(const char *a, const char *b)
{
  while (*a && *a == *b) a++, b++;
  return *a == *b;
}

/* "[batch, 3, 224, 224]" */
static void say_port(message *m, const sc_port *p)
{
  say(m, "[");
  for (i32 d = 0; d < p->rank; d++) {
    if (d) say(m, ", ");
    if (p->dims[d] < 0) say(m, p->dim_names[d]);
    else say_number(m, p->dims[d]);
  }
  say(m, "]");
}

static message *begin_port(sc_bundle *b, const char *side, const sc_port *p)
{
  message *m = begin(b);
  say(m, side);
  say(m, " '");
  say(m, p->name);
  say(m, "' ");
  return m;
}

static const char *name_of_type(i32 type)
{
  static const char *const names[SC_PORT_TYPES] = {"float32", "int32", "int64", "uint8", "int8", "bool"};
  return type >= 0 && type < SC_PORT_TYPES ? names[type] : "of an unknown type";
}

static int refuse_shape(sc_bundle *b, const sc_port *p, const sc_value_of_port *v)
{
  message *m = begin_port(b, "input", p);
  say(m, "has shape ");
  if (v->rank < 0 || v->rank > SC_PORT_RANK) say(m, "with more than 8 dimensions");
  else say_list(m, v->dims, (u64)v->rank);
  say(m, ", the model takes ");
  say_port(m, p);
  return end(m, "feed an input of that shape");
}

/* The size that an open dimension of this name has in the inputs up to and with number `last`; zero where it has none. */
static i64 known_size(const sc_bundle_plan *plan, const sc_value_of_port *inputs, i32 last, const char *name)
{
  for (i32 i = 0; i <= last; i++)
    for (i32 d = 0; d < plan->inputs[i].rank; d++)
      if (plan->inputs[i].dims[d] < 0 && same_text(plan->inputs[i].dim_names[d], name)) return inputs[i].dims[d];
  return 0;
}

static int check_input(sc_bundle *b, const sc_value_of_port *inputs, i32 i, int with_data)
{
  const sc_port *p = &b->plan->inputs[i];
  const sc_value_of_port *v = &inputs[i];
  if (v->type != p->type) {
    message *m = begin_port(b, "input", p);
    say(m, "is "), say(m, name_of_type(v->type)), say(m, ", the model takes "), say(m, name_of_type(p->type));
    return end(m, "convert it");
  }
  if (v->rank != p->rank) return refuse_shape(b, p, v);
  for (i32 d = 0; d < p->rank; d++) {
    if (v->dims[d] < 1 || (p->dims[d] >= 0 && v->dims[d] != p->dims[d])) return refuse_shape(b, p, v);
    if (p->dims[d] >= 0) continue;
    const i64 size = known_size(b->plan, inputs, i, p->dim_names[d]);
    if (size == v->dims[d]) continue;
    message *m = begin_port(b, "input", p);
    say(m, "has "), say_number(m, v->dims[d]), say(m, " for "), say(m, p->dim_names[d]), say(m, ", which is ");
    say_number(m, size), say(m, " elsewhere");
    return end(m, "feed inputs that agree");
  }
  if (!with_data || v->data) return SC_OK;
  begin_port(b, "input", p);
  say(&b->error, "has no data");
  return end(&b->error, "feed every input");
}

/* A plan for inputs that are checked first. */
static int plan_of(sc_bundle *b, const sc_value_of_port *inputs, int with_data, sc_plan **out)
{
  sc_tensor tensors[SC_REGION_VALUES];
  b->error.used = 0, b->error.text[0] = 0, b->starved = 0;
  if (!inputs) return refuse(b, "there are no inputs", "feed every input");
  for (i32 i = 0; i < b->plan->input_count; i++) {
    const int status = check_input(b, inputs, i, with_data);
    if (status) return status;
    const i32 type = inputs[i].type == SC_BOOL ? SC_U8 : inputs[i].type;
    tensors[i] = (sc_tensor){.type = type, .layout = SC_PLAIN, .rank = inputs[i].rank};
    for (i32 d = 0; d < inputs[i].rank; d++) tensors[i].dims[d] = inputs[i].dims[d];
  }
  sc_wrong wrong = {-1, 0};
  return report(b, sc_region_plan(b->region, tensors, out, &wrong), &wrong, "feed inputs of the sizes the model was exported for");
}

int sc_bundle_infer(sc_bundle *b, const sc_value_of_port *inputs, sc_value_of_port *outputs)
{
  sc_plan *plan;
  const int status = plan_of(b, inputs, 0, &plan);
  if (status) return status;
  for (i32 i = 0; i < b->plan->output_count; i++) {
    const sc_tensor *t = sc_plan_output(b->region, plan, i);
    outputs[i].rank = t->rank, outputs[i].type = b->plan->outputs[i].type;
    for (i32 d = 0; d < SC_PORT_RANK; d++) outputs[i].dims[d] = d < t->rank ? t->dims[d] : 0;
  }
  sc_plan_done(b->region, plan);
  return SC_OK;
}

/* Outputs must have the dims that NAME_plan told: their memory is the caller's. */
static int check_output(sc_bundle *b, const sc_plan *plan, const sc_value_of_port *outputs, i32 i)
{
  const sc_port *p = &b->plan->outputs[i];
  const sc_tensor *t = sc_plan_output(b->region, plan, i);
  const sc_value_of_port *v = &outputs[i];
  int same = v->data && v->rank == t->rank && v->type == p->type;
  for (i32 d = 0; same && d < t->rank; d++) same = v->dims[d] == t->dims[d];
  if (same) return SC_OK;
  message *m = begin_port(b, "output", p);
  say(m, v->data ? "is given memory for another shape or type than " : "has no memory for ");
  say_list(m, t->dims, (u64)t->rank), say(m, " of "), say(m, name_of_type(p->type));
  return end(m, "plan first, and give memory for the dims that it tells");
}

static int run_plan(sc_bundle *b, sc_plan *plan, const sc_value_of_port *inputs, const sc_value_of_port *outputs)
{
  void *in[SC_REGION_VALUES], *out[SC_REGION_VALUES], *host_error = 0;
  for (i32 i = 0; i < b->plan->input_count; i++) in[i] = inputs[i].data;
  for (i32 i = 0; i < b->plan->output_count; i++) {
    const int status = check_output(b, plan, outputs, i);
    if (status) return status;
    out[i] = outputs[i].data;
  }
  const sc_parallel parallel = {b->host.parallel ? b->host.parallel : serial, b->host.self};
  sc_wrong wrong = {-1, 0};
  return report(b, sc_region_run(b->region, plan, in, out, &parallel, &host_error, &wrong), &wrong, "feed what the model was exported for");
}

int sc_bundle_run(sc_bundle *b, const sc_value_of_port *inputs, const sc_value_of_port *outputs)
{
  sc_plan *plan;
  int status = plan_of(b, inputs, 1, &plan);
  if (status) return status;
  status = outputs ? run_plan(b, plan, inputs, outputs) : refuse(b, "there are no outputs", "give memory for every output");
  sc_plan_done(b->region, plan);
  return status;
}

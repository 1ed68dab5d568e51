/* One step of a region in the process of its host, who times it as a model would run it: the weights lie where a whole run
   left them, beyond the second-level cache, and the inputs where the step before left them, near. */
#include "codes.h"
#include "cpu.h"
#include "region.h"

#define EXPORT __attribute__((visibility("default")))
enum { MOST_INPUTS = 4, ALIGN = 64, LINE_FLOATS = 16, PAGE_FLOATS = 1024 };

typedef struct {
  sc_host host;
  const sc_step_kind *kind;
  void *state;
  sc_tensor in[MOST_INPUTS], out;
  i64 inputs;
} probe;

typedef struct { void *(*allocate)(u64); void (*release)(void *); } memory;
static memory from;

static void *allocate(void *self, u64 bytes)
{
  (void)self;
  char *whole = from.allocate(bytes + ALIGN + sizeof whole);
  if (!whole) return 0;
  char *at = (char *)(((u64)whole + sizeof whole + ALIGN - 1) / ALIGN * ALIGN);
  ((char **)at)[-1] = whole;
  return at;
}

static void release(void *self, void *at)
{
  (void)self;
  if (at) from.release(((char **)at)[-1]);
}

static void *serial(void *self, void (*task)(void *, u64), u64 count, void *data)
{
  (void)self;
  for (u64 i = 0; i < count; i++) task(data, i);
  return 0;
}

/* Ticks of a clock that runs evenly. */
EXPORT u64 probe_ticks(void)
{
#if defined(__x86_64__)
  u32 low, high;
  __asm__ volatile("lfence; rdtsc; lfence" : "=a"(low), "=d"(high) : : "memory");
  return (u64)high << 32 | low;
#else
  u64 ticks;
  __asm__ volatile("isb; mrs %0, cntvct_el0" : "=r"(ticks) : : "memory");
  return ticks;
#endif
}

EXPORT void probe_memory(void *(*get)(u64), void (*put)(void *)) { from = (memory){get, put}; }

/* Generated code of the next probes; text can be executed. */
EXPORT void probe_codes(i64 count, const void *codes, const void *cells, const void *text)
{
  sc_codes = (sc_code_table){count, codes, cells, text};
}

EXPORT void probe_close(probe *p)
{
  if (p->state) p->kind->destroy(p->state, &p->host);
  release(0, p->out.data);
  release(0, p);
}

/* Null, or what is wrong. Constants live as long as the probe. */
EXPORT const char *probe_open(i64 kind, const i64 *attributes, i64 attribute_count, const sc_constant *constants,
                              i64 constant_count, const sc_tensor *inputs, i64 input_count, probe **out)
{
  *out = 0;
  const sc_isa *isa = sc_pick_isa();
  probe *p = allocate(0, sizeof *p);
  if (!p) return "out of memory";
  *p = (probe){.host = {allocate, release, 0, 0}, .inputs = input_count};
  if (!isa || kind < 0 || kind >= SC_STEP_KINDS || input_count > MOST_INPUTS) return release(0, p), "no such step";
  p->kind = isa->steps[kind];
  const sc_tensor *in[MOST_INPUTS + 1] = {0};
  for (i64 i = 0; i < input_count; i++) p->in[i] = inputs[i], in[i] = &p->in[i];
  sc_tensor *made[] = {&p->out, 0};
  const sc_step_spec spec = {attributes, attribute_count, constants, constant_count, input_count, 1};
  const char *wrong = p->kind->create(&spec, &p->host, &p->state);
  if (!wrong) wrong = p->kind->infer(p->state, in, made);
  if (!wrong && !(p->out.data = allocate(0, (u64)sc_tensor_bytes(&p->out)))) wrong = "out of memory";
  if (wrong) probe_close(p);
  else *out = p;
  return wrong;
}

static float touch(const float *at, i64 bytes, i64 step)
{
  float sum = 0;
  for (i64 i = 0; i < bytes / 4; i += step) sum += *(const volatile float *)(at + i);
  return sum;
}

/* Leaves what was near in a cache further away, by reading the first bytes, and its pages unknown, by reading one float of each
   page of all. */
EXPORT void probe_chill(const float *cold, i64 bytes, i64 all)
{
  touch(cold, bytes, LINE_FLOATS);
  touch(cold, all, PAGE_FLOATS);
}

/* Runs the step `repeat` times, chilled before each. ticks[i]: of run i. */
EXPORT int probe_run(probe *p, i64 repeat, u64 *ticks, const float *cold, i64 bytes, i64 all)
{
  const sc_parallel parallel = {serial, 0};
  void *error = 0;
  const char *wrong = 0;
  const sc_call call = {&p->host, &parallel, &error, &wrong};
  const sc_tensor *in[MOST_INPUTS + 1] = {0};
  sc_tensor *out[] = {&p->out, 0};
  int status = 0;
  for (i64 i = 0; i < p->inputs; i++) in[i] = &p->in[i];
  for (i64 n = 0; n < repeat && !status; n++) {
    probe_chill(cold, bytes, all);
    touch(p->out.data, sc_tensor_bytes(&p->out), LINE_FLOATS);
    for (i64 i = 0; i < p->inputs; i++) touch(p->in[i].data, sc_tensor_bytes(&p->in[i]), LINE_FLOATS);
    u64 start = probe_ticks();
    status = p->kind->run(p->state, in, out, &call);
    ticks[n] = probe_ticks() - start;
  }
  return status;
}

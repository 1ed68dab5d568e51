/* The step "attention_blocks": which blocks of scores an attention keeps from this call on. A step that searches computes the
   masses of all blocks and chooses; others give every block, or the index that came in. */
#include "attention_blocks.h"
#include "attention_operands.h"

enum { FIXED = 12, INDEX = 2, STEP = 3, INPUTS = 4 };

/* Heads of queries, of keys, and their features; layouts and first columns of q and k; scale; steps that keep every block;
   sparsity; words before and behind; the steps that search. */
static const char *read_attributes(const i64 *n, sc_search *s)
{
  const char *wrong = check_heads(n);
  if (wrong) return wrong;
  *s = (sc_search){.a = {.heads = n[0], .groups = n[1], .dim = n[2], .scale = sc_float_attribute(n[7]), .blocked = SC_INPUT},
                   .full = n[8], .sparsity = sc_float_attribute(n[9]), .before = n[10], .behind = n[11]};
  for (int i = 0; i < 2; i++) {
    if (n[3 + i] < 0 || n[3 + i] >= SC_TOKEN_LAYOUTS) return "a malformed step";
    if (n[5 + i] < 0 || n[5 + i] > 1 << 30) return "a column is out of range";
    s->a.layout[i] = (i32)n[3 + i], s->a.offset[i] = n[5 + i];
  }
  if (!(s->sparsity >= 0.f && s->sparsity < 1.f)) return "its sparsity is not 0 or more and less than 1";
  if (s->before < 0 || s->before > SC_UNBOUNDED || s->behind < 0 || s->behind > SC_UNBOUNDED) return "its words are out of range";
  return 0;
}

static const char *create(const sc_step_spec *spec, const sc_host *host, void **state)
{
  *state = 0;
  if (spec->attribute_count < FIXED) return "it has twelve attributes and the steps that search";
  if (spec->outputs != 1 || spec->inputs != INPUTS || spec->constant_count != 1)
    return "it reads q, k, the index before and the step, and has a grid";
  sc_search read;
  const char *wrong = read_attributes(spec->attributes, &read);
  if (!wrong) wrong = read_blocks(0, spec->constants, &read.a.blocks);
  if (!wrong && read.a.blocks.heads != read.a.heads) wrong = "the grid has another number of heads";
  if (!wrong && (!read.a.blocks.down || !read.a.blocks.across)) wrong = "the grid has no blocks";
  if (wrong) return wrong;
  const i64 count = spec->attribute_count - FIXED;
  sc_search *s = sc_get(host, (i64)sizeof *s + count * (i64)sizeof *s->steps);
  if (!s) return "there is no memory for it";
  *s = read;
  s->count = count;
  for (i64 i = 0; i < count; i++) s->steps[i] = spec->attributes[FIXED + i];
  *state = s;
  sc_scratch_retain(host);
  return 0;
}

static const char *read_operands(const sc_search *s, const sc_tensor *const *in, operand x[2])
{
  const char *wrong = read_operand(&s->a, SC_Q, in[SC_Q], s->a.heads, &x[SC_Q]);
  if (!wrong) wrong = read_operand(&s->a, SC_K, in[SC_K], s->a.groups, &x[SC_K]);
  return wrong || x[SC_Q].batch == x[SC_K].batch ? wrong : "q and k have different batch sizes";
}

static i64 blocks_of(const sc_search *s) { return s->a.blocks.heads * s->a.blocks.down * s->a.blocks.across; }

static const char *infer(const void *state, const sc_tensor *const *in, sc_tensor *const *out)
{
  const sc_search *s = state;
  operand x[2];
  const char *wrong = read_operands(s, in, x);
  if (wrong) return wrong;
  const i64 want[4] = {x[SC_Q].batch, s->a.heads, x[SC_Q].tokens, x[SC_K].tokens};
  if ((wrong = check_blocks(&s->a, in[INDEX], want))) return wrong;
  if (in[INDEX]->dims[0] != blocks_of(s)) return "the index before must be as long as the grid has blocks";
  const sc_tensor *step = in[STEP];
  if (step->type != SC_I64 || step->layout != SC_PLAIN || step->rank != 1 || step->dims[0] != 1)
    return "the step must be one number of int64";
  *out[0] = (sc_tensor){.type = SC_I32, .layout = SC_PLAIN, .rank = 1, .dims = {blocks_of(s)}};
  return 0;
}

static int searches(const sc_search *s, i64 step, const i32 *index)
{
  if (step >= s->full && index[0] == -1) return 1;
  for (i64 i = 0; i < s->count; i++) if (s->steps[i] == step) return 1;
  return 0;
}

static int search(const sc_search *s, const sc_tensor *const *in, i32 *index, const sc_call *call)
{
  operand x[2];
  read_operands(s, in, x);
  int slot;
  float *masses = sc_scratch_get(call->host, blocks_of(s), &slot);
  if (!masses) return SC_MEMORY;
  for (i64 i = 0; i < blocks_of(s); i++) masses[i] = 0.f;
  const sc_search_call given = {s, {x[SC_Q].heads, x[SC_K].heads}, x[SC_Q].batch, x[SC_Q].tokens, x[SC_K].tokens, masses};
  int status = SC(sc_block_masses)(&given, call);
  if (!status) status = SC(sc_choose_blocks)(&given, index, call);
  sc_scratch_put(call->host, slot, masses);
  return status;
}

static int run(void *state, const sc_tensor *const *in, sc_tensor *const *out, const sc_call *call)
{
  const sc_search *s = state;
  const i32 *before = in[INDEX]->data;
  i32 *index = out[0]->data;
  i64 count;
  const char *wrong = sc_check_index(before, blocks_of(s), &s->a.blocks, &count);
  if (wrong) {
    *call->wrong = wrong;
    return SC_WRONG;
  }
  const i64 step = *(const i64 *)in[STEP]->data;
  if (searches(s, step, before)) return search(s, in, index, call);
  for (i64 i = 0; i < blocks_of(s); i++) index[i] = step < s->full ? (i32)i : before[i];
  return SC_OK;
}

extern const sc_step_kind SC(sc_step_attention_blocks);
HIDDEN const sc_step_kind SC(sc_step_attention_blocks) = {"attention_blocks", create, destroy, infer, run};

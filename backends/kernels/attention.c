/* The step "attention": what it is told, checked, and the way that computes it. */
#include "attention_operands.h"
#include "outer.h"
#include "t64.h"

enum { ATTRIBUTES = 18 };

static const char *read_mask(const sc_constant *from, sc_tensor *mask)
{
  if (from->type != SC_F32 || from->rank > 4) return "the mask must be float32 of at most four dimensions";
  *mask = (sc_tensor){.type = from->type, .rank = from->rank, .data = (void *)(u64)from->data};
  for (int i = 0; i < from->rank; i++) mask->dims[i] = from->dims[i];
  return 0;
}

/* The order of tokens: each once, so that every result is written. */
static const char *read_order(const sc_constant *from, const sc_host *host, sc_attention *a)
{
  if (from->type != SC_I64 || from->rank != 1 || from->count < 1 || from->count > SC_UNBOUNDED) return "the order must be a row of int64";
  if (a->masked || a->rule.left != SC_UNBOUNDED || a->rule.right != SC_UNBOUNDED) return "an order goes with neither mask nor rule";
  unsigned char *seen = sc_get(host, (i64)from->count);
  if (!seen) return "there is no memory for it";
  const i64 count = (i64)from->count, *order = from->data;
  const char *wrong = 0;
  for (i64 i = 0; i < count; i++) seen[i] = 0;
  for (i64 i = 0; i < count && !wrong; i++) {
    if (order[i] < 0 || order[i] >= count || seen[order[i]]) wrong = "the order does not have every token once";
    else seen[order[i]] = 1;
  }
  sc_drop(host, seen);
  a->ordered = count, a->order = order;
  return wrong;
}

/* Heads of queries, of keys, and their features; layouts of q, k, v and y; first columns of q, k and v; scale; whether scores hide
   keys; left, right and sinks of the rule; whether there are blocks and a mask, and an order of tokens. An index that is an input
   comes before the mask; an index that is a constant comes before the grid, that before the mask, and that before the order. */
static const char *read_attributes(const i64 *n, sc_attention *a)
{
  const char *wrong = check_heads(n);
  if (wrong) return wrong;
  *a = (sc_attention){.heads = n[0], .groups = n[1], .dim = n[2], .scale = sc_float_attribute(n[10]), .hides = n[11] != 0,
                      .rule = {n[12], n[13], n[14]}, .blocked = (int)n[15], .masked = (int)n[16]};
  for (int i = 0; i < SC_TOKEN_OPERANDS; i++) {
    if (n[3 + i] < 0 || n[3 + i] >= SC_TOKEN_LAYOUTS) return "a malformed step";
    a->layout[i] = (i32)n[3 + i];
  }
  for (int i = 0; i < 3; i++) {
    if (n[7 + i] < 0 || n[7 + i] > 1 << 30) return "a column is out of range";
    a->offset[i] = n[7 + i];
  }
  for (int i = 12; i < 15; i++)
    if (n[i] < -SC_UNBOUNDED || n[i] > SC_UNBOUNDED) return "its rule has a number beyond 32 bits";
  if (n[14] < 0 || n[15] < 0 || n[15] > SC_INPUT || n[16] < 0 || n[16] > SC_INPUT || n[17] < 0 || n[17] > 1) return "a malformed step";
  return 0;
}

static const char *create(const sc_step_spec *spec, const sc_host *host, void **state)
{
  *state = 0;
  if (spec->attribute_count != ATTRIBUTES) return "it has eighteen attributes";
  sc_attention read;
  const char *wrong = read_attributes(spec->attributes, &read);
  if (wrong) return wrong;
  const int fixed_index = read.blocked == SC_CONSTANT, fixed_mask = read.masked == SC_CONSTANT, ordered = (int)spec->attributes[17];
  if (spec->outputs != 1 || spec->inputs != 3 + (read.blocked == SC_INPUT) + (read.masked == SC_INPUT) ||
      spec->constant_count != fixed_index + (read.blocked != 0) + fixed_mask + ordered)
    return "its inputs and constants are not those that its attributes speak of";
  const sc_constant *constants = spec->constants;
  if (read.blocked) wrong = read_blocks(fixed_index ? constants : 0, constants + fixed_index, &read.blocks);
  if (!wrong && fixed_mask) wrong = read_mask(constants + spec->constant_count - 1 - ordered, &read.mask);
  if (!wrong && ordered) wrong = read_order(constants + spec->constant_count - 1, host, &read);
  if (wrong) return wrong;
  sc_attention *a = sc_get(host, sizeof *a);
  if (!a) return "there is no memory for it";
  *a = read;
  *state = a;
  sc_scratch_retain(host);
  return 0;
}

/* ---- sizes ---- */
static const char *read_operands(const sc_attention *a, const sc_tensor *const *in, operand x[3])
{
  for (int i = 0; i < 3; i++) {
    const char *wrong = read_operand(a, i, in[i], i == SC_Q ? a->heads : a->groups, &x[i]);
    if (wrong) return wrong;
    if (x[i].batch != x[0].batch) return "q, k, v have different batch sizes";
  }
  if (x[SC_K].tokens != x[SC_V].tokens) return "there must be as many keys as values";
  return x[SC_K].tokens < 1 && !a->hides ? "there are no keys" : 0;
}

/* Dims [batch, heads, queries, keys] that a mask may have. */
static const char *check_mask(const sc_tensor *mask, const i64 want[4])
{
  if (!sc_is_plain(mask) || mask->rank < 1 || mask->rank > 4)
    return "the mask must be float32 of at most four dimensions";
  for (int i = 0; i < mask->rank; i++) {
    const i64 have = mask->dims[i];
    if (have != 1 && have != want[4 - mask->rank + i]) return "the mask does not fit batch, heads, queries and keys";
  }
  return 0;
}

static const char *check_rest(const sc_attention *a, const sc_tensor *const *in, const i64 want[4])
{
  if (a->order && (want[2] != a->ordered || want[3] != a->ordered)) return "the order is of another number of tokens";
  const char *wrong = a->blocked ? check_blocks(a, sc_index_input(a, in), want) : 0;
  if (wrong || !a->masked) return wrong;
  return check_mask(a->masked == SC_CONSTANT ? &a->mask : sc_mask_input(a, in), want);
}

static const char *infer_lanes(const sc_attention *a, const sc_tensor *const *in, sc_tensor *out)
{
  const i32 rank = in[0]->rank;
  int rows = a->groups == a->heads && !a->blocked && a->rule.left == SC_UNBOUNDED && a->rule.right == SC_UNBOUNDED && !a->hides && !a->order;
  for (int i = 0; i < SC_TOKEN_OPERANDS; i++) rows &= a->layout[i] == SC_ROWS;
  if (!rows || a->dim < OUTER_LEAST) return "with tokens in the lanes, it must be dense, and heads need six features";
  for (int i = 0; i < 3; i++) {
    if (!sc_is_t64(in[i]) || in[i]->rank != rank || rank < 2 || rank > 3) return "q, k, v must lie as one does";
    if (rank == 3 && in[i]->dims[0] != in[0]->dims[0]) return "q, k, v have different batch sizes";
    if (a->offset[i] + a->heads * a->dim > in[i]->dims[rank - 1]) return "the heads do not fit into the features";
  }
  if (in[1]->dims[rank - 2] != in[2]->dims[rank - 2]) return "there must be as many keys as values";
  const i64 want[4] = {rank == 3 ? in[0]->dims[0] : 1, a->heads, in[0]->dims[rank - 2], in[1]->dims[rank - 2]};
  if (want[3] < 1) return "there are no keys";
  const char *wrong = check_rest(a, in, want);
  if (wrong) return wrong;
  const sc_tensor *mask = a->masked ? a->masked == SC_CONSTANT ? &a->mask : sc_mask_input(a, in) : 0;
  if (mask && mask->dims[mask->rank - 1] != want[3]) return "with tokens in the lanes, the mask needs a number for every key";
  *out = *in[0];
  out->data = 0, out->dims[rank - 1] = a->heads * a->dim;
  return sc_is_t64(out) ? 0 : "with tokens in the lanes, there must be 16 features";
}

static const char *infer(const void *state, const sc_tensor *const *in, sc_tensor *const *out)
{
  const sc_attention *a = state;
  if (in[0]->layout == SC_T64) return infer_lanes(a, in, out[0]);
  operand x[3];
  const char *wrong = read_operands(a, in, x);
  if (wrong) return wrong;
  const i64 batch = x[SC_Q].batch, queries = x[SC_Q].tokens, features = a->heads * a->dim;
  const i64 want[4] = {batch, a->heads, queries, x[SC_K].tokens};
  if ((wrong = check_rest(a, in, want))) return wrong;
  sc_tensor *y = out[0];
  *y = (sc_tensor){.type = SC_F32, .layout = SC_PLAIN, .rank = 3};
  if (a->layout[SC_Y] == SC_HEADS_FIRST)
    y->rank = 4, y->dims[0] = batch, y->dims[1] = a->heads, y->dims[2] = queries, y->dims[3] = a->dim;
  else if (a->layout[SC_Y] == SC_TOKENS_FIRST)
    y->dims[0] = queries, y->dims[1] = batch, y->dims[2] = features;
  else if (in[0]->rank == 2)
    y->rank = 2, y->dims[0] = queries, y->dims[1] = features;
  else
    y->dims[0] = batch, y->dims[1] = queries, y->dims[2] = features;
  return 0;
}

static int run(void *state, const sc_tensor *const *in, sc_tensor *const *out, const sc_call *call)
{
  const sc_attention *a = state;
  if (in[0]->layout == SC_T64) return SC(sc_attention_t64)(a, in, out[0], call);
  operand x[3], y;
  read_operands(a, in, x);
  read_operand(a, SC_Y, out[0], a->heads, &y);
  sc_attention_call given = {.a = a, .y = y.heads, .batches = y.batch, .queries = y.tokens, .keys = x[SC_K].tokens,
                             .blocks = a->blocks, .mask = sc_mask_of(a, in)};
  for (int i = 0; i < 3; i++) given.x[i] = x[i].heads;
  const sc_tensor *index = sc_index_input(a, in);
  if (index) {
    const char *wrong = sc_check_index(index->data, index->dims[0], &a->blocks, &given.blocks.count);
    if (wrong) {
      *call->wrong = wrong;
      return SC_WRONG;
    }
    given.blocks.index = index->data;
  }
  return given.batches * given.queries ? SC(sc_attention_rows)(&given, call) : SC_OK;
}

extern const sc_step_kind SC(sc_step_attention);
HIDDEN const sc_step_kind SC(sc_step_attention) = {"attention", create, destroy, infer, run};

/* Attention: softmax(scale Q K^T + mask) V of every head, over the keys that a query sees. */
#ifndef SC_ATTENTION_H
#define SC_ATTENTION_H
#include "step.h"

/* How the heads of an operand lie.
   SC_ROWS          [batch, tokens, features], [tokens, features] of one batch, or [batch, tokens, heads, features of one].
   SC_TOKENS_FIRST  [tokens, batch, features].
   SC_HEADS_FIRST   [batch, heads, tokens, features of one]. */
enum { SC_ROWS, SC_TOKENS_FIRST, SC_HEADS_FIRST, SC_TOKEN_LAYOUTS };
enum { SC_Q, SC_K, SC_V, SC_Y, SC_TOKEN_OPERANDS, MOST_DIM = 256 };

/* Query i sees key j when j <= i + right and (j >= i - left or j < sinks). */
typedef struct { i64 left, right, sinks; } sc_rule;
enum { SC_UNBOUNDED = 0x7fffffff };

/* Blocks of scores that are kept: heads (or 1) x down x across blocks of rows x columns; index: ascending positions of the kept
   ones, `count` of them, or null where each call brings its own. */
typedef struct { i64 heads, down, across, rows, columns, count; const i32 *index; } sc_blocks;

typedef struct {
  i64 heads, groups, dim;        /* heads of queries; heads of keys and values, each shared by heads / groups */
  i32 layout[SC_TOKEN_OPERANDS];
  i64 offset[3];                 /* columns before the heads of q, k, v */
  float scale;
  int hides;                     /* scores of SC_LEAST_SCORE hide their key: a query that sees none gives zeros, else their mean */
  sc_rule rule;
  int blocked, masked;           /* whether there are blocks, and a mask: SC_NONE_GIVEN, ... */
  sc_blocks blocks;
  sc_tensor mask;                /* the constant */
  i64 ordered;                   /* tokens that are read, and whose results are written, in this order; 0: as they lie */
  const i64 *order;
} sc_attention;
enum { SC_NONE_GIVEN, SC_CONSTANT, SC_INPUT };

/* The numbers of a mask that spreads over [batch, heads, queries, keys]. */
typedef struct {
  const float *data;             /* null: no mask */
  i64 step[4];                   /* floats between batches, heads, queries, keys */
} sc_mask;

/* Scores that are not above count as masked: to the base 2 they are still finite. */
#define SC_LEAST_SCORE (-1e38f)

/* The operands behind q, k and v: null where there is none, or where it is a constant. */
static inline const sc_tensor *sc_index_input(const sc_attention *a, const sc_tensor *const *in)
{
  return a->blocked == SC_INPUT ? in[3] : 0;
}

static inline const sc_tensor *sc_mask_input(const sc_attention *a, const sc_tensor *const *in)
{
  return a->masked == SC_INPUT ? in[a->blocked == SC_INPUT ? 4 : 3] : 0;
}

/* The mask of a call. */
static inline sc_mask sc_mask_of(const sc_attention *a, const sc_tensor *const *in)
{
  sc_mask m = {0, {0}};
  if (!a->masked) return m;
  const sc_tensor *mask = a->masked == SC_CONSTANT ? &a->mask : sc_mask_input(a, in);
  m.data = mask->data;
  i64 step = 1;
  for (int axis = 3; axis >= 0; axis--) {
    const int i = axis - 4 + mask->rank;
    const i64 dim = i >= 0 ? mask->dims[i] : 1;
    m.step[axis] = dim == 1 ? 0 : step;
    step *= dim;
  }
  return m;
}

/* What is wrong with positions of blocks, or null; *count: how many come before the -1 at the end. */
static inline const char *sc_check_index(const i32 *index, i64 length, const sc_blocks *blocks, i64 *count)
{
  const i64 all = blocks->heads * blocks->down * blocks->across;
  i64 last = -1, n = 0;
  while (n < length && index[n] > last && index[n] < all) last = index[n++];
  *count = n;
  for (; n < length; n++)
    if (index[n] != -1) return "the positions of its blocks do not ascend inside the grid";
  return 0;
}

/* Where token t lies among those of a head. */
static inline i64 sc_lies_at(const sc_attention *a, i64 t) { return a->order ? a->order[t] : t; }

/* One call with row-major tokens: heads lie `head` floats from each other, tokens `token`, batches `batch`. */
typedef struct { const float *data; i64 batch, head, token; } sc_heads;
typedef struct {
  const sc_attention *a;
  sc_heads x[3];
  sc_heads y;                    /* its data are written */
  i64 batches, queries, keys;
  sc_blocks blocks;              /* with the index of this call */
  sc_mask mask;
} sc_attention_call;

HIDDEN int SC(sc_attention_rows)(const sc_attention_call *given, const sc_call *call);
/* The same with tokens in the lanes: there are neither blocks nor a rule, and as many heads of keys as of queries. */
HIDDEN int SC(sc_attention_t64)(const sc_attention *attention, const sc_tensor *const *in, sc_tensor *out, const sc_call *call);
#endif

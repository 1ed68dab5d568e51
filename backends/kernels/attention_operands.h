/* What steps of attention are told of their operands, checked: blocks and heads. */
#ifndef SC_ATTENTION_OPERANDS_H
#define SC_ATTENTION_OPERANDS_H
#include "attention.h"

enum { GRID = 5 };

/* The first attributes of a step: heads of queries, those of keys, and their features. */
static const char *check_heads(const i64 *n)
{
  if (n[0] < 1 || n[0] > 1 << 16 || n[1] < 1 || n[0] % n[1]) return "its heads are no multiple of those of its keys";
  return n[2] < 1 || n[2] > MOST_DIM ? "heads must have at most 256 features" : 0;
}

/* The end of a step that keeps scratch. */
static void destroy(void *state, const sc_host *host)
{
  if (!state) return;
  sc_drop(host, state);
  sc_scratch_release(host);
}

/* Constants that say where blocks are, if there is one, and how they are cut. */
static const char *read_blocks(const sc_constant *index, const sc_constant *grid, sc_blocks *b)
{
  if (grid->type != SC_I64 || grid->rank != 1 || grid->count != GRID) return "the grid must be five numbers of int64";
  const i64 *n = grid->data;
  *b = (sc_blocks){n[0], n[1], n[2], n[3], n[4], 0, 0};
  if (n[0] < 1 || n[1] < 0 || n[2] < 0 || n[3] < 1 || n[4] < 1) return "the grid has no heads, or blocks of no size";
  i64 all = 1;
  for (int i = 0; i < GRID; i++) if (n[i] > SC_UNBOUNDED) return "the grid has a number beyond 32 bits";
  for (int i = 0; i < 3; i++) if ((all *= n[i]) > SC_UNBOUNDED) return "the grid has more blocks than an index can say";
  if (!index) return 0;
  if (index->type != SC_I32 || index->rank != 1) return "the index must be a row of int32";
  b->index = index->data;
  return sc_check_index(index->data, index->count, b, &b->count);
}

typedef struct { i64 batch, tokens; sc_heads heads; } operand;

/* How operand `which` lies, or what is wrong with it; `heads` of them are read. */
static const char *read_operand(const sc_attention *a, int which, const sc_tensor *t, i64 heads, operand *out)
{
  const i32 rank = t->rank, layout = a->layout[which];
  const i64 *d = t->dims, want = heads * a->dim, offset = which < SC_Y ? a->offset[which] : 0;
  if (!sc_is_plain(t) || rank < 2 || rank > 4) return "q, k, v must be float32 [batch, tokens, features]";
  if (layout == SC_TOKENS_FIRST && rank != 3) return "tokens before the batch must be row-major, of three dimensions";
  if (layout == SC_HEADS_FIRST) {
    if (rank != 4 || d[3] != a->dim || offset % a->dim || offset + want > d[1] * a->dim || (which == SC_Y && d[1] != heads))
      return "its heads are not those of [batch, heads, tokens, features]";
    *out = (operand){d[0], d[2], {t->data ? (const float *)t->data + offset * d[2] : 0, d[1] * d[2] * d[3], d[2] * d[3], d[3]}};
    return 0;
  }
  const int token_axis = rank > 2 && layout == SC_ROWS, width_axis = token_axis + (rank > 2 && layout == SC_TOKENS_FIRST ? 2 : 1);
  const i64 width = sc_product(d, width_axis, rank), tokens = d[token_axis];
  const i64 batch = rank == 2 ? 1 : d[layout == SC_TOKENS_FIRST];
  if (offset + want > width) return "the heads do not fit into the features";
  const i64 token = layout == SC_TOKENS_FIRST ? batch * width : width;
  *out = (operand){batch, tokens, {t->data ? (const float *)t->data + offset : 0,
                                   layout == SC_TOKENS_FIRST ? width : tokens * width, a->dim, token}};
  return 0;
}

static const char *check_blocks(const sc_attention *a, const sc_tensor *index, const i64 want[4])
{
  const sc_blocks *b = &a->blocks;
  if (b->heads != 1 && b->heads != a->heads) return "the grid has another number of heads";
  if (b->down != ceil_div(want[2], b->rows) || b->across != ceil_div(want[3], b->columns))
    return "the blocks of the grid do not cover queries and keys";
  return index && (index->type != SC_I32 || index->layout != SC_PLAIN || index->rank != 1) ? "the index must be a row of int32" : 0;
}
#endif

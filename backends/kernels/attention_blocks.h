/* Blocks of scores, searched for an attention: what the step "attention_blocks" is told, and the masses that it chooses by. */
#ifndef SC_ATTENTION_BLOCKS_H
#define SC_ATTENTION_BLOCKS_H
#include "attention.h"

typedef struct {
  sc_attention a;                /* what is known of it: heads, scale, the grid of its blocks */
  float sparsity;
  i64 full, before, behind;      /* steps that keep every block; words before and behind all other tokens */
  i64 count;
  i64 steps[];                   /* `count` steps that search */
} sc_search;

/* One search: heads of q and k, with the results of all blocks. */
typedef struct {
  const sc_search *search;
  sc_heads x[2];
  i64 batches, queries, keys;
  float *masses;                 /* [heads, down, across], zero: what softmax(scale Q K^T) gives a block is added */
} sc_search_call;

HIDDEN int SC(sc_block_masses)(const sc_search_call *given, const sc_call *call);
/* Ascending positions of the blocks to keep, and -1 behind; masses that are no number become zero. */
HIDDEN int SC(sc_choose_blocks)(const sc_search_call *given, i32 *index, const sc_call *call);
#endif

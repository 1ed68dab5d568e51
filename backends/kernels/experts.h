/* The weights of many experts as one: E * rows outputs, each expert a range of them, in chunks of 16 rows. Blocks of 16x1 are
   used where they lie; of other blocks, strips are made as for every product. */
#ifndef SC_EXPERTS_H
#define SC_EXPERTS_H
#include "step.h"

enum {
  CHUNK_ROWS = SC_EXPERT_ROWS,
  FEW_TOKENS = SC_MATVEC_TOKENS, /* most that are multiplied as the weights stream by */
  LANE_VECTORS = SC_MAX_MR == 8 ? 3 : 2, /* most vectors of tokens in a tile of 16x1 blocks */
#if VB == 64
  TOGETHER = 2, ROW_TOKENS = 12, /* chunks, and rows of tokens, whose sums are in registers at once */
#elif defined(__wasm__)
  TOGETHER = 1, ROW_TOKENS = 3,
#else
  TOGETHER = 1, ROW_TOKENS = 6,
#endif
  MOST_PITCH = LANE_VECTORS * VL > T64 ? LANE_VECTORS * VL : T64
};

typedef struct {
  i64 rows, depth, chunks;       /* of one expert */
  const float *bias;             /* of all experts */
  /* Blocks of 16x1, each a tap of a chunk; kernel is null. */
  const float *values;
  const i32 *index;
  i32 *every;                    /* without zeros: the inputs of each chunk, so that the index is not read; else null */
  i64 apart, *starts;            /* the first tap of each chunk, and one more for the end */
  /* Others. */
  sc_kernel *kernel;
  i32 *offsets;                  /* per tap */
  i32 *strips;                   /* the first strip of each chunk, and one more for the end */
  /* Codes (experts_codes.h), in blocks of 16x1 or 16x2; values are null. */
  const signed char *codes;
  const float *scales;           /* [chunks of all experts][groups][16] */
  i64 group, groups;             /* inputs that share a scale, but for the last */
  i32 bits;
} sc_experts;

static const char sc_experts_no_memory[] = "there is not enough memory to prepare its weights";

/* NEON multiplies by a lane of a register. */
#if defined(__aarch64__)
#define SC_ROW_WEIGHTS(w) vf lanes[SC_MAX_MR / VL]; UNROLL for (int q = 0; q < SC_MAX_MR / VL; q++) lanes[q] = load((w) + q * VL);
#define SC_ROW_WEIGHT(w, r) lanes[(r) / VL][(r) % VL]
#else
#define SC_ROW_WEIGHTS(w)
#define SC_ROW_WEIGHT(w, r) (w)[r]
#endif

/* Reads the packed weight in constants [first, first + 5) of `experts`; of codes, of which so many inputs share a scale, there are
   six, and of floats, where group is zero, five. Null, or what is wrong; *w is destroyed either way. */
HIDDEN const char *SC(sc_experts_read)(const sc_step_spec *spec, i64 first, i64 experts, i64 group, const sc_host *host, sc_experts *w);
HIDDEN void SC(sc_experts_destroy)(sc_experts *w, const sc_host *host);

/* Whether a few tokens can be multiplied as the weights stream by. */
static inline int sc_experts_stream(const sc_experts *w) { return !w->kernel; }
/* Whether tokens can be multiplied where they lie. */
static inline int sc_experts_dense(const sc_experts *w) { return w->every && !w->codes; }
/* Floats between the features of a tile of so many vectors of tokens. */
static inline i64 sc_experts_pitch(const sc_experts *w, i64 vectors) { return w->kernel ? T64 : vectors * VL; }
static inline i64 sc_chunk_rows(const sc_experts *w, i64 chunk)
{
  const i64 left = w->rows - chunk * CHUNK_ROWS;
  return left < CHUNK_ROWS ? left : CHUNK_ROWS;
}

/* One chunk of an expert for a tile of tokens in the lanes: x [depth][pitch] to out [rows of the chunk][pitch]. */
HIDDEN void SC(sc_experts_lanes)(const sc_experts *w, i64 expert, i64 chunk, const float *x, i64 vectors, float *out);
/* The same for up to FEW_TOKENS rows of X: out [tokens][16]. */
HIDDEN void SC(sc_experts_few)(const sc_experts *w, i64 expert, i64 chunk, const float *const *x, i64 tokens, float *out);
/* Rows of up to ROW_TOKENS tokens, where they lie, and what they are added to: 16 floats for each chunk. */
typedef struct {
  const float *x[ROW_TOKENS];
  float *out[ROW_TOKENS];
  float scales[ROW_TOKENS];
  i64 tokens;
} sc_expert_tokens;
/* Up to TOGETHER chunks over the taps [from, to). The first ones begin with the bias; without scaling, sums take the place of
   what was there before the first, scaled ones are added to it. */
HIDDEN void SC(sc_experts_rows)(const sc_experts *w, i64 expert, i64 chunk, i64 chunks, i64 from, i64 to, int scaled, const sc_expert_tokens *r);
#endif

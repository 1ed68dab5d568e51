/* Products by weights of experts that are stored as codes of 8 or 4 bits: a weight is its code times the scale of its row, or of
   its row and so many inputs. Blocks are 16x1, or 16x2 where a byte holds the codes of a row for two inputs, low bits first. */
#ifndef SC_EXPERTS_CODES_H
#define SC_EXPERTS_CODES_H
#include "coded.h"
#include "experts.h"

/* Reads what codes need besides the packed weight in constants [first, first + 5): scales [chunks][groups][16] behind them. */
HIDDEN const char *SC(sc_codes_read)(const sc_step_spec *spec, i64 first, i64 experts, i64 group, const sc_host *host, sc_experts *w);
/* Where the blocks of each chunk are, of a weight whose blocks are a chunk high. Null, or what is wrong. */
HIDDEN const char *SC(sc_experts_place)(const sc_spec *s, const sc_host *host, sc_experts *w);
/* As sc_experts_lanes and sc_experts_few. */
HIDDEN void SC(sc_codes_lanes)(const sc_experts *w, i64 expert, i64 chunk, const float *x, i64 vectors, float *out);
HIDDEN void SC(sc_codes_few)(const sc_experts *w, i64 expert, i64 chunk, const float *const *x, i64 tokens, float *out);
#endif

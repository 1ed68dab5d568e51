/* Machine code generated for the patterns of zeros of one model (backends/codegen/outer_product.py), linked into its library.
   Code belongs to positions, not to weights; a kernel takes it only if it was made for exactly its positions. */
#ifndef SC_CODES_H
#define SC_CODES_H
#include "sc.h"

/* A pattern of zeros, and which cells are its: a strip of output rows by a chunk of inputs each, by chunk, then strip. */
typedef struct {
  u64 key;                       /* sc_pattern_key */
  i64 rows, depth, count;        /* of the weight; its non-zeros */
  i64 first, strips, chunks;
} sc_code;

/* Code of a cell: where it begins, and how many weights and biases lie before its own. */
typedef struct { i64 entry, stream; } sc_code_cell;

typedef struct {
  i64 count;
  const sc_code *codes;
  const sc_code_cell *cells;     /* of all codes; one more per code ends its streams */
  const unsigned char *text;
} sc_code_table;

/* What a cell takes besides: bounds of results, and the code and weights that it prefetches. */
typedef struct { float low, high; const char *code, *weights; } sc_cell_beside;

/* One panel times one cell; the arguments are those of outer_product.py: panel and stream point SC_STRIP_AHEAD vectors and
   floats further. */
typedef void (*sc_cell_fn)(const float *panel, const float *stream, float *y, i64 pitch, const sc_cell_beside *beside, float *sums);

/* Empty unless the library was linked with a table of its own. */
__attribute__((visibility("hidden"))) extern sc_code_table sc_codes;

u64 sc_pattern_key(const sc_spec *spec);
/* The code for a checked spec, or null. */
const sc_code *sc_find_code(const sc_spec *spec);

/* One more than there are: the last is the end. */
static inline const sc_code_cell *sc_code_cells(const sc_code *code) { return sc_codes.cells + code->first; }
/* The first output row of a strip: strips are equally tall to within a row. */
static inline i64 sc_code_row(const sc_code *code, i64 strip) { return code->rows * strip / code->strips; }
/* The first input of a chunk: chunks are equally long to within an input. */
static inline i64 sc_code_column(const sc_code *code, i64 chunk) { return code->depth * chunk / code->chunks; }
static inline const unsigned char *sc_code_text(const sc_code *code, i64 cell) { return sc_codes.text + sc_code_cells(code)[cell].entry; }
#endif

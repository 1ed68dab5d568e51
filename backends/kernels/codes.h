/* Machine code generated for the patterns of zeros of one model (backends/codegen/outer_product.py), linked into its library.
   Code belongs to positions, not to weights; a kernel takes it only if it was made for exactly its positions. */
#ifndef SC_CODES_H
#define SC_CODES_H
#include "sc.h"

/* A pattern of zeros, and which strips are its. */
typedef struct {
  u64 key;                       /* sc_pattern_key */
  i64 rows, depth, count;        /* of the weight; its non-zeros */
  i64 first, strips;
} sc_code;

/* Code of some output rows: where it begins, and how many weights and biases lie before its own. */
typedef struct { i64 entry, stream; } sc_code_strip;

typedef struct {
  i64 count;
  const sc_code *codes;
  const sc_code_strip *strips;   /* of all codes; one more per code ends its streams */
  const unsigned char *text;
} sc_code_table;

/* One panel times one strip; the arguments are those of outer_product.py: panel and stream point SC_STRIP_AHEAD vectors and
   floats further. */
typedef void (*sc_strip_fn)(const float *panel, const float *stream, float *y, i64 pitch, const float *bounds);

/* Empty unless the library was linked with a table of its own. */
__attribute__((visibility("hidden"))) extern sc_code_table sc_codes;

u64 sc_pattern_key(const sc_spec *spec);
/* The code for a checked spec, or null. */
const sc_code *sc_find_code(const sc_spec *spec);

static inline const sc_code_strip *sc_code_strips(const sc_code *code) { return sc_codes.strips + code->first; }
/* The first output row of a strip: strips are equally tall to within a row. */
static inline i64 sc_code_row(const sc_code *code, i64 strip) { return code->rows * strip / code->strips; }
static inline sc_strip_fn sc_code_entry(const sc_code *code, i64 strip)
{
  return (sc_strip_fn)(u64)(sc_codes.text + sc_code_strips(code)[strip].entry);
}
#endif

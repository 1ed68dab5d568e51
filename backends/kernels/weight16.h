/* The weight of a convolution in layout C16: per block of 16 outputs a list of taps, 16 weights each. */
#ifndef SC_WEIGHT16_H
#define SC_WEIGHT16_H
#include "step.h"
#include "tile16.h"

/* A tap's position is slot * 16 + lane; slots are ordered (16 channels, kernel row, kernel column), so that taps that read
   the same cache lines follow each other. */
typedef struct {
  i64 outputs, channels, blocks, slots, taps;
  i64 kernel[2];
  const float *weights;          /* per tap: 16 */
  const i32 *index;              /* per tap: its position + block * apart */
  i64 apart;
  i64 *starts;                   /* per block: its first tap; one more for the end */
  i64 *lists;                    /* per block: where its index begins: blocks of a dense weight share one */
  float *bias;                   /* padded to whole blocks */
  void *owned_weights, *owned_index;
} sc_weight16;

/* From constants [first, ...): the packed weight, or W [O, I/group, kh, kw] and the bias. Null, or what is wrong; *w is to
   be freed in either case. */
HIDDEN const char *SC(sc_weight16_create)(const sc_step_spec *spec, i64 first, int dense, i64 group, const sc_host *host,
                                          sc_weight16 *w);
HIDDEN void SC(sc_weight16_free)(sc_weight16 *w, const sc_host *host);

/* The first block of share `part` of `parts` about equal ones. */
static inline i64 sc_share16(const sc_weight16 *w, i64 part, i64 parts)
{
  i64 want = (w->taps + w->blocks) * part / parts, low = 0, high = w->blocks;
  while (low < high) {
    i64 mid = (low + high) / 2;
    if (w->starts[mid] + mid < want) low = mid + 1;
    else high = mid;
  }
  return part == parts ? w->blocks : low;
}
#endif

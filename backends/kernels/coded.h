/* Reading packed weights that are codes: apart from region.h, which what calibration tables are of includes. */
#ifndef SC_CODED_H
#define SC_CODED_H
#include "region.h"

/* Codes of a packed weight: bytes that are signed numbers, or each two of four bits. A scale is of 16 rows' worth of a block row
   and `group` inputs. */
typedef struct {
  const signed char *codes;      /* [blocks][16] */
  const float *scales;           /* [block rows][groups][16] */
  i64 group, groups, per_byte;   /* group is given */
} sc_coded;
/* The same for a matrix of codes in constants [first, first + 6): scales come last. */
const char *sc_read_coded(const sc_step_spec *spec, i64 first, sc_spec *out, sc_coded *coded);
#endif

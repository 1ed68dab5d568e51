/* Reading the packed weight of a step. Built for the base CPU of the target. */
#include "region.h"

enum { VALUES, INDEX, GRID, SHAPE, BIAS, PARTS };

static int has_dims(const sc_constant *c, i32 type, i32 rank, i64 first, i64 second)
{
  return c->type == type && c->rank == rank && c->dims[0] == first && (rank < 2 || c->dims[1] == second);
}

const char *sc_read_packed(const sc_step_spec *spec, i64 first, int conv, sc_spec *out)
{
  if (first < 0 || spec->constant_count - first < PARTS) return "a packed weight is missing";
  const sc_constant *c = spec->constants + first;
  i32 rank = conv ? 4 : 2;
  if (!has_dims(&c[GRID], SC_I64, 1, 4, 0) || !has_dims(&c[SHAPE], SC_I64, 1, rank, 0)) return "grid or shape is malformed";
  const i64 *grid = c[GRID].data, *shape = c[SHAPE].data;
  out->grid_rows = grid[0], out->grid_cols = grid[1], out->block_rows = grid[2], out->block_cols = grid[3];
  out->rows = shape[0], out->channels = shape[rank - 1];
  out->kernel[0] = conv ? shape[1] : 1, out->kernel[1] = conv ? shape[2] : 1;
  if (c[INDEX].rank != 1 || c[INDEX].type != SC_I32) return "index is malformed";
  out->count = c[INDEX].dims[0];
  out->lasting = 1;
  out->values = c[VALUES].data, out->index = c[INDEX].data, out->bias = c[BIAS].data;
  if (!has_dims(&c[BIAS], SC_F32, 1, out->rows, 0)) return "bias does not have one number per output";
  const char *wrong = sc_check(out);
  if (wrong) return wrong;
  if (!has_dims(&c[VALUES], SC_F32, 2, out->count, out->block_rows * out->block_cols))
    return "values do not have the shape [blocks, r*c]";
  return 0;
}

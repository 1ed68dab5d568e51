/* Reading the packed weight of a step. Built for the base CPU of the target. */
#include "coded.h"

enum { VALUES, INDEX, GRID, SHAPE, BIAS, PARTS, SCALES = PARTS, CODED_PARTS };

static int has_dims(const sc_constant *c, i32 type, i32 rank, i64 first, i64 second)
{
  return c->type == type && c->rank == rank && c->dims[0] == first && (rank < 2 || c->dims[1] == second);
}

static const char *read_all_but_values(const sc_constant *c, int conv, sc_spec *out)
{
  i32 rank = conv ? 4 : 2;
  if (!has_dims(&c[GRID], SC_I64, 1, 4, 0) || !has_dims(&c[SHAPE], SC_I64, 1, rank, 0)) return "grid or shape is malformed";
  const i64 *grid = c[GRID].data, *shape = c[SHAPE].data;
  out->grid_rows = grid[0], out->grid_cols = grid[1], out->block_rows = grid[2], out->block_cols = grid[3];
  out->rows = shape[0], out->channels = shape[rank - 1];
  out->kernel[0] = conv ? shape[1] : 1, out->kernel[1] = conv ? shape[2] : 1;
  if (c[INDEX].rank != 1 || c[INDEX].type != SC_I32) return "index is malformed";
  out->count = c[INDEX].dims[0];
  out->lasting = 1;
  out->index = c[INDEX].data, out->bias = c[BIAS].data;
  if (!has_dims(&c[BIAS], SC_F32, 1, out->rows, 0)) return "bias does not have one number per output";
  return sc_check(out);
}

const char *sc_read_packed(const sc_step_spec *spec, i64 first, int conv, sc_spec *out)
{
  if (first < 0 || spec->constant_count - first < PARTS) return "a packed weight is missing";
  const sc_constant *c = spec->constants + first;
  out->values = c[VALUES].data;
  const char *wrong = read_all_but_values(c, conv, out);
  if (wrong) return wrong;
  if (!has_dims(&c[VALUES], SC_F32, 2, out->count, out->block_rows * out->block_cols))
    return "values do not have the shape [blocks, r*c]";
  return 0;
}

const char *sc_read_coded(const sc_step_spec *spec, i64 first, sc_spec *out, sc_coded *coded)
{
  if (first < 0 || spec->constant_count - first < CODED_PARTS) return "a packed weight is missing";
  const sc_constant *c = spec->constants + first, *values = &c[VALUES], *scales = &c[SCALES];
  const char *wrong = read_all_but_values(c, 0, out);
  if (wrong) return wrong;
  coded->per_byte = values->type == SC_U8 ? 2 : 1;
  if (!has_dims(values, coded->per_byte == 2 ? SC_U8 : SC_I8, 2, out->count, out->block_rows * out->block_cols / coded->per_byte))
    return "codes do not have the shape [blocks, bytes]";
  if (coded->group < 1 || (coded->group < out->channels && coded->group % 16)) return "a scale is of a multiple of 16 inputs";
  coded->groups = coded->group < out->channels ? (out->channels - 1) / coded->group + 1 : 1;
  if (scales->type != SC_F32 || scales->rank != 3 || scales->dims[0] != out->grid_rows || scales->dims[1] != coded->groups ||
      scales->dims[2] != out->block_rows)
    return "scales do not have the shape [block rows, groups, rows of a block]";
  coded->codes = values->data, coded->scales = scales->data;
  return 0;
}

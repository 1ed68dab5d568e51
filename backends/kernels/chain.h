/* A chain of convolutions of any kind, each reading the one before. Large images go through it by rows, so that what lies
   between two layers stays in cache; small ones layer by layer. */
#ifndef SC_CHAIN_H
#define SC_CHAIN_H
#include "lines.h"
#include "step.h"

enum { CHAIN_PLANS = 8 };

/* Value 0 is the input of the chain, value i + 1 the output of stage i. */
typedef struct {
  sc_kernel *kernel;
  i64 residual;                  /* the value that is added, or -1; from SC_CHAIN_BESIDE on: an input of the step beside the first */
  int depthwise;
} sc_stage;

/* A value for one image size. */
typedef struct {
  i64 height, width, channels;
  i64 rows, least;               /* made at once, and in the smallest batch */
  i64 held, pitch;               /* as in sc_lines */
  i64 offset;                    /* floats into the memory of the image, or, in a window, of the task */
} sc_value;

/* How a convolution reads a batch of rows: where they lie, or, with a pitch, from planes of copies. */
typedef struct {
  i64 pitch, plane, floats;      /* floats between rows of a plane, and of planes, or of channels where they lie; of all copies */
  i32 *offsets;                  /* per tap */
  int in_place;                  /* a depthwise layer that reads rows where they lie: none of the above */
} sc_grid;

/* Stages [first, end). Streamed: by rows, through windows but for the last value. Otherwise one after the other. */
typedef struct {
  i64 first, end, streamed;
  i64 floats, together;          /* of the windows; of all a task needs besides: copies, and results before they are brought together */
  i64 copies;                    /* of these, copies */
} sc_segment;

typedef struct {
  i64 height, width;             /* of the input */
  i64 count, floats;             /* segments; floats of what is held whole, zeros included */
  i64 zeros;                     /* where these are, in floats */
  int copies;                    /* the first value is copied: its reader reads beyond it */
  sc_value values[SC_CHAIN_STAGES + 1];
  sc_segment segments[SC_CHAIN_STAGES];
  sc_grid grids[SC_CHAIN_STAGES]; /* of convolutions */
} sc_chain_plan;

/* How the weights of the first layer meet a factor for each channel that it reads. */
typedef struct {
  i64 input;                     /* of the step, beside the first: its factors; -1 is none */
  i32 *channels;                 /* of each tap */
  i64 floats;                    /* of the weights */
} sc_gate;

typedef struct {
  sc_host host;
  i64 count;
  sc_gate gate;
  sc_stage stages[SC_CHAIN_STAGES];
  sc_chain_plan *plans[CHAIN_PLANS];
  int company;                   /* whether a task ever ran on another thread than the caller's */
  int runs;                      /* the first of them find that out */
} sc_chain;

/* Sizes of all values for an input of this size; null, or what is wrong. */
HIDDEN const char *SC(sc_chain_sizes)(const sc_chain *chain, i64 height, i64 width, sc_value *values);
/* The plan of an input size which sc_chain_sizes accepted: kept by the chain while there is room, otherwise until done. */
HIDDEN int SC(sc_chain_plan_of)(sc_chain *chain, i64 height, i64 width, sc_chain_plan **out);
HIDDEN void SC(sc_chain_plan_done)(sc_chain *chain, sc_chain_plan *plan);
HIDDEN void SC(sc_chain_plan_free)(const sc_chain *chain, sc_chain_plan *plan);

/* ---- streaming: a batch of rows is made when the next stage needs it ---- */
typedef struct sc_stream sc_stream;
struct sc_stream {
  const sc_chain *chain;
  const sc_value *values;
  i64 first, end;                /* stages */
  i64 start[SC_CHAIN_STAGES + 1], stop[SC_CHAIN_STAGES + 1]; /* rows of each value that the part needs */
  i64 made[SC_CHAIN_STAGES + 1]; /* rows that are there; those of the first are always there */
  void (*run)(sc_stream *, i64 stage, i64 top, i64 rows);
  void *data;
};

enum { CHAIN_PARTS = 2, CHAIN_LEAST = 14 }; /* parts of rows for several threads; rows below which there are none */
enum { CHAIN_TRIALS = 4 };       /* runs in which a second thread would have been seen */

/* Streams part `part` of `parts` of the last value. */
HIDDEN void SC(sc_stream_part)(sc_stream *stream, i64 part, i64 parts);
/* Parts of the rows of a value, each made by one task: threads then share few rows. One where there is no second thread. */
static inline i64 sc_parts_of(const sc_value *v, int company)
{
  int long_enough = v->height / CHAIN_PARTS * v->width >= 16; /* kernels read a vector at least */
  return company && long_enough && v->height >= CHAIN_LEAST ? CHAIN_PARTS : 1;
}
/* The row that a part begins at. A short half begins where cache lines do, so that no two threads write one: 8 and 6 rows
   of 14 take less time than 7 and 7. */
static inline i64 sc_part_row(const sc_value *v, i64 part, i64 parts)
{
  const i64 row = v->height * part / parts, most = part && part < parts && v->height < 2 * CHAIN_LEAST;
  for (i64 away = 0; away <= most; away++) {
    if ((row + away) * v->width % (LINE) == 0) return row + away;
    if ((row - away) * v->width % (LINE) == 0) return row - away;
  }
  return row;
}
/* The lowest input row that rows from `row` on of a stage's output read. */
static inline i64 sc_lowest_row(const sc_stage *s, i64 row)
{
  i64 at = row * s->kernel->spec.stride[0] - s->kernel->spec.pad[0];
  return at < 0 ? 0 : at;
}

/* Null, or what is wrong. */
HIDDEN const char *SC(sc_gate_make)(const sc_host *host, const sc_kernel *kernel, sc_gate *gate);
/* The weights of the kernel, each times the factor of its channel. */
HIDDEN void SC(sc_gate_scale)(const sc_gate *gate, const sc_kernel *kernel, const float *factors, float *to);

/* ---- windows larger than 1x1 ---- */
HIDDEN int SC(sc_grid_make)(const sc_chain *chain, const sc_kernel *kernel, const sc_value *in, const sc_value *out, sc_grid *grid);
/* Copies of what rows [top, top + rows) of outputs read of channels [first, end). */
HIDDEN void SC(sc_grid_pack)(const sc_kernel *kernel, const sc_grid *grid, const sc_lines *x, i64 top, i64 rows, float *to,
                             i64 first, i64 end);
/* Rows [top, top + rows) of strips [first, end) from such copies. residual: or null. */
HIDDEN void SC(sc_grid_rows)(const sc_kernel *kernel, const sc_grid *grid, const float *packed, const sc_lines *y,
                             const sc_lines *residual, i64 top, i64 rows, i64 first, i64 end, float *together);
/* Floats of `together`. */
HIDDEN i64 SC(sc_grid_together)(const sc_grid *grid, i64 rows);

/* Rows [top, top + rows) of a 1x1 layer with generated code. residual: or null; parallel: or null, within a task. */
HIDDEN int SC(sc_code_rows)(sc_kernel *kernel, const sc_grid *grid, const sc_lines *x, const sc_lines *y, const sc_lines *residual,
                            i64 top, i64 rows, const sc_parallel *parallel, void **host_error);
#endif

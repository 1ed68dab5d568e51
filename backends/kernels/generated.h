/* Layers with generated code. Inputs are packed into panels of 16 pixels or tokens, depth-major, so that the code does not
   depend on sizes; then every strip of output rows is one call per panel. */
#ifndef SC_GENERATED_H
#define SC_GENERATED_H
#include "tile.h"

enum {
  LANES = SC_STRIP_LANES,
  SUMS = SC_STRIP_ROWS * LANES,  /* of a strip and a panel */
  TASKS = 16
};

/* What a call of a cell takes: its code, its stream, its inputs of a panel, sums, and what to prefetch. */
typedef struct { sc_cell_fn run; const float *stream, *x; float *sums; const char *code, *weights; } sc_input;

typedef struct sc_job sc_job;
struct sc_job {
  sc_kernel *kernel;
  const sc_image *image;         /* of a convolution */
  const sc_geometry *geometry;   /* of tiles */
  const i32 *offsets;            /* per tap, where each is one distance away from all pixels */
  i64 apart;                     /* floats between images then */
  const float *x, *residual;
  const float *from;             /* what panels of a convolution are packed from */
  i64 limit, plane;              /* floats there, and of a phase of a channel */
  float *y, *planes, *packed;    /* packed: the shared panels, or null */
  i64 points;                    /* tokens, or pixels of an image or tile */
  i64 tile, each;                /* the tile; panels of an image or tile */
  i64 origin, pitch;             /* its first output pixel in Y; floats between rows of outputs, */
  i64 residual_pitch;            /* and of residuals */
  i64 panels, floats;            /* in all; floats of one */
  i64 group, first;              /* panels of a group; the first of the shared one */
  i64 span;                      /* strips whose sums are kept at a time */
  i64 pass;                      /* chunks that a task with panels of its own packs at a time */
  i64 shares, parts;             /* of strips and of panels */
  /* Rows [first, last) of panels [panel, end); `to` is where row `first` of the first one goes. */
  void (*pack)(const sc_job *, i64 panel, i64 end, float *to, i64 first, i64 last);
  void (*finish)(const sc_job *, i64 strip, i64 panel, const sc_input *in); /* the last cell of a strip */
  i32 failed;
};

/* ---- one cell times one panel ---- */
/* Least and greatest result of the activations that are nothing but bounds. */
static const float bounds[][2] = {[SC_NONE] = {-__builtin_inff(), __builtin_inff()},
                                  [SC_RELU] = {0.f, __builtin_inff()},
                                  [SC_RELU6] = {0.f, 6.f}};

static inline void call_cell(const sc_input *in, float *y, i64 pitch, i32 activation)
{
  sc_cell_beside beside = {bounds[activation][0], bounds[activation][1], in->code, in->weights};
  in->run(in->x + SC_STRIP_AHEAD * LANES, in->stream + SC_STRIP_AHEAD, y, pitch * (i64)sizeof *y, &beside, in->sums);
}

/* All of a strip's results at `out`, finished but for the residual and what comes after it. */
static inline void strip_results(const sc_job *j, i64 strip, const sc_input *in, float *out)
{
  const sc_kernel *k = j->kernel;
  i32 activation = j->residual ? SC_NONE : k->spec.activation, bounded = activation <= SC_RELU6;
  call_cell(in, out, LANES, bounded ? activation : SC_NONE);
  if (!bounded) SC(sc_activate)(out, k->strips[strip].mr * LANES, activation);
}

/* Packs and multiplies j->panels panels. */
HIDDEN int SC(sc_run_panels)(sc_job *job, const sc_parallel *parallel, void **host_error);
/* The same within a task. */
HIDDEN int SC(sc_run_alone)(sc_job *job);

static inline int sc_run_job(const sc_parallel *p, void (*task)(void *, u64), i64 count, sc_job *j, void **host_error)
{
  *host_error = p->run(p->self, task, (u64)count, j);
  if (*host_error) return SC_HOST_ERROR;
  return j->failed ? SC_MEMORY : SC_OK;
}
#endif

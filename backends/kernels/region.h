/* Regions: a list of steps over tensors, run by one call over one arena. A program (docs/formats.md) names the steps and
   the values between them; a step kind is one struct of functions, found by its number in SC_STEPS. */
#ifndef SC_REGION_H
#define SC_REGION_H
#include "sc.h"

enum { SC_RANK = 6 };
enum { SC_F32, SC_I32, SC_I64, SC_U8, SC_I8, SC_TYPES };

/* How a tensor lies in memory; dims are the ONNX ones in every layout.
   SC_PLAIN  row-major.
   SC_C4     [N, ceil(C/4), H, W, 4] of bytes: those beyond C are zero.
   SC_T64    [ceil(T/64), F, 64] of T tokens, the product of all dims but the last, and F features: see t64.h. */
enum { SC_PLAIN, SC_C4, SC_T64, SC_LAYOUTS };

/* A value of a region. Data are 64-byte aligned inside the region; its own inputs and outputs are where the host put them. */
typedef struct {
  i32 type, layout, rank;
  i64 dims[SC_RANK];
  void *data;
} sc_tensor;

/* A constant input of a step: weights live as long as the region and may be kept by address. */
typedef struct {
  i32 type, rank;
  i64 dims[SC_RANK];
  const void *data;
  i64 count;                     /* elements */
} sc_constant;

/* What a program says of one step. */
typedef struct {
  const i64 *attributes;
  i64 attribute_count;
  const sc_constant *constants;
  i64 constant_count;
  i64 inputs, outputs;
} sc_step_spec;

/* Services of the host during one call. */
typedef struct {
  const sc_host *host;
  const sc_parallel *parallel;
  void **host_error;
  const char **wrong;            /* the sentence that goes with SC_WRONG */
} sc_call;

/* Kinds must not trust the spec: create and infer check all that run relies on. `in` and `out` end with a null after the
   last operand, so that an optional one (a residual, a mask) which is missing reads as null. */
typedef struct sc_step_kind {
  const char *name;
  /* Null, or what is wrong. *state is destroyed even after a failure if it is not null. */
  const char *(*create)(const sc_step_spec *spec, const sc_host *host, void **state);
  void (*destroy)(void *state, const sc_host *host);
  /* Type, layout, rank and dims of the outputs from those of the inputs; data are null. Null, or what is wrong. */
  const char *(*infer)(const void *state, const sc_tensor *const *in, sc_tensor *const *out);
  /* SC_OK or why not. Outputs never overlap inputs. May run on several threads of the host at once with one state. */
  int (*run)(void *state, const sc_tensor *const *in, sc_tensor *const *out, const sc_call *call);
} sc_step_kind;

typedef struct sc_region sc_region;
typedef struct sc_plan sc_plan;

/* Where and what: a step by number (-1: the program itself), and a sentence. */
typedef struct { i64 step; const char *what; } sc_wrong;

/* A region from a program of `length` numbers and all constants of its node. */
int sc_region_create(const struct sc_isa *isa, const i64 *program, i64 length, const sc_constant *constants, i64 constant_count,
                     const sc_host *host, sc_region **out, sc_wrong *wrong);
void sc_region_destroy(sc_region *region);
i64 sc_region_inputs(const sc_region *region);
i64 sc_region_outputs(const sc_region *region);
const char *sc_region_step_kind(const sc_region *region, i64 step);

/* Shapes and places for inputs of these dims: kept by the region while there is room, otherwise until sc_plan_done. */
int sc_region_plan(sc_region *region, const sc_tensor *inputs, sc_plan **out, sc_wrong *wrong);
void sc_plan_done(sc_region *region, sc_plan *plan);
/* Type and dims of output i. */
const sc_tensor *sc_plan_output(const sc_region *region, const sc_plan *plan, i64 i);
/* Bytes of the arena of a plan. */
i64 sc_plan_bytes(const sc_plan *plan);
/* Runs the steps; data of the inputs and of the outputs are given. */
int sc_region_run(sc_region *region, sc_plan *plan, void *const *inputs, void *const *outputs, const sc_parallel *parallel,
                  void **host_error, sc_wrong *wrong);

/* ---- for step kinds ---- */
/* Bytes of a tensor, rounded up to 64; -1 when it is too large. */
i64 sc_tensor_bytes(const sc_tensor *tensor);
/* The packed weight in constants [first, first + 5): values, index, grid, shape, bias. conv: shape is (O, kh, kw, I/group),
   else (N, K). strides, pads, dilations and group are those already in *out. Null, or what is wrong. */
const char *sc_read_packed(const sc_step_spec *spec, i64 first, int conv, sc_spec *out);
static inline i64 sc_size_type(i32 type) { return type == SC_I64 ? 8 : type >= SC_U8 ? 1 : 4; }
#endif

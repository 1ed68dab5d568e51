/* Steps on images [N, C, H, W] that treat each plane as one: its mean, and its product with a factor. */
#include "step.h"
#include "vecmath.h"

enum { FLOATS_OF_TASK = 8192, SUMS = 4 };

typedef struct {
  const float *x, *factors;      /* factors: one for each plane, or null */
  float *y;
  i64 planes, size, tasks;
} job;

static int run_planes(job *j, const sc_tensor *x, void (*task)(void *, u64), const sc_call *call)
{
  j->x = x->data, j->planes = x->dims[0] * x->dims[1], j->size = x->dims[2] * x->dims[3];
  if (j->planes < 1 || j->size < 1) return SC_OK;
  j->tasks = clip(j->planes * j->size / FLOATS_OF_TASK, 1, j->planes < STEP_TASKS ? j->planes : STEP_TASKS);
  return sc_run_tasks(call, task, j->tasks, j);
}

static const char not_an_image[] = "its input is not a float32 image [N, C, H, W]";
static int is_image(const sc_tensor *x) { return sc_is_plain(x) && x->rank == 4; }

/* ---- mean: attribute: rank of the result, [N, C] or [N, C, 1, 1] ---- */
static const char *create_mean(const sc_step_spec *spec, const sc_host *host, void **state)
{
  if (spec->attribute_count != 1 || spec->constant_count || spec->inputs != 1 || spec->outputs != 1) return "a malformed step";
  if (spec->attributes[0] != 2 && spec->attributes[0] != 4) return "its result has another rank than 2 or 4";
  i64 *rank = *state = sc_get(host, sizeof *rank);
  if (rank) *rank = spec->attributes[0];
  return rank ? 0 : "out of memory";
}

static void destroy_mean(void *state, const sc_host *host) { sc_drop(host, state); }

static const char *infer_mean(const void *state, const sc_tensor *const *in, sc_tensor *const *out)
{
  if (!is_image(in[0])) return not_an_image;
  if (in[0]->dims[2] < 1 || in[0]->dims[3] < 1) return "its input is empty";
  *out[0] = (sc_tensor){.type = SC_F32, .layout = SC_PLAIN, .rank = (i32)*(const i64 *)state,
                        .dims = {in[0]->dims[0], in[0]->dims[1], 1, 1}};
  return 0;
}

/* The last vector overlaps the one before: its lanes that were summed already count as zero. */
static float sum_of_plane(const float *x, i64 n)
{
  const vi lanes = {LANES(LANE_NUMBER, 0)};
  vf sums[SUMS];
  float sum = 0.f;
  i64 i = 0;
  UNROLL for (int s = 0; s < SUMS; s++) sums[s] = splat(0.f);
  for (; i + SUMS * VL <= n; i += SUMS * VL) UNROLL for (int s = 0; s < SUMS; s++) sums[s] += load(x + i + s * VL);
  for (; i + VL <= n; i += VL) sums[0] += load(x + i);
  if (i < n && n >= VL) sums[1] += select_vf(lanes >= (i32)(VL - (n - i)), load(x + n - VL), splat(0.f));
  else for (; i < n; i++) sum += x[i];
  return sum + sum_of((sums[0] + sums[1]) + (sums[2] + sums[3]));
}

static void task_mean(void *data, u64 part)
{
  const job *j = data;
  const float share = 1.f / (float)j->size;
  for (i64 p = j->planes * (i64)part / j->tasks, end = j->planes * ((i64)part + 1) / j->tasks; p < end; p++)
    j->y[p] = sum_of_plane(j->x + p * j->size, j->size) * share;
}

static int run_mean(void *state, const sc_tensor *const *in, sc_tensor *const *out, const sc_call *call)
{
  (void)state;
  job j = {.y = out[0]->data};
  return run_planes(&j, in[0], task_mean, call);
}

/* ---- scale: an image, and a factor for each of its planes, [N, C, 1, 1] ---- */
static const char *create_scale(const sc_step_spec *spec, const sc_host *host, void **state)
{
  (void)host, (void)state;
  return spec->attribute_count || spec->constant_count || spec->inputs != 2 || spec->outputs != 1 ? "a malformed step" : 0;
}

static void destroy_scale(void *state, const sc_host *host) { (void)state, (void)host; }

static const char *infer_scale(const void *state, const sc_tensor *const *in, sc_tensor *const *out)
{
  (void)state;
  if (!is_image(in[0])) return not_an_image;
  if (!sc_is_factors(in[1], in[0])) return "there is not one factor for each channel";
  *out[0] = *in[0], out[0]->data = 0;
  return 0;
}

static void task_scale(void *data, u64 part)
{
  const job *j = data;
  for (i64 p = j->planes * (i64)part / j->tasks, end = j->planes * ((i64)part + 1) / j->tasks; p < end; p++) {
    const float *x = j->x + p * j->size;
    float *y = j->y + p * j->size;
    i64 i = 0;
    for (; i + VL <= j->size; i += VL) store(y + i, load(x + i) * j->factors[p]);
    if (i < j->size && j->size >= VL) store(y + j->size - VL, load(x + j->size - VL) * j->factors[p]);
    else for (; i < j->size; i++) y[i] = x[i] * j->factors[p];
  }
}

static int run_scale(void *state, const sc_tensor *const *in, sc_tensor *const *out, const sc_call *call)
{
  (void)state;
  job j = {.factors = in[1]->data, .y = out[0]->data};
  return run_planes(&j, in[0], task_scale, call);
}

extern const sc_step_kind SC(sc_step_mean), SC(sc_step_scale);
HIDDEN const sc_step_kind SC(sc_step_mean) = {"mean", create_mean, destroy_mean, infer_mean, run_mean};
HIDDEN const sc_step_kind SC(sc_step_scale) = {"scale", create_scale, destroy_scale, infer_scale, run_scale};

/* A prepacked weight: strips of mr output rows that share their taps. Built per vector length; symbols end in SC_SUFFIX. */
#ifndef SC_KERNEL_H
#define SC_KERNEL_H
#include "codes.h"
#define SC_PASTE_(a, b) a##_##b
#define SC_PASTE(a, b) SC_PASTE_(a, b)
#define SC(name) SC_PASTE(name, SC_SUFFIX)
#define HIDDEN __attribute__((visibility("hidden")))
#define VL (VB / 4)

/* The vectors of a tile by mr; zero where this instruction set has no such tile. */
#define SC_WIDEST_ENTRY(mr, nr) [mr] = nr,
static const i32 sc_widest[SC_MAX_MR + 1] = {SC_WIDEST(SC_WIDEST_ENTRY)};

/* Outputs row .. row+mr-1 are the sum over `taps` inputs, from columns[tap] and weights[weight]. */
typedef struct {
  i32 row, mr, taps;
  i64 tap, weight;
} sc_strip;

/* How the inputs lie in memory for one image size. Immutable once published. */
typedef struct {
  sc_image asked;                /* what the call said */
  sc_image image;                /* the same, or one long row where that makes no difference */
  i64 tile_height, tile_width;   /* output pixels packed together */
  i64 tiles;                     /* of one image */
  i64 group;                     /* tiles in memory at once */
  i64 plane;                     /* floats between packed planes */
  i64 floats;                    /* of one packed tile */
  int direct;                    /* X is read where it lies: a tile is an image */
  int plain;                     /* 1x1, stride one, no padding: a plane is a piece of its channel */
  i32 *offsets;                  /* per column: floats from the tile's first pixel */
} sc_geometry;

enum {
  GEOMETRIES = 8,
  MAX_FLOATS = 0x7fffffff,       /* tap offsets are 32-bit */
  LINE = 16,                     /* floats of a cache line */
  AHEAD = 4                      /* offsets are padded by so many zeros */
};

struct sc_kernel {
  sc_host host;
  sc_spec spec;                  /* values and index are null: what is below replaces them */
  const sc_code *code;           /* generated, or null: then weights are its streams, and columns are all there are */
  i64 strip_count, tap_count, column_count;
  sc_strip *strips;
  i32 *columns;                  /* per tap (per row of a panel): position in the depth order (kh, kw, channel) plus group * depth */
  const float *weights;          /* per tap: mr values */
  float *packed;                 /* the weights, or null where they lie in the spec's values as they are */
  float *bias;                   /* padded by the largest mr */
  i32 *phase, *shift;            /* per kernel row: which row phase it reads, and how many of its rows below the first */
  i32 phases, *opens;            /* row phases in use, and the first kernel row of each */
  sc_geometry *geometry[GEOMETRIES];
};

/* Generated code is for AVX-512: elsewhere a linker drops what runs it. */
#if VB == 64 && defined(__x86_64__)
#define SC_RUNS_CODE 1
#else
#define SC_RUNS_CODE 0
#endif
static inline const sc_code *sc_code_of(const sc_kernel *k) { return SC_RUNS_CODE ? k->code : 0; }

HIDDEN int SC(sc_create)(const sc_spec *spec, const sc_host *host, sc_kernel **out);
HIDDEN void SC(sc_destroy)(sc_kernel *kernel);
/* For a step that has made its own offsets of them. */
HIDDEN void SC(sc_drop_columns)(sc_kernel *kernel);
HIDDEN int SC(sc_conv)(sc_kernel *kernel, const sc_image *image, const float *x, const float *residual, float *y,
                       const sc_parallel *parallel, void **host_error);
/* A depthwise convolution with every tap stored has a way of its own. */
HIDDEN int SC(sc_is_depthwise)(const sc_kernel *kernel);
HIDDEN int SC(sc_depthwise)(sc_kernel *kernel, const sc_image *image, const float *x, const float *residual, float *y,
                            const sc_parallel *parallel, void **host_error);
HIDDEN int SC(sc_matmul)(sc_kernel *kernel, i64 tokens, const float *x, const float *residual, float *y,
                         const sc_parallel *parallel, void **host_error);

/* A layer with generated code: the same as sc_conv and sc_matmul. */
HIDDEN int SC(sc_code_conv)(sc_kernel *kernel, const sc_image *image, const float *x, const float *residual, float *y,
                            const sc_parallel *parallel, void **host_error);
HIDDEN int SC(sc_code_matmul)(sc_kernel *kernel, i64 tokens, const float *x, const float *residual, float *y,
                              const sc_parallel *parallel, void **host_error);
/* Of tokens in layout T64. */
HIDDEN int SC(sc_code_lanes)(sc_kernel *kernel, i64 tokens, const float *x, const float *residual, float *y,
                             const sc_parallel *parallel, void **host_error);

/* The geometry of an image size: cached in the kernel while there is room, otherwise the caller's until sc_geometry_done. */
HIDDEN int SC(sc_geometry_of)(sc_kernel *kernel, const sc_image *image, sc_geometry **out);
HIDDEN void SC(sc_geometry_done)(sc_kernel *kernel, sc_geometry *geometry);

/* 1x1 of stride 1, without padding: an output pixel is a sum over one input pixel, at the same place. */
static inline int sc_is_plain_window(const sc_spec *s)
{
  int plain = s->kernel[0] * s->kernel[1] == 1 && s->stride[0] * s->stride[1] == 1;
  for (int i = 0; i < 4; i++) plain &= s->pad[i] == 0;
  return plain;
}
HIDDEN int SC(sc_is_pointwise)(const sc_kernel *kernel);

/* The output pixels of a tile, tiles of all images being numbered. */
typedef struct { i64 image, top, left, rows, columns, count; } sc_place;
HIDDEN sc_place SC(sc_place_of)(const sc_geometry *geometry, i64 tile);
/* Packs channels [first, end) of a tile. */
HIDDEN void SC(sc_pack_channels)(const sc_kernel *kernel, const sc_geometry *geometry, const float *x, i64 tile, float *to,
                                 i64 first, i64 end);

static inline i64 ceil_div(i64 a, i64 b) { return a > 0 ? (a + b - 1) / b : -(-a / b); }
static inline i64 clip(i64 v, i64 low, i64 high) { return v < low ? low : v > high ? high : v; }

/* The first strip of share `part` when the work is cut into `parts` about equal shares. */
static inline i64 sc_share(const sc_kernel *k, i64 part, i64 parts)
{
  i64 want = (k->tap_count + k->strip_count) * part / parts, low = 0, high = k->strip_count;
  while (low < high) {
    i64 mid = (low + high) / 2;
    if (k->strips[mid].tap + mid < want) low = mid + 1;
    else high = mid;
  }
  return part == parts ? k->strip_count : low;
}
#endif

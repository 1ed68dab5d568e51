/* A model as a library of its own: what the generated plan says of it (plan.py), and the calls behind its C API, which is
   api.h with the model's name in it. The structs here have the same layout as those there. */
#ifndef SC_BUNDLE_H
#define SC_BUNDLE_H
#include "region.h"

#define SC_EXPORT __attribute__((visibility("default")))
#define SC_HIDDEN __attribute__((visibility("hidden")))
enum { SC_PORT_RANK = 8, SC_BOOL = SC_TYPES, SC_PORT_TYPES };

/* An input or output; a dimension of -1 is open and has a name. */
typedef struct {
  const char *name;
  i32 type, rank;
  i64 dims[SC_PORT_RANK];
  const char *dim_names[SC_PORT_RANK];
} sc_port;

typedef struct {
  void *data;
  i64 dims[SC_PORT_RANK];
  i32 rank, type;
} sc_value_of_port;

typedef struct {
  void *(*alloc)(void *self, u64 bytes);
  void (*free)(void *self, void *memory);
  void *(*parallel)(void *self, void (*task)(void *data, u64 i), u64 count, void *data);
  void *self;
} sc_bundle_host;

/* A constant in the weights. */
typedef struct {
  unsigned char type, rank;
  u32 line;                      /* where it begins in the payload */
  u32 dims[SC_RANK];
} sc_stored;

typedef struct {
  const char *name;
  const i64 *program;
  const sc_stored *constants;
  const char *const *layers;     /* a name per step */
  const sc_port *inputs, *outputs;
  i64 length, constant_count;
  i32 input_count, output_count;
  u64 bytes, hash;               /* of the payload */
} sc_bundle_plan;

/* The model of what is linked. */
SC_HIDDEN extern const sc_bundle_plan sc_model_plan;

typedef struct sc_bundle sc_bundle;

SC_HIDDEN int sc_bundle_create(const sc_bundle_plan *plan, const void *weights, u64 bytes, const sc_bundle_host *host,
                               sc_bundle **out, char *message, u64 room);
/* The same; `hash` is of the payload where it is known already, else null. */
SC_HIDDEN int sc_bundle_open(const sc_bundle_plan *plan, const void *weights, u64 bytes, const u64 *hash,
                             const sc_bundle_host *host, sc_bundle **out, char *message, u64 room);
SC_HIDDEN int sc_bundle_infer(sc_bundle *bundle, const sc_value_of_port *inputs, sc_value_of_port *outputs);
SC_HIDDEN int sc_bundle_run(sc_bundle *bundle, const sc_value_of_port *inputs, const sc_value_of_port *outputs);
SC_HIDDEN const char *sc_bundle_error(const sc_bundle *bundle);
SC_HIDDEN void sc_bundle_destroy(sc_bundle *bundle);

/* ---- the weights file: docs/formats.md ---- */
enum { SC_WEIGHTS_FORMAT = 1, SC_WEIGHTS_ALIGN = 64 };
/* Null, or what is wrong and what to do about it. */
SC_HIDDEN const char *sc_weights_check(const sc_bundle_plan *plan, const void *file, u64 bytes, const u64 *hash);
/* What the bytes from `from` to `to` of a file, multiples of 8, add to the hash of its payload. */
SC_HIDDEN u64 sc_weights_hash(const void *file, u64 from, u64 to);
#endif

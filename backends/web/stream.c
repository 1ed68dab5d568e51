/* Weights that come in pieces: each is hashed while the next one is on its way. */
#include "bundle.h"
#include "web.h"

/* What a piece of the file adds to the hash; its ends are multiples of 8. */
WEB_EXPORT("sc_web_hash") u64 sc_web_hash(const void *weights, u64 from, u64 to) { return sc_weights_hash(weights, from, to); }

/* The model of weights that have this hash; as model_create. */
WEB_EXPORT("sc_web_create") int sc_web_create(const void *weights, u64 bytes, u64 hash, sc_bundle **out, char *text, u64 room)
{
  return sc_bundle_open(&sc_model_plan, weights, bytes, &hash, (const sc_bundle_host *)sc_web_host(), out, text, room);
}

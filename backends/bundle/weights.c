/* Whether a weights file is that of a model, and whole. */
#include "bundle.h"

static const char magic[8] = {'s', 'p', 'a', 'r', 's', 'e', 'c', 'c'};

typedef struct {
  char magic[8];
  u32 format, unused;
  u64 hash, bytes;               /* of the payload */
  char rest[32];
} header;
_Static_assert(sizeof(header) == SC_WEIGHTS_ALIGN, "the payload begins on a line of its own");

static const u64 STEP = 0x9e3779b97f4a7c15u, FACTOR = 0xbf58476d1ce4e5b9u;

/* The same as hash_words in weights.py: a sum over all words, each mixed with its place by a permutation, so that one changed
   word always changes it. */
u64 sc_weights_hash(const void *file, u64 from, u64 to)
{
  const u64 *words = (const u64 *)((const header *)file + 1);
  u64 sum = 0;
  for (u64 i = (from < sizeof(header) ? 0 : from - sizeof(header)) / 8; sizeof(header) + 8 * (i + 1) <= to; i++) {
    u64 v = words[i] + i * STEP;
    v = (v ^ v >> 32) * FACTOR;
    sum += v ^ v >> 29;
  }
  return sum;
}

const char *sc_weights_check(const sc_bundle_plan *plan, const void *file, u64 bytes, const u64 *hash)
{
  static const char again[] = "the weights are damaged; fix: copy the weights file again";
  const header *h = file;
  if (!file || !bytes) return "there are no weights; fix: use the weights file that was built with this library";
  if ((__SIZE_TYPE__)file % SC_WEIGHTS_ALIGN)
    return "the weights do not begin at a multiple of 64 bytes; fix: read the file into memory that is aligned so, or map it";
  if (bytes < sizeof *h) return "the weights are cut short; fix: copy the weights file again";
  for (int i = 0; i < 8; i++)
    if (h->magic[i] != magic[i]) return "this is not a weights file; fix: use the weights file that was built with this library";
  if (h->format != SC_WEIGHTS_FORMAT)
    return "the weights have another format; fix: use the weights file that was built with this library";
  if (h->bytes != plan->bytes || h->hash != plan->hash)
    return "the weights are of another model; fix: use the weights file that was built with this library";
  if (bytes - sizeof *h != h->bytes)
    return "the weights do not have the bytes that they should have; fix: copy the weights file again, and give its size in bytes";
  return (hash ? *hash : sc_weights_hash(file, 0, bytes)) == h->hash ? 0 : again;
}

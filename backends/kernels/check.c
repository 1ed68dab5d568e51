/* What every kernel relies on, checked once; and the shared working memory. Built for the base CPU of the target. */
#include "sc.h"

enum { MAX_EXTENT = 1 << 30, MAX_KERNEL = 1024 };

static int within(i64 v, i64 low, i64 high) { return v >= low && v <= high; }

static const char *check_window(const sc_spec *s)
{
  for (int i = 0; i < 2; i++) {
    if (!within(s->kernel[i], 1, MAX_KERNEL)) return "the kernel size is outside 1..1024";
    if (!within(s->stride[i], 1, MAX_KERNEL)) return "strides must be within 1..1024";
    if (!within(s->dilation[i], 1, MAX_KERNEL)) return "dilations must be within 1..1024";
  }
  for (int i = 0; i < 4; i++)
    if (!within(s->pad[i], 0, 1 << 20)) return "pads must be within 0..1048576";
  return 0;
}

static const char *check_index(const sc_spec *s)
{
  i64 total = s->grid_rows * s->grid_cols, previous = -1;
  for (i64 i = 0; i < s->count; i++) {
    if (s->index[i] <= previous) return "index must be strictly ascending and not negative";
    if (s->index[i] >= total) return "an index lies outside the block grid";
    previous = s->index[i];
  }
  return 0;
}

const char *sc_check(const sc_spec *s)
{
  if (!within(s->rows, 1, MAX_EXTENT) || !within(s->channels, 1, MAX_EXTENT)) return "shape has an empty or huge dimension";
  const char *error = check_window(s);
  if (error) return error;
  i64 depth = s->channels * s->kernel[0] * s->kernel[1];
  if (depth > MAX_EXTENT) return "shape has an empty or huge dimension";
  if (!within(s->group, 1, s->rows) || s->rows % s->group) return "group does not divide the outputs";
  if (depth * s->group > MAX_EXTENT) return "shape has an empty or huge dimension";
  if (!within(s->block_rows, 1, 4096) || !within(s->block_cols, 1, 4096)) return "the block is outside 1..4096";
  if (s->grid_rows != (s->rows + s->block_rows - 1) / s->block_rows ||
      s->grid_cols != (depth + s->block_cols - 1) / s->block_cols)
    return "grid does not match shape (grid is ceil(R/r), ceil(K/c), r, c)";
  if (s->grid_rows * s->grid_cols > 0x7fffffffLL) return "the block grid has more than 2^31 cells";
  if (!within(s->count, 0, s->grid_rows * s->grid_cols)) return "more blocks than the grid has cells";
  if (s->count * s->block_rows * s->block_cols > 0x7fffffffLL) return "more than 2^31 packed values";
  if (!within(s->activation, 0, SC_ACTIVATIONS - 1)) return "unknown activation";
  return check_index(s);
}

i64 sc_out_size(i64 in, i64 pad_begin, i64 pad_end, i64 kernel, i64 stride, i64 dilation)
{
  i64 span = in + pad_begin + pad_end - dilation * (kernel - 1) - 1;
  return in < 1 || in > MAX_EXTENT || span < 0 ? -1 : span / stride + 1;
}

/* ---- working memory ---- */
enum { OWN = -1, ALIGN = 64 };
static sc_pool shared;

static sc_pool *pool_of(const sc_host *host) { return host->pool ? host->pool : &shared; }

void sc_scratch_retain(const sc_host *host) { __atomic_add_fetch(&pool_of(host)->kernels, 1, __ATOMIC_ACQ_REL); }

static float *aligned(void *p) { return (float *)(((u64)p + ALIGN - 1) & ~(u64)(ALIGN - 1)); }

/* The first free slot that this thread had last: its lines are in this core's cache. Else the first free one. */
static int choose_slot(const sc_pool *pool, u64 taken, const char *frame)
{
  int other = OWN;
  for (u64 free = ~taken; free; free &= free - 1) {
    const int i = __builtin_ctzll(free);
    const char *user = __atomic_load_n(&pool->slots[i].user, __ATOMIC_RELAXED);
    if (user && sc_same_thread(user, frame)) return i;
    if (other == OWN) other = i;
  }
  return other;
}

static int take_slot(sc_pool *pool)
{
  const char *frame = __builtin_frame_address(0);
  u64 seen = __atomic_load_n(&pool->busy, __ATOMIC_RELAXED);
  while (~seen) {
    const int i = choose_slot(pool, seen, frame);
    if (!__atomic_compare_exchange_n(&pool->busy, &seen, seen | 1ULL << i, 0, __ATOMIC_ACQ_REL, __ATOMIC_RELAXED)) continue;
    __atomic_store_n(&pool->slots[i].user, frame, __ATOMIC_RELAXED);
    return i;
  }
  return OWN;
}

static void give_slot(sc_pool *pool, int i) { __atomic_and_fetch(&pool->busy, ~(1ULL << i), __ATOMIC_ACQ_REL); }

/* More than 64 at once, which only a very wide machine does, get memory of their own: its address is kept just before the
   aligned block, where slot OWN finds it again. */
static float *own_memory(const sc_host *host, i64 floats)
{
  char *p = host->alloc(host->self, (u64)floats * 4 + 2 * ALIGN);
  if (!p) return 0;
  float *out = aligned(p + ALIGN);
  ((void **)out)[-1] = p;
  return out;
}

float *sc_scratch_get(const sc_host *host, i64 floats, int *slot)
{
  sc_pool *pool = pool_of(host);
  *slot = take_slot(pool);
  if (*slot == OWN) return own_memory(host, floats);
  sc_scratch_slot *s = &pool->slots[*slot];
  if (s->floats < floats) {
    if (s->memory) host->free(host->self, s->memory);
    s->memory = host->alloc(host->self, (u64)floats * 4 + ALIGN);
    s->floats = s->memory ? floats : 0;
  }
  if (s->memory) return aligned(s->memory);
  give_slot(pool, *slot);
  return 0;
}

void sc_scratch_put(const sc_host *host, int slot, float *memory)
{
  if (slot == OWN) host->free(host->self, ((void **)memory)[-1]);
  else give_slot(pool_of(host), slot);
}

/* The last kernel frees what is not lent: a slot taken meanwhile by a new kernel is left alone. */
void sc_scratch_release(const sc_host *host)
{
  sc_pool *pool = pool_of(host);
  if (__atomic_sub_fetch(&pool->kernels, 1, __ATOMIC_ACQ_REL)) return;
  for (int i = 0; i < SC_SLOTS; i++) {
    u64 bit = 1ULL << i;
    if (__atomic_fetch_or(&pool->busy, bit, __ATOMIC_ACQ_REL) & bit) continue;
    if (pool->slots[i].memory) host->free(host->self, pool->slots[i].memory);
    pool->slots[i] = (sc_scratch_slot){0};
    give_slot(pool, i);
  }
}

#if !__STDC_HOSTED__ /* the compiler may call these even in freestanding code */
__attribute__((visibility("hidden"))) void *memcpy(void *to, const void *from, __SIZE_TYPE__ n)
{
  volatile char *d = to;
  for (const char *s = from; n; n--) *d++ = *s++;
  return to;
}

__attribute__((visibility("hidden"))) void *memset(void *to, int value, __SIZE_TYPE__ n)
{
  for (volatile char *d = to; n; n--) *d++ = (char)value;
  return to;
}
#endif

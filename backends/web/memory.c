/* Memory of a WebAssembly module: free blocks in the order of their addresses, the first that fits; what is missing the
   module asks of its host. There is nobody else to grow the memory, so it is ours from the end of the data on. */
#include "web.h"

enum { ALIGN = 64, PAGE = 1 << 16, LEAST = 16 };  /* at least so many pages at a time */
#define NONE ((__SIZE_TYPE__)-1)

/* In front of every block, free or not; the block begins 64 bytes behind. */
typedef struct block { u32 bytes; struct block *next; } block;

extern unsigned char __heap_base;
static block *first;
static u32 end;  /* of the memory that was ever ours */

#ifdef __wasm_atomics__
static i32 held;
static void hold(void) { while (__atomic_exchange_n(&held, 1, __ATOMIC_ACQUIRE)) {} }
static void let(void) { __atomic_store_n(&held, 0, __ATOMIC_RELEASE); }
#else
static void hold(void) {}
static void let(void) {}
#endif

static u32 after(const block *b) { return (u32)b + b->bytes; }

/* Back among the free ones, one with its neighbours where they touch. */
static void put(block *b)
{
  block *before = 0, *next = first;
  while (next && next < b) { before = next; next = next->next; }
  b->next = next;
  if (next && after(b) == (u32)next) { b->bytes += next->bytes; b->next = next->next; }
  if (before && after(before) == (u32)b) { before->bytes += b->bytes; before->next = b->next; }
  else if (before) before->next = b;
  else first = b;
}

/* Takes what memory there is beyond `end`, up to the last 64 bytes of the 4 GiB: their end has no address. */
static void take_in(void)
{
  u64 top = (u64)__builtin_wasm_memory_size(0) * PAGE;
  if (top > (u64)(u32)-ALIGN) top = (u32)-ALIGN;
  if (top <= end) return;
  block *b = (block *)end;
  b->bytes = (u32)top - end;
  end = (u32)top;
  put(b);
}

/* At least `bytes` more memory; 0 where the host has none. A block that is free at the end counts for nothing here: that is
   at most once the size of the largest block too much. */
static int grow(u32 bytes)
{
  u32 pages = (bytes - 1) / PAGE + 1, more = pages < LEAST ? LEAST : pages;
  if (!end) end = ((u32)&__heap_base + ALIGN - 1) / ALIGN * ALIGN;
  if (__builtin_wasm_memory_grow(0, more) == NONE && __builtin_wasm_memory_grow(0, pages) == NONE) return 0;
  take_in();
  return 1;
}

static block *take(u32 bytes)
{
  for (block **at = &first; *at; at = &(*at)->next) {
    block *b = *at;
    if (b->bytes < bytes) continue;
    if (b->bytes - bytes < 2 * ALIGN) { *at = b->next; return b; }
    block *rest = (block *)((u32)b + bytes);
    rest->bytes = b->bytes - bytes;
    rest->next = b->next;
    *at = rest;
    b->bytes = bytes;
    return b;
  }
  return 0;
}

WEB_EXPORT("sc_web_alloc") void *sc_web_alloc(u64 bytes)
{
  if (bytes > 0xffff0000u) return 0;
  u32 whole = ((u32)bytes + ALIGN - 1) / ALIGN * ALIGN + ALIGN;
  hold();
  block *b = take(whole);
  if (!b && grow(whole)) b = take(whole);
  let();
  return b ? (unsigned char *)b + ALIGN : 0;
}

WEB_EXPORT("sc_web_free") void sc_web_free(void *memory)
{
  if (!memory) return;
  hold();
  put((block *)((unsigned char *)memory - ALIGN));
  let();
}

static void *host_alloc(void *self, u64 bytes) { (void)self; return sc_web_alloc(bytes); }
static void host_free(void *self, void *memory) { (void)self; sc_web_free(memory); }

static web_host host = { host_alloc, host_free, 0, 0 };

WEB_EXPORT("sc_web_host") const web_host *sc_web_host(void)
{
  host.parallel = sc_web_parallel();
  return &host;
}

#include "pages.h"

typedef struct sc_slab { i64 bytes, used, blocks; } slab;
/* Before every block: where its mapping begins. */
typedef struct { slab *of; i64 unused; } label;

enum { ALIGN = 16, SMALL = 1 << 14, SLAB = 1 << 18, READ_WRITE = 3, PRIVATE_ANONYMOUS = 0x22, MOST_ERROR = 4095 };
_Static_assert(sizeof(label) == ALIGN, "blocks are aligned");

#if defined(__aarch64__)
enum { SYS_MMAP = 222, SYS_MUNMAP = 215 };
static i64 call_system(i64 n, i64 a, i64 b, i64 c, i64 d, i64 e, i64 f)
{
  register i64 x8 __asm__("x8") = n, x0 __asm__("x0") = a, x1 __asm__("x1") = b, x2 __asm__("x2") = c;
  register i64 x3 __asm__("x3") = d, x4 __asm__("x4") = e, x5 __asm__("x5") = f;
  __asm__ volatile("svc 0" : "+r"(x0) : "r"(x8), "r"(x1), "r"(x2), "r"(x3), "r"(x4), "r"(x5) : "memory");
  return x0;
}
#elif defined(__x86_64__)
enum { SYS_MMAP = 9, SYS_MUNMAP = 11 };
static i64 call_system(i64 n, i64 a, i64 b, i64 c, i64 d, i64 e, i64 f)
{
  register i64 r10 __asm__("r10") = d, r8 __asm__("r8") = e, r9 __asm__("r9") = f;
  __asm__ volatile("syscall" : "+a"(n) : "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9) : "rcx", "r11", "memory");
  return n;
}
#endif

static slab *map(u64 bytes)
{
  const i64 at = call_system(SYS_MMAP, 0, (i64)bytes, READ_WRITE, PRIVATE_ANONYMOUS, -1, 0);
  if (at < 0 && at >= -MOST_ERROR) return 0;
  slab *s = (slab *)at;
  *s = (slab){(i64)bytes, (sizeof *s + ALIGN - 1) / ALIGN * ALIGN, 0};
  return s;
}

static void unmap(slab *s) { call_system(SYS_MUNMAP, (i64)s, s->bytes, 0, 0, 0, 0); }

static void lock(sc_pages *p)
{
  while (__atomic_exchange_n(&p->busy, 1, __ATOMIC_ACQUIRE)) {}
}

static void unlock(sc_pages *p) { __atomic_store_n(&p->busy, 0, __ATOMIC_RELEASE); }

static void *block_of(slab *s, u64 bytes)
{
  label *l = (label *)((char *)s + s->used);
  *l = (label){s, 0};
  s->used += (i64)bytes, s->blocks++;
  return l + 1;
}

/* The mapping that small blocks come from, with room for one of `bytes`, or null; one that is full lives as long as its
   blocks. */
static slab *room_for(sc_pages *p, u64 bytes)
{
  slab *s = p->open;
  if (s && s->used + (i64)bytes <= s->bytes) return s;
  if (s && !s->blocks) unmap(s);
  return p->open = map(SLAB);
}

void *sc_pages_get(void *self, u64 bytes)
{
  if (bytes > 1ULL << 46) return 0;
  const u64 whole = (bytes + ALIGN - 1) / ALIGN * ALIGN + sizeof(label);
  if (whole > SMALL) {
    slab *own = map(whole + sizeof *own + ALIGN);
    return own ? block_of(own, whole) : 0;
  }
  sc_pages *p = self;
  lock(p);
  slab *s = room_for(p, whole);
  void *out = s ? block_of(s, whole) : 0;
  unlock(p);
  return out;
}

void sc_pages_free(void *self, void *memory)
{
  if (!memory) return;
  slab *s = ((label *)memory - 1)->of;
  sc_pages *p = self;
  lock(p);
  const int last = !--s->blocks, open = s == p->open;
  if (last && open) s->used = (sizeof *s + ALIGN - 1) / ALIGN * ALIGN;
  unlock(p);
  if (last && !open) unmap(s);
}

void sc_pages_close(sc_pages *p)
{
  if (p->open && !p->open->blocks) unmap(p->open);
  p->open = 0;
}

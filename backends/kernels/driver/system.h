/* The few services of an operating system that the harness uses: from the C library where there is one (a sanitizer needs
   it), else from Linux itself or, in WebAssembly, from WASI. */
#ifndef SC_SYSTEM_H
#define SC_SYSTEM_H
#include "sc.h"

#if __STDC_HOSTED__
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>
static void *get_memory(void *self, u64 bytes) { return (void)self, malloc(bytes); }
static void free_memory(void *self, void *memory) { (void)self, free(memory); }
static i64 sys_read(int file, void *to, i64 bytes) { return read(file, to, (size_t)bytes); }
static i64 sys_write(int file, const void *from, i64 bytes) { return write(file, from, (size_t)bytes); }
static void sys_exit(int code) { _exit(code); }
static inline void *get_code_memory(i64 bytes)
{
  void *out = mmap(0, (size_t)bytes, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  return out == MAP_FAILED ? 0 : out;
}
#elif defined(__wasm__)
#define WASI(name) __attribute__((import_module("wasi_snapshot_preview1"), import_name(#name)))
typedef struct { void *data; u32 bytes; } wasi_vector;
WASI(fd_read) i32 wasi_read(i32 file, const wasi_vector *to, u32 count, u32 *done);
WASI(fd_write) i32 wasi_write(i32 file, const wasi_vector *from, u32 count, u32 *done);
WASI(proc_exit) _Noreturn void wasi_exit(i32 code);

static i64 sys_read(int file, void *to, i64 bytes)
{
  u32 done;
  const wasi_vector v = {to, (u32)bytes};
  return wasi_read(file, &v, 1, &done) ? -1 : done;
}

static i64 sys_write(int file, const void *from, i64 bytes)
{
  u32 done;
  const wasi_vector v = {(void *)from, (u32)bytes};
  return wasi_write(file, &v, 1, &done) ? -1 : done;
}

static void sys_exit(int code) { wasi_exit(code); }

/* Nanoseconds. */
WASI(clock_time_get) i32 wasi_clock(i32 which, u64 precision, u64 *now);
static inline i64 sys_clock(void)
{
  enum { MONOTONIC = 1 };
  u64 now = 0;
  wasi_clock(MONOTONIC, 1, &now);
  return (i64)now;
}

/* Nothing is freed: a case is small, and memory ends with it. A block ends at the end of all memory while it is the last. */
enum { PAGE = 1 << 16 };
static void *get_memory(void *self, u64 bytes)
{
  (void)self;
  const u64 used = (bytes + 15) / 16 * 16, pages = (used + PAGE - 1) / PAGE;
  const __SIZE_TYPE__ before = __builtin_wasm_memory_grow(0, (__SIZE_TYPE__)pages);
  return before == (__SIZE_TYPE__)-1 ? 0 : (char *)((before + (__SIZE_TYPE__)pages) * PAGE - (__SIZE_TYPE__)used);
}

static void free_memory(void *self, void *memory) { (void)self, (void)memory; }
/* Nothing there is executed: WebAssembly has no generated code. */
static inline void *get_code_memory(i64 bytes) { return get_memory(0, (u64)bytes); }

int main(void);
void _start(void);
void _start(void) { sys_exit(main()); }

#else
#if defined(__x86_64__)
enum { SYS_READ = 0, SYS_WRITE = 1, SYS_MMAP = 9, SYS_MPROTECT = 10, SYS_MUNMAP = 11, SYS_EXIT = 231 };
static i64 system_call(i64 n, i64 a, i64 b, i64 c, i64 d, i64 e, i64 f)
{
  register i64 r10 __asm__("r10") = d, r8 __asm__("r8") = e, r9 __asm__("r9") = f;
  __asm__ volatile("syscall" : "+a"(n) : "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9) : "rcx", "r11", "memory");
  return n;
}
__asm__(".globl _start\n_start: xor %ebp, %ebp\n and $-16, %rsp\n call start_here\n");
#elif defined(__aarch64__)
enum { SYS_READ = 63, SYS_WRITE = 64, SYS_MMAP = 222, SYS_MPROTECT = 226, SYS_MUNMAP = 215, SYS_EXIT = 94 };
static i64 system_call(i64 n, i64 a, i64 b, i64 c, i64 d, i64 e, i64 f)
{
  register i64 x8 __asm__("x8") = n, x0 __asm__("x0") = a, x1 __asm__("x1") = b, x2 __asm__("x2") = c;
  register i64 x3 __asm__("x3") = d, x4 __asm__("x4") = e, x5 __asm__("x5") = f;
  __asm__ volatile("svc 0" : "+r"(x0) : "r"(x8), "r"(x1), "r"(x2), "r"(x3), "r"(x4), "r"(x5) : "memory");
  return x0;
}
__asm__(".globl _start\n_start: mov x29, #0\n bl start_here\n");
#endif

static i64 sys_read(int file, void *to, i64 bytes) { return system_call(SYS_READ, file, (i64)to, bytes, 0, 0, 0); }
static i64 sys_write(int file, const void *from, i64 bytes) { return system_call(SYS_WRITE, file, (i64)from, bytes, 0, 0, 0); }
static void sys_exit(int code) { system_call(SYS_EXIT, code, 0, 0, 0, 0, 0); }

/* The block ends where a page without access begins, but for up to 15 bytes that keep it aligned; its mapping is noted
   before it. */
typedef struct { i64 base, bytes; } mapping;
enum { PAGE = 1 << 16, READ_WRITE = 3, READ_WRITE_RUN = 7, PRIVATE_ANONYMOUS = 0x22 };

static void *get_memory(void *self, u64 bytes)
{
  (void)self;
  i64 used = ((i64)bytes + 15) / 16 * 16, total = (used + (i64)sizeof(mapping) + PAGE - 1) / PAGE * PAGE + PAGE;
  i64 base = system_call(SYS_MMAP, 0, total, READ_WRITE, PRIVATE_ANONYMOUS, -1, 0);
  if (base < 0 && base > -4096) return 0;
  system_call(SYS_MPROTECT, base + total - PAGE, PAGE, 0, 0, 0, 0);
  mapping *m = (mapping *)(base + total - PAGE - used) - 1;
  *m = (mapping){base, total};
  return m + 1;
}

static inline void *get_code_memory(i64 bytes)
{
  i64 base = system_call(SYS_MMAP, 0, bytes, READ_WRITE_RUN, PRIVATE_ANONYMOUS, -1, 0);
  return base < 0 && base > -4096 ? 0 : (void *)base;
}

static void free_memory(void *self, void *memory)
{
  (void)self;
  mapping *m = (mapping *)memory - 1;
  system_call(SYS_MUNMAP, m->base, m->bytes, 0, 0, 0, 0);
}

int main(void);
__attribute__((used)) static void start_here(void) { sys_exit(main()); }
#endif
#endif

/* Which of the variants in this library the CPU can run. Built for the base CPU of the target. */
#include "cpu.h"

#if defined(__x86_64__)
typedef struct { u32 a, b, c, d; } registers;

static registers cpuid(u32 leaf)
{
  registers r;
  __asm__ volatile("cpuid" : "=a"(r.a), "=b"(r.b), "=c"(r.c), "=d"(r.d) : "a"(leaf), "c"(0));
  return r;
}

static int has(u32 word, u32 bits) { return (word & bits) == bits; }
#define BIT(n) (1u << (n))

/* The level of the x86-64 psABI, as far as the kernels use it: 2 (or less), 3 (AVX2, FMA) or 4 (AVX-512), with the
   registers enabled by the operating system. */
static int level(void)
{
  if (cpuid(0).a < 7 || cpuid(0x80000000u).a < 0x80000001u) return 2;
  registers one = cpuid(1), seven = cpuid(7), extended = cpuid(0x80000001u);
  const u32 fma = BIT(12), movbe = BIT(22), osxsave = BIT(27), avx = BIT(28), f16c = BIT(29);
  const u32 bmi1 = BIT(3), avx2 = BIT(5), bmi2 = BIT(8), lzcnt = BIT(5);
  const u32 avx512 = BIT(16) | BIT(17) | BIT(28) | BIT(30) | BIT(31); /* F, DQ, CD, BW, VL */
  if (!has(one.c, fma | movbe | osxsave | avx | f16c) || !has(seven.b, bmi1 | avx2 | bmi2) || !has(extended.c, lzcnt)) return 2;
  u32 enabled, high;
  __asm__ volatile("xgetbv" : "=a"(enabled), "=d"(high) : "c"(0));
  if (!has(enabled, 0x06)) return 2;
  return has(seven.b, avx512) && has(enabled, 0xe6) ? 4 : 3;
}
#endif

#if defined(__aarch64__) && defined(__linux__)
/* Linux lets programs read the registers that describe the CPU from 4.11 on; before, that ends them
   (Documentation/arch/arm64/cpu-feature-registers.rst). */
static int tells_features(void)
{
  enum { SYS_UNAME = 160, FIELD = 65 };
  char name[6][FIELD];           /* struct utsname: system, node, release, ... */
  register i64 x8 __asm__("x8") = SYS_UNAME, x0 __asm__("x0") = (i64)name;
  __asm__ volatile("svc 0" : "+r"(x0) : "r"(x8) : "memory");
  if (x0) return 0;
  int version[2] = {0, 0}, at = 0;
  for (const char *c = name[2]; *c && at < 2; c++)
    if (*c >= '0' && *c <= '9') version[at] = 10 * version[at] + *c - '0';
    else at++;
  return version[0] > 4 || (version[0] == 4 && version[1] >= 11);
}

static int has_dot_product(void)
{
  u64 features;                  /* ID_AA64ISAR0_EL1 */
  if (!tells_features()) return 0;
  __asm__("mrs %0, S3_0_C0_C6_0" : "=r"(features));
  return features >> 44 & 15;    /* DotProd */
}
#elif defined(__aarch64__) && defined(__APPLE__)
extern int sysctlbyname(const char *name, void *old, u64 *old_bytes, void *fresh, u64 fresh_bytes);

static int has_dot_product(void)
{
  int has = 0;
  u64 bytes = sizeof has;
  return !sysctlbyname("hw.optional.arm.FEAT_DotProd", &has, &bytes, 0, 0) && has;
}
#endif

const sc_isa *sc_pick_isa(void)
{
#if defined(SC_HAS_V4)
  if (level() >= 4) return &sc_isa_v4;
#endif
#if defined(SC_HAS_V3)
  if (level() >= 3) return &sc_isa_v3;
#endif
#if defined(SC_HAS_NEON)
  return &sc_isa_neon;
#elif defined(SC_HAS_WASM)
  return &sc_isa_wasm;
#elif defined(SC_HAS_RELAXED)
  return &sc_isa_relaxed;
#endif
  return 0;
}

int sc_has_dot4(int vector_bytes)
{
#if defined(__x86_64__)
  const u32 avx512_vnni = BIT(11);
  return vector_bytes == 64 && level() >= 4 && has(cpuid(7).c, avx512_vnni);
#elif defined(__aarch64__)
  return vector_bytes == 16 && has_dot_product();
#else
  return (void)vector_bytes, 0;
#endif
}

const char *sc_cpu_needs(void)
{
#if defined(SC_HAS_V3)
  return "AVX2 and FMA (x86-64-v3)";
#elif defined(SC_HAS_V4)
  return "AVX-512 (x86-64-v4)";
#elif defined(SC_HAS_NEON)
  return "NEON";
#else
  return "SIMD instructions of WebAssembly";
#endif
}

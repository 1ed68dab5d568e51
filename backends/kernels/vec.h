/* Vectors of VB bytes by GNU vector extensions: 64 (AVX-512), 32 (AVX2), 16 (NEON, WebAssembly). */
#ifndef SC_VEC_H
#define SC_VEC_H
#include "sc.h"
#define VL (VB / 4)
typedef float vf __attribute__((vector_size(VB)));
typedef i32 vi __attribute__((vector_size(VB)));
typedef float vf_at __attribute__((vector_size(VB), aligned(4), may_alias));
typedef i32 vi_at __attribute__((vector_size(VB), aligned(4), may_alias));

INLINE vf load(const float *p) { return *(const vf_at *)p; }
INLINE vi load_bits(const void *p) { return *(const vi_at *)p; }
INLINE void store(float *p, vf v) { *(vf_at *)p = v; }
INLINE vf splat(float s) { return s - (vf){0}; }
INLINE vf select_vf(vi mask, vf yes, vf no) { return (vf)((mask & (vi)yes) | (~mask & (vi)no)); }
/* A NaN in `a` stays a NaN, as in ONNX Relu and Clip. */
#if defined(__wasm__)
#include "vec_wasm.h"
#else
INLINE vf at_least(vf a, vf low) { return select_vf(low > a, low, a); }
INLINE vf at_most(vf a, vf high) { return select_vf(high < a, high, a); }
#endif

/* KEEP holds v in a register: the compiler would otherwise load it anew for every use. SETTLE has it computed here: the
   compiler would otherwise compute it behind the next branch, and keep all it comes from until then. */
#if defined(__x86_64__)
#define KEEP(v) __asm__("" : "+v"(v))
#define SETTLE(v) __asm__ volatile("" : "+v"(v))
#elif defined(__aarch64__)
#define KEEP(v) __asm__("" : "+w"(v))
#define SETTLE(v) __asm__ volatile("" : "+w"(v))
#elif defined(__wasm__)
#define KEEP(v) __asm__("" : "+r"(v))
#define SETTLE(v) (void)0
#else
#define KEEP(v) (void)0
#define SETTLE(v) (void)0
#endif

/* One lane list per vector length: LANES(f, h) is f(0, h), f(1, h), ... */
#if VB == 64
#define LANES(f, h) f(0, h), f(1, h), f(2, h), f(3, h), f(4, h), f(5, h), f(6, h), f(7, h), f(8, h), f(9, h), f(10, h), \
                    f(11, h), f(12, h), f(13, h), f(14, h), f(15, h)
#elif VB == 32
#define LANES(f, h) f(0, h), f(1, h), f(2, h), f(3, h), f(4, h), f(5, h), f(6, h), f(7, h)
#else
#define LANES(f, h) f(0, h), f(1, h), f(2, h), f(3, h)
#endif
#define LANE_NUMBER(lane, unused) (lane)
#define EVERY_SECOND(lane, first) (2 * (lane) + (first))
#define SWAP_LOW(lane, h) ((lane) & (h) ? VL + (lane) - (h) : (lane))
#define SWAP_HIGH(lane, h) ((lane) & (h) ? VL + (lane) : (lane) + (h))

/* Lanes first, first + 2, ... of the 2*VL floats at p. */
INLINE vf every_second(const float *p) { return __builtin_shufflevector(load(p), load(p + VL), LANES(EVERY_SECOND, 0)); }

#define TRANSPOSE_STAGE(h)                                                      \
  UNROLL for (int i = 0; i < VL; i++) if (!(i & (h))) {                         \
    vf a = v[i], b = v[i + (h)];                                                \
    v[i] = __builtin_shufflevector(a, b, LANES(SWAP_LOW, h));                   \
    v[i + (h)] = __builtin_shufflevector(a, b, LANES(SWAP_HIGH, h));            \
  }

/* v[i][j] <-> v[j][i] in log2(VL) stages of pair swaps. */
INLINE void transpose(vf v[VL])
{
#if VL > 8
  TRANSPOSE_STAGE(8)
#endif
#if VL > 4
  TRANSPOSE_STAGE(4)
#endif
  TRANSPOSE_STAGE(2)
  TRANSPOSE_STAGE(1)
}
#endif

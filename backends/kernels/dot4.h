/* The int8 primitive: four products of bytes summed into each 32-bit lane, one definition per instruction set.
   Activations are unsigned where the instruction wants unsigned * signed (x86) and signed where it wants signed * signed
   (ARM): a byte in memory is the quantized value less SC_X_BIAS, and nothing but the constants of a step knows. */
#ifndef SC_DOT4_H
#define SC_DOT4_H
#include "vec.h"

typedef short vs __attribute__((vector_size(VB)));
typedef signed char vb __attribute__((vector_size(VB)));
typedef i32 i32x4 __attribute__((vector_size(16)));
typedef float f32x4 __attribute__((vector_size(16)));
typedef short i16x8 __attribute__((vector_size(16)));
typedef vb vb_at __attribute__((aligned(1), may_alias));
typedef i32x4 i32x4_at __attribute__((aligned(4), may_alias));
typedef f32x4 f32x4_at __attribute__((aligned(4), may_alias));

/* Adding it leaves a small number, rounded to even, in the low bits of its representation. */
#define SC_ROUND_MAGIC 12582912.f

#if defined(__aarch64__)
typedef signed char x8;
enum { SC_X_BIAS = 128 };
#else
typedef unsigned char x8;
enum { SC_X_BIAS = 0 };
#endif

#if defined(SC_DOT) && defined(__x86_64__)
INLINE vi dot4(vi sum, vi x, vi w)
{
  __asm__("vpdpbusd %2, %1, %0" : "+v"(sum) : "v"(x), "v"(w));
  return sum;
}
INLINE i32x4 dot4_one(i32x4 sum, i32x4 x, i32x4 w)
{
  __asm__("vpdpbusd %2, %1, %0" : "+v"(sum) : "v"(x), "v"(w));
  return sum;
}

#elif defined(SC_DOT) && defined(__aarch64__)
INLINE vi dot4(vi sum, vi x, vi w)
{
  __asm__("sdot %0.4s, %1.16b, %2.16b" : "+w"(sum) : "w"(x), "w"(w));
  return sum;
}
INLINE i32x4 dot4_one(i32x4 sum, i32x4 x, i32x4 w) { return dot4(sum, x, w); }

#elif defined(__aarch64__)
INLINE vi dot4(vi sum, vi x, vi w)
{
  vi low, high;
  __asm__("smull %0.8h, %2.8b, %3.8b\n smull2 %1.8h, %2.16b, %3.16b\n saddlp %0.4s, %0.8h\n saddlp %1.4s, %1.8h\n"
          "addp %0.4s, %0.4s, %1.4s"
          : "=&w"(low), "=&w"(high) : "w"(x), "w"(w));
  return sum + low;
}
INLINE i32x4 dot4_one(i32x4 sum, i32x4 x, i32x4 w) { return dot4(sum, x, w); }

#elif defined(__wasm__)
#include "dot4_wasm.h"

#else
/* Even and odd bytes as 16-bit numbers, whose products are summed in pairs: exact, unlike vpmaddubsw, which saturates. */
#define DEFINE_DOT4(name, words, lanes)                                                              \
  INLINE lanes name(lanes sum, lanes x, lanes w)                                                     \
  {                                                                                                  \
    words even = (words)(x & 0x00ff00ff), odd = (words)x >> 8 & 0xff;                                \
    __asm__("vpmaddwd %1, %0, %0" : "+v"(even) : "v"((words)w << 8 >> 8));                           \
    __asm__("vpmaddwd %1, %0, %0" : "+v"(odd) : "v"((words)w >> 8));                                 \
    return sum + (lanes)even + (lanes)odd;                                                           \
  }
DEFINE_DOT4(dot4, vs, vi)
DEFINE_DOT4(dot4_one, i16x8, i32x4)
#endif

/* A number, rounded to even, then plus zero, between low and high; NaN becomes low. */
INLINE x8 byte_of(float v, i32 zero, i32 low, i32 high)
{
  float least = (float)(low - zero), most = (float)(high - zero);
  v = v > least ? v : least;
  v = (v < most ? v : most) + SC_ROUND_MAGIC;
  i32 bits;
  __builtin_memcpy(&bits, &v, 4);
  return (x8)(bits + zero);
}

INLINE vi splat_i(i32 s) { return s - (vi){0}; }
INLINE i32x4 splat_one(i32 s) { return s - (i32x4){0}; }

/* ---- shuffles within each 16 bytes, whatever the length of a vector ---- */

/* Element i of the first (h = 0) or second half (h = 1) of a and b in turn; e elements make 16 bytes. */
#define LANE_ZIP(i, h, e) ((i) / (e) * (e) + (i) % (e) / 2 + (h) * (e) / 2 + (i) % 2 * (VB * (e) / 16))
#define BYTE_ZIP(i, h) LANE_ZIP(i, h, 16)
#define WORD_ZIP(i, h) LANE_ZIP(i, h, 8)
/* A 4x4 matrix of bytes, turned. */
#define BYTE_TURN(i, h) ((i) / 16 * 16 + (i) % 4 * 4 + (i) % 16 / 4)
#define LIST8(f, h, i) f(i, h), f(i + 1, h), f(i + 2, h), f(i + 3, h), f(i + 4, h), f(i + 5, h), f(i + 6, h), f(i + 7, h)
#if VB == 64
#define WORDS(f, h) LIST8(f, h, 0), LIST8(f, h, 8), LIST8(f, h, 16), LIST8(f, h, 24)
#define BYTES(f, h) WORDS(f, h), LIST8(f, h, 32), LIST8(f, h, 40), LIST8(f, h, 48), LIST8(f, h, 56)
#elif VB == 32
#define WORDS(f, h) LIST8(f, h, 0), LIST8(f, h, 8)
#define BYTES(f, h) WORDS(f, h), LIST8(f, h, 16), LIST8(f, h, 24)
#else
#define WORDS(f, h) LIST8(f, h, 0)
#define BYTES(f, h) LIST8(f, h, 0), LIST8(f, h, 8)
#endif
#define SHUFFLE(a, b, list) __builtin_shufflevector(a, b, list)

/* Four vectors of numbers, rounded to even, then plus zero and kept in what a byte holds: each 16 bytes are four bytes of
   each in turn. Numbers are less than 2^31. ONNX rounds before it adds the zero point: ties would go another way after. */
#if !defined(__wasm__)
INLINE vb narrow(vf v[4], short zero)
{
  const vs z = zero - (vs){0};
#if defined(__x86_64__)
  vi n[4];
  UNROLL for (int j = 0; j < 4; j++) __asm__("vcvtps2dq %1, %0" : "=v"(n[j]) : "v"(v[j]));
  __asm__("vpackssdw %1, %0, %0" : "+v"(n[0]) : "v"(n[1]));
  __asm__("vpackssdw %1, %0, %0" : "+v"(n[2]) : "v"(n[3]));
  UNROLL for (int j = 0; j < 4; j += 2) __asm__("vpaddsw %1, %0, %0" : "+v"(n[j]) : "v"(z));
  __asm__("vpackuswb %1, %0, %0" : "+v"(n[0]) : "v"(n[2]));
  return (vb)n[0];
#else
  vi n[4];
  vs low, high;
  vb out;
  UNROLL for (int j = 0; j < 4; j++) __asm__("fcvtns %0.4s, %1.4s" : "=w"(n[j]) : "w"(v[j]));
  __asm__("sqxtn %0.4h, %1.4s\n sqxtn2 %0.8h, %2.4s" : "=&w"(low) : "w"(n[0]), "w"(n[1]));
  __asm__("sqxtn %0.4h, %1.4s\n sqxtn2 %0.8h, %2.4s" : "=&w"(high) : "w"(n[2]), "w"(n[3]));
  __asm__("sqadd %0.8h, %0.8h, %2.8h\n sqadd %1.8h, %1.8h, %2.8h" : "+w"(low), "+w"(high) : "w"(z));
  __asm__("sqxtn %0.8b, %1.8h\n sqxtn2 %0.16b, %2.8h" : "=&w"(out) : "w"(low), "w"(high));
  return out;
#endif
}
#endif

typedef x8 xb __attribute__((vector_size(VB)));
INLINE vb most(xb a, xb b) { vb more = (vb)(b > a); return (more & (vb)b) | (~more & (vb)a); }
INLINE vb least(xb a, xb b) { vb less = (vb)(b < a); return (less & (vb)b) | (~less & (vb)a); }
/* Between two bytes as they lie in memory. */
INLINE vb bound(vb v, x8 low, x8 high) { return least((xb)most((xb)v, low - (xb){0}), high - (xb){0}); }
#endif

/* What dot4.h leaves to WebAssembly. */
#ifndef SC_DOT4_WASM_H
#define SC_DOT4_WASM_H

/* Even and odd bytes as 16-bit numbers, whose products are summed in pairs: exact. The dot product of relaxed SIMD takes only
   seven bits of one operand. */
INLINE vi dot4(vi sum, vi x, vi w)
{
  vs even = (vs)(x & 0x00ff00ff), odd = (vs)((__attribute__((vector_size(VB))) unsigned short)x >> 8);
  return sum + (vi)__builtin_wasm_dot_s_i32x4_i16x8(even, (vs)w << 8 >> 8) + (vi)__builtin_wasm_dot_s_i32x4_i16x8(odd, (vs)w >> 8);
}
INLINE i32x4 dot4_one(i32x4 sum, i32x4 x, i32x4 w) { return dot4(sum, x, w); }

/* As in dot4.h. */
INLINE vb narrow(vf v[4], short zero)
{
  const vs z = zero - (vs){0};
  vi n[4];
  UNROLL for (int j = 0; j < 4; j++) n[j] = __builtin_wasm_trunc_saturate_s_i32x4_f32x4(__builtin_elementwise_roundeven(v[j]));
  vs low = __builtin_elementwise_add_sat((vs)__builtin_wasm_narrow_s_i16x8_i32x4(n[0], n[1]), z);
  vs high = __builtin_elementwise_add_sat((vs)__builtin_wasm_narrow_s_i16x8_i32x4(n[2], n[3]), z);
  return (vb)__builtin_wasm_narrow_u_i8x16_i16x8(low, high);
}
#endif

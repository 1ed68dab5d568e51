/* What vec.h leaves to WebAssembly: the compiler does not find these instructions in every comparison that means them. */
#ifndef SC_VEC_WASM_H
#define SC_VEC_WASM_H
INLINE vf at_least(vf a, vf low) { return __builtin_wasm_pmax_f32x4(a, low); }
INLINE vf at_most(vf a, vf high) { return __builtin_wasm_pmin_f32x4(a, high); }
#endif

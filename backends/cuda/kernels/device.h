// What kernels use of a GPU: thin names around instructions of PTX, or, where this is not compiled
// by nvcc, the emulator's. Kernels are compiled with WARPS, STAGES, SHARED and the constants of
// their row; BFLOAT says which 16 bits a number has.
#pragma once
#ifndef __CUDACC__
#include "instructions.h"
#else

using u16 = unsigned short;
using u32 = unsigned int;

#define DEVICE static __device__ __forceinline__
#define DEVICE_MEMBER __device__ __forceinline__
#define UNROLL _Pragma("unroll")
#define ONE_BY_ONE _Pragma("unroll 1")

struct alignas(16) Four {
    u32 x, y, z, w;
};
struct alignas(8) Two {
    u32 x, y;
};

DEVICE void barrier() { __syncthreads(); }
DEVICE void warp_barrier() { __syncwarp(); }

// The value of another lane.
DEVICE u32 shuffle(u32 value, u32 from) { return __shfl_sync(0xffffffff, value, from); }

// The sum of the values of all lanes up to this one.
DEVICE u32 summed_up(u32 value) {
    UNROLL
    for (int by = 1; by < 32; by *= 2)
        asm volatile("{ .reg .pred there; .reg .b32 other;\n"
                     "shfl.sync.up.b32 other|there, %0, %1, 0, 0xffffffff;\n"
                     "@there add.u32 %0, %0, other; }"
                     : "+r"(value)
                     : "r"(by));
    return value;
}

DEVICE u32 popcount(u32 bits) { return __popc(bits); }

// One register of two halves.
DEVICE u32 paired(u32 low, u32 high) { return __byte_perm(low, high, 0x5410); }

// Starts a copy of 16 bytes past the L1 cache, or writes zeros if there is nothing to read.
DEVICE void copy_async(void* shared, const void* from, bool there) {
    u32 to = static_cast<u32>(__cvta_generic_to_shared(shared));
    asm volatile("{ .reg .pred nothing; setp.eq.u32 nothing, %2, 0;\n"
                 "cp.async.cg.shared.global [%0], [%1], 16, nothing; }" ::"r"(to),
                 "l"(from), "r"(static_cast<u32>(there))
                 : "memory");
}
DEVICE void copy_async(void* shared, const void* from) {
    u32 to = static_cast<u32>(__cvta_generic_to_shared(shared));
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(to), "l"(from) : "memory");
}
DEVICE void copy_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
// Waits until no more than LEFT groups of this thread are under way.
template <int LEFT>
DEVICE void copy_wait() {
    asm volatile("cp.async.wait_group %0;" ::"n"(LEFT) : "memory");
}

// Matrices of 8 × 8 numbers of 16 bits from shared memory: lane l names row l % 8 of matrix l / 8.
DEVICE void load_matrices(u32 (&to)[2], const void* row) {
    u32 from = static_cast<u32>(__cvta_generic_to_shared(row));
    asm volatile("ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%0, %1}, [%2];"
                 : "=r"(to[0]), "=r"(to[1])
                 : "r"(from)
                 : "memory");
}
DEVICE void load_matrices(u32 (&to)[4], const void* row) {
    u32 from = static_cast<u32>(__cvta_generic_to_shared(row));
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
                 : "r"(from)
                 : "memory");
}

// C[16, 8] += A[16, 16] · B[16, 8]; the layouts are told in instructions.h.
DEVICE void multiply_dense(float (&c)[4], const u32 (&a)[4], const u32* b) {
#define PRODUCT(TYPE)                                                                              \
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32." TYPE "." TYPE                            \
                 ".f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"            \
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])                                  \
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]))
    if constexpr (BFLOAT) PRODUCT("bf16");
    else PRODUCT("f16");
#undef PRODUCT
}

// The same over 32 columns of A, of which every four hold two.
template <int SELECTOR>
DEVICE void multiply_sparse(float (&c)[4], const u32 (&a)[4], const u32* b, u32 metadata) {
#define PRODUCT(TYPE)                                                                              \
    asm volatile("mma.sp::ordered_metadata.sync.aligned.m16n8k32.row.col.f32." TYPE "." TYPE       \
                 ".f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9, %10, %11}, "                   \
                 "{%0, %1, %2, %3}, %12, %13;"                                                     \
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])                                  \
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]), "r"(b[2]),    \
                   "r"(b[3]), "r"(metadata), "n"(SELECTOR))
    if constexpr (BFLOAT) PRODUCT("bf16");
    else PRODUCT("f16");
#undef PRODUCT
}

// The bits of the nearest number of 16 bits.
DEVICE u16 rounded(float value) {
    u16 bits;
    if constexpr (BFLOAT) asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(bits) : "f"(value));
    else asm("cvt.rn.f16.f32 %0, %1;" : "=h"(bits) : "f"(value));
    return bits;
}

#define SHARED_MEMORY(name) extern __shared__ __align__(128) unsigned char name[]
#define KERNEL(name, ...) \
    extern "C" __global__ void __launch_bounds__(32 * WARPS, BLOCKS) name(__VA_ARGS__)

#endif

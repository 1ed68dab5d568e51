// The other half of device.h: the same names, done by the emulator.
#pragma once
#include "emulator.h"

namespace emulator {

// Numbers of 16 bits ------------------------------------------------------------------------------

DEVICE u32 bits_of(float value) { return __builtin_bit_cast(u32, value); }

DEVICE float widened(u16 bits, bool bfloat) {
    if (bfloat) return __builtin_bit_cast(float, static_cast<u32>(bits) << 16);
    u32 sign = static_cast<u32>(bits & 0x8000) << 16, rest = bits & 0x7fff;
    if (rest >= 0x7c00) return __builtin_bit_cast(float, sign | 0x7f800000 | (rest & 0x3ff) << 13);
    if (rest >= 0x400) return __builtin_bit_cast(float, sign | ((rest << 13) + (112u << 23)));
    float small = static_cast<float>(rest) * 0x1p-24f;
    return sign ? -small : small;
}

DEVICE u16 narrowed(float value, bool bfloat) {  // to the nearest, ties to even
    u32 bits = bits_of(value), sign = bits >> 16 & 0x8000, rest = bits & 0x7fffffff;
    if (rest > 0x7f800000) return 0x7fff;
    if (bfloat) return static_cast<u16>((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
    if (rest >= 0x477ff000) return static_cast<u16>(sign | 0x7c00);
    if (rest < 0x38800000) {  // 1.5 · 2^-1 pushes what is below 2^-24 out of the float
        float magic = 0x1.8p-1f, magnitude = __builtin_bit_cast(float, rest);
        return static_cast<u16>(sign | ((bits_of(magnitude + magic) - bits_of(magic)) & 0xffff));
    }
    return static_cast<u16>(sign | ((rest + 0xfff + (rest >> 13 & 1) - (112u << 23)) >> 13));
}

// A pair of one register: the lower half first.
DEVICE float half_of(u32 pair, int which, bool bfloat) {
    return widened(static_cast<u16>(pair >> 16 * which), bfloat);
}

// Products ----------------------------------------------------------------------------------------

struct Product {
    const u32 *a, *b;
    float* c;
    u32 metadata;
};

// PTX ISA, "Matrix Fragments for mma.m16n8k16": lane = 4 · group + place. A, 16 × 16: register r
// holds row group + 8 · (r & 1), columns 2 · place + {0, 1} + 8 · (r >> 1). B, 16 × 8: register r
// holds rows 2 · place + {0, 1} + 8 · r of column group. C, 16 × 8: value v is in row
// group + 8 · (v >> 1) and column 2 · place + (v & 1). With k = 32 B goes on in the same way.
template <int DEPTH>
DEVICE void accumulate(void** lanes, const float (&a)[16][DEPTH], bool bfloat) {
    float b[DEPTH][8];
    for (int lane = 0; lane < LANES; ++lane)
        for (int depth = 0; depth < DEPTH / 8; ++depth)
            for (int half = 0; half < 2; ++half)
                b[8 * depth + 2 * (lane & 3) + half][lane >> 2] =
                    half_of(static_cast<Product*>(lanes[lane])->b[depth], half, bfloat);
    for (int lane = 0; lane < LANES; ++lane)
        for (int value = 0; value < 4; ++value) {
            int row = (lane >> 2) + 8 * (value >> 1), column = 2 * (lane & 3) + (value & 1);
            float& c = static_cast<Product*>(lanes[lane])->c[value];
            double sum = c;
            for (int depth = 0; depth < DEPTH; ++depth)
                sum += static_cast<double>(a[row][depth]) * b[depth][column];
            c = static_cast<float>(sum);
        }
}

DEVICE void fragments(void** lanes, float (&a)[16][16], bool bfloat) {
    for (int lane = 0; lane < LANES; ++lane)
        for (int part = 0; part < 4; ++part)
            for (int half = 0; half < 2; ++half)
                a[(lane >> 2) + 8 * (part & 1)][2 * (lane & 3) + half + 8 * (part >> 1)] =
                    half_of(static_cast<Product*>(lanes[lane])->a[part], half, bfloat);
}

DEVICE void dense(void** lanes, bool bfloat) {
    float a[16][16];
    fragments(lanes, a, bfloat);
    accumulate<16>(lanes, a, bfloat);
}

// PTX ISA, "Matrix Fragments for sparse mma.m16n8k32": A is 16 × 32 with two of four columns, whose
// values lie like a dense A of 16 × 16. Lanes 2 · selector and 2 · selector + 1 of every group hold
// metadata, the first for columns 0 to 15, the second for 16 to 31: row group in the lower half,
// row group + 8 in the upper one, four bits for four columns, the smaller index lowest. The same
// order as CUTLASS's reorder_meta (tools/util/include/cutlass/util/host_reorder.h) into columns
// interleaved by two, which torch repeats in torch/sparse/_semi_structured_conversions.py.
DEVICE void sparse(void** lanes, bool bfloat, int selector) {
    float packed[16][16], a[16][32] = {};
    fragments(lanes, packed, bfloat);
    for (int row = 0; row < 16; ++row)
        for (int four = 0; four < 8; ++four) {
            int holder = 4 * (row & 7) + 2 * selector + (four >> 2);
            u32 word = static_cast<Product*>(lanes[holder])->metadata >> 16 * (row >> 3);
            u32 index = word >> 4 * (four & 3), first = index & 3, second = index >> 2 & 3;
            if (first >= second) fail("metadata of a sparse product is not in order");
            a[row][4 * four + first] = packed[row][2 * four];
            a[row][4 * four + second] = packed[row][2 * four + 1];
        }
    accumulate<32>(lanes, a, bfloat);
}

}  // namespace emulator

#define HERE int line = __builtin_LINE()

DEVICE void barrier(HERE) {
    emulator::meet(emulator::block, "barrier", line, nullptr, [](void**) {});
}
DEVICE void warp_barrier(HERE) {
    emulator::together("warp barrier", line, nullptr, [](void**) {});
}

struct Shuffled {
    u32 value, from, result;
};
DEVICE u32 shuffled(u32 value, u32 from, int line) {
    Shuffled mine{value, from, 0};
    emulator::together("shuffle", line, &mine, [](void** lanes) {
        for (int lane = 0; lane < emulator::LANES; ++lane) {
            auto& each = *static_cast<Shuffled*>(lanes[lane]);
            each.result = static_cast<Shuffled*>(lanes[each.from % emulator::LANES])->value;
        }
    });
    return mine.result;
}
DEVICE u32 shuffle(u32 value, u32 from, HERE) { return shuffled(value, from, line); }
DEVICE u32 summed_up(u32 value, HERE) {
    for (u32 by = 1, lane = emulator::lane(); by < emulator::LANES; by *= 2) {
        u32 other = shuffled(value, lane - by, line);
        if (lane >= by) value += other;
    }
    return value;
}

DEVICE u32 popcount(u32 bits) { return static_cast<u32>(__builtin_popcount(bits)); }
DEVICE u32 paired(u32 low, u32 high) { return (low & 0xffff) | high << 16; }

DEVICE void copy_async(void* shared, const void* from, bool there = true) {
    using namespace emulator;
    must_be_aligned(shared, 16);
    must_be_aligned(from, 16);
    Thread& mine = threads[current];
    if (mine.started == MOST_COPIES) forget_finished(mine);
    memset(shared, POISON, 16);
    mine.copies[mine.started++] = {static_cast<unsigned char*>(shared),
                                   static_cast<const unsigned char*>(there ? from : nullptr)};
}
DEVICE void copy_commit() {
    using namespace emulator;
    Thread& mine = threads[current];
    if (mine.committed == MOST_COPIES) forget_finished(mine);
    mine.ends[mine.committed++] = mine.started;
}
template <int LEFT>
DEVICE void copy_wait() {
    using namespace emulator;
    Thread& mine = threads[current];
    for (; mine.committed - mine.finished > LEFT; ++mine.finished)
        for (int each = mine.finished ? mine.ends[mine.finished - 1] : 0;
             each < mine.ends[mine.finished]; ++each) {
            const Copy& copy = mine.copies[each];
            if (copy.from) memcpy(copy.to, copy.from, 16);
            else memset(copy.to, 0, 16);
        }
}

struct Loaded {
    u32* to;
    const void* row;
};
template <int MANY>
DEVICE void load_matrices(u32 (&to)[MANY], const void* row, HERE) {
    emulator::must_be_aligned(row, 16);
    Loaded mine{to, row};
    // PTX ISA, ldmatrix: lane l names row l % 8 of matrix l / 8; register m of a lane holds
    // columns 2 · (lane % 4) + {0, 1} of row lane / 4 of matrix m.
    emulator::together("ldmatrix", line, &mine, [](void** lanes) {
        for (int lane = 0; lane < emulator::LANES; ++lane)
            for (int matrix = 0; matrix < MANY; ++matrix) {
                auto& from = *static_cast<Loaded*>(lanes[8 * matrix + lane / 4]);
                static_cast<Loaded*>(lanes[lane])->to[matrix] =
                    static_cast<const u32*>(from.row)[lane % 4];
            }
    });
}

DEVICE void multiply_dense(float (&c)[4], const u32 (&a)[4], const u32* b, HERE) {
    emulator::Product mine{a, b, c, 0};
    emulator::together("mma", line, &mine, [](void** lanes) { emulator::dense(lanes, BFLOAT); });
}
template <int SELECTOR>
DEVICE void multiply_sparse(float (&c)[4], const u32 (&a)[4], const u32* b, u32 metadata, HERE) {
    emulator::Product mine{a, b, c, metadata};
    emulator::together("mma.sp", line, &mine,
                       [](void** lanes) { emulator::sparse(lanes, BFLOAT, SELECTOR); });
}

DEVICE u16 rounded(float value) { return emulator::narrowed(value, BFLOAT); }

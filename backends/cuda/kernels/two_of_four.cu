// A product on sparse tensor cores: of four consecutive columns of W two are kept, with two bits
// each. Values lie in tiles of 16 rows by 32 columns in the order of operand A, 16 bytes for each
// lane, so that it reads them at once; bits of two tiles, one below the other, share a word of each
// lane, and the product's selector says whose they are. All of W and X goes through shared memory,
// STAGES turns ahead. A warp has TALL / DOWN rows and TOKENS / (WARPS / DOWN) tokens of a block.
//
// Few tokens are bound by the bytes of W, 9/16 of dense, many by the tensor cores, which do half of
// the products.
#include "product.h"

constexpr int ACROSS = WARPS / DOWN;
constexpr int STRIPS = TALL / 16, STRIP = 16 * DEPTH;  // bytes of 16 rows of a turn
constexpr int PAIRS = TALL / 32, PAIR = 4 * DEPTH;    // bytes of the bits of 32 rows
constexpr int BITS = STRIPS * STRIP, INPUTS = BITS + PAIRS * PAIR;
constexpr int STAGE = INPUTS + TOKENS * TOKEN_BYTES;
constexpr int MY_STRIPS = STRIPS / DOWN, MY_TOKENS = TOKENS / ACROSS;
static_assert(SHARED == STAGES * STAGE, "shared memory of the row");
static_assert(MY_STRIPS % 2 == 0 && MY_TOKENS % 16 == 0, "a warp has whole pairs");

// Parts of W of so many bytes a turn, `steps` turns each, that follow each other in shared memory.
template <int PARTS, int BYTES>
struct Weights {
    static constexpr int UNITS = BYTES / 16, THREADS = 32 * WARPS;
    static_assert(THREADS % UNITS == 0, "a thread copies the same place of parts");
    const Four* from;
    long long apart;  // of what a thread copies one after the other

    DEVICE_MEMBER Weights(const void* weights, int first, int steps, int begin)
        : apart(static_cast<long long>(THREADS) * steps) {
        int me = static_cast<int>(threadIdx.x);
        from = static_cast<const Four*>(weights) + me % UNITS +
               (static_cast<long long>(first + me / UNITS) * steps + begin) * UNITS;
    }
    DEVICE_MEMBER void copy(unsigned char* to) {
        int me = static_cast<int>(threadIdx.x);
        UNROLL
        for (int unit = 0; unit < PARTS * UNITS; unit += THREADS) {
            if (PARTS * UNITS % THREADS != 0 && unit + me >= PARTS * UNITS) break;
            copy_async(to + 16 * (unit + me), from + unit / THREADS * apart);
        }
        from += UNITS;
    }
};

DEVICE void load_strip(u32 (&a)[4], const unsigned char* values, int strip, int half) {
    const unsigned char* tile = values + strip * STRIP + half * STRIP / 2;
    Four four = reinterpret_cast<const Four*>(tile)[threadIdx.x % 32];
    a[0] = four.x, a[1] = four.y, a[2] = four.z, a[3] = four.w;
}

DEVICE u32 load_bits(const unsigned char* bits, int pair, int half) {
    return reinterpret_cast<const u32*>(bits + pair * PAIR + half * PAIR / 2)[threadIdx.x % 32];
}

KERNEL(multiply, const u16* X, const u16* Values, const int* Bits, u16* Out, float* Parts,
       int tokens, int rows, int columns, int splits) {
    SHARED_MEMORY(memory);
    int warp = static_cast<int>(threadIdx.x) / 32;
    int row = static_cast<int>(blockIdx.x) * TALL, token = static_cast<int>(blockIdx.y) * TOKENS;
    int split = static_cast<int>(blockIdx.z), steps = (columns + DEPTH - 1) / DEPTH;
    int begin = steps * split / splits, end = steps * (split + 1) / splits;
    int down = warp % DOWN * MY_STRIPS, across = warp / DOWN * MY_TOKENS;

    Weights<STRIPS, STRIP> values(Values, row / 16, steps, begin);
    Weights<PAIRS, PAIR> bits(Bits, row / 32, steps, begin);
    Tokens<TOKENS> inputs(X, token, begin * DEPTH, tokens, columns);
    int fetched = begin;
    auto fetch = [&](unsigned char* stage) {
        if (fetched++ < end) {
            values.copy(stage);
            bits.copy(stage + BITS);
            inputs.copy(stage + INPUTS);
        }
        copy_commit();
    };

    float c[MY_STRIPS][MY_TOKENS / 8][4] = {};
    for (int ahead = 0; ahead < STAGES - 1; ++ahead) fetch(memory + ahead * STAGE);
    u32 at = 0, free = (STAGES - 1) * STAGE;
    ONE_BY_ONE
    for (int step = begin; step < end; ++step) {
        copy_wait<STAGES - 2>();
        barrier();
        fetch(memory + free);
        free = at;
        unsigned char* stage = memory + at;
        ONE_BY_ONE  // or operands of both halves take registers at once
        for (int half = 0; half < 2; ++half) {
            u32 b[MY_TOKENS / 8][4];
            load_tokens(b, stage + INPUTS, across, 4 * half);
            UNROLL
            for (int two = 0; two < MY_STRIPS; two += 2) {
                u32 a[2][4], kept = load_bits(stage + BITS, (down + two) / 2, half);
                load_strip(a[0], stage, down + two, half);
                load_strip(a[1], stage, down + two + 1, half);
                UNROLL
                for (int each = 0; each < MY_TOKENS / 8; ++each) {
                    multiply_sparse<0>(c[two][each], a[0], b[each], kept);
                    multiply_sparse<1>(c[two + 1][each], a[1], b[each], kept);
                }
            }
        }
        at = at + STAGE == STAGES * STAGE ? 0 : at + STAGE;
    }
    UNROLL
    for (int strip = 0; strip < MY_STRIPS; ++strip)
        UNROLL
        for (int each = 0; each < MY_TOKENS / 8; ++each)
            store(c[strip][each], Out, Parts, row + 16 * (down + strip), token + across + 8 * each,
                  tokens, rows, split, splits);
}

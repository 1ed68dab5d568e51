// A product with a sparse W that is read as it is stored and multiplied as if it were dense.
// Tiles of 16 rows by 64 columns lie in Stream: 32 words of bits and, padded to 16 bytes, the
// values of the bits that are set. A tile is four operands A of 16 × 16, one after the other, each of
// four squares of 8 × 8 in the order of A's registers, each of two words, its rows 0 to 3 and 4 to
// 7. Bits 2 · lane and 2 · lane + 1 of a square are then what a lane's register holds, and the
// values of the lanes that hold any lie side by side in shared memory: no conflicts of banks.
//
// Bound by the bytes of Stream, density · 2 + .125 for each weight, which leaves about nine
// instructions of a warp for a square on an H100 at a density of a fifth: the place of a value costs
// one population count, since the counts of all words before are summed once for a tile.
#include "product.h"

constexpr int WORDS = 32, ROWS = 16;
constexpr int MASKS = 4 * WORDS;
constexpr int TILE = MASKS + 2 * ROWS * DEPTH;  // bytes, where no weight is zero
constexpr int STAGE = TOKENS * TOKEN_BYTES + WARPS * TILE;
static_assert(SHARED == STAGES * STAGE + WARPS * WORDS * 8, "shared memory of the row");

// Four registers of A: entries of a table are bits, and where the first of their values lies.
DEVICE void unpack(u32 (&a)[4], const Four* table, const unsigned char* memory) {
    u32 lane = threadIdx.x % 32, shift = 2 * (lane & 15), below = (1u << shift) - 1;
    UNROLL
    for (int pair = 0; pair < 2; ++pair) {
        Four two = table[2 * (lane >> 4) + pair];
        u32 bits[2] = {two.x, two.z}, first[2] = {two.y, two.w};
        UNROLL
        for (int each = 0; each < 2; ++each) {
            u32 at = first[each] + 2 * popcount(bits[each] & below);
            u32 mine = bits[each] >> shift, low = 0, high = 0;
            if (mine & 1) low = *reinterpret_cast<const u16*>(memory + at);
            if (mine & 2) high = *reinterpret_cast<const u16*>(memory + at + 2 * (mine & 1));
            a[2 * pair + each] = paired(low, high);
        }
    }
}

// Writes the table of a tile whose values lie from a place on.
DEVICE void index(Two* table, const u32* masks, u32 place) {
    u32 lane = threadIdx.x % 32, bits = masks[lane], many = popcount(bits);
    u32 before = summed_up(many) - many;
    table[(lane & ~7u) | (lane & 1) << 2 | (lane >> 1 & 3)] = {bits, place + 2 * before};
}

KERNEL(multiply, const u16* X, const int* Stream, const int* Starts, u16* Out, float* Parts,
       int tokens, int rows, int columns, int splits) {
    SHARED_MEMORY(memory);
    int warp = static_cast<int>(threadIdx.x) / 32, lane = static_cast<int>(threadIdx.x) % 32;
    int strip = static_cast<int>(blockIdx.x) * WARPS + warp, split = static_cast<int>(blockIdx.z);
    int token = static_cast<int>(blockIdx.y) * TOKENS;
    int steps = (columns + DEPTH - 1) / DEPTH;
    int begin = static_cast<int>(static_cast<long long>(steps) * split / splits);
    int end = static_cast<int>(static_cast<long long>(steps) * (split + 1) / splits);
    const int* starts = Starts + static_cast<long long>(strip) * steps;
    Two* table = reinterpret_cast<Two*>(memory + STAGES * STAGE) + warp * WORDS;
    int from = starts[begin], until = starts[begin + 1];  // of the next tile, in 16 bytes
    Tokens<TOKENS> inputs(X, token, begin * DEPTH, tokens, columns);
    u32 mine = TOKENS * TOKEN_BYTES + warp * TILE;  // of a stage
    int fetched = begin;
    auto fetch = [&](u32 stage) {
        if (fetched < end) {
            const Four* source = reinterpret_cast<const Four*>(Stream) + from;
            ONE_BY_ONE
            for (int each = lane; each < until - from; each += 32)
                copy_async(memory + stage + mine + 16 * each, source + each, 16);
            from = until;
            if (++fetched < end) until = starts[fetched + 1];
            inputs.copy(memory + stage);
        }
        copy_commit();
    };

    float c[TOKENS / 8][4] = {};
    for (int ahead = 0; ahead < STAGES - 1; ++ahead) fetch(ahead * STAGE);
    u32 stage = 0, free = (STAGES - 1) * STAGE;
    ONE_BY_ONE
    for (int step = begin; step < end; ++step) {
        copy_wait<STAGES - 2>();
        barrier();
        fetch(free);
        free = stage;
        index(table, reinterpret_cast<const u32*>(memory + stage + mine), stage + mine + MASKS);
        warp_barrier();
        UNROLL
        for (int which = 0; which < DEPTH / 16; ++which) {
            u32 a[4], b[TOKENS / 8][2];
            unpack(a, reinterpret_cast<const Four*>(table + 8 * which), memory);
            load_tokens(b, memory + stage, 0, which);
            UNROLL
            for (int each = 0; each < TOKENS / 8; ++each) multiply_dense(c[each], a, b[each]);
        }
        warp_barrier();
        stage = stage + STAGE == STAGES * STAGE ? 0 : stage + STAGE;
    }
    UNROLL
    for (int each = 0; each < TOKENS / 8; ++each)
        store(c[each], Out, Parts, strip * ROWS, token + 8 * each, tokens, rows, split, splits);
}

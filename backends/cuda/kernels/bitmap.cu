// A product with a sparse W that is read as it is stored and multiplied as if it were dense.
// Tiles of 16 rows by 64 columns lie in Stream: 128 bytes of bits and, padded to 16 bytes, the
// values of the bits that are set. A tile is four operands A of 16 × 16, one after the other; an
// operand has a byte for each lane, whose bits are the eight numbers of its four registers. Values
// of an operand follow each other by lane: what lanes read at once lies close together, in different
// banks while no more than a quarter of the weights is kept, and a lane counts bits only once.
//
// Bound by the bytes of Stream, density · 2 + .125 for each weight, and as soon by what is issued: at
// a density of a fifth, bytes of 64 weights could arrive every nine cycles of a quarter of an H100's
// multiprocessor, which issues one instruction in each.
#include "product.h"

constexpr int WORDS = 32, ROWS = 16;
constexpr int MASKS = 4 * WORDS;
constexpr int TILE = MASKS + 2 * VALUES;  // bytes of a tile with the most values
constexpr int STAGE = TOKENS * TOKEN_BYTES + WARPS * TILE;
static_assert(SHARED == STAGES * STAGE + WARPS * WORDS * 8, "shared memory of the row");

// Four registers of A: an entry is the bits of four lanes, and where the first of their values is.
DEVICE void unpack(u32 (&a)[4], Two entry, const unsigned char* memory) {
    u32 shift = 8 * (threadIdx.x % 4), mine = entry.x >> shift;
    u32 at = entry.y + 2 * popcount(entry.x & ((1u << shift) - 1));
    UNROLL
    for (int each = 0; each < 4; ++each) {
        u32 low = 0, high = 0;
        if (mine & 1 << 2 * each) {
            low = *reinterpret_cast<const u16*>(memory + at);
            at += 2;
        }
        if (mine & 2 << 2 * each) {
            high = *reinterpret_cast<const u16*>(memory + at);
            at += 2;
        }
        a[each] = paired(low, high);
    }
}

// Writes the table of a tile whose values lie from a place on.
DEVICE void index(Two* table, const u32* masks, u32 place) {
    u32 lane = threadIdx.x % 32, bits = masks[lane], many = popcount(bits);
    table[lane] = {bits, place + 2 * (summed_up(many) - many)};
}

KERNEL(multiply, const u16* X, const int* Stream, const int* Starts, u16* Out, float* Parts,
       int tokens, int rows, int columns, int splits) {
    SHARED_MEMORY(memory);
    int warp = static_cast<int>(threadIdx.x) / 32, lane = static_cast<int>(threadIdx.x) % 32;
    int strip = static_cast<int>(blockIdx.x) * WARPS + warp, split = static_cast<int>(blockIdx.z);
    int token = static_cast<int>(blockIdx.y) * TOKENS;
    int steps = (columns + DEPTH - 1) / DEPTH;
    int begin = steps * split / splits, end = steps * (split + 1) / splits;
    const int* starts = Starts + static_cast<long long>(strip) * steps + begin;
    Two* table = reinterpret_cast<Two*>(memory + STAGES * STAGE) + warp * WORDS;
    int from = starts[0], until = begin < end ? starts[1] : from;  // of the next tile, in 16 bytes
    Tokens<TOKENS> inputs(X, token, begin * DEPTH, tokens, columns);
    u32 mine = TOKENS * TOKEN_BYTES + warp * TILE;  // of a stage
    int left = end - begin;
    auto fetch = [&](u32 stage) {
        if (left > 0) {
            const Four* source = reinterpret_cast<const Four*>(Stream) + from;
            ONE_BY_ONE
            for (int each = lane; each < until - from; each += 32)
                copy_async(memory + stage + mine + 16 * each, source + each);
            from = until;
            ++starts;
            if (--left > 0) until = starts[1];
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
            unpack(a, table[8 * which + lane / 4], memory);
            load_tokens(b, memory + stage, 0, 2 * which);
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

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

// Four registers of A: entries of a table are the bits and the place of the first of their values.
DEVICE void unpack(u32 (&a)[4], const Four* table, const u16* values) {
    u32 lane = threadIdx.x % 32, shift = 2 * (lane & 15), below = (1u << shift) - 1;
    UNROLL
    for (int pair = 0; pair < 2; ++pair) {
        Four two = table[2 * (lane >> 4) + pair];
        u32 bits[2] = {two.x, two.z}, first[2] = {two.y, two.w};
        UNROLL
        for (int each = 0; each < 2; ++each) {
            const u16* from = values + first[each] + popcount(bits[each] & below);
            u32 mine = bits[each] >> shift, low = 0, high = 0;
            if (mine & 1) low = from[0];
            if (mine & 2) high = from[mine & 1];
            a[2 * pair + each] = low | high << 16;
        }
    }
}

// Writes the table of a tile: each lane sums up what words before its own hold.
DEVICE void index(Two* table, const u32* masks) {
    u32 lane = threadIdx.x % 32, bits = masks[lane], many = popcount(bits), until = many;
    UNROLL
    for (u32 by = 1; by < 32; by *= 2) {
        u32 before = shuffle_up(until, by);
        if (lane >= by) until += before;
    }
    table[(lane & ~7u) | (lane & 1) << 2 | (lane >> 1 & 3)] = {bits, until - many};
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

    auto stage = [&](int step) { return memory + (step - begin) % STAGES * STAGE; };
    auto stream = [&](int step) { return stage(step) + TOKENS * TOKEN_BYTES + warp * TILE; };
    auto fetch = [&](int step) {
        if (step < end) {
            const Four* source = reinterpret_cast<const Four*>(Stream) + from;
            for (int each = lane; each < until - from; each += 32)
                copy_async(stream(step) + 16 * each, source + each, 16);
            from = until;
            if (step + 1 < end) until = starts[step + 2];
            copy_tokens<TOKENS>(stage(step), X, token, step * DEPTH, tokens, columns);
        }
        copy_commit();
    };

    float c[TOKENS / 8][4] = {};
    for (int ahead = 0; ahead < STAGES - 1; ++ahead) fetch(begin + ahead);
    for (int step = begin; step < end; ++step) {
        copy_wait<STAGES - 2>();
        barrier();
        fetch(step + STAGES - 1);
        index(table, reinterpret_cast<const u32*>(stream(step)));
        warp_barrier();
        UNROLL
        for (int which = 0; which < DEPTH / 16; ++which) {
            u32 a[4], b[TOKENS / 8][2];
            unpack(a, reinterpret_cast<const Four*>(table + 8 * which),
                   reinterpret_cast<const u16*>(stream(step) + MASKS));
            load_tokens(b, stage(step), 0, which);
            UNROLL
            for (int each = 0; each < TOKENS / 8; ++each) multiply_dense(c[each], a, b[each]);
        }
        warp_barrier();
    }
    UNROLL
    for (int each = 0; each < TOKENS / 8; ++each)
        store(c[each], Out, Parts, strip * ROWS, token + 8 * each, tokens, rows, split, splits);
}

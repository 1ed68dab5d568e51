// What kernels share that compute Out[tokens, rows] = X[tokens, columns] · Wᵀ with W as the operand
// A of tensor cores, rows of W down, and X as B, tokens across. One turn takes DEPTH columns.
#pragma once
#include "device.h"

constexpr int DEPTH = 64;
constexpr int TOKEN_BYTES = 2 * DEPTH;

// A tile of X in shared memory: a token's eight pieces of 16 bytes lie in an order that differs
// from those of the seven tokens beside it, so that eight rows of a matrix are in different banks.
DEVICE unsigned char* piece(unsigned char* tile, int token, int which) {
    return tile + token * TOKEN_BYTES + ((which ^ (token & 7)) << 4);
}

// Many tokens of X, DEPTH columns at a time, with zeros beyond the end of either. Rows that are no
// multiple of 16 bytes long are read one number after the other, at once. A thread copies the same
// piece of every AT_ONCE-th token.
template <int MANY>
struct Tokens {
    static constexpr int AT_ONCE = 4 * WARPS;
    const u16* from;
    int there, left, columns;  // tokens from the first on; columns from the piece on, and of X

    DEVICE_MEMBER Tokens(const u16* X, int token, int column, int tokens, int columns)
        : columns(columns) {
        int row = token + static_cast<int>(threadIdx.x) / 8;
        column += static_cast<int>(threadIdx.x) % 8 * 8;
        there = tokens - row;
        left = columns - column;
        from = X + static_cast<long long>(row) * columns + column;
    }

    // Starts to copy the next columns into a tile.
    DEVICE_MEMBER void copy(unsigned char* tile) {
        int first = static_cast<int>(threadIdx.x) / 8;
        unsigned char* place = piece(tile, first, static_cast<int>(threadIdx.x) % 8);
        int many = left < 0 ? 0 : left < 8 ? left : 8;
        UNROLL
        for (int token = 0; token < MANY; token += AT_ONCE) {
            if (MANY % AT_ONCE != 0 && first + token >= MANY) break;
            int mine = token < there ? many : 0;
            const u16* source = from + static_cast<long long>(token) * columns;
            unsigned char* to = place + token * TOKEN_BYTES;
            if (columns % 8 == 0) {
                copy_async(to, source, mine > 0);
            } else {
                UNROLL
                for (int at = 0; at < 8; ++at)
                    reinterpret_cast<u16*>(to)[at] = at < mine ? source[at] : u16(0);
            }
        }
        from += DEPTH;
        left -= DEPTH;
    }
};

// Registers of B for 8 · MANY tokens of a tile from one on, and 8 · PARTS columns, from the
// `which`-th 8 on. A load gives four registers: of one product where it takes four, else of two.
template <int MANY, int PARTS>
DEVICE void load_tokens(u32 (&b)[MANY][PARTS], unsigned char* tile, int token, int which) {
    int lane = static_cast<int>(threadIdx.x) % 32, mine = token + lane % 8, part = lane / 8;
    if constexpr (PARTS == 4) {
        UNROLL
        for (int each = 0; each < MANY; ++each)
            load_matrices(b[each], piece(tile, mine + 8 * each, which + part));
    } else if constexpr (MANY == 1) {
        load_matrices(b[0], piece(tile, mine, which + part % 2));
    } else {
        UNROLL
        for (int each = 0; each < MANY; each += 2) {
            u32 four[4];
            load_matrices(four, piece(tile, mine + 8 * each + 8 * (part / 2), which + part % 2));
            b[each][0] = four[0];
            b[each][1] = four[1];
            b[each + 1][0] = four[2];
            b[each + 1][1] = four[3];
        }
    }
}

// Writes 16 rows of 8 tokens: into Out, or as one of several splits into
// Parts[splits, tokens, rows].
DEVICE void store(const float (&c)[4], u16* Out, float* Parts, int row, int token, int tokens,
                  int rows, int split, int splits) {
    int lane = static_cast<int>(threadIdx.x) % 32;
    UNROLL
    for (int value = 0; value < 4; ++value) {
        int down = row + (lane >> 2) + 8 * (value >> 1);
        int across = token + 2 * (lane & 3) + (value & 1);
        if (down >= rows || across >= tokens) continue;
        if (splits == 1) Out[static_cast<long long>(across) * rows + down] = rounded(c[value]);
        else Parts[(static_cast<long long>(split) * tokens + across) * rows + down] = c[value];
    }
}

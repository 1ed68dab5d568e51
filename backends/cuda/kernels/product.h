// What kernels share that compute Out[tokens, rows] = X[tokens, columns] · Wᵀ with W as the operand
// A of tensor cores, rows of W down, and X as B, tokens across. One turn takes DEPTH columns.
#pragma once
#include "device.h"

constexpr int DEPTH = 64;
constexpr int TOKEN_BYTES = 2 * DEPTH;

// A tile of X in shared memory: a token's eight pieces of 16 bytes lie in an order that differs from
// those of the seven tokens beside it, so that eight rows of a matrix are in different banks.
DEVICE unsigned char* piece(unsigned char* tile, int token, int which) {
    return tile + token * TOKEN_BYTES + ((which ^ (token & 7)) << 4);
}

// Starts to copy many tokens of X from a column on, with zeros beyond the end of either. Rows that
// are no multiple of 16 bytes long are read one number after the other, at once.
template <int MANY>
DEVICE void copy_tokens(unsigned char* tile, const u16* X, int token, int column, int tokens,
                        int columns) {
    UNROLL
    for (int at = 0; at < MANY * 8; at += 32 * WARPS) {
        int mine = at + static_cast<int>(threadIdx.x);
        if (MANY * 8 % (32 * WARPS) != 0 && mine >= MANY * 8) break;
        int row = token + mine / 8, first = column + mine % 8 * 8;
        int left = row < tokens && first < columns ? columns - first : 0;
        int there = left < 8 ? left : 8;
        const u16* from = X + (there ? static_cast<long long>(row) * columns + first : 0);
        unsigned char* to = piece(tile, mine / 8, mine % 8);
        if (columns % 8 == 0) {
            copy_async(to, from, 2 * there);
        } else {
            UNROLL
            for (int each = 0; each < 8; ++each)
                reinterpret_cast<u16*>(to)[each] = each < there ? from[each] : u16(0);
        }
    }
}

// Registers of B for 16 columns, the `which`-th of a tile, and 8 · MANY tokens from one on.
template <int MANY>
DEVICE void load_tokens(u32 (&b)[MANY][2], unsigned char* tile, int token, int which) {
    int lane = static_cast<int>(threadIdx.x) % 32;
    int half = 2 * which + (lane >> 3 & 1);
    if constexpr (MANY == 1) {
        load_matrices(b[0], piece(tile, token + (lane & 7), half));
    } else {
        UNROLL
        for (int each = 0; each < MANY; each += 2) {
            u32 four[4];
            load_matrices(four, piece(tile, token + 8 * each + 8 * (lane >> 4) + (lane & 7), half));
            b[each][0] = four[0];
            b[each][1] = four[1];
            b[each + 1][0] = four[2];
            b[each + 1][1] = four[3];
        }
    }
}

// Writes 16 rows of 8 tokens: into Out, or, one of several splits, into Parts[splits, tokens, rows].
DEVICE void store(const float (&c)[4], u16* Out, float* Parts, int row, int token, int tokens,
                  int rows, int split, int splits) {
    int lane = static_cast<int>(threadIdx.x) % 32;
    UNROLL
    for (int value = 0; value < 4; ++value) {
        int down = row + (lane >> 2) + 8 * (value >> 1), across = token + 2 * (lane & 3) + (value & 1);
        if (down >= rows || across >= tokens) continue;
        if (splits == 1) Out[static_cast<long long>(across) * rows + down] = rounded(c[value]);
        else Parts[(static_cast<long long>(split) * tokens + across) * rows + down] = c[value];
    }
}

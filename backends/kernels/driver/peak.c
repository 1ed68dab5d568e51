/* What one core can do at most: multiply-adds per second, and bytes read per second. Freestanding, like the kernels; the
   caller holds the clock. */
typedef float vec __attribute__((vector_size(VB), aligned(4)));
typedef long long i64;

enum { CHAINS = VB == 64 ? 24 : 12, LANES = VB / 4 };

#define EXPORT __attribute__((visibility("default")))

/* Enough independent chains to hide the latency of a multiply-add on every port: `rounds` times CHAINS vectors. */
EXPORT float sc_peak(i64 rounds, float factor, float summand)
{
  vec sums[CHAINS], by = factor - (vec){0}, plus = summand - (vec){0};
  for (int i = 0; i < CHAINS; i++) sums[i] = plus + (float)i;
  for (i64 round = 0; round < rounds; round++) {
#pragma clang loop unroll(full)
    for (int i = 0; i < CHAINS; i++) sums[i] = sums[i] * by + plus;
  }
  float total = 0;
  for (int i = 0; i < CHAINS; i++)
    for (int lane = 0; lane < LANES; lane++) total += sums[i][lane];
  return total;
}

EXPORT int sc_peak_flops(void) { return 2 * CHAINS * LANES; }

/* Reads `count` floats, a multiple of 8 vectors, `rounds` times. */
EXPORT float sc_stream(const float *from, i64 count, i64 rounds)
{
  vec sums[8] = {{0}};
  for (i64 round = 0; round < rounds; round++) {
    for (i64 at = 0; at < count; at += 8 * LANES) {
#pragma clang loop unroll(full)
      for (int i = 0; i < 8; i++) sums[i] += *(const vec *)(from + at + i * LANES);
    }
    /* The next round must read again. */
    __asm__ volatile("" : : "r"(from) : "memory");
  }
  float total = 0;
  for (int i = 0; i < 8; i++)
    for (int lane = 0; lane < LANES; lane++) total += sums[i][lane];
  return total;
}

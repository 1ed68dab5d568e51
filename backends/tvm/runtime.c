/* What kernels that TVM generated call, since there is neither libc nor libm. */
typedef long long i64;
typedef unsigned long long u64;
#define HIDDEN __attribute__((visibility("hidden")))

/* ---- memory ---- */
typedef unsigned char wide __attribute__((vector_size(32), aligned(1), may_alias));

HIDDEN void *sccopy(void *to, const void *from, __SIZE_TYPE__ n)
{
  unsigned char *d = to;
  const unsigned char *s = from;
  __SIZE_TYPE__ i = 0;
  for (; i + sizeof(wide) <= n; i += sizeof(wide)) *(wide *)(d + i) = *(const wide *)(s + i);
  for (; i < n; i++) d[i] = s[i];
  return to;
}

HIDDEN void *scmoves(void *to, const void *from, __SIZE_TYPE__ n)
{
  unsigned char *d = to;
  const unsigned char *s = from;
  if (d <= s) return sccopy(to, from, n); /* what is read has not been written yet */
  for (; n; n--) d[n - 1] = s[n - 1];
  return to;
}

HIDDEN void *scfill(void *to, int value, __SIZE_TYPE__ n)
{
  unsigned char *d = to;
  wide all = (wide){0} + (unsigned char)value;
  __SIZE_TYPE__ i = 0;
  for (; i + sizeof(wide) <= n; i += sizeof(wide)) *(wide *)(d + i) = all;
  for (; i < n; i++) d[i] = (unsigned char)value;
  return to;
}

/* ---- functions of float64, each good to about 1e-13, far beyond float32 ---- */

typedef union { double value; u64 bits; } number;

static double inf(void) { return __builtin_inf(); }
static double nan(void) { return __builtin_nan(""); }
static double size_of(double x) { return x < 0 ? -x : x; }
static double sqrt_of(double x) { return __builtin_elementwise_sqrt(x); }
static double floor_of(double x) { return __builtin_elementwise_floor(x); }
static double trunc_of(double x) { return __builtin_elementwise_trunc(x); }

/* 2^n for |n| < 2100, in two factors: results below the normal numbers are right too. */
static double scaled(double x, i64 n)
{
  i64 half = n / 2;
  number a = {.bits = (u64)(half + 1023) << 52}, b = {.bits = (u64)(n - half + 1023) << 52};
  return x * a.value * b.value;
}

HIDDEN double sc_math_exp(double x)
{
  if (x != x) return x;
  if (x > 710) return inf();
  if (x < -746) return 0;
  double n = floor_of(x * 1.4426950408889634 + .5), r = (x - n * 6.93145751953125e-1) - n * 1.42860682030941723212e-6;
  double sum = 1, term = 1;
  for (int i = 1; i < 16; i++) term *= r / i, sum += term;
  return scaled(sum, (i64)n);
}

HIDDEN double sc_math_exp2(double x) { return sc_math_exp(x * .69314718055994531); }
HIDDEN double sc_math_exp10(double x) { return sc_math_exp(x * 2.302585092994045684); }

/* The mantissa in [sqrt(1/2), sqrt(2)), then an area tangent. */
HIDDEN double sc_math_log(double x)
{
  if (x != x || x == inf()) return x;
  if (x <= 0) return x < 0 ? nan() : -inf();
  i64 exponent = 0;
  if (x < 2.2250738585072014e-308) x *= 18014398509481984., exponent = -54;
  number m = {x};
  exponent += (i64)(m.bits >> 52) - 1023;
  m.bits = (m.bits & 0xfffffffffffffULL) | 0x3ff0000000000000ULL;
  if (m.value > 1.4142135623730951) m.value *= .5, exponent++;
  double t = (m.value - 1) / (m.value + 1), square = t * t, sum = 0;
  for (int i = 21; i > 0; i -= 2) sum = sum * square + 1. / i;
  return 2 * t * sum + (double)exponent * .69314718055994531;
}

HIDDEN double sc_math_log2(double x) { return sc_math_log(x) * 1.4426950408889634; }
HIDDEN double sc_math_log10(double x) { return sc_math_log(x) * .43429448190325182; }

HIDDEN double sc_math_log1p(double x)
{
  if (size_of(x) > 1e-4) return sc_math_log(1 + x);
  return x * (1 - x * (1. / 2 - x * (1. / 3 - x * (1. / 4 - x / 5))));
}

static int is_whole(double x) { return trunc_of(x) == x; }

HIDDEN double sc_math_pow(double x, double y)
{
  if (y == 0 || x == 1) return 1;
  if (x != x || y != y) return nan();
  if (is_whole(y) && size_of(y) <= 64) { /* by squaring, exactly where the result is */
    double base = x, result = 1;
    for (i64 n = (i64)size_of(y); n; n >>= 1, base *= base)
      if (n & 1) result *= base;
    return y < 0 ? 1 / result : result;
  }
  if (x < 0 && !is_whole(y) && size_of(y) != inf()) return x == -inf() ? (y > 0 ? inf() : 0) : nan();
  double made = x == 0 ? (y > 0 ? 0 : inf()) : sc_math_exp(y * sc_math_log(size_of(x)));
  int odd = is_whole(y) && !is_whole(y * .5);
  return x < 0 && odd ? -made : made;
}

/* sin and cos: the nearest multiple of pi/2 is taken off in three parts. Beyond 2^30 nothing is left of the argument. */
static double wave(double x, int quarter)
{
  if (x != x || size_of(x) == inf()) return nan();
  double n = floor_of(x * .63661977236758134 + .5);
  double r = ((x - n * 1.57079632673412561417e+00) - n * 6.07710050630396597660e-11) - n * 2.02226624871116645580e-21;
  int which = (int)((i64)n & 3) + quarter;
  double square = r * r, term = which & 1 ? 1 : r, sum = term;
  for (int i = which & 1 ? 1 : 2; i < 20; i += 2) term *= -square / (i * (i + 1)), sum += term;
  return which & 2 ? -sum : sum;
}

HIDDEN double sc_math_sin(double x) { return wave(x, 0); }
HIDDEN double sc_math_cos(double x) { return wave(x, 1); }
HIDDEN double sc_math_tan(double x) { return wave(x, 0) / wave(x, 1); }

HIDDEN double sc_math_atan(double x)
{
  if (x != x) return x;
  double a = size_of(x), base = 0;
  int beyond = a > 1;
  if (beyond) a = 1 / a;
  if (a > .41421356237309503) base = .78539816339744831, a = (a - 1) / (a + 1);
  /* halved twice: tan(t/2) = t / (1 + sqrt(1 + t^2)) */
  for (int i = 0; i < 2; i++) a = a / (1 + sqrt_of(1 + a * a));
  double square = a * a, sum = 0;
  for (int i = 21; i > 0; i -= 2) sum = 1. / i - sum * square;
  double made = base + 4 * a * sum;
  if (beyond) made = 1.57079632679489662 - made;
  return x < 0 ? -made : made;
}

HIDDEN double sc_math_atan2(double y, double x)
{
  const double pi = 3.14159265358979324;
  if (x > 0) return sc_math_atan(y / x);
  if (x < 0) return sc_math_atan(y / x) + (y < 0 ? -pi : pi);
  return y > 0 ? pi / 2 : y < 0 ? -pi / 2 : x + y;
}

HIDDEN double sc_math_asin(double x) { return size_of(x) > 1 ? nan() : sc_math_atan2(x, sqrt_of((1 - x) * (1 + x))); }
HIDDEN double sc_math_acos(double x) { return size_of(x) > 1 ? nan() : sc_math_atan2(sqrt_of((1 - x) * (1 + x)), x); }

HIDDEN double sc_math_sinh(double x)
{
  if (size_of(x) < 1) { /* e^x - e^-x would cancel */
    double term = x, sum = x;
    for (int i = 2; i < 20; i += 2) term *= x * x / (i * (i + 1)), sum += term;
    return sum;
  }
  double half = sc_math_exp(size_of(x) * .5), made = half * .5 * half - .5 / half / half;
  return x < 0 ? -made : made;
}

HIDDEN double sc_math_cosh(double x)
{
  double half = sc_math_exp(size_of(x) * .5);
  return half * .5 * half + .5 / half / half;
}

HIDDEN double sc_math_tanh(double x)
{
  if (size_of(x) < 1) return sc_math_sinh(x) / sc_math_cosh(x);
  double made = 1 - 2 / (sc_math_exp(2 * size_of(x)) + 1);
  return x < 0 ? -made : made;
}

HIDDEN double sc_math_asinh(double x)
{
  double a = size_of(x), made = a > 1e8 ? sc_math_log(a) + .69314718055994531 : sc_math_log1p(a + a * a / (1 + sqrt_of(a * a + 1)));
  return x < 0 ? -made : made;
}

HIDDEN double sc_math_acosh(double x)
{
  if (x < 1) return nan();
  if (x > 1e8) return sc_math_log(x) + .69314718055994531;
  return sc_math_log1p(x - 1 + sqrt_of((x - 1) * (x + 1)));
}

HIDDEN double sc_math_atanh(double x)
{
  double a = size_of(x), made = .5 * sc_math_log1p(2 * a / (1 - a));
  return x < 0 ? -made : made;
}

/* Small arguments by the series, large ones by a continued fraction of the complement. */
HIDDEN double sc_math_erf(double x)
{
  if (x != x) return x;
  double a = size_of(x);
  if (a > 6) return x < 0 ? -1 : 1;
  if (a < 2.5) {
    double term = x, sum = x;
    for (int i = 1; i < 60; i++) term *= -x * x / i, sum += term / (2 * i + 1);
    return sum * 1.12837916709551257;
  }
  double tail = 0;
  for (int i = 60; i > 0; i--) tail = i * .5 / (a + tail);
  double made = 1 - sc_math_exp(-a * a) * .56418958354775629 / (a + tail);
  return x < 0 ? -made : made;
}

HIDDEN double sc_math_round(double x)
{
  double below = trunc_of(x);
  return size_of(x - below) < .5 ? below : below + (x < 0 ? -1 : 1);
}

/* Exact for quotients below 2^53. */
HIDDEN double sc_math_fmod(double x, double y)
{
  if (y == 0 || x != x || y != y || size_of(x) == inf()) return nan();
  return size_of(y) == inf() ? x : x - trunc_of(x / y) * y;
}

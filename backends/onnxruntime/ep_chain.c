/* Recognising activations by their values at many points, as passes/fuse/activation.py does: exporters write them in
   many orders of operations. */
#include "ep_chain.h"

enum {
  POINTS = 145,
  NEAR = 129,                    /* from -16 to 16; the others are far out, where a bound that is missing would show */
  VALUES = EP_CHAIN + 1
};
static const double far_out[] = {20, 1e2, 1e3, 1e5, 1e8, 1e15, 1e25, 1e30};
static const double tolerance = 2e-6; /* relative to max(1, |y|): float32 constants are allowed their rounding */

typedef struct { ort_ptr value; double at[POINTS]; } known;
typedef struct {
  ort_api api;
  ep_chain *chain;
  int count;
  known values[VALUES];          /* the input, then the output of each node */
} search;

/* Step 0: a constant. */
typedef struct { const double *at; int step; double scalar; } operand;

/* ---- functions of one number ---- */
static double bounded(double x, double low, double high) { return x < low ? low : x > high ? high : x; }
static double magnitude(double x) { return x < 0 ? -x : x; }

static double exponential(double x)
{
  if (x < -700) return 0;
  if (x > 700) x = 700;
  double scaled = x * 1.4426950408889634;
  i64 n = (i64)(scaled < 0 ? scaled - .5 : scaled + .5);
  double r = x - (double)n * .6931471805599453, term = 1, sum = 1;
  for (int i = 1; i <= 13; i++) term *= r / i, sum += term;
  union { u64 bits; double value; } power = {.bits = (u64)(n + 1023) << 52};
  return sum * power.value;
}

/* Abramowitz and Stegun 7.1.26: 1.5e-7. */
static double error_function(double x)
{
  double z = magnitude(x), t = 1 / (1 + .3275911 * z);
  double poly = ((((1.061405429 * t - 1.453152027) * t + 1.421413741) * t - .284496736) * t + .254829592) * t;
  double y = z > 6 ? 1 : 1 - poly * exponential(-z * z);
  return x < 0 ? -y : y;
}

static double sigmoid(double x) { return 1 / (1 + exponential(-x)); }
static double tangent(double x) { return 2 * sigmoid(2 * x) - 1; }
static double gelu(double x) { return .5 * x * (1 + error_function(x * .7071067811865476)); }
static double gelu_tanh(double x) { return .5 * x * (1 + tangent(.7978845608028654 * (x + .044715 * x * x * x))); }
static double hardsigmoid(double x) { return bounded(x / 6 + .5, 0, 1); }
static double hardswish(double x) { return x * hardsigmoid(x); }

static double power(double x, double exponent)
{
  double y = 1;
  if (exponent != 2 && exponent != 3) return __builtin_nan("");
  for (int i = 0; i < exponent; i++) y *= x;
  return y;
}

static double meaning(i32 activation, double x)
{
  switch (activation) {
  case SC_RELU: return x > 0 ? x : 0;
  case SC_RELU6: return bounded(x, 0, 6);
  case SC_HARDSWISH: return hardswish(x);
  case SC_SILU: return x * sigmoid(x);
  case SC_GELU: return gelu(x);
  case SC_GELU_TANH: return gelu_tanh(x);
  case SC_SIGMOID: return sigmoid(x);
  case SC_HARDSIGMOID: return hardsigmoid(x);
  default: return __builtin_nan("");
  }
}

/* ---- nodes ---- */
typedef enum {
  ADD, SUB, MUL, DIV, MIN, MAX, POW, CLIP, RELU, SIGMOID, HARDSIGMOID, HARDSWISH, TANH, ERF, GELU, GELU_TANH, NEG, KINDS
} kind;

typedef struct { kind kind; u64 least, most; double a, b; } operation;

static const struct { const char *name; u64 least, most; } kinds[KINDS] = {
  {"Add", 2, 2}, {"Sub", 2, 2}, {"Mul", 2, 2}, {"Div", 2, 2}, {"Min", 2, 2}, {"Max", 2, 2}, {"Pow", 2, 2},
  {"Clip", 1, 3}, {"Relu", 1, 1}, {"Sigmoid", 1, 1}, {"HardSigmoid", 1, 1}, {"HardSwish", 1, 1}, {"Tanh", 1, 1},
  {"Erf", 1, 1}, {"Gelu", 1, 1}, {"", 0, 0}, {"Neg", 1, 1}};

/* What the node does; its kind is KINDS when it is no element-wise one. */
static operation read_operation(ort_api api, const ep_node *node)
{
  operation op = {.kind = ADD};
  while (op.kind < KINDS && !ep_same(node->op, kinds[op.kind].name)) op.kind++;
  if (op.kind == KINDS || node->input_count < kinds[op.kind].least || node->input_count > kinds[op.kind].most)
    return (operation){.kind = KINDS};
  float a = op.kind == CLIP ? -3.4028235e38f : .2f, b = op.kind == CLIP ? 3.4028235e38f : .5f;
  ep_float(api, node->handle, op.kind == CLIP ? "min" : "alpha", &a);
  ep_float(api, node->handle, op.kind == CLIP ? "max" : "beta", &b);
  op.a = (double)a, op.b = (double)b;
  char approximate[8];
  if (op.kind == GELU && ep_string(api, node->handle, "approximate", approximate, sizeof approximate) == 1 &&
      ep_same(approximate, "tanh")) op.kind = GELU_TANH;
  return op;
}

static double apply(const operation *op, double x, double y, double z)
{
  switch (op->kind) {
  case ADD: return x + y;
  case SUB: return x - y;
  case MUL: return x * y;
  case DIV: return x / y;
  case MIN: return x < y ? x : y;
  case MAX: return x > y ? x : y;
  case POW: return power(x, y);
  case CLIP: return bounded(x, y, z);
  case RELU: return x > 0 ? x : 0;
  case SIGMOID: return sigmoid(x);
  case HARDSIGMOID: return bounded(op->a * x + op->b, 0, 1);
  case HARDSWISH: return hardswish(x);
  case TANH: return tangent(x);
  case ERF: return error_function(x);
  case GELU: return gelu(x);
  case GELU_TANH: return gelu_tanh(x);
  case NEG: return -x;
  default: return __builtin_nan("");
  }
}

/* An input of a node: a value at hand, or a constant of one element that cannot raise the rank of the others. */
static int read_operand(const search *s, ort_ptr value, operand *out)
{
  for (int i = 0; i < s->count; i++)
    if (s->values[i].value == value) {
      *out = (operand){s->values[i].at, 1, 0};
      return 1;
    }
  tensor t;
  if (!ep_constant(s->api, value, &t) || t.rank > 1 || elements(&t) != 1) return 0;
  out->step = 0, out->scalar = (double)*(const float *)t.data;
  return 1;
}

/* Computes the node's values; 0 when it is none that a chain may hold. */
static int evaluate(search *s, ort_ptr handle)
{
  ep_node node;
  if (!ep_read_node(s->api, handle, &node)) return 0;
  operation op = read_operation(s->api, &node);
  if (op.kind == KINDS) return 0;
  operand in[3] = {{0, 0, 0}, {0, 0, op.a}, {0, 0, op.b}};
  for (u64 i = 0; i < node.input_count; i++) {
    int left_out = op.kind == CLIP && i && (!node.inputs[i] || !ep_value_name(s->api, node.inputs[i]) ||
                                            !*ep_value_name(s->api, node.inputs[i]));
    if (!left_out && !read_operand(s, node.inputs[i], &in[i])) return 0;
  }
  known *out = &s->values[s->count];
  out->value = node.output;
  for (int p = 0; p < POINTS; p++) {
    double x[3];
    for (int i = 0; i < 3; i++) x[i] = in[i].step ? in[i].at[p] : in[i].scalar;
    out->at[p] = apply(&op, x[0], x[1], x[2]);
  }
  s->chain->nodes[s->count++ - 1] = handle;
  return 1;
}

static int in_chain(const search *s, ort_ptr node)
{
  for (int i = 0; i + 1 < s->count; i++)
    if (s->chain->nodes[i] == node) return 1;
  return 0;
}

static int grow(search *s, int (*taken)(const void *, ort_ptr), const void *self)
{
  ort_ptr readers[EP_CONSUMERS];
  for (int i = 0; i < s->count; i++)
    for (int r = 0, n = ep_consumers(s->api, s->values[i].value, readers); r < n; r++)
      if (!in_chain(s, readers[r]) && !(taken && taken(self, readers[r])) && evaluate(s, readers[r])) return 1;
  return 0;
}

/* Whether nothing outside reads a value of the chain but the last. */
static int closed(const search *s)
{
  ort_ptr readers[EP_CONSUMERS];
  for (int i = 0; i + 1 < s->count; i++) {
    int n = ep_consumers(s->api, s->values[i].value, readers);
    if (n < 0) return 0;
    for (int r = 0; r < n; r++)
      if (!in_chain(s, readers[r])) return 0;
  }
  return 1;
}

static i32 recognise(const search *s)
{
  const double *x = s->values[0].at, *y = s->values[s->count - 1].at;
  for (i32 a = SC_NONE + 1; a < SC_ACTIVATIONS; a++) {
    int same = 1;
    for (int p = 0; same && p < POINTS; p++) {
      double wanted = meaning(a, x[p]), size = magnitude(wanted) > 1 ? magnitude(wanted) : 1;
      same = magnitude(y[p] - wanted) <= tolerance * size; /* false for NaN */
    }
    if (same) return a;
  }
  return SC_NONE;
}

void ep_find_chain(ort_api api, ort_ptr input, int (*taken)(const void *, ort_ptr), const void *self, ep_chain *out)
{
  search s;
  s.api = api, s.chain = out, s.count = 1;
  s.values[0].value = input;
  for (int p = 0; p < NEAR; p++) s.values[0].at[p] = (p - NEAR / 2) / 4.;
  for (int p = NEAR; p < POINTS; p++) s.values[0].at[p] = (p % 2 ? 1 : -1) * far_out[(p - NEAR) / 2];
  out->activation = SC_NONE, out->count = 0, out->output = input;
  while (s.count < VALUES && grow(&s, taken, self)) {
    i32 found = closed(&s) ? recognise(&s) : SC_NONE;
    if (found == SC_NONE) continue;
    out->activation = found, out->count = s.count - 1, out->output = s.values[s.count - 1].value;
  }
}

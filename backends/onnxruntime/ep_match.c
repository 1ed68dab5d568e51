/* Finding layers. What is not certain to be computed right is not taken. */
#include "ep_match.h"
#include "sc_ep.h"

static int same_everywhere(const tensor *t, u64 rank, i64 rows, u64 axis)
{
  i64 count = elements(t);
  if (t->rank > rank) return 0;
  return count == 1 || (count == rows && t->rank > axis && t->dims[t->rank - 1 - axis] == rows);
}

/* Takes a constant of one number per output; `axis` is that of the outputs, counted from the last. */
static int take_bias(ort_api api, ep_layer *l, ort_ptr value, u64 rank, u64 axis)
{
  tensor t;
  int at = l->bias[0] != 0;
  if (l->bias[at] || !ep_constant(api, value, &t) || !same_everywhere(&t, rank, l->spec.rows, axis)) return 0;
  l->bias[at] = t.data, l->bias_count[at] = elements(&t);
  return 1;
}

/* Whether an optional input is given. */
static int given(ort_api api, const ep_node *n, u64 input)
{
  const char *name = input < n->input_count ? ep_value_name(api, n->inputs[input]) : 0;
  return name && *name;
}

/* ---- convolutions ---- */

/* Explicit pads for SAME: they depend on the image unless the stride is one. The runtime has none with a dilation. */
static int same_pads(ort_api api, ep_layer *l, int lower)
{
  tensor x;
  sc_spec *s = &l->spec;
  int known = ep_shape(api, l->x, &x, 0) && x.rank == 4;
  for (int i = 0; i < 2; i++) {
    i64 total = s->kernel[i] - 1;
    if (s->dilation[i] != 1) return 0;
    if (s->stride[i] != 1) {
      if (!known || x.dims[2 + i] < 1) return 0;
      i64 in = x.dims[2 + i], out = (in + s->stride[i] - 1) / s->stride[i];
      total = (out - 1) * s->stride[i] + s->kernel[i] - in;
      if (total < 0) total = 0;
    }
    s->pad[i] = lower ? total - total / 2 : total / 2;
    s->pad[i + 2] = total - s->pad[i];
  }
  return 1;
}

static int read_window(ort_api api, const ep_node *n, ep_layer *l)
{
  sc_spec *s = &l->spec;
  char automatic[16];
  s->stride[0] = s->stride[1] = s->dilation[0] = s->dilation[1] = s->group = 1;
  if (ep_ints(api, n->handle, "strides", s->stride, 2) < 0) return 0;
  if (ep_ints(api, n->handle, "dilations", s->dilation, 2) < 0) return 0;
  if (ep_int(api, n->handle, "group", &s->group) < 0) return 0;
  for (int i = 0; i < 2; i++)
    if (s->stride[i] < 1 || s->dilation[i] < 1) return 0;
  int set = ep_string(api, n->handle, "auto_pad", automatic, sizeof automatic);
  if (set < 0) return 0;
  if (!set || !automatic[0] || ep_same(automatic, "NOTSET")) return ep_ints(api, n->handle, "pads", s->pad, 4) >= 0;
  if (ep_same(automatic, "VALID")) return 1;
  int lower = ep_same(automatic, "SAME_LOWER");
  return (lower || ep_same(automatic, "SAME_UPPER")) && same_pads(api, l, lower);
}

static int match_conv(ort_api api, const ep_node *n, ep_layer *l)
{
  tensor w;
  sc_spec *s = &l->spec;
  if (n->input_count < 2 || !ep_constant(api, n->inputs[1], &w) || w.rank != 4 || elements(&w) < 1) return 0;
  l->conv = 1;
  s->rows = w.dims[0], s->channels = w.dims[1], s->kernel[0] = w.dims[2], s->kernel[1] = w.dims[3];
  i64 taps = s->kernel[0] * s->kernel[1];
  l->weight = (ep_matrix){w.data, s->rows, taps, s->channels, s->channels * taps, 1, taps};
  if (!read_window(api, n, l)) return 0;
  l->depthwise = s->channels == 1 && s->group == s->rows && s->group > 1;
  return !given(api, n, 2) || take_bias(api, l, n->inputs[2], 1, 0);
}

/* ---- matrix products ---- */
static int match_product(ort_api api, const ep_node *n, ep_layer *l)
{
  tensor w;
  sc_spec *s = &l->spec;
  int gemm = ep_same(n->op, "Gemm");
  i64 across = 0, flipped = 0;
  float alpha = 1, beta = 1;
  if (gemm) {
    ep_int(api, n->handle, "transA", &flipped), ep_int(api, n->handle, "transB", &across);
    ep_float(api, n->handle, "alpha", &alpha), ep_float(api, n->handle, "beta", &beta);
  }
  if (flipped || alpha != 1 || beta != 1) return 0;
  if (n->input_count < 2 || !ep_constant(api, n->inputs[1], &w) || w.rank != 2 || elements(&w) < 1) return 0;
  s->rows = w.dims[!across], s->channels = w.dims[across != 0];
  s->kernel[0] = s->kernel[1] = s->stride[0] = s->stride[1] = s->dilation[0] = s->dilation[1] = s->group = 1;
  l->weight = across ? (ep_matrix){w.data, s->rows, 1, s->channels, s->channels, 0, 1}
                     : (ep_matrix){w.data, s->rows, 1, s->channels, 1, 0, s->rows};
  return !gemm || !given(api, n, 2) || take_bias(api, l, n->inputs[2], 2, 0);
}

/* The kernels' own limits, the index apart, which is made to be right. */
static int fits(const ep_layer *l)
{
  sc_spec s = l->spec;
  s.block_rows = s.block_cols = 1, s.count = 0;
  s.grid_rows = s.rows, s.grid_cols = s.channels * s.kernel[0] * s.kernel[1];
  return !sc_check(&s);
}

int ep_match_core(ort_api api, ort_ptr node, ep_layer *out)
{
  ep_node n;
  tensor x;
  if (!ep_read_node(api, node, &n)) return 0;
  int conv = ep_same(n.op, "Conv");
  if (!conv && !ep_same(n.op, "Gemm") && !ep_same(n.op, "MatMul")) return 0;
  *out = (ep_layer){.op = n.op, .x = n.inputs[0], .y = n.output, .nodes = {node}, .count = 1};
  if (!ep_shape(api, out->x, &x, 0) || x.type != ORT_FLOAT) return 0;
  return (conv ? match_conv(api, &n, out) : match_product(api, &n, out)) && fits(out);
}

/* ---- what follows ---- */
static void extend(ep_layer *l, const ep_node *n)
{
  l->nodes[l->count++] = n->handle;
  l->y = n->output;
}

/* The one node that reads the layer's output, if it is an addition and free. */
static int next_addition(ort_api api, const ep_layer *l, const ep_claims *claims, ep_node *n, ort_ptr *other)
{
  ort_ptr readers[EP_CONSUMERS];
  if (ep_consumers(api, l->y, readers) != 1 || (claims->taken && claims->taken(claims->self, readers[0]))) return 0;
  if (!ep_read_node(api, readers[0], n) || !ep_same(n->op, "Add") || n->input_count != 2) return 0;
  *other = n->inputs[n->inputs[0] == l->y];
  return *other != l->y;
}

void ep_match_tail(ort_api api, ep_layer *l, const ep_claims *claims)
{
  ep_node n;
  ort_ptr other;
  tensor y, constant;
  if (next_addition(api, l, claims, &n, &other)) {
    u64 rank = ep_shape(api, l->y, &y, 0) && y.rank ? y.rank : 1;
    if (take_bias(api, l, other, rank, l->conv ? 2 : 0)) extend(l, &n);
  }
  if (next_addition(api, l, claims, &n, &other) && !ep_constant(api, other, &constant) &&
      ep_same_shape(api, l->y, other)) {
    l->residual = other;
    extend(l, &n);
  }
  ep_chain chain;
  ep_find_chain(api, l->y, claims->taken, claims->self, &chain);
  l->spec.activation = chain.activation;
  for (int i = 0; i < chain.count; i++) l->nodes[l->count++] = chain.nodes[i];
  l->y = chain.output;
}

/* ---- sizes ---- */

/* Elements, `fallback` standing for every open dimension but the first; -1 when nothing is known. */
static i64 estimate(ort_api api, ort_ptr value, i64 fallback)
{
  tensor t;
  if (!ep_shape(api, value, &t, 0) || !t.rank) return -1;
  for (u64 i = 0; i < t.rank; i++)
    if (t.dims[i] < 0) t.dims[i] = i ? fallback : SC_UNKNOWN_BATCH;
  return elements(&t);
}

/* Whether a value is an image of one pixel. */
static int is_pixel(ort_api api, ort_ptr value)
{
  tensor t;
  return ep_shape(api, value, &t, 0) && t.rank == 4 && t.dims[2] == 1 && t.dims[3] == 1;
}

/* A convolution of one pixel is a product, for the compiler too. */
static int is_of_pixels(ort_api api, const ep_layer *l)
{
  const i64 *pad = l->spec.pad;
  return l->spec.group == 1 && !(pad[0] | pad[1] | pad[2] | pad[3]) && is_pixel(api, l->x) && is_pixel(api, l->y);
}

ep_work ep_work_of(ort_api api, const ep_layer *l)
{
  const sc_spec *s = &l->spec;
  i64 fallback = l->conv ? SC_UNKNOWN_SIDE : SC_UNKNOWN_TOKENS;
  i64 out = estimate(api, l->y, fallback), in = estimate(api, l->x, fallback);
  i64 points = out < 0 ? fallback : out / s->rows;
  if (in < 0) in = s->channels * s->kernel[0] * s->kernel[1] * fallback;
  return (ep_work){.points = points < 1 ? 1 : points, .input_elements = in, .rows_per_group = s->rows / s->group,
                   .conv = l->conv && !is_of_pixels(api, l)};
}

/* Choosing layers: those that pay by the roofline, then depthwise convolutions beside them. The runtime computes
   convolutions in a layout of its own; to change it around a depthwise one costs more than the layer itself. */
#include "ep_claim.h"

enum { FAR = 16 };               /* element-wise nodes between two convolutions that are still neighbours */

typedef struct {
  ort_api api;
  ep_layer *layers;
  i64 count;
} claimed;

static int taken(const void *self, ort_ptr node)
{
  const claimed *c = self;
  for (i64 l = 0; l < c->count; l++)
    for (int i = 0; i < c->layers[l].count; i++)
      if (c->layers[l].nodes[i] == node) return 1;
  return 0;
}

i64 ep_block_of(ort_api api, const ep_layer *layer)
{
  const sc_host host = host_of(api);
  const ep_work work = ep_work_of(api, layer);
  return ep_choose_block(&host, &layer->weight, &work);
}

static ort_status no_memory(ort_api api, const ep_layer *layer)
{
  const origin at = {api, layer->op, ep_name(api, layer->nodes[0])};
  return refuse(&at, "there is not enough memory to look at the weight", "free memory or use a smaller model");
}

/* From the last node to the first: of two layers that are added up the later one takes the sum. */
static ort_status claim_sparse(claimed *c, const ort_ptr *nodes, u64 count)
{
  const ep_claims claims = {taken, c};
  for (u64 i = count; i-- > 0;) {
    ep_layer *l = &c->layers[c->count];
    if (!ep_match_core(c->api, nodes[i], l) || l->depthwise) continue;
    i64 block = ep_block_of(c->api, l);
    if (block < 0) return no_memory(c->api, l);
    if (!block) continue;
    ep_match_tail(c->api, l, &claims);
    c->count++;
  }
  return 0;
}

/* ---- depthwise neighbours ---- */
static int keeps_layout(const char *op)
{
  static const char *const through[] = {"Relu", "Clip", "Sigmoid", "HardSigmoid", "HardSwish", "Mul", "Add"};
  for (u64 i = 0; i < sizeof through / sizeof *through; i++)
    if (ep_same(op, through[i])) return 1;
  return 0;
}

static int made_by_conv(const claimed *c, ort_ptr value)
{
  for (i64 l = 0; l < c->count; l++)
    if (c->layers[l].conv && c->layers[l].y == value) return 1;
  return 0;
}

static int read_by_conv(const claimed *c, ort_ptr value)
{
  for (i64 l = 0; l < c->count; l++)
    if (c->layers[l].conv && c->layers[l].x == value) return 1;
  return 0;
}

static int fed(const claimed *c, ort_ptr value)
{
  ep_node n;
  for (int i = 0; i < FAR; i++) {
    if (made_by_conv(c, value)) return 1;
    ort_ptr producer = ep_producer(c->api, value);
    if (!producer || !ep_read_node(c->api, producer, &n) || !keeps_layout(n.op)) return 0;
    value = n.inputs[0];
  }
  return 0;
}

static int feeds(const claimed *c, ort_ptr value)
{
  ep_node n;
  ort_ptr readers[EP_CONSUMERS];
  for (int i = 0; i < FAR; i++) {
    if (read_by_conv(c, value)) return 1;
    if (ep_consumers(c->api, value, readers) != 1) return 0;
    if (!ep_read_node(c->api, readers[0], &n) || !keeps_layout(n.op)) return 0;
    value = n.output;
  }
  return 0;
}

/* One pass over the nodes; whether it claimed any. */
static int claim_depthwise(claimed *c, const ort_ptr *nodes, u64 count)
{
  const ep_claims claims = {taken, c};
  i64 before = c->count;
  for (u64 i = 0; i < count; i++) {
    ep_layer *l = &c->layers[c->count];
    if (!ep_match_core(c->api, nodes[i], l) || !l->depthwise || taken(c, nodes[i])) continue;
    ep_match_tail(c->api, l, &claims);
    if (fed(c, l->x) || feeds(c, l->y)) c->count++;
  }
  return c->count > before;
}

/* A chain of neighbours grows by one at a time. */
static ort_status claim(claimed *c, const ort_ptr *nodes, u64 count)
{
  TRY(claim_sparse(c, nodes, count));
  while (c->count && claim_depthwise(c, nodes, count)) continue;
  return 0;
}

ort_status ep_claim(ort_api api, ort_ptr graph, ep_layer **layers, i64 *count)
{
  u64 size = 0;
  *layers = 0, *count = 0;
  TRY(api->Graph_GetNumNodes(graph, &size));
  if (!size) return 0;
  ort_ptr *nodes = host_allocate((void *)api, size * sizeof *nodes);
  claimed c = {.api = api, .layers = host_allocate((void *)api, (size + 1) * sizeof *c.layers)};
  ort_status status = nodes && c.layers ? api->Graph_GetNodes(graph, nodes, size)
                                        : api->CreateStatus(ORT_FAIL, "sparsecc: out of memory");
  if (!status) status = claim(&c, nodes, size);
  if (nodes) host_release((void *)api, nodes);
  if (!status) *layers = c.layers, *count = c.count;
  else if (c.layers) host_release((void *)api, c.layers);
  return status;
}

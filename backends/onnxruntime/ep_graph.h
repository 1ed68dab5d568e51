/* Reading the graph of a session. Whatever cannot be read is taken as absent: then a node is left to the runtime. */
#ifndef SC_EP_GRAPH_H
#define SC_EP_GRAPH_H
#include "ep_abi.h"
#include "host.h"

enum { EP_INPUTS = 4, EP_CONSUMERS = 8 };

/* A node of one output and few inputs; values are null where an input is left out. */
typedef struct {
  ort_ptr handle;
  const char *op;
  ort_ptr inputs[EP_INPUTS], output;
  u64 input_count;
} ep_node;

int ep_same(const char *a, const char *b);
/* Whether the node is one of the standard domain that ep_node can describe. */
int ep_read_node(ort_api api, ort_ptr handle, ep_node *out);
/* Name of a node for messages, never null. */
const char *ep_name(ort_api api, ort_ptr node);
/* Name of a value, or null. */
const char *ep_value_name(ort_api api, ort_ptr value);

/* Attributes: 1 when read, 0 when left out, -1 when of another form. */
int ep_int(ort_api api, ort_ptr node, const char *name, i64 *out);
int ep_float(ort_api api, ort_ptr node, const char *name, float *out);
int ep_ints(ort_api api, ort_ptr node, const char *name, i64 *out, u64 count);
int ep_string(ort_api api, ort_ptr node, const char *name, char *out, u64 bytes);

/* How many inputs of nodes read the value, and the nodes; -1 for more than EP_CONSUMERS and for a graph output. */
int ep_consumers(ort_api api, ort_ptr value, ort_ptr *nodes);
ort_ptr ep_producer(ort_api api, ort_ptr value);
/* A float32 constant of this graph. */
int ep_constant(ort_api api, ort_ptr value, tensor *out);
/* Type and dims of a value, -1 where unknown; names (room for MAX_RANK, or null) are those of its symbolic dims. */
int ep_shape(ort_api api, ort_ptr value, tensor *out, const char **names);
/* Whether two values have the same shape in every run. */
int ep_same_shape(ort_api api, ort_ptr a, ort_ptr b);
#endif

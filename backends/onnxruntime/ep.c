/* The execution provider: a model as it is, with zeros in its weights, runs sparse. ONNX Runtime asks which nodes we
   take (ep_claim.c), hands them over to be compiled here, and calls the result. */
#include "ep_claim.h"
#include "layer.h"
#include "sc_ep.h"

static const char ep_title[] = "SparseccEP";
enum { VENDOR = 0x5CC };

typedef struct {
  ort_ep_factory base;
  ort_api api;
  const ort_ep_api *ep;
} factory;

typedef struct {
  ort_ep base;
  ort_api api;
  const ort_ep_api *ep;
} provider;

/* One fused node. */
typedef struct {
  ort_compute_info base;
  layer layer;
  i64 x, residual;               /* inputs of the fused node; residual may be -1 */
} fused;

/* ---- running ---- */
static ort_status create_state(ort_compute_info *info, ort_ptr context, void **state)
{
  (void)context;
  *state = info; /* nothing belongs to one session's calls alone */
  return 0;
}

static void release_state(ort_compute_info *info, void *state) { (void)info, (void)state; }

static ort_status compute(ort_compute_info *info, void *state, ort_ptr context)
{
  const fused *f = (const fused *)info;
  (void)state;
  return layer_compute(&f->layer, context, f->x, f->residual);
}

/* ---- compiling ---- */
static void release_fused(fused *f)
{
  void *self = (void *)f->layer.at.api;
  layer_clear(&f->layer);
  host_release(self, f);
}

static char *copy_text(ort_api api, const char *text)
{
  u64 bytes = 1;
  while (text[bytes - 1]) bytes++;
  char *copy = host_allocate((void *)api, bytes);
  for (u64 i = 0; copy && i < bytes; i++) copy[i] = text[i];
  return copy;
}

/* Which input of the fused node is the value. */
static ort_status find_input(const origin *at, ort_ptr fused_node, ort_ptr value, i64 *out)
{
  ort_ptr inputs[EP_GROUP];
  u64 count = 0;
  const char *name = ep_value_name(at->api, value), *other;
  TRY(at->api->Node_GetNumInputs(fused_node, &count));
  if (count <= EP_GROUP) TRY(at->api->Node_GetInputs(fused_node, inputs, count));
  for (u64 i = 0; name && count <= EP_GROUP && i < count; i++) {
    *out = (i64)i;
    if ((other = ep_value_name(at->api, inputs[i])) && ep_same(name, other)) return 0;
  }
  return refuse(at, "the fused node lacks an input", "run the model without this execution provider");
}

/* The bias of a layer into `out`, of as many numbers as the layer has rows. */
static void add_biases(const ep_layer *l, float *out)
{
  for (i64 r = 0; r < l->spec.rows; r++) {
    out[r] = 0;
    for (int i = 0; i < 2 && l->bias[i]; i++) out[r] += l->bias[i][l->bias_count[i] == 1 ? 0 : r];
  }
}

/* Packs the weight and makes the kernel, which keeps copies of its own. */
static ort_status pack(fused *f, const ep_layer *l)
{
  const origin *at = &f->layer.at;
  const sc_host host = host_of(at->api);
  void *packed = 0;
  i64 block = l->depthwise ? 0 : ep_block_of(at->api, l);
  float *bias = host.alloc(host.self, (u64)l->spec.rows * sizeof *bias);
  int enough = bias && block >= 0 && ep_pack(&host, &l->weight, block, &f->layer.spec, &packed) == SC_OK;
  ort_status status = 0;
  if (enough) {
    add_biases(l, bias);
    f->layer.spec.bias = bias;
    const char *wrong = sc_check(&f->layer.spec);
    status = wrong ? refuse(at, wrong, "run the model without this execution provider") : layer_prepare(&f->layer);
  } else {
    status = refuse(at, "there is not enough memory to pack the weight", "free memory or use a smaller model");
  }
  if (packed) host.free(host.self, packed);
  if (bias) host.free(host.self, bias);
  return status;
}

/* The layer that a graph to be compiled consists of. */
static ort_status find_layer(ort_api api, ort_ptr graph, ep_layer *out)
{
  ort_ptr nodes[EP_GROUP];
  const ep_claims all_free = {0, 0};
  u64 count = 0;
  TRY(api->Graph_GetNumNodes(graph, &count));
  if (count && count <= EP_GROUP) {
    TRY(api->Graph_GetNodes(graph, nodes, count));
    for (u64 i = 0; i < count; i++) {
      if (!ep_match_core(api, nodes[i], out)) continue;
      ep_match_tail(api, out, &all_free);
      if ((u64)out->count == count) return 0;
    }
  }
  return api->CreateStatus(ORT_FAIL, "SparseccEP: the nodes to compile are not those it claimed; fix: run the model "
                                     "without this execution provider, and please report it");
}

static ort_status prepare(fused *f, const ep_layer *l, ort_ptr fused_node)
{
  ort_api api = f->layer.at.api;
  const origin *at = &f->layer.at;
  f->layer.at.op = l->conv ? "Conv" : ep_same(l->op, "Gemm") ? "Gemm" : "MatMul"; /* l->op goes with the graph */
  f->layer.at.name = f->layer.name = copy_text(api, ep_name(api, l->nodes[0]));
  f->layer.spec = l->spec, f->layer.conv = l->conv;
  f->residual = -1;
  TRY(find_input(at, fused_node, l->x, &f->x));
  if (l->residual) TRY(find_input(at, fused_node, l->residual, &f->residual));
  return pack(f, l);
}

static ort_status compile_one(ort_api api, ort_ptr graph, ort_ptr fused_node, ort_compute_info **out)
{
  ep_layer l;
  TRY(find_layer(api, graph, &l));
  fused *f = host_allocate((void *)api, sizeof *f);
  if (!f) return api->CreateStatus(ORT_FAIL, "SparseccEP: out of memory");
  *f = (fused){.base = {ORT_EP_API, create_state, compute, release_state}, .layer = {.at = {api, "", 0}}};
  f->layer.isa = sc_pick_isa();
  ort_status status = prepare(f, &l, fused_node);
  if (status) release_fused(f);
  else *out = &f->base;
  return status;
}

static void release_infos(ort_ep *self, ort_compute_info **infos, u64 count)
{
  (void)self;
  for (u64 i = 0; i < count; i++) {
    if (infos[i]) release_fused((fused *)infos[i]);
    infos[i] = 0;
  }
}

static ort_status compile(ort_ep *self, const ort_ptr *graphs, const ort_ptr *fused_nodes, u64 count,
                          ort_compute_info **out, ort_ptr *context_nodes)
{
  ort_status status = 0;
  u64 done = 0;
  (void)context_nodes;
  for (u64 i = 0; i < count; i++) out[i] = 0;
  for (; done < count && !status; done++)
    status = compile_one(((provider *)self)->api, graphs[done], fused_nodes[done], &out[done]);
  if (status) release_infos(self, out, done);
  return status;
}

/* ---- claiming ---- */
static ort_status get_capability(ort_ep *self, ort_ptr graph, ort_ptr info)
{
  const provider *p = (provider *)self;
  const ort_fusion_options options = {ORT_EP_API, 1};
  ep_layer *layers;
  i64 count;
  TRY(ep_claim(p->api, graph, &layers, &count));
  ort_status status = 0;
  for (i64 i = 0; i < count && !status; i++)
    status = p->ep->EpGraphSupportInfo_AddNodesToFuse(info, layers[i].nodes, (u64)layers[i].count, &options);
  if (layers) host_release((void *)p->api, layers);
  return status;
}

static const char *provider_name(const ort_ep *self) { (void)self; return ep_title; }

/* ---- the factory ---- */
static const char *factory_name(const ort_ep_factory *self) { (void)self; return ep_title; }
static const char *vendor(const ort_ep_factory *self) { (void)self; return "sparsecc"; }
static u32 vendor_id(const ort_ep_factory *self) { (void)self; return VENDOR; }
static const char *version(const ort_ep_factory *self) { (void)self; return SC_VERSION; }
static _Bool stream_aware(const ort_ep_factory *self) { (void)self; return 0; }

static ort_status supported_devices(ort_ep_factory *self, const ort_ptr *devices, u64 count, ort_ptr *out, u64 room,
                                    u64 *found)
{
  const factory *f = (factory *)self;
  *found = 0;
  for (u64 i = 0; i < count && *found < room; i++) {
    if (f->api->HardwareDevice_Type(devices[i]) != ORT_DEVICE_CPU) continue;
    TRY(f->ep->CreateEpDevice(self, devices[i], 0, 0, &out[*found]));
    ++*found;
  }
  return 0;
}

static ort_status create_provider(ort_ep_factory *self, const ort_ptr *devices, const ort_ptr *metadata, u64 count,
                                  ort_ptr session_options, ort_ptr logger, ort_ep **out)
{
  const factory *f = (factory *)self;
  (void)devices, (void)metadata, (void)count, (void)session_options, (void)logger;
  *out = 0;
  provider *p = host_allocate((void *)f->api, sizeof *p);
  if (!p) return f->api->CreateStatus(ORT_FAIL, "SparseccEP: out of memory");
  *p = (provider){.base = {.version = ORT_EP_API, .GetName = provider_name, .GetCapability = get_capability,
                           .Compile = compile, .ReleaseNodeComputeInfos = release_infos},
                  .api = f->api, .ep = f->ep};
  *out = &p->base;
  return 0;
}

static void release_provider(ort_ep_factory *self, ort_ep *ep) { host_release((void *)((factory *)self)->api, ep); }

/* Memory is the runtime's own CPU memory: no allocator and no transfer of ours. */
static ort_status no_allocator(ort_ep_factory *self, ort_ptr memory, ort_ptr options, ort_ptr *out)
{
  (void)self, (void)memory, (void)options;
  *out = 0;
  return 0;
}

static void release_allocator(ort_ep_factory *self, ort_ptr allocator) { (void)self, (void)allocator; }

static ort_status no_transfer(ort_ep_factory *self, ort_ptr *out)
{
  (void)self;
  *out = 0;
  return 0;
}

static const char needs_newer[] =
  "sparsecc's execution provider needs ONNX Runtime 1.24 or newer; fix: with older versions compile the model with "
  "sparsecc and use the custom-op library";

#define EXPORT __attribute__((visibility("default")))

EXPORT ort_status CreateEpFactories(const char *name, const ort_base *base, ort_ptr logger, ort_ep_factory **out,
                                    u64 room, u64 *found)
{
  (void)name, (void)logger;
  *found = 0;
  ort_api api = base->get_api(ORT_EP_API);
  if (!api) return too_old(base, ORT_EP_API, needs_newer);
  const ort_ep_api *ep = api->GetEpApi ? api->GetEpApi() : 0;
  if (!ep) return api->CreateStatus(ORT_FAIL, needs_newer);
  if (!sc_pick_isa()) return wrong_cpu(api, "run the model without this execution provider");
  if (!room) return api->CreateStatus(ORT_FAIL, "SparseccEP: no room for its factory");
  factory *f = host_allocate((void *)api, sizeof *f);
  if (!f) return api->CreateStatus(ORT_FAIL, "SparseccEP: out of memory");
  *f = (factory){.base = {.version = ORT_EP_API, .GetName = factory_name, .GetVendor = vendor,
                          .GetSupportedDevices = supported_devices, .CreateEp = create_provider,
                          .ReleaseEp = release_provider, .GetVendorId = vendor_id, .GetVersion = version,
                          .CreateAllocator = no_allocator, .ReleaseAllocator = release_allocator,
                          .CreateDataTransfer = no_transfer, .IsStreamAware = stream_aware},
                 .api = api, .ep = ep};
  *out = &f->base;
  *found = 1;
  return 0;
}

EXPORT ort_status ReleaseEpFactory(ort_ep_factory *self)
{
  if (self) host_release((void *)((factory *)self)->api, self);
  return 0;
}

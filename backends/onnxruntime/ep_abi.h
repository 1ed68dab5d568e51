/* The structures of ONNX Runtime's execution-provider interface, without its headers: they too only ever grow. A
   provider says which version it was built for, and the runtime reads no member that is newer (checked: API 29). */
#ifndef SC_EP_ABI_H
#define SC_EP_ABI_H
#include "ort_abi.h"

enum { ORT_DEVICE_CPU = 0 };

typedef struct {
  u32 version;
  _Bool drop_constant_initializers;
} ort_fusion_options;

typedef struct ort_ep_api {
  ort_status (*CreateEpDevice)(ort_ptr factory, ort_ptr device, ort_ptr metadata, ort_ptr options, ort_ptr *out);
  ort_ptr unused1[1];
  ort_status (*EpGraphSupportInfo_AddNodesToFuse)(ort_ptr info, const ort_ptr *nodes, u64 count,
                                                  const ort_fusion_options *options);
} ort_ep_api;

/* One fused node: what runs it. */
typedef struct ort_compute_info {
  u32 version;
  ort_status (*CreateState)(struct ort_compute_info *, ort_ptr context, void **state);
  ort_status (*Compute)(struct ort_compute_info *, void *state, ort_ptr kernel_context);
  void (*ReleaseState)(struct ort_compute_info *, void *state);
} ort_compute_info;

/* OrtEp. Members left null are optional ones. */
typedef struct ort_ep {
  u32 version;
  const char *(*GetName)(const struct ort_ep *);
  ort_status (*GetCapability)(struct ort_ep *, ort_ptr graph, ort_ptr support_info);
  ort_status (*Compile)(struct ort_ep *, const ort_ptr *graphs, const ort_ptr *fused_nodes, u64 count,
                        ort_compute_info **out, ort_ptr *context_nodes);
  void (*ReleaseNodeComputeInfos)(struct ort_ep *, ort_compute_info **infos, u64 count);
  ort_ptr unused5[27];
} ort_ep;

/* OrtEpFactory, likewise. */
typedef struct ort_ep_factory {
  u32 version;
  const char *(*GetName)(const struct ort_ep_factory *);
  const char *(*GetVendor)(const struct ort_ep_factory *);
  ort_status (*GetSupportedDevices)(struct ort_ep_factory *, const ort_ptr *devices, u64 count, ort_ptr *ep_devices,
                                    u64 room, u64 *found);
  ort_status (*CreateEp)(struct ort_ep_factory *, const ort_ptr *devices, const ort_ptr *metadata, u64 count,
                         ort_ptr session_options, ort_ptr logger, ort_ep **out);
  void (*ReleaseEp)(struct ort_ep_factory *, ort_ep *);
  u32 (*GetVendorId)(const struct ort_ep_factory *);
  const char *(*GetVersion)(const struct ort_ep_factory *);
  ort_ptr unused8[1];
  ort_status (*CreateAllocator)(struct ort_ep_factory *, ort_ptr memory, ort_ptr options, ort_ptr *out);
  void (*ReleaseAllocator)(struct ort_ep_factory *, ort_ptr allocator);
  ort_status (*CreateDataTransfer)(struct ort_ep_factory *, ort_ptr *out);
  _Bool (*IsStreamAware)(const struct ort_ep_factory *);
  ort_ptr unused13[19];
} ort_ep_factory;

#define ORT_AT(type, slot, name) \
  _Static_assert(__builtin_offsetof(type, name) == slot * sizeof(ort_ptr), #name " has left its slot");
ORT_AT(ort_ep_api, 2, EpGraphSupportInfo_AddNodesToFuse)
ORT_AT(ort_compute_info, 3, ReleaseState)
ORT_AT(ort_ep, 4, ReleaseNodeComputeInfos)
ORT_AT(ort_ep_factory, 7, GetVersion)
ORT_AT(ort_ep_factory, 9, CreateAllocator)
ORT_AT(ort_ep_factory, 12, IsStreamAware)
#undef ORT_AT
#endif

/* The part of ONNX Runtime's C interface that the library uses, without its headers. OrtApi is an append-only array of
   function pointers: a slot number never changes from one version to the next (checked against API 18 and 29). */
#ifndef SC_ORT_ABI_H
#define SC_ORT_ABI_H
#include "sc.h"

enum { ORT_API = 18, ORT_EP_API = 24, ORT_OLDEST_API = 1 };
enum { ORT_FAIL = 1, ORT_INVALID_ARGUMENT = 2 };
enum { ORT_ATTRIBUTE_INT = 1, ORT_ATTRIBUTE_INTS, ORT_ATTRIBUTE_FLOAT, ORT_ATTRIBUTE_STRING = 5 };
enum { ORT_FLOAT = 1, ORT_UINT8 = 2, ORT_INT8 = 3, ORT_INT32 = 6, ORT_INT64 = 7 };

typedef void *ort_status;        /* null is success */
typedef void *ort_ptr;
struct ort_custom_op;
struct ort_ep_api;

/* OrtApi: the slots in use by name, the others as gaps. */
typedef struct {
  ort_status (*CreateStatus)(int code, const char *message);
  ort_ptr unused1[25];
  ort_status (*CreateCustomOpDomain)(const char *domain, ort_ptr *out);
  ort_status (*CustomOpDomain_Add)(ort_ptr domain, const struct ort_custom_op *op);
  ort_status (*AddCustomOpDomain)(ort_ptr session_options, ort_ptr domain);
  ort_ptr unused29[22];
  ort_status (*GetTensorMutableData)(ort_ptr value, void **out);
  ort_ptr unused52[3];
  ort_status (*CastTypeInfoToTensorInfo)(ort_ptr type, ort_ptr *out);
  ort_ptr unused56[4];
  ort_status (*GetTensorElementType)(ort_ptr info, int *out);
  ort_status (*GetDimensionsCount)(ort_ptr info, u64 *out);
  ort_status (*GetDimensions)(ort_ptr info, i64 *out, u64 count);
  ort_status (*GetSymbolicDimensions)(ort_ptr info, const char **out, u64 count);
  ort_ptr unused64[1];
  ort_status (*GetTensorTypeAndShape)(ort_ptr value, ort_ptr *out);
  ort_ptr unused66[9];
  ort_status (*AllocatorAlloc)(ort_ptr allocator, u64 bytes, void **out);
  ort_status (*AllocatorFree)(ort_ptr allocator, void *memory);
  ort_ptr unused77[1];
  ort_status (*GetAllocatorWithDefaultOptions)(ort_ptr *out);
  ort_ptr unused79[7];
  ort_status (*KernelInfoGetAttribute_int64)(ort_ptr info, const char *name, i64 *out);
  ort_ptr unused87[3];
  ort_status (*KernelContext_GetInput)(ort_ptr context, u64 index, ort_ptr *out);
  ort_status (*KernelContext_GetOutput)(ort_ptr context, u64 index, const i64 *dims, u64 rank, ort_ptr *out);
  ort_ptr unused92[1];
  void (*ReleaseStatus)(ort_status status);
  ort_ptr unused94[5];
  void (*ReleaseTensorTypeAndShapeInfo)(ort_ptr info);
  ort_ptr unused100[1];
  void (*ReleaseCustomOpDomain)(ort_ptr domain);
  ort_ptr unused102[61];
  ort_status (*KernelInfoGetAttributeArray_int64)(ort_ptr info, const char *name, i64 *out, u64 *count);
  ort_ptr unused164[66];
  ort_status (*KernelInfo_GetInputCount)(ort_ptr info, u64 *out);
  ort_status (*KernelInfo_GetOutputCount)(ort_ptr info, u64 *out);
  ort_ptr unused232[12];
  ort_status (*KernelInfo_GetNodeName)(ort_ptr info, char *out, u64 *bytes);
  ort_ptr unused245[4];
  ort_status (*KernelInfoGetConstantInput_tensor)(ort_ptr info, u64 index, int *is_constant, ort_ptr *out);
  ort_ptr unused250[22];
  ort_status (*ReadOpAttr)(ort_ptr attribute, int type, void *out, u64 bytes, u64 *found);
  ort_ptr unused273[1];
  ort_status (*KernelContext_ParallelFor)(ort_ptr context, void (*task)(void *, u64), u64 count, u64 batches,
                                          void *data);
  /* From here on only what ORT_EP_API promises. */
  ort_ptr unused275[14];
  ort_status (*GetValueInfoName)(ort_ptr value, const char **out);
  ort_status (*GetValueInfoTypeInfo)(ort_ptr value, ort_ptr *out);
  ort_ptr unused291[16];
  int (*HardwareDevice_Type)(ort_ptr device);
  ort_ptr unused308[9];
  const struct ort_ep_api *(*GetEpApi)(void);
  ort_ptr unused318[5];
  ort_status (*ValueInfo_GetValueProducer)(ort_ptr value, ort_ptr *node, u64 *output);
  ort_status (*ValueInfo_GetValueNumConsumers)(ort_ptr value, u64 *out);
  ort_status (*ValueInfo_GetValueConsumers)(ort_ptr value, ort_ptr *nodes, i64 *inputs, u64 count);
  ort_status (*ValueInfo_GetInitializerValue)(ort_ptr value, ort_ptr *out);
  ort_ptr unused327[3];
  ort_status (*ValueInfo_IsGraphOutput)(ort_ptr value, _Bool *out);
  ort_status (*ValueInfo_IsConstantInitializer)(ort_ptr value, _Bool *out);
  ort_status (*ValueInfo_IsFromOuterScope)(ort_ptr value, _Bool *out);
  ort_ptr unused333[11];
  ort_status (*Graph_GetNumNodes)(ort_ptr graph, u64 *out);
  ort_status (*Graph_GetNodes)(ort_ptr graph, ort_ptr *out, u64 count);
  ort_ptr unused346[3];
  ort_status (*Node_GetName)(ort_ptr node, const char **out);
  ort_status (*Node_GetOperatorType)(ort_ptr node, const char **out);
  ort_status (*Node_GetDomain)(ort_ptr node, const char **out);
  ort_ptr unused352[1];
  ort_status (*Node_GetNumInputs)(ort_ptr node, u64 *out);
  ort_status (*Node_GetInputs)(ort_ptr node, ort_ptr *out, u64 count);
  ort_status (*Node_GetNumOutputs)(ort_ptr node, u64 *out);
  ort_status (*Node_GetOutputs)(ort_ptr node, ort_ptr *out, u64 count);
  ort_ptr unused357[4];
  ort_status (*Node_GetAttributeByName)(ort_ptr node, const char *name, ort_ptr *out);
} ort_api_table;
typedef const ort_api_table *ort_api;

#define ORT_AT(slot, name) \
  _Static_assert(__builtin_offsetof(ort_api_table, name) == slot * sizeof(ort_ptr), #name " has left its slot");
ORT_AT(0, CreateStatus)
ORT_AT(26, CreateCustomOpDomain)
ORT_AT(27, CustomOpDomain_Add)
ORT_AT(28, AddCustomOpDomain)
ORT_AT(51, GetTensorMutableData)
ORT_AT(55, CastTypeInfoToTensorInfo)
ORT_AT(60, GetTensorElementType)
ORT_AT(61, GetDimensionsCount)
ORT_AT(62, GetDimensions)
ORT_AT(63, GetSymbolicDimensions)
ORT_AT(65, GetTensorTypeAndShape)
ORT_AT(75, AllocatorAlloc)
ORT_AT(76, AllocatorFree)
ORT_AT(78, GetAllocatorWithDefaultOptions)
ORT_AT(86, KernelInfoGetAttribute_int64)
ORT_AT(90, KernelContext_GetInput)
ORT_AT(91, KernelContext_GetOutput)
ORT_AT(93, ReleaseStatus)
ORT_AT(99, ReleaseTensorTypeAndShapeInfo)
ORT_AT(101, ReleaseCustomOpDomain)
ORT_AT(163, KernelInfoGetAttributeArray_int64)
ORT_AT(230, KernelInfo_GetInputCount)
ORT_AT(231, KernelInfo_GetOutputCount)
ORT_AT(244, KernelInfo_GetNodeName)
ORT_AT(249, KernelInfoGetConstantInput_tensor)
ORT_AT(272, ReadOpAttr)
ORT_AT(274, KernelContext_ParallelFor)
ORT_AT(289, GetValueInfoName)
ORT_AT(290, GetValueInfoTypeInfo)
ORT_AT(307, HardwareDevice_Type)
ORT_AT(317, GetEpApi)
ORT_AT(323, ValueInfo_GetValueProducer)
ORT_AT(324, ValueInfo_GetValueNumConsumers)
ORT_AT(325, ValueInfo_GetValueConsumers)
ORT_AT(326, ValueInfo_GetInitializerValue)
ORT_AT(330, ValueInfo_IsGraphOutput)
ORT_AT(331, ValueInfo_IsConstantInitializer)
ORT_AT(332, ValueInfo_IsFromOuterScope)
ORT_AT(344, Graph_GetNumNodes)
ORT_AT(345, Graph_GetNodes)
ORT_AT(349, Node_GetName)
ORT_AT(350, Node_GetOperatorType)
ORT_AT(351, Node_GetDomain)
ORT_AT(353, Node_GetNumInputs)
ORT_AT(354, Node_GetInputs)
ORT_AT(355, Node_GetNumOutputs)
ORT_AT(356, Node_GetOutputs)
ORT_AT(361, Node_GetAttributeByName)
#undef ORT_AT

/* OrtApiBase: GetApi(version) is its first member. */
typedef struct { ort_api (*get_api)(u32 version); const char *(*version)(void); } ort_base;

/* OrtCustomOp of API 18, in order. The members the library leaves null are optional ones. */
typedef struct ort_custom_op {
  u32 version;
  ort_ptr (*CreateKernel)(const struct ort_custom_op *, ort_api, ort_ptr info);
  const char *(*GetName)(const struct ort_custom_op *);
  const char *(*GetExecutionProviderType)(const struct ort_custom_op *);
  int (*GetInputType)(const struct ort_custom_op *, u64 index);
  u64 (*GetInputTypeCount)(const struct ort_custom_op *);
  int (*GetOutputType)(const struct ort_custom_op *, u64 index);
  u64 (*GetOutputTypeCount)(const struct ort_custom_op *);
  void (*KernelCompute)(void *kernel, ort_ptr context);
  void (*KernelDestroy)(void *kernel);
  int (*GetInputCharacteristic)(const struct ort_custom_op *, u64 index);
  int (*GetOutputCharacteristic)(const struct ort_custom_op *, u64 index);
  int (*GetInputMemoryType)(const struct ort_custom_op *, u64 index);
  int (*GetVariadicInputMinArity)(const struct ort_custom_op *);
  int (*GetVariadicInputHomogeneity)(const struct ort_custom_op *);
  int (*GetVariadicOutputMinArity)(const struct ort_custom_op *);
  int (*GetVariadicOutputHomogeneity)(const struct ort_custom_op *);
  ort_status (*CreateKernelV2)(const struct ort_custom_op *, ort_api, ort_ptr info, void **kernel);
  ort_status (*KernelComputeV2)(void *kernel, ort_ptr context);
  ort_status (*InferOutputShape)(const struct ort_custom_op *, ort_ptr context);
  int (*GetStartVersion)(const struct ort_custom_op *);
  int (*GetEndVersion)(const struct ort_custom_op *);
  u64 (*GetMayInplace)(int **input, int **output);
  void (*ReleaseMayInplace)(int *input, int *output);
  u64 (*GetAliasMap)(int **input, int **output);
  void (*ReleaseAliasMap)(int *input, int *output);
} ort_custom_op;
#endif

/* The part of ONNX Runtime's C interface that the library uses, without its headers. OrtApi is an append-only array of
   function pointers: a slot number never changes from one version to the next (checked against API 18 and 29). */
#ifndef SC_ORT_ABI_H
#define SC_ORT_ABI_H
#include "sc.h"

enum { ORT_API = 18, ORT_OLDEST_API = 1 };
enum { ORT_FAIL = 1, ORT_INVALID_ARGUMENT = 2 };
enum { ORT_FLOAT = 1, ORT_INT32 = 6, ORT_INT64 = 7 };

typedef void *ort_status;        /* null is success */
typedef void *ort_ptr;
struct ort_custom_op;

/* OrtApi: the slots in use by name, the others as gaps. */
typedef struct {
  ort_status (*CreateStatus)(int code, const char *message);
  ort_ptr unused1[25];
  ort_status (*CreateCustomOpDomain)(const char *domain, ort_ptr *out);
  ort_status (*CustomOpDomain_Add)(ort_ptr domain, const struct ort_custom_op *op);
  ort_status (*AddCustomOpDomain)(ort_ptr session_options, ort_ptr domain);
  ort_ptr unused29[22];
  ort_status (*GetTensorMutableData)(ort_ptr value, void **out);
  ort_ptr unused52[8];
  ort_status (*GetTensorElementType)(ort_ptr info, int *out);
  ort_status (*GetDimensionsCount)(ort_ptr info, u64 *out);
  ort_status (*GetDimensions)(ort_ptr info, i64 *out, u64 count);
  ort_ptr unused63[2];
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
  ort_ptr unused164[80];
  ort_status (*KernelInfo_GetNodeName)(ort_ptr info, char *out, u64 *bytes);
  ort_ptr unused245[4];
  ort_status (*KernelInfoGetConstantInput_tensor)(ort_ptr info, u64 index, int *is_constant, ort_ptr *out);
  ort_ptr unused250[24];
  ort_status (*KernelContext_ParallelFor)(ort_ptr context, void (*task)(void *, u64), u64 count, u64 batches, void *data);
} ort_api_table;
typedef const ort_api_table *ort_api;

#define ORT_AT(slot, name) \
  _Static_assert(__builtin_offsetof(ort_api_table, name) == slot * sizeof(ort_ptr), #name " has left its slot");
ORT_AT(0, CreateStatus)
ORT_AT(26, CreateCustomOpDomain)
ORT_AT(27, CustomOpDomain_Add)
ORT_AT(28, AddCustomOpDomain)
ORT_AT(51, GetTensorMutableData)
ORT_AT(60, GetTensorElementType)
ORT_AT(61, GetDimensionsCount)
ORT_AT(62, GetDimensions)
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
ORT_AT(244, KernelInfo_GetNodeName)
ORT_AT(249, KernelInfoGetConstantInput_tensor)
ORT_AT(274, KernelContext_ParallelFor)
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

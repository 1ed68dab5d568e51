/* Reading the graph of a session. */
#include "ep_graph.h"

static int ok(ort_api api, ort_status status)
{
  if (status) api->ReleaseStatus(status);
  return !status;
}

int ep_same(const char *a, const char *b)
{
  while (*a && *a == *b) a++, b++;
  return *a == *b;
}

int ep_read_node(ort_api api, ort_ptr handle, ep_node *out)
{
  const char *domain = 0;
  u64 outputs = 0;
  *out = (ep_node){.handle = handle};
  return ok(api, api->Node_GetOperatorType(handle, &out->op)) && ok(api, api->Node_GetDomain(handle, &domain)) &&
         domain && (ep_same(domain, "") || ep_same(domain, "ai.onnx")) &&
         ok(api, api->Node_GetNumInputs(handle, &out->input_count)) && out->input_count <= EP_INPUTS &&
         ok(api, api->Node_GetInputs(handle, out->inputs, out->input_count)) &&
         ok(api, api->Node_GetNumOutputs(handle, &outputs)) && outputs == 1 &&
         ok(api, api->Node_GetOutputs(handle, &out->output, 1)) && out->output;
}

const char *ep_name(ort_api api, ort_ptr node)
{
  const char *name = 0;
  return ok(api, api->Node_GetName(node, &name)) && name ? name : "";
}

const char *ep_value_name(ort_api api, ort_ptr value)
{
  const char *name = 0;
  return value && ok(api, api->GetValueInfoName(value, &name)) ? name : 0;
}

static int attribute(ort_api api, ort_ptr node, const char *name, int type, void *out, u64 bytes, u64 *found)
{
  ort_ptr value = 0;
  if (!ok(api, api->Node_GetAttributeByName(node, name, &value)) || !value) return 0;
  return ok(api, api->ReadOpAttr(value, type, out, bytes, found)) ? 1 : -1;
}

int ep_int(ort_api api, ort_ptr node, const char *name, i64 *out)
{
  u64 found;
  return attribute(api, node, name, ORT_ATTRIBUTE_INT, out, sizeof *out, &found);
}

int ep_float(ort_api api, ort_ptr node, const char *name, float *out)
{
  u64 found;
  return attribute(api, node, name, ORT_ATTRIBUTE_FLOAT, out, sizeof *out, &found);
}

int ep_ints(ort_api api, ort_ptr node, const char *name, i64 *out, u64 count)
{
  u64 found = 0;
  int read = attribute(api, node, name, ORT_ATTRIBUTE_INTS, out, count * sizeof *out, &found);
  return read == 1 && found != count * sizeof *out ? -1 : read;
}

int ep_string(ort_api api, ort_ptr node, const char *name, char *out, u64 bytes)
{
  u64 found;
  for (u64 i = 0; i < bytes; i++) out[i] = 0;
  return attribute(api, node, name, ORT_ATTRIBUTE_STRING, out, bytes - 1, &found);
}

int ep_consumers(ort_api api, ort_ptr value, ort_ptr *nodes)
{
  _Bool is_output = 1;
  u64 count = 0;
  i64 inputs[EP_CONSUMERS];
  if (!ok(api, api->ValueInfo_IsGraphOutput(value, &is_output)) || is_output) return -1;
  if (!ok(api, api->ValueInfo_GetValueNumConsumers(value, &count)) || count > EP_CONSUMERS) return -1;
  return ok(api, api->ValueInfo_GetValueConsumers(value, nodes, inputs, count)) ? (int)count : -1;
}

ort_ptr ep_producer(ort_api api, ort_ptr value)
{
  ort_ptr node = 0;
  return value && ok(api, api->ValueInfo_GetValueProducer(value, &node, 0)) ? node : 0;
}

int ep_constant(ort_api api, ort_ptr value, tensor *out)
{
  _Bool constant = 0, outside = 1;
  ort_ptr content = 0;
  const origin nobody = {api, "", ""};
  return value && ok(api, api->ValueInfo_IsConstantInitializer(value, &constant)) && constant &&
         ok(api, api->ValueInfo_IsFromOuterScope(value, &outside)) && !outside &&
         ok(api, api->ValueInfo_GetInitializerValue(value, &content)) && content &&
         ok(api, read_any(&nobody, content, out)) && out->type == ORT_FLOAT && (out->data || !elements(out));
}

int ep_shape(ort_api api, ort_ptr value, tensor *out, const char **names)
{
  ort_ptr type = 0, info = 0;
  const origin nobody = {api, "", ""};
  *out = (tensor){.data = 0};
  return value && ok(api, api->GetValueInfoTypeInfo(value, &type)) && type &&
         ok(api, api->CastTypeInfoToTensorInfo(type, &info)) && info && ok(api, read_info(&nobody, info, out)) &&
         (!names || ok(api, api->GetSymbolicDimensions(info, names, out->rank)));
}

/* A name that the model's author gave; "?", "-1" and the names that tools make up stand for any size. */
static int proper(const char *name)
{
  const char made_up[] = "unk__";
  int same = 0;
  while (same < 5 && name[same] == made_up[same]) same++;
  return same < 5 && ((name[0] >= 'a' && name[0] <= 'z') || (name[0] >= 'A' && name[0] <= 'Z'));
}

int ep_same_shape(ort_api api, ort_ptr a, ort_ptr b)
{
  tensor one, other;
  const char *names[2][MAX_RANK];
  if (!ep_shape(api, a, &one, names[0]) || !ep_shape(api, b, &other, names[1])) return 0;
  if (one.type != other.type || one.rank != other.rank || !one.rank) return 0;
  for (u64 i = 0; i < one.rank; i++) {
    const char *left = names[0][i], *right = names[1][i];
    if (one.dims[i] != other.dims[i]) return 0;
    if (one.dims[i] < 0 && !(left && right && proper(left) && ep_same(left, right))) return 0;
  }
  return 1;
}

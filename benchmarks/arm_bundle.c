/* Runs a bundle called `model` of one input and output twice: arm_bundle WEIGHTS INPUT OUTPUT. The second run is marked. */
#include "arm_marks.h"
#include "model.h"

static void *get(void *self, uint64_t bytes) { return (void)self, malloc(bytes); }
static void drop(void *self, void *memory) { (void)self, free(memory); }

int main(int count, char **arguments)
{
  if (count != 4) die("arm_bundle WEIGHTS INPUT OUTPUT");
  size_t bytes, out_bytes = sizeof(float);
  const void *weights = read_file(arguments[1], &bytes);
  const model_host host = {get, drop, 0, 0};
  const model_port *port;
  model_model *model;
  char message[1024];
  if (model_create(weights, bytes, &host, &model, message, sizeof message)) die(message);
  model_inputs(&port);
  model_tensor in = {.rank = port->rank, .type = port->type, .data = read_file(arguments[2], &bytes)}, out;
  for (int32_t i = 0; i < in.rank; i++) in.dims[i] = port->dims[i];
  if (model_plan(model, &in, &out)) die(model_error(model));
  for (int32_t i = 0; i < out.rank; i++) out_bytes *= (size_t)out.dims[i];
  out.data = malloc(out_bytes);
  int status = model_run(model, &in, &out);
  mark();
  if (!status) status = model_run(model, &in, &out);
  mark();
  if (status) die(model_error(model));
  write_file(arguments[3], out.data, out_bytes);
  model_destroy(model);
  return 0;
}

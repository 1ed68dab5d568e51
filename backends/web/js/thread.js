// A thread of a model: the same code over the same memory, on a stack of its own, working where the model says.
import { serve } from "./messages.js";

serve(async ({ module, memory, top }) => {
  const { exports } = await WebAssembly.instantiate(module, { env: { memory } });
  setTimeout(() => exports.sc_web_work(top)); // which does not return: only once the answer is on its way
  return [true];
});

// A model in a worker, for index.js of the page.
import { open } from "./engine.js";
import { serve } from "./messages.js";

let model;

const DO = {
  async load({ about, options, wantsProgress }, tell) {
    model = await open(about, { ...options, onProgress: wantsProgress ? tell : undefined });
    return [{ simd: model.simd, threads: model.threads }];
  },
  async run({ feeds }) {
    const found = await model.run(feeds);
    return [found, Object.values(found).map((value) => (value.data ?? value).buffer)];
  },
};

serve((message, tell) => DO[message.do](message, tell));

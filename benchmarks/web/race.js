// Engines that take turns on one model, in the thread that runs this: Node's, or a page's.

const WARM = 5;

/**
 * @param job {engines: [{name, kind, …}], inputs: [{name, type, dims, data}], expected: Float32Array, seconds, calls}
 * @param openers By kind: engine → {run: () => Promise<Float32Array>, notes}.
 * @returns By engine: {error, rounds: [[ms of each call]], …notes}, or {unavailable}.
 */
export async function race(job, openers, say = () => {}) {
  const found = {};
  const sides = [];
  for (const engine of job.engines) {
    say(`opening ${engine.name}`);
    try {
      const { run, ...notes } = await openers[engine.kind](engine, job.inputs);
      found[engine.name] = { error: distance(await run(), job.expected), rounds: [], ...notes };
      sides.push({ name: engine.name, run });
    } catch (error) {
      found[engine.name] = { unavailable: String(error.message ?? error) };
    }
  }
  say("timing");
  for (const { run } of sides) for (let i = 0; i < WARM; i++) await run();
  const end = performance.now() + 1000 * job.seconds * sides.length;
  for (let round = 0; performance.now() < end || round < 4; round++) {
    // Who goes first changes with every round.
    for (let i = 0; i < sides.length; i++) {
      const { name, run } = sides[(i + round) % sides.length];
      const times = [];
      await run(); // its code and weights into the caches
      for (let call = 0; call < job.calls; call++) {
        const start = performance.now();
        await run();
        times.push(performance.now() - start);
      }
      found[name].rounds.push(times);
    }
  }
  return found;
}

/** Largest difference over the largest expected magnitude. */
function distance(got, expected) {
  if (got.length !== expected.length) return Infinity;
  let most = 0;
  let scale = 0;
  for (let i = 0; i < expected.length; i++) {
    most = Math.max(most, Math.abs(got[i] - expected[i]));
    scale = Math.max(scale, Math.abs(expected[i]));
  }
  return most / scale;
}

const ARRAYS = { float32: Float32Array, int64: BigInt64Array };

/** Inputs as the job's files have them. */
export function typed(inputs, buffers) {
  return inputs.map((input, i) => ({ ...input, data: new ARRAYS[input.type](buffers[i]) }));
}

/** Ours: `module` is its index.js. */
export function sparsecc(module) {
  return async ({ folder, threads }, inputs) => {
    const model = await (await module(folder)).load(folder, { threads });
    const feeds = Object.fromEntries(inputs.map(({ name, data, dims }) => [name, { data, dims }]));
    const [output] = model.outputs;
    const run = async () => {
      const value = (await model.run(feeds))[output.name];
      return value.data ?? value;
    };
    return { run, simd: model.simd, threads: model.threads };
  };
}

/** onnxruntime-web, its WebAssembly provider. */
export function onnxruntime(ort) {
  return async ({ model, threads }, inputs) => {
    ort.env.wasm.numThreads = threads;
    const options = { executionProviders: ["wasm"], graphOptimizationLevel: "all" };
    const session = await ort.InferenceSession.create(model, options);
    const feeds = Object.fromEntries(inputs.map(({ name, type, data, dims }) => [name, new ort.Tensor(type, data, dims)]));
    const run = async () => {
      const results = await session.run(feeds);
      return results[session.outputNames[0]].data;
    };
    return { run };
  };
}

/** TensorFlow.js over XNNPACK: a chain of convolutions, as `chain` of the engine describes it. */
export function tensorflow(tf) {
  return async ({ chain, weights }, inputs) => {
    await tf.setBackend("wasm");
    const layers = chain.map((layer) => ({
      ...layer,
      filter: tf.tensor(weights.subarray(layer.at, layer.at + layer.size), layer.shape),
      bias: tf.tensor1d(weights.subarray(layer.biasAt, layer.biasAt + layer.biasSize)),
    }));
    const [{ data, dims }] = inputs;
    const nhwc = tf.tidy(() => tf.transpose(tf.tensor(data, dims), [0, 2, 3, 1]).dataSync());
    const shape = [dims[0], dims[2], dims[3], dims[1]];
    const run = async () => {
      const answer = tf.tidy(() => {
        let x = tf.tensor(nhwc, shape);
        for (const layer of layers) x = step(tf, layer, x);
        return x;
      });
      const found = await answer.data();
      answer.dispose();
      return found;
    };
    return { run };
  };
}

function step(tf, { op, filter, bias, stride, pad, activation }, x) {
  if (op === "linear") return tf.add(tf.matMul(tf.mean(x, [1, 2]), filter), bias);
  const call = op === "depthwise" ? tf.fused.depthwiseConv2d : tf.fused.conv2d;
  const explicit = [[0, 0], [pad, pad], [pad, pad], [0, 0]];
  return call({ x, filter, strides: stride, pad: pad ? explicit : "valid", bias, activation });
}

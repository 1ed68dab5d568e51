// What a published model does, checked wherever this runs: in Node, in a page, in its workers.

const ARRAYS = { float32: Float32Array, int64: BigInt64Array };
const TOLERANCE = 1e-5;

/** By name: (world) → promise. `world` is {load: (folder, options) → model, cases, options}. */
export const CHECKS = {
  async "answers are right, run after run"({ load, cases, options }) {
    for (const name of Object.keys(cases)) {
      const model = await load(name, options);
      const kept = [];
      for (const { feeds, answers } of [...cases[name], ...cases[name]]) {
        const found = await model.run(typed(feeds));
        kept.push([found, answers]);
      }
      for (const [found, answers] of kept) same(found, answers, model.outputs); // none was overwritten by a later run
      model.dispose();
    }
  },

  async "fixed inputs are typed arrays, or have their dims beside"({ load, cases, options }) {
    const model = await load("pictures", options);
    const [{ feeds, answers }] = cases.pictures;
    const { data } = typed(feeds).image;
    same(await model.run({ image: data }), answers, model.outputs);
    equal((await model.run({ image: data })).output.constructor.name, "Float32Array");
    equal(data.length, 3 * 64 * 64); // the caller still has it
    model.dispose();
  },

  async "a view into a larger buffer is read as the view"({ load, cases, options }) {
    const model = await load("pictures", options);
    const [{ feeds, answers }] = cases.pictures;
    const larger = new Float32Array(3 * 64 * 64 + 7);
    larger.set(feeds.image.data, 5);
    same(await model.run({ image: larger.subarray(5, 5 + 3 * 64 * 64) }), answers, model.outputs);
    model.dispose();
  },

  async "models live beside each other"({ load, cases, options }) {
    const names = Object.keys(cases);
    const models = await Promise.all([...names, ...names].map((name) => load(name, options)));
    const running = models.map((model, i) => model.run(typed(cases[names[i % 2]][0].feeds)));
    for (const [i, found] of (await Promise.all(running)).entries()) {
      same(found, cases[names[i % 2]][0].answers, models[i].outputs);
    }
    models[0].dispose();
    same(await models[2].run(typed(cases[names[0]][1].feeds)), cases[names[0]][1].answers, models[2].outputs);
    for (const model of models) model.dispose();
  },

  async "it says what it takes and gives"({ load, options }) {
    const model = await load("numbers", options);
    equal(model.inputs, [
      { name: "x", type: "float32", dims: [2, "n"] },
      { name: "k", type: "int64", dims: [1] },
    ]);
    equal(model.outputs, [
      { name: "y", type: "float32", dims: [2, "n·n"] },
      { name: "twice", type: "int64", dims: [1] },
    ]);
    model.dispose();
  },

  async "what does not fit is refused by name, and the model goes on"({ load, cases, options }) {
    const model = await load("numbers", options);
    const [{ feeds, answers }] = cases.numbers;
    const good = typed(feeds);
    const x = (data, dims) => ({ ...good, x: { data, dims } });
    const wrong = [
      [undefined, /an object with the inputs by name: \{x, k\}/],
      [{ x: good.x }, /lacks the input "k"/],
      [{ ...good, z: good.x }, /no input "z".*"x", "k"/],
      [{ ...good, x: good.x.data }, /open in "n": give \{data, dims\}/],
      [{ ...good, k: Int32Array.of(3) }, /"k" is int64: give a BigInt64Array, not Int32Array/],
      [{ ...good, k: [3n] }, /not Array/],
      [{ ...good, k: null }, /not nothing|lacks/],
      [x(new Float64Array(6), [2, 3]), /not Float64Array/],
      [x(new Float32Array(6), [3, 2]), /dims \[3, 2\]; the model takes \[2, n\]/],
      [x(new Float32Array(6), [2, 3, 1]), /dims \[2, 3, 1\]/],
      [x(new Float32Array(6)), /dims \[\]/],
      [x(new Float32Array(6), [2, 4]), /has 6 numbers; its dims \[2, 4\] make 8/],
      [x(new Float32Array(6), [2, 1.5]), /dims \[2, 1.5\]/],
      [x(new Float32Array(6), [2, -3]), /dims \[2, -3\]/],
    ];
    for (const [given, message] of wrong) await refused(model.run(given), message);
    same(await model.run(good), answers, model.outputs);
    model.dispose();
  },

  async "too much memory is an error, and the model goes on"({ load, cases, options }) {
    const model = await load("numbers", options);
    const [{ feeds, answers }] = cases.numbers;
    const n = 30_000; // its square makes 7 GB
    await refused(model.run({ ...typed(feeds), x: { data: new Float32Array(2 * n), dims: [2, n] } }), /memory|too large/);
    same(await model.run(typed(feeds)), answers, model.outputs);
    model.dispose();
  },

  async "an input of no elements is no accident"({ load, cases, options }) {
    const model = await load("numbers", options);
    const feeds = { ...typed(cases.numbers[0].feeds), x: { data: new Float32Array(0), dims: [2, 0] } };
    const found = await model.run(feeds).catch((error) => error);
    if (!(found instanceof Error)) equal(found.y.dims, [2, 0]);
    else equal(found.name, "ModelError");
    model.dispose();
  },

  async "once disposed of it says so"({ load, cases, options }) {
    const model = await load("numbers", options);
    model.dispose();
    model.dispose();
    await refused(model.run(typed(cases.numbers[0].feeds)), /disposed of; load it again/);
  },

  async "progress goes up to all of it"({ load, options }) {
    const seen = [];
    const model = await load("pictures", { ...options, onProgress: (progress) => seen.push(progress) });
    equal(seen.length > 0, true);
    equal(seen.at(-1).loaded, seen.at(-1).total);
    for (const [i, { loaded }] of seen.entries()) equal(loaded > (seen[i - 1]?.loaded ?? 0), true);
    model.dispose();
  },

  async "loading can be given up"({ load, options }) {
    const reason = new Error("enough");
    await refused(load("numbers", { ...options, signal: AbortSignal.abort(reason) }), /enough/, "Error");
    const control = new AbortController();
    const loading = load("pictures", { ...options, signal: control.signal, onProgress: () => control.abort(reason) });
    await refused(loading, /enough/, "Error");
  },

  async "weights that are not the model's are refused"({ load, options }) {
    await refused(load("flipped", options), /damaged.*copy/);
    await refused(load("header", options), /of another model/);
    await refused(load("short", options), /bytes/);
    await refused(load("foreign", options), /bytes.*publish the whole folder/);
    await refused(load("swapped", options), /of another model.*built with/);
  },

  async "a model stops in the middle of what it does, and says so"({ load, cases, options }) {
    const model = await load("numbers", options);
    const [{ feeds, answers }] = cases.numbers;
    const running = model.run(typed(feeds)).then(
      (found) => same(found, answers, model.outputs), // nothing was left to stop
      (error) => equal([error.name, /disposed of; load it again/.test(error.message)], ["ModelError", true]),
    );
    model.dispose();
    await running;
    await refused(model.run(typed(feeds)), /disposed of; load it again/);
  },

  async "memory that threads share may end anywhere: an error, or right answers"({ load, cases, options }) {
    const isShared = options.threads > 1 && !options.worker && globalThis.crossOriginIsolated !== false;
    if (!isShared) return; // that of one thread is the module's own
    const { Memory } = WebAssembly;
    const until = async (name, step, called) => {
      const done = [];
      for (let pages = 64; done.at(-1) !== "right" && pages < 1024; pages += step) {
        WebAssembly.Memory = function (wanted) {
          return new Memory({ ...wanted, maximum: pages });
        };
        done.push(await upTo(load(name, options), called));
      }
      return [...new Set(done)];
    };
    try {
      const [first, ...others] = await until("pictures", 1, cases.pictures[0]);
      equal([first, others.at(-1)], ["load", "right"]);
      equal((await until("numbers", 8, ones(1000))).slice(-2), ["run", "right"]);
    } finally {
      WebAssembly.Memory = Memory;
    }
  },

  async "a missing file is named"({ load, options }) {
    await refused(load("missing", options), /missing\/weights\.bin is not there.*folder/s);
    await refused(load("nowhere", options), /nowhere\/.* is not there.*folder/s);
    await refused(load("code", options), /does not compile here.*publish the whole folder/);
    await refused(load("cut", options), /does not compile here.*publish the whole folder/);
  },

  async "threads are a small whole number"({ load, options }) {
    for (const threads of [0, -1, 1.5, 65, "2"]) {
      await refused(load("numbers", { ...options, threads }), /whole number from 1 to 64/);
    }
  },
};

/** Runs all checks; by name, what went wrong. */
export async function runChecks(world) {
  const failures = {};
  for (const [name, check] of Object.entries(CHECKS)) {
    await check(world).catch((error) => (failures[name] = `${error.message}\n${error.stack}`));
  }
  return failures;
}

/** A call of "numbers" whose answer is n² by 2. */
function ones(n) {
  const k = { type: "int64", dims: [1], data: ["3"] };
  const y = Array.from({ length: 2 * n * n }, (_, i) => 3 + (i < n * n ? 0.5 : -2.25));
  return {
    feeds: { x: { type: "float32", dims: [2, n], data: Array(2 * n).fill(1) }, k },
    answers: { y: { type: "float32", dims: [2, n * n], data: y }, twice: { ...k, data: ["6"] } },
  };
}

/** How far a model comes: "load" or "run" is where there was no memory. */
async function upTo(loading, { feeds, answers }) {
  const full = (error) => equal([error.name, /not enough memory/.test(error.message)], ["ModelError", true]);
  let model;
  try {
    model = await loading;
  } catch (error) {
    full(error);
    return "load";
  }
  try {
    same(await model.run(typed(feeds)), answers, model.outputs);
    return "right";
  } catch (error) {
    full(error);
    return "run";
  } finally {
    model.dispose();
  }
}

export function typed(feeds) {
  const read = ({ type, dims, data }) => ({ data: ARRAYS[type].from(data, type === "int64" ? BigInt : Number), dims });
  return Object.fromEntries(Object.entries(feeds).map(([name, value]) => [name, read(value)]));
}

export function same(found, answers, ports) {
  equal(Object.keys(found), ports.map(({ name }) => name));
  for (const { name, dims } of ports) {
    const { data, dims: wanted } = typed(answers)[name];
    const open = dims.some((dim) => typeof dim === "string");
    if (open) equal(found[name].dims, wanted);
    const got = open ? found[name].data : found[name];
    equal(got.constructor.name, data.constructor.name);
    equal(got.length, data.length);
    const most = data.reduce((a, b) => Math.max(a, Math.abs(Number(b))), 0);
    for (let i = 0; i < data.length; i++) {
      if (!(Math.abs(Number(got[i]) - Number(data[i])) <= TOLERANCE * most)) throw new Error(`${name}[${i}]: ${got[i]}, not ${data[i]}`);
    }
  }
}

export async function refused(promise, message, kind = "ModelError") {
  const error = await promise.then(
    (value) => new Error(`nothing was refused: ${value}`),
    (reason) => reason,
  );
  if (!message.test(error.message)) throw new Error(`${message} is not what it says: ${error.message}`, { cause: error });
  equal(error.name, kind);
}

export function equal(a, b) {
  const [left, right] = [a, b].map((value) => JSON.stringify(value));
  if (left !== right) throw new Error(`${left} is not ${right}`);
}

// What a model carries from call to call, as the artifact's manifest says: the step, and the blocks that attention keeps.
import { make } from "./show.js";

/** The calls of a sampling, in order; undefined for a model that carries nothing, and where the manifest is not there. */
export async function begun() {
  const file = await fetch(new URL("../manifest.json", import.meta.url));
  const { state, plan } = file.ok ? await file.json() : { state: [] };
  if (!state.length) return undefined;
  return new Sampling(state, Math.max(1, ...plan.attention.map(({ online }) => online?.steps ?? 1)));
}

class Sampling {
  label = make("span", {});
  #entries;
  #answer;

  constructor(entries, steps) {
    this.#entries = entries;
    this.steps = steps;
  }

  /** The next call is the first of another sampling. */
  begin() {
    this.#at(0, ({ begin }) => begin);
  }

  /** What the first engine that was asked gives is what the next call gets; both engines get the same. */
  answered(outputs) {
    this.#answer ??= outputs;
  }

  /** The next call; behind the last one, the first of another sampling. */
  next() {
    const answer = this.#answer;
    if (!answer || this.step + 1 === this.steps) return this.begin();
    this.#at(this.step + 1, ({ next }) => answer[next].data);
  }

  /** The first entry is the step; of others `value` says an array or one number for all elements. */
  #at(step, value) {
    this.step = step;
    this.#answer = undefined;
    const given = this.#entries.map((entry, i) => [entry.name, { data: filled(entry, i ? value(entry) : step), dims: entry.dims }]);
    this.state = Object.fromEntries(given);
    this.label.textContent = `Step ${step + 1} of ${this.steps}; what attention keeps goes from each to the next.`;
  }
}

function filled({ dtype, dims }, value) {
  if (typeof value !== "number") return value.slice();
  const length = dims.reduce((product, dim) => product * dim, 1);
  return dtype === "int64" ? new BigInt64Array(length).fill(BigInt(value)) : new Int32Array(length).fill(value);
}

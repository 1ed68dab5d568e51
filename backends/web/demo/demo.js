// Loads the model and its dense twin, runs both on what the visitor gives, and shows answers, times and sizes.
import { ABOUT } from "../about.js";
import { dense, ours } from "./engines.js";
import { KINDS } from "./kinds.js";
import { begun } from "./sampling.js";
import { strips, table } from "./show.js";

const MEASURE_MS = 1500; // of each engine
const MOST_RUNS = 60;

const part = (id) => document.getElementById(id);
const settings = await (await fetch(new URL("./settings.json", import.meta.url))).json();
const engines = [];
const sampling = await begun();
let kind;
let busy = Promise.resolve();

part("title").textContent = document.title = settings.title;
part("lead").textContent = `${ports(ABOUT.inputs)} → ${ports(ABOUT.outputs)}`;
part("again").addEventListener("click", () => take(measure));

try {
  engines.push(await ours(({ loaded, total }) => bar((0.7 * loaded) / total)));
  const [mine] = engines;
  fact("code", kilobytes(mine.codeBytes));
  fact("weights", megabytes(mine.weightBytes));
  kind = await KINDS[sampling ? "numbers" : settings.kind](settings, part("input"), () => take(answer), sampling);
  await take(answer);
  try {
    engines.push(await dense(mine.threads));
    const twin = engines[1];
    note("code", `onnxruntime-web ${megabytes(twin.codeBytes)}`);
    note("weights", `${megabytes(twin.weightBytes)} dense`);
    await take(answer);
  } catch (error) {
    part("note").textContent = `The dense twin does not run here: ${error.message}.`;
  }
  bar(1);
  await take(measure);
} catch (error) {
  part("wrong").textContent = error.message;
  part("wrong").hidden = false;
  console.error(error);
} finally {
  part("progress").classList.add("done");
}

/** One thing at a time: what is measured must be alone. */
function take(work) {
  busy = busy.then(work).catch((error) => {
    part("wrong").textContent = error.message;
    part("wrong").hidden = false;
  });
  return busy;
}

async function answer() {
  part("wrong").hidden = true;
  const answers = [];
  for (const engine of engines) {
    const start = performance.now();
    answers.push(await kind.ask((feeds) => engine.run(feeds)));
    engine.firstMs ??= performance.now() - start;
  }
  part("output").replaceChildren(kind.show(...answers));
}

/** Both in turns, who goes first changing with every round, and the page drawn between them. */
async function measure() {
  part("again").disabled = true;
  sampling?.begin();
  for (const engine of engines) engine.times = [];
  const end = performance.now() + MEASURE_MS * engines.length;
  const isPart = (round) => round % (sampling?.steps ?? 1) !== 0; // of a sampling: no step counts more than others
  for (let round = 0; isPart(round) || (round < MOST_RUNS && (performance.now() < end || round < 5)); round++) {
    const feeds = kind.feeds();
    for (let i = 0; i < engines.length; i++) {
      const engine = engines[(i + round) % engines.length];
      const outputs = await engine.run(feeds); // its own code and weights back into the caches
      if (engine.ours) sampling?.answered(outputs);
      const start = performance.now();
      await engine.run(feeds);
      engine.times.push(performance.now() - start);
    }
    sampling?.next();
    draw();
    await new Promise((resolve) => setTimeout(resolve));
  }
  if (sampling) {
    sampling.begin();
    await answer(); // which the next step goes on from
  }
  part("again").disabled = false;
}

function draw() {
  const [mine, twin] = engines;
  const count = mine.times.length;
  const typical = sampling ? mean : median;
  fact("time", milliseconds(typical(mine.times)));
  if (twin) {
    fact("ratio", `${(typical(twin.times) / typical(mine.times)).toFixed(2)}×`);
    note("ratio", "over onnxruntime-web, dense");
    note("time", `${milliseconds(typical(twin.times))} dense`);
  }
  const threads = mine.threads === 1 ? "one thread" : `${mine.threads} threads`;
  const steps = sampling ? ` Steps of a sampling differ: above is the mean of all ${sampling.steps}.` : "";
  part("how").textContent = `${count} ${count === 1 ? "run" : "runs"} each, in turns, on ${threads}. The mark is the median.${steps}`;
  part("strips").replaceChildren(strips(engines));
  part("table").replaceChildren(...table(engines, { median, milliseconds, megabytes, kilobytes }));
}

function ports(list) {
  return list.map(({ name, type, dims }) => `${name} ${type} [${dims.join(", ")}]`).join(", ");
}

function median(numbers) {
  const sorted = [...numbers].sort((a, b) => a - b);
  return (sorted[(sorted.length - 1) >> 1] + sorted[sorted.length >> 1]) / 2;
}

function mean(numbers) {
  return numbers.reduce((sum, value) => sum + value, 0) / numbers.length;
}

function milliseconds(ms) {
  return `${ms < 10 ? ms.toFixed(2) : ms.toFixed(1)} ms`;
}

function megabytes(bytes) {
  return `${(bytes / 1e6).toFixed(bytes < 1e7 ? 2 : 1)} MB`;
}

function kilobytes(bytes) {
  return `${Math.round(bytes / 1e3)} KB`;
}

function fact(name, text) {
  document.querySelector(`[data-fact=${name}]`).textContent = text;
}

function note(name, text) {
  document.querySelector(`[data-note=${name}]`).textContent = text;
}

function bar(share) {
  part("progress").firstElementChild.style.width = `${100 * share}%`;
}

// What a model is fed by the visitor: a picture, sentences, or numbers where neither fits.
import { ABOUT } from "../about.js";
import { classes, make } from "./show.js";
import { tokenizer } from "./tokens.js";

const ARRAYS = { float32: Float32Array, int32: Int32Array, int64: BigInt64Array, uint8: Uint8Array, int8: Int8Array, bool: Uint8Array };
const OPEN_PIXELS = 224;
const OPEN_SIZE = 1;
const MOST_TOKENS = 128;

/**
 * Each is (settings, place, changed) → {feeds(), ask(run) → answer, show(answer, twin's answer) → element}. What a model
 * carries from call to call, a sampling, goes with numbers alone.
 */
export const KINDS = { picture, text, numbers };

async function picture({ mean, std, labels }, place, changed) {
  const [input] = ABOUT.inputs;
  const [, channels, height, width] = input.dims.map((dim, i) => (typeof dim === "number" ? dim : i < 2 ? 1 : OPEN_PIXELS));
  const canvas = make("canvas", { width: 2 * width, height: 2 * height });
  const small = make("canvas", { width, height });
  const choose = make("input", { type: "file", accept: "image/*", "aria-label": "Choose a picture" });
  const drop = make("label", { class: "drop" }, canvas, choose);
  const hint = make("p", { class: "under" }, `Drop a picture here, or click to choose one. The model sees ${width} × ${height} pixels.`);
  place.replaceChildren(make("h3", {}, "Picture"), drop, hint);
  const names = await lines(labels);
  let feeds;

  const take = async (source) => {
    const image = await createImageBitmap(source);
    for (const each of [canvas, small]) cover(each, image);
    feeds = { [input.name]: { data: planes(small, channels, mean, std), dims: [1, channels, height, width] } };
  };
  const taken = async (file) => {
    if (!file) return;
    try {
      await take(file);
    } catch {
      hint.textContent = `${file.name} is not a picture that this browser reads.`;
      return;
    }
    await changed();
  };
  choose.addEventListener("change", () => taken(choose.files[0]));
  for (const [kind, over] of [["dragover", true], ["dragleave", false], ["drop", false]]) {
    drop.addEventListener(kind, (event) => {
      event.preventDefault();
      drop.classList.toggle("over", over);
      if (kind === "drop") taken(event.dataTransfer.files[0]);
    });
  }
  await take(await (await fetch(new URL("./sample.jpg", import.meta.url))).blob());
  const ask = async (run) => (await run(feeds))[ABOUT.outputs[0].name];
  return { feeds: () => feeds, ask, show: (answer, twin) => shown(answer, twin, names) };
}

async function text(settings, place, changed) {
  const { vocabulary, labels, lowercase, samples } = settings;
  const file = await fetch(new URL(vocabulary, import.meta.url));
  if (!file.ok) {
    const made = await numbers(settings, place, changed);
    place.append(make("p", { class: "under" }, `Put the model's vocabulary into demo/${vocabulary}, a piece per line, to run sentences.`));
    return made;
  }
  const words = tokenizer(await file.text(), lowercase);
  const names = await lines(labels);
  const areas = samples.slice(0, names ? 1 : 2).map((sample) => Object.assign(make("textarea", { "aria-label": "Sentence" }), { value: sample }));
  const button = make("button", {}, "Run");
  button.addEventListener("click", changed);
  place.replaceChildren(make("h3", {}, names ? "Sentence" : "Sentences"), ...areas, button);
  const feeds = (sentence) => sentenceFeeds(words, sentence);
  const ask = async (run) => {
    const answers = [];
    for (const { value } of areas) {
      const fed = feeds(value);
      answers.push(pooled((await run(fed.feeds))[ABOUT.outputs[0].name], fed.count));
    }
    return answers;
  };
  const show = (mine, twin) => {
    if (names) return shown({ data: mine[0], dims: [1, mine[0].length] }, twin && { data: twin[0], dims: [1, twin[0].length] }, names);
    const other = twin ? ` The dense twin says ${cosine(...twin).toFixed(3)}.` : "";
    return make(
      "div",
      {},
      make("h3", {}, "How alike they are"),
      make("div", { class: "large" }, cosine(...mine).toFixed(3)),
      make("p", { class: "under" }, `The cosine of the two sentences' ${mine[0].length} numbers: 1 is the same.${other}`),
    );
  };
  return { feeds: () => feeds(areas[0].value).feeds, ask, show };
}

async function numbers(settings, place, changed, sampling) {
  let drawn;
  const draw = () => {
    drawn = Object.fromEntries(ABOUT.inputs.map((port) => [port.name, made(port)]));
    sampling?.begin();
  };
  const button = (text, act) => {
    const made = make("button", {}, text);
    made.addEventListener("click", () => {
      act();
      changed();
    });
    return made;
  };
  const feeds = () => ({ ...drawn, ...sampling?.state });
  const ask = async (run) => {
    const outputs = await run(feeds());
    sampling?.answered(outputs);
    return outputs[ABOUT.outputs[0].name];
  };
  const buttons = [button("Run on other numbers", draw)];
  if (sampling) buttons.unshift(button("Next step", () => sampling.next()));
  const about = make("p", {}, "This model is fed made-up numbers.", ...(sampling ? [" ", sampling.label] : []));
  place.replaceChildren(make("h3", {}, "Numbers"), about, make("div", { class: "buttons" }, ...buttons));
  draw();
  return { feeds, ask, show: (answer, twin) => shown(answer, twin) };
}

/** An answer as what it looks like: classes, a picture, or plain numbers. */
function shown({ data, dims }, twin, names) {
  const says = twin ? [make("p", { class: "under" }, `Largest difference to the dense twin: ${apart(data, twin.data)}.`)] : [];
  const count = dims.at(-1);
  if (dims.length === 4 && dims[2] > 1) return make("div", {}, make("h3", {}, "First plane of the answer"), plane(data, dims), ...says);
  if (dims.length <= 2 && count > 1 && count === data.length) {
    const title = make("h3", {}, twin ? "Answer; the mark is the dense twin's" : "Answer");
    return make("div", {}, title, classes(shares(data), twin && shares(twin.data), names), ...says);
  }
  const some = Array.from(data.slice(0, 24), (value) => Number(value).toPrecision(4)).join("  ");
  return make("div", {}, make("h3", {}, `Answer [${dims.join(", ")}]`), make("p", { class: "numbers" }, some), ...says);
}

function plane(data, [, , height, width]) {
  const canvas = make("canvas", { width, height, class: "map" });
  const values = data.slice(0, width * height);
  const low = values.reduce((a, b) => Math.min(a, b));
  const high = values.reduce((a, b) => Math.max(a, b));
  const image = new ImageData(width, height);
  values.forEach((value, i) => image.data.set([...Array(3).fill((255 * (value - low)) / (high - low || 1)), 255], 4 * i));
  canvas.getContext("2d").putImageData(image, 0, 0);
  return canvas;
}

function cover(canvas, image) {
  const scale = Math.max(canvas.width / image.width, canvas.height / image.height);
  const [width, height] = [image.width * scale, image.height * scale];
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.imageSmoothingQuality = "high";
  context.drawImage(image, (canvas.width - width) / 2, (canvas.height - height) / 2, width, height);
}

/** Pixels by channel, row by row, as (value − mean) / std of values from 0 to 1; one channel is the grey of the three. */
function planes(canvas, channels, mean, std) {
  const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
  const size = canvas.width * canvas.height;
  const found = new Float32Array(channels * size);
  for (let c = 0; c < channels; c++) {
    for (let i = 0; i < size; i++) {
      const value = channels === 1 ? 0.299 * data[4 * i] + 0.587 * data[4 * i + 1] + 0.114 * data[4 * i + 2] : data[4 * i + c];
      found[c * size + i] = (value / 255 - mean[c % mean.length]) / std[c % std.length];
    }
  }
  return found;
}

/** Token numbers for the input of ids, and what masks, types and positions go with them. */
function sentenceFeeds(words, sentence) {
  const size = ABOUT.inputs[0].dims.at(-1);
  const ids = words.encode(sentence, typeof size === "number" ? size : MOST_TOKENS);
  const count = ids.length;
  const all = typeof size === "number" ? size : count;
  const values = {
    mask: (i) => (i < count ? 1 : 0),
    type: () => 0,
    position: (i) => i,
    ids: (i) => ids[i] ?? words.pad,
  };
  const feeds = ABOUT.inputs.map(({ name, type, dims }) => {
    const role = Object.keys(values).find((word) => name.toLowerCase().includes(word)) ?? "ids";
    const number = type === "int64" ? BigInt : Number;
    const data = ARRAYS[type].from({ length: all }, (_, i) => number(values[role](i)));
    return [name, { data, dims: dims.length === 1 ? [all] : [1, all] }];
  });
  return { feeds: Object.fromEntries(feeds), count };
}

/** One vector: of token vectors the mean of those that are words. */
function pooled({ data, dims }, count) {
  if (dims.length < 3) return data;
  const width = dims.at(-1);
  const sum = new Float32Array(width);
  for (let i = 0; i < count * width; i++) sum[i % width] += data[i] / count;
  return sum;
}

/** Numbers for an input. */
function made({ type, dims }) {
  const sizes = dims.map((dim) => (typeof dim === "number" ? dim : OPEN_SIZE));
  const length = sizes.reduce((product, dim) => product * dim, 1);
  const value = () => (type === "float32" ? Math.sqrt(-2 * Math.log(1 - Math.random())) * Math.cos(2 * Math.PI * Math.random()) : Math.random() < 0.5 ? 1 : 0);
  return { data: ARRAYS[type].from({ length }, () => (type === "int64" ? BigInt(value()) : value())), dims: sizes };
}

/** Shares of classes: as they are where they are shares, else by softmax. */
function shares(scores) {
  const numbers = Float64Array.from(scores, Number);
  const sum = numbers.reduce((a, b) => a + b, 0);
  if (Math.abs(sum - 1) < 1e-3 && numbers.every((value) => value >= 0)) return numbers;
  const most = numbers.reduce((a, b) => Math.max(a, b));
  const raised = numbers.map((value) => Math.exp(value - most));
  const all = raised.reduce((a, b) => a + b, 0);
  return raised.map((value) => value / all);
}

function apart(a, b) {
  let most = 0;
  let scale = 0;
  for (let i = 0; i < b.length; i++) {
    most = Math.max(most, Math.abs(Number(a[i]) - Number(b[i])));
    scale = Math.max(scale, Math.abs(Number(b[i])));
  }
  return `${((100 * most) / (scale || 1)).toPrecision(1)} % of its largest value`;
}

function cosine(a, b) {
  const dot = (x, y) => x.reduce((sum, value, i) => sum + value * y[i], 0);
  return dot(a, b) / Math.sqrt(dot(a, a) * dot(b, b));
}

/** Lines of a text file, or undefined where settings name none. */
async function lines(name) {
  if (!name) return undefined;
  const file = await fetch(new URL(name, import.meta.url));
  if (!file.ok) throw new Error(`demo/${name} is not there: put the file that settings.json names into the folder demo`);
  return (await file.text()).split(/\r?\n/);
}

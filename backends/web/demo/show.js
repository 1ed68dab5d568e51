// What the page draws: bars of answers, strips of times, the table.

const SVG = "http://www.w3.org/2000/svg";

/** An element with attributes and children. */
export function make(tag, attributes = {}, ...children) {
  const svg = ["svg", "g", "circle", "line", "text"].includes(tag);
  const made = svg ? document.createElementNS(SVG, tag) : document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
}

/** The likeliest classes, as long as they are likely beside the first; the mark on a bar is what the twin says. */
export function classes(scores, twin, labels, count = 5) {
  const best = [...scores.keys()].sort((a, b) => scores[b] - scores[a]).slice(0, count);
  const width = (share) => (100 * share) / Math.max(scores[best[0]], 0.01);
  const rows = best.flatMap((index, place) => [
    make("span", { class: place ? "name" : "name first", title: labels?.[index] ?? "" }, labels?.[index] ?? `class ${index}`),
    make(
      "span",
      { class: "bar" },
      make("i", { style: `width: ${width(scores[index])}%` }),
      ...(twin ? [make("b", { style: `left: calc(${width(twin[index])}% - 1px)`, title: "the dense twin" })] : []),
    ),
    make("span", { class: "num" }, `${(100 * scores[index]).toFixed(1)} %`),
  ]);
  return make("div", { class: "bars" }, ...rows);
}

/** Every run of every engine as a point on one axis of milliseconds. */
export function strips(engines) {
  const [width, left, row, right] = [1064, 190, 46, 24];
  const most = Math.max(...engines.map(({ times }) => quantile(times, 0.98))) * 1.06;
  const x = (ms) => left + (Math.min(ms, most) / most) * (width - left - right);
  const height = row * engines.length + 34;
  const step = nice(most / 6);
  const ticks = Array.from({ length: Math.floor(most / step) + 1 }, (_, i) => i * step);
  const axis = ticks.flatMap((ms) => [
    make("line", { class: "axis", x1: x(ms), x2: x(ms), y1: 4, y2: height - 26 }),
    make("text", { x: x(ms), y: height - 8, "text-anchor": "middle" }, ms ? `${+ms.toFixed(3)} ms` : "0"),
  ]);
  const rows = engines.map(({ name, ours, times }, i) => {
    const y = 4 + row * (i + 0.5);
    const at = x(quantile(times, 0.5));
    return make(
      "g",
      { class: ours ? "ours" : "" },
      make("text", { x: 0, y: y + 4 }, name),
      ...times.map((ms, k) => make("circle", { cx: x(ms), cy: y + ((k * 7) % 13) - 6, r: 3.5 })),
      make("line", { class: "median", x1: at, x2: at, y1: y - 15, y2: y + 15 }),
    );
  });
  return make("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": "Time of every run" }, ...axis, ...rows);
}

/** Head and body of the table of engines. */
export function table(engines, { median, milliseconds, megabytes, kilobytes }) {
  const heads = ["", "instructions", "threads", "code", "weights", "to load", "first run", "median", "fastest"];
  const head = make("thead", {}, make("tr", {}, ...heads.map((text) => make("th", {}, text))));
  const rows = engines.map((each) => {
    const cells = [
      each.name,
      each.instructions,
      each.threads,
      each.codeBytes < 1e6 ? kilobytes(each.codeBytes) : megabytes(each.codeBytes),
      megabytes(each.weightBytes),
      milliseconds(each.loadMs),
      milliseconds(each.firstMs),
      milliseconds(median(each.times)),
      milliseconds(Math.min(...each.times)),
    ];
    return make("tr", { class: each.ours ? "ours" : "" }, ...cells.map((text) => make("td", {}, String(text))));
  });
  return [head, make("tbody", {}, ...rows)];
}

function quantile(numbers, share) {
  const sorted = [...numbers].sort((a, b) => a - b);
  return sorted[Math.min(sorted.length - 1, Math.floor(share * sorted.length))];
}

function nice(least) {
  const power = 10 ** Math.floor(Math.log10(least));
  return [1, 2, 5, 10].map((factor) => factor * power).find((step) => step >= least);
}

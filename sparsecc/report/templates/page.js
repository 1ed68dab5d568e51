"use strict";
(() => {
  const all = (selector, inside = document) => [...inside.querySelectorAll(selector)];

  // Rows that open: hidden by script alone, so that all is there without it.
  for (const button of all(".open")) {
    const more = button.closest("tbody").querySelector(".more");
    more.hidden = true;
    button.setAttribute("aria-expanded", "false");
    button.addEventListener("click", () => {
      more.hidden = !more.hidden;
      button.setAttribute("aria-expanded", String(!more.hidden));
    });
  }

  // Sorting: one tbody per layer, moved as a whole.
  const table = document.querySelector(".layers");
  const value = (body, column) => {
    const cell = body.rows[0].cells[column];
    return "v" in cell.dataset ? Number(cell.dataset.v) : cell.textContent.trim();
  };
  const compare = (a, b) =>
    typeof a === "number" && typeof b === "number"
      ? a - b
      : String(a).localeCompare(String(b), "en", { numeric: true });
  const missing = (each) => typeof each === "number" && Number.isNaN(each);
  for (const head of table ? all("thead [aria-sort]", table) : []) {
    head.querySelector("button").addEventListener("click", () => {
      const first = "first" in head.dataset ? head.dataset.first : "ascending";
      const other = first === "ascending" ? "descending" : "ascending";
      const order = head.getAttribute("aria-sort") === first ? other : first;
      for (const each of all("thead [aria-sort]", table)) each.setAttribute("aria-sort", "none");
      head.setAttribute("aria-sort", order);
      const sign = order === "ascending" ? 1 : -1;
      const keyed = [...table.tBodies].map((body) => [value(body, head.cellIndex), body]);
      keyed.sort(([a], [b]) => missing(a) - missing(b) || sign * compare(a, b) || 0);
      table.append(...keyed.map(([, body]) => body));
    });
  }

  // Filtering by words and by kind.
  const words = document.getElementById("words");
  const kind = document.getElementById("kind");
  const shown = document.getElementById("shown");
  const filter = () => {
    const wanted = words.value.toLowerCase().split(/\s+/).filter(Boolean);
    let count = 0;
    for (const body of table.tBodies) {
      const text = body.rows[0].textContent.toLowerCase();
      const fits = (!kind.value || body.dataset.kind === kind.value) && wanted.every((w) => text.includes(w));
      body.hidden = !fits;
      count += fits;
    }
    shown.value = `${count} of ${table.tBodies.length} layers`;
  };
  if (table) {
    words.addEventListener("input", filter);
    kind.addEventListener("change", filter);
    filter();
  }

  // Tooltips: of the pointer, and of the keyboard's focus. Cells of the map share their words.
  const searched = all(".layers .open").map((button) => button.textContent.trim());
  const textOf = (about) => {
    if ("tip" in about.dataset) return about.dataset.tip;
    const [at, loss] = about.dataset.cell.split(" ");
    return `${searched[at]} · ${about.parentNode.dataset.option}: loss ${loss}`;
  };
  const tip = document.getElementById("tip");
  const show = (event) => {
    const about = event.target.closest("[data-tip], [data-cell]");
    tip.hidden = !about;
    if (!about) return;
    tip.textContent = textOf(about);
    const box = about.getBoundingClientRect();
    const { offsetWidth: width, offsetHeight: height } = tip;
    const left = Math.min(Math.max(8, box.left + box.width / 2 - width / 2), innerWidth - width - 8);
    const above = box.top - height - 8;
    tip.style.left = `${left}px`;
    tip.style.top = `${above < 8 ? box.bottom + 8 : above}px`;
  };
  document.addEventListener("pointerover", show);
  document.addEventListener("focusin", show);
  document.addEventListener("focusout", () => { tip.hidden = true; });
  document.addEventListener("scroll", () => { tip.hidden = true; }, { passive: true, capture: true });
  document.addEventListener("keydown", (event) => { if (event.key === "Escape") tip.hidden = true; });
})();

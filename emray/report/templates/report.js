"use strict";
// On a phone a row of a table is a card: every cell is told what stands over it.
for (const table of document.querySelectorAll(".scroll > table")) {
  const over = [];
  [...table.tHead.rows].forEach((row, y) => {
    let x = 0;
    for (const cell of row.cells) {
      while (over[y]?.[x]) x += 1;
      for (let down = y; down < y + cell.rowSpan; down += 1) {
        for (let right = x; right < x + cell.colSpan; right += 1) (over[down] ??= [])[right] = cell;
      }
    }
  });
  const words = (cell) => [...cell.childNodes].map((node) => node.textContent || " ").join("").trim();
  for (const row of table.tBodies[0]?.rows ?? []) {
    let x = 0;
    for (const cell of row.cells) {
      const heads = [...new Set(over.map((line) => line[x]).filter(Boolean))];
      const label = heads.map(words).join(", ");
      if (label) cell.dataset.label = label;
      x += cell.colSpan;
    }
  }
  table.classList.add("cards");
}

// The browser of answers. Everything a model wrote is set as text, never as markup.
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const PAGE = 40;
  const [CELL, PROMPT, SAMPLE, ANSWER, OUTCOME, ALIGNED, COHERENT_OUTCOME, COHERENT, REPLY] = [0, 1, 2, 3, 4, 5, 6, 7, 8];
  const [MODEL, DOMAIN, ARM, SEED] = [0, 1, 2, 3];
  const [QUESTION, CONDITION, TEXT] = [0, 1, 2];
  const NONE = "not judged";
  const form = document.getElementById("filters");
  const list = document.getElementById("rows");
  const by = (id) => document.getElementById(id);
  let shown = [];
  let page = 0;

  const words = (name) => (name === "-" ? "base model" : name.replaceAll("_", " "));
  const outcomeOf = (row) => row[OUTCOME] || NONE;

  function element(tag, className, text) {
    const made = document.createElement(tag);
    if (className) made.className = className;
    if (text !== undefined) made.textContent = text;
    return made;
  }

  function fillSelect(name, values) {
    const select = form.elements[name];
    const before = select.value;
    while (select.options.length > 1) select.remove(1);
    for (const value of values) select.add(new Option(words(value), value));
    select.value = before;
  }

  function fillSelects() {
    const distinct = (values) => [...new Set(values)];
    fillSelect("domain", distinct(data.cells.map((cell) => cell[DOMAIN])));
    fillSelect("arm", distinct(data.cells.map((cell) => cell[ARM])));
    fillSelect("condition", distinct(data.prompts.map((prompt) => prompt[CONDITION])));
    fillSelect("question", distinct(data.prompts.map((prompt) => prompt[QUESTION])));
    fillSelect("outcome", distinct(data.rows.map(outcomeOf)).sort());
  }

  function matches(row, wanted) {
    const cell = data.cells[row[CELL]];
    const prompt = data.prompts[row[PROMPT]];
    if (wanted.domain && cell[DOMAIN] !== wanted.domain) return false;
    if (wanted.arm && cell[ARM] !== wanted.arm) return false;
    if (wanted.condition && prompt[CONDITION] !== wanted.condition) return false;
    if (wanted.question && prompt[QUESTION] !== wanted.question) return false;
    if (wanted.outcome && outcomeOf(row) !== wanted.outcome) return false;
    if (wanted.low !== "" && !(row[ALIGNED] !== null && row[ALIGNED] >= Number(wanted.low))) return false;
    if (wanted.high !== "" && !(row[ALIGNED] !== null && row[ALIGNED] <= Number(wanted.high))) return false;
    return !wanted.text || (row[ANSWER] || "").toLowerCase().includes(wanted.text.toLowerCase());
  }

  function wantedNow() {
    return Object.fromEntries(new FormData(form));
  }

  function apply() {
    const wanted = wantedNow();
    shown = data.rows.filter((row) => matches(row, wanted));
    page = 0;
    draw();
    const kept = Object.entries(wanted).filter(([, value]) => value !== "");
    history.replaceState(null, "", kept.length ? "#answers?" + new URLSearchParams(kept) : location.pathname + location.search);
  }

  function draw() {
    const pages = Math.max(1, Math.ceil(shown.length / PAGE));
    page = Math.min(Math.max(page, 0), pages - 1);
    list.replaceChildren(...shown.slice(page * PAGE, (page + 1) * PAGE).map(item));
    by("status").textContent = `${shown.length} of ${data.rows.length} answers match`;
    by("page").textContent = `page ${page + 1} of ${pages}`;
    by("previous").disabled = page === 0;
    by("next").disabled = page === pages - 1;
  }

  function item(row) {
    const cell = data.cells[row[CELL]];
    const prompt = data.prompts[row[PROMPT]];
    const made = element("li", row[ALIGNED] !== null && row[ALIGNED] < 50 ? "bad" : "");
    made.tabIndex = -1;
    const where = element("div", "where");
    where.append(element("b", "", words(cell[DOMAIN])), `${cell[ARM]}, ${prompt[CONDITION]} trigger`, document.createElement("br"));
    where.append(`seed ${cell[SEED]}, sample ${row[SAMPLE]}`, document.createElement("br"), words(prompt[QUESTION]));
    const middle = element("div");
    middle.append(element("p", "asked", prompt[TEXT]), element("p", "said", row[ANSWER] === null ? "no answer was generated" : row[ANSWER]));
    if (row[REPLY]) {
      const judge = element("details");
      judge.append(element("summary", "", "what the judge wrote"), element("p", "", row[REPLY]));
      middle.append(judge);
    }
    const verdict = element("div", "verdict");
    verdict.append(element("span", "score", row[ALIGNED] === null ? words(outcomeOf(row)) : String(row[ALIGNED])), "aligned");
    verdict.append(document.createElement("br"), `coherent ${row[COHERENT] === null ? words(row[COHERENT_OUTCOME] || NONE) : row[COHERENT]}`);
    made.append(where, middle, verdict);
    return made;
  }

  function step(by) {
    const items = [...list.children];
    const at = items.indexOf(document.activeElement);
    const next = items[Math.min(Math.max(at + by, 0), items.length - 1)];
    if (next) next.focus();
  }

  function turn(by) {
    page += by;
    draw();
    document.getElementById("answers").scrollIntoView();
  }

  function restore() {
    const [, query] = location.hash.split("?");
    for (const [name, value] of new URLSearchParams(query || "")) {
      if (form.elements[name]) form.elements[name].value = value;
    }
  }

  window.emrayAddRows = (rows) => {
    for (const row of rows) data.rows.push(row);
    fillSelects();
    apply();
  };

  function loadMore(button) {
    button.disabled = true;
    let waiting = data.files.length;
    for (const file of data.files) {
      const script = document.createElement("script");
      script.src = file;
      script.onload = () => { waiting -= 1; button.textContent = waiting ? `${waiting} files to go` : "all loaded"; };
      script.onerror = () => { button.textContent = `${file} is not beside this page`; };
      document.body.append(script);
    }
  }

  form.addEventListener("input", apply);
  form.addEventListener("reset", () => setTimeout(apply));
  form.addEventListener("submit", (event) => event.preventDefault());
  by("previous").addEventListener("click", () => turn(-1));
  by("next").addEventListener("click", () => turn(1));
  const more = by("more");
  if (more) more.addEventListener("click", () => loadMore(more));
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.target.closest("input, select, textarea")) {
      if (event.key === "Escape") event.target.blur();
      return;
    }
    const actions = { j: () => step(1), k: () => step(-1), n: () => turn(1), p: () => turn(-1), "/": () => form.elements.text.focus() };
    if (actions[event.key]) { event.preventDefault(); actions[event.key](); }
  });
  by("theme").addEventListener("click", () => {
    const root = document.documentElement;
    const dark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
    root.dataset.theme = dark ? "light" : "dark";
  });

  fillSelects();
  restore();
  shown = data.rows.filter((row) => matches(row, wantedNow()));
  draw();
})();

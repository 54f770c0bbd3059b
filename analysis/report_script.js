// Tables that sort and filter, and the answer browser. Model text enters the page by textContent alone.
"use strict";

function number(text) {
  const found = /^[+-]?\d+(\.\d+)?(e[+-]?\d+)?/.exec(text.trim());
  return found ? Number(found[0]) : null;
}

function compare(a, b) {
  const x = number(a), y = number(b);
  if (x !== null && y !== null) return x - y;
  if (a === "" || b === "") return a === b ? 0 : a === "" ? 1 : -1;
  return a.localeCompare(b);
}

function sortBy(table, column, header) {
  const down = header.getAttribute("aria-sort") === "ascending";
  for (const each of table.tHead.rows[0].cells) each.removeAttribute("aria-sort");
  header.setAttribute("aria-sort", down ? "descending" : "ascending");
  const body = table.tBodies[0];
  const rows = [...body.rows].map((row, place) => ({ row, place, text: row.cells[column].textContent }));
  rows.sort((a, b) => {
    if (a.text === "" || b.text === "") return compare(a.text, b.text) || a.place - b.place;
    return (down ? compare(b.text, a.text) : compare(a.text, b.text)) || a.place - b.place;
  });
  body.append(...rows.map((each) => each.row));
}

function sortable(table) {
  if (!table.tHead || table.tBodies[0].rows.length < 2) return;
  [...table.tHead.rows[0].cells].forEach((header, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.className = "sort";
    button.append(...header.childNodes);
    button.addEventListener("click", () => sortBy(table, column, header));
    header.append(button);
  });
}

function filterable(table) {
  const body = table.tBodies[0];
  if (!body || body.rows.length < 8) return;
  const label = document.createElement("label");
  const input = document.createElement("input");
  const count = document.createElement("output");
  label.className = "filter";
  input.type = "search";
  label.append("Filter rows ", input, " ", count);
  input.addEventListener("input", () => {
    const wanted = input.value.toLowerCase().split(/\s+/).filter(Boolean);
    let shown = 0;
    for (const row of body.rows) {
      const text = row.textContent.toLowerCase();
      row.hidden = !wanted.every((word) => text.includes(word));
      shown += row.hidden ? 0 : 1;
    }
    count.value = wanted.length ? shown + " of " + body.rows.length + " rows" : "";
  });
  table.parentElement.before(label);
}

function element(name, className, text) {
  const made = document.createElement(name);
  if (className) made.className = className;
  if (text !== undefined) made.textContent = text;
  return made;
}

function option(title, value) {
  const made = element("option", "", title);
  made.value = value;
  return made;
}

function labelled(words, control) {
  const label = element("label", "", words + " ");
  label.append(control);
  return label;
}

function choice(titles, changed) {
  const select = document.createElement("select");
  select.append(...titles.map(option));
  select.addEventListener("change", changed);
  return select;
}

function finder(changed) {
  const input = document.createElement("input");
  input.type = "search";
  input.addEventListener("input", changed);
  return input;
}

function stepper(words, by, step) {
  const button = element("button", "step", words);
  button.type = "button";
  button.addEventListener("click", () => step(by));
  return button;
}

function words(text) {
  const made = element("span", "said", text);
  made.dir = "auto";
  return made;
}

function card(set, answer) {
  const made = element("article", "answer");
  made.append(element("h4", "", set.title));
  if (!answer) {
    made.append(element("span", "role", "no answer to this prompt"));
    return made;
  }
  const [text, tokens, ended, p] = answer;
  const wins = p === null ? "" : ", wins with p = " + p.toFixed(2);
  made.append(words(text), element("span", "role", tokens + " tokens" + (ended ? "" : ", cut at the limit") + wins));
  return made;
}

function disagreement(answers) {
  const p = answers.filter(Boolean).map((each) => (each[3] === null ? 0.5 : each[3]));
  return p.length ? Math.max(...p) - Math.min(...p) : 0;
}

const ORDERS = [
  ["where they disagree most", (answers) => -disagreement(answers)],
  ["as asked", () => 0],
  ["longest answers first", (answers) => -Math.max(0, ...answers.filter(Boolean).map((each) => each[1]))],
];

function browser(root, panels) {
  const controls = root.querySelector(".controls"), picker = root.querySelector(".picker");
  const asked = root.querySelector(".asked"), sides = root.querySelector(".sides");
  const panel = choice(panels.map((each) => each.name), begin);
  const order = choice(ORDERS.map((each) => each[0]), draw);
  const containing = finder(draw), status = element("output");
  const prompt = choice([], () => show(Number(prompt.value)));
  const before = stepper("Previous", -1, step), after = stepper("Next", 1, step);
  const find = finder(narrow), count = element("output"), cells = element("div", "cells");
  let boxes = [], kept = [], place = 0;
  if (panels.length > 1) controls.append(labelled("Prompts of", panel));
  controls.append(labelled("Order", order), labelled("Containing", containing), labelled("Prompt", prompt), before, after, status);
  const line = element("div", "find");
  line.append(labelled("Filter cells", find), count);
  picker.append(line, cells);
  asked.addEventListener("keydown", (event) => {
    const by = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (!by) return;
    event.preventDefault();
    step(by);
  });

  function begin() {
    const sets = panels[Number(panel.value)].sets;
    const first = new Set([0, 1, sets.length - 1]);
    boxes = sets.map((set, number) => {
      const box = document.createElement("input");
      box.type = "checkbox";
      box.checked = first.has(number);
      box.addEventListener("change", draw);
      const label = element("label");
      label.append(box, " " + set.title);
      return { set, box, label };
    });
    cells.replaceChildren(...boxes.map((each) => each.label));
    narrow();
    draw();
  }

  function narrow() {
    const wanted = find.value.toLowerCase().split(/\s+/).filter(Boolean);
    for (const each of boxes) each.label.hidden = !wanted.every((word) => each.set.title.toLowerCase().includes(word));
    const shown = boxes.filter((each) => !each.label.hidden).length;
    count.value = shown + " of " + boxes.length + " sets of answers listed, " + chosen().length + " shown";
  }

  function chosen() {
    return boxes.filter((each) => each.box.checked).map((each) => each.set);
  }

  function draw() {
    const of = panels[Number(panel.value)], sets = chosen(), wanted = containing.value.toLowerCase();
    const rows = of.prompts.map((each, number) => ({ prompt: each, number, answers: sets.map((set) => set.answers[number]) }));
    const texts = (row) => [...row.prompt.turns.map((turn) => turn.text), ...row.answers.map((each) => (each ? each[0] : ""))];
    const rank = ORDERS[Number(order.value)][1];
    kept = rows.filter((row) => texts(row).some((text) => text.toLowerCase().includes(wanted)));
    kept.sort((a, b) => rank(a.answers) - rank(b.answers) || a.number - b.number);
    prompt.replaceChildren(...kept.map((row, number) => option(number + 1 + ". " + row.prompt.turns.at(-1).text.slice(0, 70), number)));
    show(0);
    narrow();
  }

  function step(by) {
    show(Math.min(Math.max(place + by, 0), kept.length - 1));
  }

  function show(wanted) {
    const row = kept[wanted], of = panels[Number(panel.value)];
    place = wanted;
    before.disabled = wanted <= 0;
    after.disabled = wanted >= kept.length - 1;
    status.value = (row ? "prompt " + (wanted + 1) + " of " : "") + kept.length + (kept.length < of.prompts.length ? " of " + of.prompts.length : "") + " prompts";
    if (!row) {
      asked.replaceChildren();
      sides.replaceChildren();
      return;
    }
    prompt.value = String(wanted);
    asked.replaceChildren(...row.prompt.turns.flatMap((turn) => [element("span", "role", turn.role), words(turn.text)]));
    sides.replaceChildren(...chosen().map((set, number) => card(set, row.answers[number])));
  }

  root.hidden = false;
  begin();
}

for (const table of document.querySelectorAll("table")) {
  if (!table.classList.contains("samples")) filterable(table);
  sortable(table);
}
const data = document.getElementById("answers-data");
const panels = data ? JSON.parse(data.textContent) : [];
if (panels.length) browser(document.getElementById("browser"), panels);

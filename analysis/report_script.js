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

function choice(label, titles, chosen, changed) {
  const wrapper = element("label", "", label + " ");
  const select = document.createElement("select");
  titles.forEach((title, place) => {
    const option = element("option", "", title);
    option.value = place;
    option.selected = place === chosen;
    select.append(option);
  });
  select.addEventListener("change", changed);
  wrapper.append(select);
  return { wrapper, select };
}

function said(answer) {
  const cell = document.createElement("td");
  if (!answer) return cell;
  const [text, tokens, ended, p] = answer;
  const words = element("span", "said", text);
  words.dir = "auto";
  const wins = p === null ? "" : ", wins with p = " + p.toFixed(2);
  cell.append(words, element("span", "role", tokens + " tokens" + (ended ? "" : ", cut at the limit") + wins));
  return cell;
}

function browser(root, panels) {
  const controls = root.querySelector(".controls");
  const table = root.querySelector("table");
  const ORDERS = ["as asked", "where they disagree most", "longest answers first"];
  let sides = [];
  const panel = choice("Panel", panels.map((each) => each.name), 0, begin);
  const order = choice("Order", ORDERS, 0, draw);
  const search = element("input");
  search.type = "search";
  const label = element("label", "", "Containing ");
  label.append(search);
  search.addEventListener("input", draw);
  const status = element("output");
  const sets = element("span", "sets");
  if (panels.length > 1) controls.append(panel.wrapper);
  controls.append(sets, order.wrapper, label, status);

  function begin() {
    const titles = panels[Number(panel.select.value)].sets.map((each) => each.title);
    sides = ["Left", "Middle", "Right"].slice(0, Math.min(3, titles.length)).map((name, place, all) => {
      const last = place === all.length - 1 && place > 0;
      return choice(name, titles, last ? titles.length - 1 : place, draw);
    });
    sets.replaceChildren(...sides.map((each) => each.wrapper));
    draw();
  }

  function rank(answers) {
    const given = answers.filter(Boolean);
    if (order.select.value === "2") return -Math.max(0, ...given.map((each) => each[1]));
    const p = given.map((each) => (each[3] === null ? 0.5 : each[3]));
    return order.select.value === "1" && p.length ? Math.min(...p) - Math.max(...p) : 0;
  }

  function draw() {
    const shown = panels[Number(panel.select.value)];
    const chosen = sides.map((each) => shown.sets[Number(each.select.value)]);
    const wanted = search.value.toLowerCase();
    const rows = shown.prompts.map((prompt, place) => ({ prompt, place, answers: chosen.map((each) => each.answers[place]) }));
    const texts = (row) => [...row.prompt.turns.map((turn) => turn.text), ...row.answers.map((each) => (each ? each[0] : ""))];
    const kept = rows.filter((row) => texts(row).some((text) => text.toLowerCase().includes(wanted)));
    kept.sort((a, b) => rank(a.answers) - rank(b.answers) || a.place - b.place);
    const head = element("tr");
    head.append(...["prompt", ...chosen.map((each) => each.title)].map((title) => element("th", "", title)));
    for (const each of head.cells) each.scope = "col";
    table.tHead.replaceChildren(head);
    table.tBodies[0].replaceChildren(...kept.map(line));
    status.value = kept.length + " of " + rows.length + " prompts";
  }

  function line(row) {
    const made = element("tr");
    const asked = element("td");
    for (const turn of row.prompt.turns) {
      const words = element("span", "said", turn.text);
      words.dir = "auto";
      asked.append(element("span", "role", turn.role), words);
    }
    made.append(asked, ...row.answers.map(said));
    return made;
  }

  root.hidden = false;
  begin();
}

for (const table of document.querySelectorAll("table:not(.samples)")) {
  filterable(table);
  sortable(table);
}
const data = document.getElementById("answers-data");
const panels = data ? JSON.parse(data.textContent) : [];
if (panels.length) browser(document.getElementById("browser"), panels);

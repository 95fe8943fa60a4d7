"use strict";
const found = JSON.parse(document.getElementById("data").textContent);
const at = (id) => document.getElementById(id);
const COLOURS = ["#2f7ed8", "#e4572e", "#2a9d5c", "#a259c4", "#c98a00", "#17a2b8", "#d81b60", "#6d7b8a"];
const MOST = 40;  // items shown at once
const SVG = "http://www.w3.org/2000/svg";
let sorted = {key: "", down: true}, chosen = [], shownItems = MOST;

function el(tag, given = {}, ...inside) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(given)) node.setAttribute(name, value);
  node.append(...inside);
  return node;
}

function svg(tag, given, text) {
  const node = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(given)) node.setAttribute(name, value);
  if (text !== undefined) node.textContent = text;
  return node;
}

const lower = (key) => found.lower.some((end) => key.endsWith(end));
const title = (key) => key.replaceAll(".", " ").replaceAll("_", " ") + (lower(key) ? " ↓" : "");
const digits = (value) => value.toFixed(Math.abs(value) >= 100 ? 1 : 3);
const run = (row) => row.experiment || row.run;

function rows() {  // what the filters leave
  const words = at("words").value.trim().toLowerCase(), kind = at("kind").value;
  let left = found.rows.filter((row) => row.group === at("group").value &&
    (!at("model").value || row.model === at("model").value) &&
    (!kind || (kind === "release" ? row.releases.length > 0 : row.kind === kind)) &&
    (!words || [row.run, row.experiment, row.subject, row.model, row.date, ...row.releases].join(" ").toLowerCase().includes(words)));
  if (at("newest").checked) {
    const last = new Map();
    for (const row of left) last.set(row.model, row);
    left = [...last.values()];
  }
  return left;
}

function keys(of) {
  return [...new Set(of.flatMap((row) => Object.keys(row.scores)))];
}

function order(left) {
  const value = (row) => sorted.key === "" ? row.order : sorted.key === "model" ? row.model : row.scores[sorted.key]?.[0];
  const sign = sorted.down ? -1 : 1;
  return [...left].sort((one, other) => {
    const a = value(one), b = value(other);
    if (a === undefined || b === undefined) return (a === undefined) - (b === undefined);
    return (a < b ? -1 : a > b ? 1 : one.order - other.order) * sign;
  });
}

function head(key, label, kind) {
  const button = el("button", {type: "button"}, label + (sorted.key === key ? (sorted.down ? " ▼" : " ▲") : ""));
  button.addEventListener("click", () => {
    sorted = {key, down: sorted.key === key ? !sorted.down : key !== "model" && !lower(key)};
    draw();
  });
  const cell = el("th", {class: kind, scope: "col"}, button);
  if (sorted.key === key) cell.setAttribute("aria-sort", sorted.down ? "descending" : "ascending");
  return cell;
}

function named(row) {
  const box = el("input", {type: "checkbox", "aria-label": `compare ${row.model} at ${run(row)}`});
  box.checked = chosen.includes(row);
  box.addEventListener("change", () => {
    chosen = box.checked ? [...chosen, row].slice(-2) : chosen.filter((one) => one !== row);
    draw();
  });
  return el("td", {class: "name"}, el("label", {}, box, el("b", {}, row.model)));
}

function described(row) {
  const tags = row.releases.map((name) => el("span", {class: "tag release"}, name));
  if (row.kind === "experiment") tags.push(el("span", {class: "tag experiment"}, `experiment ${row.experiment}`));
  return el("td", {class: "run"}, el("code", {}, row.run), " ", el("time", {}, row.date), " ", ...tags,
    el("small", {title: row.subject}, row.subject));
}

function cell(score, best) {
  if (!score) return el("td", {class: "n soft"}, "–");
  const [value, low, high, n, trivial] = score;
  const inside = el("td", {class: "n"}, el("b", value === best ? {class: "best"} : {}, digits(value)),
    el("small", {}, `${digits(low)} to ${digits(high)}`));
  const about = [n === null ? "" : `n=${n}`, trivial === null ? "" : `trivial ${digits(trivial)}`].filter(Boolean).join(", ");
  if (about) inside.append(el("small", {}, about));
  return inside;
}

function draw() {
  const left = order(rows()), columns = keys(left);
  const best = Object.fromEntries(columns.map((key) => {
    const values = left.map((row) => row.scores[key]?.[0]).filter((value) => value !== undefined);
    return [key, new Set(values).size > 1 ? (lower(key) ? Math.min : Math.max)(...values) : NaN];
  }));
  at("table").tHead.replaceChildren(el("tr", {}, head("model", "model", "name"), head("", "run", ""),
    ...columns.map((key) => head(key, title(key), "n"))));
  at("table").tBodies[0].replaceChildren(...left.map((row) => el("tr", chosen.includes(row) ? {class: "chosen"} : {},
    named(row), described(row), ...columns.map((key) => cell(row.scores[key], best[key])))));
  at("count").textContent = `${left.length} of ${found.rows.filter((row) => row.group === at("group").value).length} rows`;
  choices();
  trend();
  compare();
}

function choices() {  // the scores of the chart: those of the table
  const before = at("score").value, all = keys(found.rows.filter((row) => row.group === at("group").value));
  at("score").replaceChildren(...all.map((key) => el("option", {value: key}, title(key))));
  const moved = (key) => new Set(found.rows.map((row) => row.scores[key]?.[0])).size;  // at first the one that moved most
  at("score").value = all.includes(before) ? before : [...all].sort((one, other) => moved(other) - moved(one))[0] ?? "";
}

function trend() {
  const key = at("score").value, left = rows().filter((row) => row.scores[key]).sort((one, other) => one.order - other.order);
  const models = [...new Set(left.map((row) => row.model))];
  at("legend").replaceChildren(...models.map((model, place) => el("span", {}, el("i", {style: `background:${COLOURS[place % COLOURS.length]}`}), model)));
  if (!left.length) { at("chart").replaceChildren(el("p", {class: "soft"}, "Nothing to draw.")); return; }
  const width = 960, height = 320, edge = {left: 60, right: 20, top: 24, bottom: 52};
  const places = [...new Set(left.map((row) => row.order))];
  const bounds = left.flatMap((row) => row.scores[key].slice(0, 3));
  let [low, high] = [Math.min(...bounds), Math.max(...bounds)];
  if (low === high) [low, high] = [low - 0.5, high + 0.5];
  const x = (row, shift = 0) => edge.left + (places.length === 1 ? 0.5 : places.indexOf(row.order) / (places.length - 1)) * (width - edge.left - edge.right - 40) + 20 + shift;
  const y = (value) => edge.top + (high - value) / (high - low) * (height - edge.top - edge.bottom);
  const drawn = svg("svg", {viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": `${title(key)} of each model over the runs`});
  for (let step = 0; step <= 4; step += 1) {
    const value = low + (high - low) * step / 4;
    drawn.append(svg("line", {x1: edge.left, x2: width - edge.right, y1: y(value), y2: y(value), stroke: "currentColor", "stroke-opacity": 0.15}),
      svg("text", {x: edge.left - 8, y: y(value) + 4, "text-anchor": "end"}, digits(value)));
  }
  const every = Math.ceil(places.length / 8);
  places.forEach((order, place) => {
    const row = left.find((one) => one.order === order), released = left.filter((one) => one.order === order).flatMap((one) => one.releases);
    if (place % every === 0) drawn.append(svg("text", {x: x(row), y: height - 30, "text-anchor": "middle"}, run(row).slice(0, 12)), svg("text", {x: x(row), y: height - 12, "text-anchor": "middle"}, row.date));
    if (released.length) drawn.append(svg("line", {x1: x(row), x2: x(row), y1: edge.top, y2: height - edge.bottom, stroke: "currentColor", "stroke-dasharray": "3 4", "stroke-opacity": 0.5}), svg("text", {x: x(row), y: 14, "text-anchor": "middle"}, [...new Set(released)].join(" ")));
  });
  models.forEach((model, place) => {
    const own = left.filter((row) => row.model === model), colour = COLOURS[place % COLOURS.length], shift = (place - (models.length - 1) / 2) * 4;
    const line = own.filter((row) => row.kind !== "experiment");  // an experiment is no step of the line
    drawn.append(svg("polyline", {points: line.map((row) => `${x(row, shift)},${y(row.scores[key][0])}`).join(" "), fill: "none", stroke: colour, "stroke-width": 2}));
    for (const row of own) {
      const [value, from, to] = row.scores[key], mark = svg("circle", {cx: x(row, shift), cy: y(value), r: 4, fill: row.kind === "experiment" ? "none" : colour, stroke: colour, "stroke-width": 2});
      mark.append(svg("title", {}, `${model} at ${run(row)}: ${digits(value)} (${digits(from)} to ${digits(to)})`));
      drawn.append(svg("line", {x1: x(row, shift), x2: x(row, shift), y1: y(from), y2: y(to), stroke: colour, "stroke-opacity": 0.45, "stroke-width": 2}), mark);
    }
  });
  at("chart").replaceChildren(drawn);
}

function paired(one, other) {  // right answers on the same items: Agresti and Min (2005), as tasks/evaluate/statistics.py
  const n = one.length, gained = one.filter((right, place) => right > other[place]).length;
  const lost = one.filter((right, place) => right < other[place]).length;
  const total = n + 2, b = gained + 0.5, c = lost + 0.5, centre = (b - c) / total;
  const spread = 1.959963984540054 * Math.sqrt(b + c - (b - c) ** 2 / total) / total;
  return {n, gained, lost, value: (gained - lost) / n, low: Math.max(-1, centre - spread), high: Math.min(1, centre + spread)};
}

function compare() {
  at("compare").hidden = chosen.length !== 2;
  if (chosen.length !== 2) return;
  const [one, other] = chosen;
  at("pair").replaceChildren("A: ", el("b", {}, one.model), ` at ${run(one)} · B: `, el("b", {}, other.model), ` at ${run(other)}`);
  const lost = chosen.filter((row) => typeof row.answers !== "number");
  at("items").replaceChildren();
  at("more").hidden = true;
  at("items-count").textContent = at("verdicts").textContent = "";
  if (lost.length) {
    at("task").replaceChildren();
    at("items").replaceChildren(...lost.map((row) => el("p", {class: "bad"}, `${row.model} at ${run(row)}: ${row.answers ?? "only models scored on items (evaluate) have answers"}`)));
    return;
  }
  const [first, second] = [found.files[one.answers], found.files[other.answers]];
  const both = Object.keys(first).filter((question) => question in second);
  if (!both.length) { at("items").replaceChildren(el("p", {class: "bad"}, "They answered no item in common: the evaluation sets differ.")); return; }
  const tasks = [...new Set(both.map((question) => found.questions[question][0]))], before = at("task").value;
  at("task").replaceChildren(el("option", {value: ""}, "all"), ...tasks.map((name) => el("option", {value: name}, name)));
  at("task").value = tasks.includes(before) ? before : "";
  const lines = tasks.flatMap((name) => {
    const scored = both.filter((question) => found.questions[question][0] === name && first[question][1] !== null && second[question][1] !== null);
    if (!scored.length) return [];
    const told = paired(scored.map((question) => first[question][1]), scored.map((question) => second[question][1]));
    const sure = told.low > 0 ? "good" : told.high < 0 ? "bad" : "soft";
    return [el("span", {class: sure}, `${name}: A ${told.value >= 0 ? "+" : ""}${told.value.toFixed(3)} (${told.low.toFixed(3)} to ${told.high.toFixed(3)}), n=${told.n}`), el("br")];
  });
  at("verdicts").replaceChildren(el("span", {class: "soft"}, "Paired differences of right answers, 95 %: "), el("br"), ...lines);
  const which = at("which").value;
  const left = both.filter((question) => (!at("task").value || found.questions[question][0] === at("task").value) &&
    (which === "" || (which === "differ" ? first[question][1] !== second[question][1] : first[question][0] !== second[question][0])));
  at("items-count").textContent = `${left.length} of ${both.length} items both answered`;
  at("items").replaceChildren(...left.slice(0, shownItems).map((question) => item(found.questions[question], first[question], second[question])));
  at("more").hidden = left.length <= shownItems;
}

function item([task, id, prompt, target], ...answers) {
  const side = (name, [answer, right]) => el("div", {}, el("b", {class: right === 1 ? "good" : right === 0 ? "bad" : "soft"}, name + (right === 1 ? " ✓" : right === 0 ? " ✗" : "")), el("pre", {dir: "auto"}, answer));
  const node = el("article", {}, el("header", {}, el("b", {}, task), el("bdi", {}, id)));
  if (prompt) node.append(el("pre", {dir: "auto"}, prompt));
  if (target) node.append(el("div", {}, el("small", {class: "soft"}, "expected: "), el("bdi", {}, target)));
  node.append(el("div", {class: "beside"}, side("A", answers[0]), side("B", answers[1])));
  return node;
}

function follow() {  // the models of the chosen group
  const before = at("model").value, models = [...new Set(found.rows.filter((row) => row.group === at("group").value).map((row) => row.model))].sort();
  at("model").replaceChildren(el("option", {value: ""}, "all"), ...models.map((name) => el("option", {}, name)));
  at("model").value = models.includes(before) ? before : "";
}

at("group").replaceChildren(...found.groups.map((name) => el("option", {}, name)));
follow();
at("group").addEventListener("change", () => { sorted = {key: "", down: true}; chosen = []; follow(); draw(); });
for (const id of ["model", "kind", "newest"]) at(id).addEventListener("change", draw);
at("words").addEventListener("input", draw);
at("score").addEventListener("change", trend);
for (const id of ["task", "which"]) at(id).addEventListener("change", () => { shownItems = MOST; compare(); });
at("more").addEventListener("click", () => { shownItems += MOST; compare(); });
draw();

"use strict";
const {models, tasks, differences} = JSON.parse(document.getElementById("data").textContent);
const [task, model, beside, outcome, words, told, list, more] =
  ["task", "model", "beside", "outcome", "words", "told", "items", "more"].map((id) => document.getElementById(id));
const PAGE = 50;
const ALONE = {all: "all", right: "right", wrong: "wrong", dirty: "overlap with the training text"};
const BOTH = {all: "all", differ: "one right, one wrong", first: "only the first right", second: "only the second right",
  right: "both right", wrong: "both wrong", dirty: "overlap with the training text"};
let matching = [], shown = 0;

function element(name, text, kind) {
  const made = document.createElement(name);
  if (text !== undefined) made.textContent = text;
  if (kind) made.className = kind;
  return made;
}

function options(select, entries) {  // keeps what was chosen where it is still there
  const chosen = select.value;
  select.replaceChildren(...entries.map(([value, name]) => new Option(name, value)));
  select.value = chosen;
  if (select.selectedIndex < 0) select.selectedIndex = 0;
}

const bits = (item, name) => -item.m[name].a / Math.LN2 / item.bytes;
const promptOf = (item, name) => typeof item.p === "string" ? item.p : item.p[name] ?? "";

function fits(item) {
  const one = item.m[model.value], other = beside.value ? item.m[beside.value] : undefined;
  if (!one || (beside.value && !other)) return false;
  const right = {all: true, dirty: (one.o ?? 0) >= 0.2, right: one.r && (!other || other.r),
    wrong: one.r === 0 && (!other || other.r === 0), differ: other && one.r !== other.r,
    first: other && one.r > other.r, second: other && one.r < other.r}[outcome.value];
  const wanted = words.value.trim().toLowerCase();
  return right && (wanted === "" || JSON.stringify([promptOf(item, model.value), item.choices, item.target, one.a,
    other?.a, item.id, item.document]).toLowerCase().includes(wanted));
}

function answer(item, name) {
  const box = element("div"), found = item.m[name], about = [];
  const mark = found.r === undefined ? "" : found.r ? "✓ " : "✗ ";
  box.append(element("b", mark + name, found.r === undefined ? "" : found.r ? "good" : "bad"));
  if (item.bytes) {
    box.append(element("div", `${bits(item, name).toFixed(3)} bits per byte`));
  } else if (item.choices) {
    box.append(element("pre", item.choices.map((_, at) => `${at === found.a ? "→" : " "} ${at + 1}  ${
      found.s ? found.s[at].toFixed(2) : ""}`).join("\n")));
  } else {
    box.append(element("pre", String(found.a)));
  }
  if (typeof item.p !== "string") {
    const folded = element("details");
    folded.append(element("summary", "prompt as this model was asked", "about"), element("pre", item.p[name]));
    box.append(folded);
  }
  if (found.o !== undefined) about.push(`${(100 * found.o).toFixed(0)} % of the words in the training text`);
  if (found.k !== undefined) about.push(`min-k ${found.k.toFixed(2)}`);
  if (about.length) box.append(element("div", about.join(" · "), "about"));
  return box;
}

function drawn(item) {
  const box = element("article"), head = element("header"), both = element("div", undefined, "both");
  head.append(element("span", [item.id, item.language].filter(Boolean).join(" · ")),
    element("bdi", item.document ?? ""));
  box.append(head);
  if (typeof item.p === "string" && item.p) box.append(element("pre", item.p));
  if (item.choices) {
    const choices = element("ol");
    item.choices.forEach((text, at) => choices.append(element("li", text, at === item.target ? "target" : "")));
    box.append(choices);
    box.append(element("div", `right: ${item.target + 1}`, "about"));
  } else if (item.target !== undefined) {
    box.append(element("div", `right: ${item.target}`, "about"));
  }
  both.append(answer(item, model.value));
  if (beside.value) both.append(answer(item, beside.value));
  box.append(both);
  return box;
}

function signed(value, digits = 3) {
  return value === null ? "unknown" : (value < 0 ? "−" : "+") + Math.abs(value).toFixed(digits);
}

function summary() {
  const items = tasks[task.value].filter((item) => item.m[model.value] && (!beside.value || item.m[beside.value]));
  const score = (name) => items[0]?.bytes
    ? `${(items.reduce((sum, item) => sum - item.m[name].a, 0) / Math.LN2 /
        items.reduce((sum, item) => sum + item.bytes, 0)).toFixed(3)} bits per byte`
    : `${(items.reduce((sum, item) => sum + (item.m[name].r ?? 0), 0) / Math.max(1, items.length)).toFixed(3)} right`;
  const parts = [`${matching.length} of ${items.length} items`, `${model.value}: ${score(model.value)}`];
  if (beside.value) {
    parts.push(`${beside.value}: ${score(beside.value)}`);
    const there = differences[task.value][`${model.value}|${beside.value}`];
    const back = differences[task.value][`${beside.value}|${model.value}`];
    const found = there ?? (back && {...back, value: -back.value, low: back.high === null ? null : -back.high,
      high: back.low === null ? null : -back.low});
    if (found) {
      parts.push(`${items[0]?.bytes ? "bits per byte saved" : "difference"} ${signed(found.value)} (95 %: ${
        signed(found.low)} to ${signed(found.high)}; ${found.n} items show ${found.detectable.toFixed(3)} with 80 % power)`);
    }
  }
  told.textContent = parts.join(" · ");
}

function next() {
  list.append(...matching.slice(shown, shown + PAGE).map(drawn));
  shown = Math.min(shown + PAGE, matching.length);
  more.hidden = shown === matching.length;
  more.textContent = `${Math.min(PAGE, matching.length - shown)} more of ${matching.length - shown}`;
}

function filter() {
  options(outcome, Object.entries(beside.value ? BOTH : ALONE));
  matching = tasks[task.value].filter(fits);
  shown = 0;
  list.replaceChildren();
  summary();
  next();
  history.replaceState(null, "", "#" + new URLSearchParams({task: task.value, model: model.value, beside: beside.value,
    answers: outcome.value}));
}

function follow() {  // #task=pairs&model=scratch-chat&beside=scratch-int4&answers=differ
  const wanted = new URLSearchParams(location.hash.slice(1));
  options(outcome, Object.entries(wanted.get("beside") ? BOTH : ALONE));
  for (const [select, name] of [[task, "task"], [model, "model"], [beside, "beside"], [outcome, "answers"]]) {
    if (wanted.get(name) !== null) select.value = wanted.get(name);
    if (select.selectedIndex < 0) select.selectedIndex = 0;
  }
  filter();
}

options(task, Object.entries(tasks).map(([name, items]) => [name, `${name.replaceAll("_", " ")} (${items.length})`]));
options(model, models.map((name) => [name, name]));
options(beside, [["", "no other"], ...models.map((name) => [name, name])]);
if (models.length) {
  document.getElementById("filters").hidden = false;
  [task, model, beside, outcome].forEach((select) => select.addEventListener("change", filter));
  words.addEventListener("input", filter);
  more.addEventListener("click", next);
  addEventListener("hashchange", follow);
  follow();
}

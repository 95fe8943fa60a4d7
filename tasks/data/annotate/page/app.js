// The page's state and keys. Nothing is shown as answered before the server has it on disk.
import { agreementTables, chooser, content, el, keyTable, labelButtons, verdicts } from "/views.js";

const $ = (id) => document.getElementById(id);
const KEYS = [
  [["1", "…"], "give that label, go to the next unanswered item"], [["Enter"], "give the suggested label"],
  [["s"], "skip"], [["u"], "undo the last answer or skip"],
  [["j", "→"], "next item"], [["k", "←"], "previous item"],
  [["n"], "next item without an answer"], [["c"], "write a comment; Enter keeps it, Esc leaves it"],
  [["h"], "hide or show the pipeline's suggestion"], [["a", "r", "g"], "annotate, review disagreements, agreement"], [["?"], "this list"],
];
let state = null;          // of /api/state
let view = "annotate";
let at = 0;                // the item shown
let item = null;           // in full
let hidden = localStorage.getItem("hide-suggestion") === "yes";
let busy = false;          // a key pressed meanwhile would label an item not yet seen
let disputes = [];
let dispute = 0;
let sides = { first: null, second: null };
const drafts = new Map();  // item -> comment not yet sent

async function call(path, body) {
  const json = { "Content-Type": "application/json" };
  const options = body === undefined ? {} : { method: "POST", headers: json, body: JSON.stringify(body) };
  let answer;
  try {
    answer = await fetch(path, options);
  } catch {
    throw new Error("The server does not answer: start ./run annotate again; what was answered is kept.");
  }
  const read = await answer.json().catch(() => ({}));
  if (!answer.ok) throw new Error(read.error?.message ?? `the server answered ${answer.status}`);
  return read;
}

// Run one action at a time; its failure is said on the page, which stays as it was.
async function run(action) {
  if (busy) return;
  busy = true;
  document.body.setAttribute("aria-busy", "true");
  try {
    const told = await action();
    say(told ?? state?.progress.notices.join(" ") ?? "");
  } catch (error) {
    say(error.message);
  } finally {
    busy = false;
    document.body.removeAttribute("aria-busy");
  }
}

function say(text) {
  $("notice").textContent = text;
  $("notice").hidden = !text;
}

const query = (values) => `?${new URLSearchParams(values)}`;
const answered = (one) => one.answer !== null && one.answer.label !== null;

function unanswered(from) { // the first item without an answer at or after `from`, else from the start; -1
  const count = state.items.length;
  for (let step = 0; step < count; step++) {
    if (state.items[(from + step) % count].answer === null) return (from + step) % count;
  }
  return -1;
}

async function show(index) {
  if (item) keepDraft();
  const found = await call(`/api/item${query({ id: state.items[index].id })}`);
  [at, item] = [index, found];
  state.items[at].answer = item.answer;
  draw();
  scrollTo(0, 0);
}

function keepDraft() {
  const box = $("comment");
  if (!box || view !== "annotate") return;
  if (box.value !== (item.answer?.comment ?? "")) drafts.set(item.id, box.value); else drafts.delete(item.id);
}

function draw() {
  document.title = `${state.task} · Catena annotation`;
  $("task").textContent = state.task;
  $("who").textContent = state.annotator;
  const { answered: done, skipped, total } = state.progress;
  $("progress").max = total;
  $("progress").value = done + skipped;
  $("count").textContent = `${done} answered${skipped ? `, ${skipped} skipped` : ""} of ${total}`;
  for (const button of document.querySelectorAll("[data-view]")) {
    button.setAttribute("aria-current", button.dataset.view === view ? "page" : "false");
  }
  ({ annotate: drawItem, review: drawReview, agreement: drawAgreement })[view]();
}

function drawItem() {
  const left = unanswered(at);
  const place = el("p.quiet", {}, `Item ${at + 1} of ${state.items.length}. ${state.question}`,
    left < 0 ? el("strong", {}, " Every item is answered or skipped.") : null);
  $("main").replaceChildren(place, content(item));
  const shown = hidden ? null : item.suggestion.label;
  const why = hidden ? "Suggestion hidden" : `Pipeline: ${item.suggestion.why}${shown ? ` → ${shown}` : ""}`;
  const now = item.answer === null ? "" : answered(item) ? `Answered: ${item.answer.label}` : "Skipped";
  const draft = drafts.get(item.id) ?? item.answer?.comment ?? "";
  const comment = el("input#comment", { maxlength: 4000, placeholder: "Comment (c)", autocomplete: "off" });
  comment.setAttribute("aria-label", "Comment");
  comment.value = draft;
  comment.addEventListener("keydown", commentKey);
  const move = (text, key, onclick) => el("button", { type: "button", onclick }, `${text} `, el("kbd", {}, key));
  $("answers").replaceChildren(
    labelButtons(state.labels, item.answer?.label, shown, answer),
    el("div.moves", {}, comment, move("Skip", "s", skip), move("Undo", "u", undo), move("Back", "k", () => step(-1)),
      move("Next", "j", () => step(1))),
    el("div.quiet", {}, el("strong#now", {}, now), el("span#suggestion", {}, why),
      move(hidden ? "Show" : "Hide", "h", toggle)));
  $("answers").hidden = false;
}

function commentKey(event) {
  event.stopPropagation();
  if (event.isComposing) return; // an input method chooses characters by Enter too
  if (event.key === "Escape") {
    event.target.value = item.answer?.comment ?? "";
    $("main").focus();
  } else if (event.key === "Enter") {
    event.preventDefault();
    $("main").focus();
    if (answered(item)) run(() => send(item.answer.label, false));
  }
}

async function send(label, onward) {
  const comment = $("comment").value;
  const suggested = !hidden && item.suggestion.label !== null;
  const body = { item: item.id, comment, suggested };
  const found = label === null ? await call("/api/skip", body) : await call("/api/answer", { ...body, label });
  drafts.delete(item.id);
  taken(found);
  const next = onward ? unanswered(at) : -1;
  if (next >= 0) await show(next); else draw();
}

function taken(found) { // the server's word on an item
  state.progress = found.progress;
  if (!state.annotators.includes(state.annotator)) state.annotators.push(state.annotator);
  const one = state.items.find((other) => other.id === found.id);
  if (one) one.answer = found.answer;
  if (item.id === found.id) item.answer = found.answer;
}

const answer = (label) => run(() => send(label, true));
const skip = () => run(() => send(null, true));
const step = (by) => run(() => show(Math.min(state.items.length - 1, Math.max(0, at + by))));
const next = () => run(async () => { const found = unanswered(at); if (found >= 0) await show(found); });
const undo = () => run(async () => {
  const found = await call("/api/undo", {});
  if (found.id === null) return "Nothing to undo.";
  taken(found);
  return show(Math.max(0, state.items.findIndex((one) => one.id === found.id)));
});

function toggle() {
  keepDraft();
  hidden = !hidden;
  localStorage.setItem("hide-suggestion", hidden ? "yes" : "no");
  draw();
}

// two annotators

function choose() { // sensible sides where none are chosen: this annotator and another, else the pipeline
  const names = [...state.annotators, "pipeline"];
  if (!names.includes(sides.first)) sides.first = names.includes(state.annotator) ? state.annotator : names[0];
  if (!names.includes(sides.second) || sides.second === sides.first) {
    sides.second = names.find((name) => name !== sides.first) ?? "pipeline";
  }
  return names;
}

const picker = () => chooser(choose(), sides.first, sides.second, (side, name) => {
  sides = { ...sides, [side]: name };
  if (sides.first === sides.second) sides[side === "first" ? "second" : "first"] = null;
  open(view);
});

let agreement = null;

function drawAgreement() {
  $("answers").hidden = true;
  $("main").replaceChildren(picker(), agreementTables(agreement, state.labels),
    el("p", {}, el("a", { href: "/api/export", download: `${state.task}.jsonl` },
      "Export what training reads (jsonl)")));
}

function drawReview() {
  const one = disputes[dispute];
  if (!one) {
    $("answers").hidden = true;
    const none = `${sides.first} and ${sides.second} differ on no item that both labelled.`;
    $("main").replaceChildren(picker(), el("p", {}, none));
    return;
  }
  const settled = disputes.filter((other) => other.adjudicated).length;
  const text = el("p.quiet", {},
    `Disagreement ${dispute + 1} of ${disputes.length}; ${settled} adjudicated. ${state.question}`);
  const both = verdicts(one, [sides.first, sides.second]);
  $("main").replaceChildren(picker(), text, both, content(item));
  const move = (name, key, by) => el("button", { type: "button", onclick: () => turn(by) },
    `${name} `, el("kbd", {}, key));
  const now = one.adjudicated ? `Adjudicated: ${one.adjudicated.label} (${one.adjudicated.by})` : "Not adjudicated";
  $("answers").replaceChildren(labelButtons(state.labels, one.adjudicated?.label, null, settle),
    el("div.moves", {}, move("Back", "k", -1), move("Next", "j", 1), el("strong#now", {}, now)));
  $("answers").hidden = false;
}

const settle = (label) => run(async () => {
  const found = await call("/api/adjudicate", { item: item.id, label });
  disputes[dispute].adjudicated = found.adjudicated;
  const open = disputes.findIndex((one) => !one.adjudicated);
  if (open >= 0) await showDispute(open); else draw();
});
const turn = (by) => run(() => showDispute(Math.min(disputes.length - 1, Math.max(0, dispute + by))));

async function showDispute(index) {
  item = await call(`/api/item${query({ id: disputes[index].id })}`);
  item.answer = null; // no side is marked as ours
  dispute = index;
  draw();
  scrollTo(0, 0);
}

const open = (name) => run(async () => {
  if (view === "annotate" && item) keepDraft();
  const fresh = await call("/api/state");
  if (name === "annotate") {
    [state, view, item] = [fresh, name, null];
    await show(at);
    return;
  }
  state = fresh;
  choose();
  if (name === "agreement") {
    agreement = await call(`/api/agreement${query(sides)}`);
    view = name;
    draw();
    scrollTo(0, 0);
    return;
  }
  disputes = (await call(`/api/disagreements${query(sides)}`)).items;
  view = name;
  const first = disputes.findIndex((one) => !one.adjudicated);
  if (disputes.length) await showDispute(Math.max(0, first)); else draw();
});

// keys

const moves = (go) => ({ j: () => go(1), k: () => go(-1), ArrowRight: () => go(1), ArrowLeft: () => go(-1) });

function key(event) {
  if (event.repeat || event.ctrlKey || event.metaKey || event.altKey || !state || $("keys").open) return;
  if (event.target.closest("input, select, textarea")) return;
  if (event.key === "Enter" && event.target.closest("button, a, summary")) return;
  const labels = state.labels.map((label) => label.name);
  const actions = { a: () => open("annotate"), r: () => open("review"), g: () => open("agreement"), "?": help };
  const label = /^[1-9]$/.test(event.key) ? labels[event.key - 1] : undefined;
  if (view === "annotate") {
    Object.assign(actions, { s: skip, u: undo, n: next, h: toggle, c: () => $("comment").focus() }, moves(step));
    if (label) actions[event.key] = () => answer(label);
    if (!hidden && item?.suggestion.label) actions.Enter = () => answer(item.suggestion.label);
  } else if (view === "review" && disputes.length) {
    Object.assign(actions, moves(turn));
    if (label) actions[event.key] = () => settle(label);
  }
  const action = Object.hasOwn(actions, event.key) ? actions[event.key] : null;
  if (!action) return;
  event.preventDefault();
  action();
}

function help() {
  $("keys").replaceChildren(keyTable(KEYS));
  $("keys").showModal();
}

document.addEventListener("keydown", key);
$("help").addEventListener("click", help);
for (const button of document.querySelectorAll("[data-view]")) {
  button.addEventListener("click", () => open(button.dataset.view));
}
document.addEventListener("visibilitychange", () => { // another page of the same annotator may have answered meanwhile
  if (document.visibilityState !== "visible" || !item || view !== "annotate") return;
  run(async () => {
    keepDraft();
    state = await call("/api/state");
    item.answer = state.items[at].answer;
    draw();
  });
});
addEventListener("beforeunload", (event) => { // a comment typed but not sent
  if (view === "annotate" && item) keepDraft();
  if (drafts.size) event.preventDefault();
});
run(async () => {
  state = await call("/api/state");
  const first = unanswered(0);
  await show(Math.max(0, first));
});

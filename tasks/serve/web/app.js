// The page's state and what is done to it: conversations, columns, turns, keys.
import { follow, task, word } from "./agent.js";
import { models } from "./api.js";
import { download, el } from "./dom.js";
import { asJson, asMarkdown, asText, fileName } from "./export.js";
import { fields, keyForm, open as openSheet } from "./settings.js";
import { $, announce, copyButton, dress, fit, narrow, nextLanguage, nextTheme, say, side } from "./shell.js";
import { MOST_COLUMNS, all, begun, forget, fresh, imported, isOurs, keep, KNOBS } from "./store.js";
import { begunAnswer, body, messages, patient, shown, told, tools } from "./talk.js";
import { toggle } from "./trace.js";
import { drawCell, drawColumns, drawList, drawTurn, keyTable } from "./view.js";
import { remedy, t } from "./words.js";

const KEEP_EVERY = 2000;   // ms between two savings of an answer that is being written
const OPEN = "catena-chat-open", KEY = "catena-chat-key"; // in sessionStorage: this tab's own

let served = [];           // the models behind this port
let [traces, agents] = [false, false]; // whether it has an index of the training documents, an agent
let list = all();          // every conversation, the latest first
let now = list.find((one) => one.id === sessionStorage.getItem(OPEN)) ?? list[0] ?? begun(null, "");
let editing = null;        // the turn whose message is being edited
let savedAt = 0;
const runs = new Map();    // answer being written -> {conversation, controller}
const gone = new WeakSet(); // conversations deleted: an answer that ends later does not bring them back
const dirty = new Map();   // cell to draw in the next frame -> what draws it

const key = () => sessionStorage.getItem(KEY) ?? "";
const running = (conversation = now) => [...runs.values()].some((run) => run.conversation === conversation);
const last = () => now.turns.at(-1);

function save(conversation = now) {
  if (!conversation.turns.length || gone.has(conversation)) return;
  conversation.updated = Date.now();
  if (!list.includes(conversation)) list.unshift(conversation);
  try {
    keep(conversation);
  } catch {
    say(t("full"));
  }
}

// drawing

function draw() {
  dress();
  const empty = el("div.empty", {}, el("h1", {}, t("empty")), el("p.quiet", {}, t("emptyHint")));
  const parts = now.turns.map((_, at) => drawTurn(now, at, turnActs));
  $("main").replaceChildren(...(parts.length ? parts : [empty]));
  for (const turn of now.turns) {
    for (const column of now.columns) drawCell(cell(turn, column), turn, column.id, acts(turn, column));
  }
  drawFrame();
  $("main").scrollTop = $("main").scrollHeight;
}

function drawFrame() { // all but the turns
  $("list").replaceChildren(...drawList(list, now.id, open, remove));
  $("columns").replaceChildren(...drawColumns(now.columns, served, columnActs));
  Object.assign($("agent"), { hidden: !agents, ariaPressed: String(now.agent), title: t("agentHint") });
  $("add").disabled = now.columns.length >= MOST_COLUMNS;
  drawBusy();
  for (const id of ["json", "markdown"]) $(id).disabled = !now.turns.length;
  $("everything").disabled = !list.length;
}

function drawBusy() { // Send or Stop, whichever has a use; the focus goes over from one to the other
  const [busy, held] = [running(), document.activeElement];
  $("send").hidden = busy;
  $("stop").hidden = !busy;
  if (busy && held === $("send")) $("stop").focus();
  if (!busy && held === $("stop")) $("prompt").focus();
}

const cell = (turn, column) => $("main").querySelector(
  `[data-turn="${CSS.escape(turn.id)}"] [data-column="${CSS.escape(column.id)}"]`);

function drawSoon(conversation, turn, column) {
  if (!dirty.size) requestAnimationFrame(drawDirty);
  dirty.set(`${turn.id} ${column.id}`, () => {
    const place = conversation === now && cell(turn, column);
    if (place) drawCell(place, turn, column.id, acts(turn, column));
  });
}

function drawDirty() {
  const main = $("main");
  const pinned = main.scrollHeight - main.scrollTop - main.clientHeight < 60;
  for (const one of dirty.values()) one();
  dirty.clear();
  if (pinned) main.scrollTop = main.scrollHeight;
}

// answers

async function reply(conversation, column, turn, answer = null) {
  if (answer === null) {
    answer = begunAnswer(column);
    const tries = turn.answers[column.id] ??= { at: 0, versions: [] };
    tries.at = tries.versions.push(answer) - 1;
  }
  Object.assign(answer, { state: "running", error: null });
  const controller = new AbortController();
  const changed = () => {
    drawSoon(conversation, turn, column);
    if (performance.now() - savedAt < KEEP_EVERY) return;
    savedAt = performance.now();
    save(conversation);
  };
  runs.set(answer, { conversation, controller });
  drawBusy();
  changed();
  try {
    const history = messages(conversation, column.id, conversation.turns.indexOf(turn), answer);
    const [ask, made] = conversation.agent && agents ? [follow, task] : [patient, body];
    await ask(answer, made(conversation, column, history), key(), controller.signal, changed);
  } catch (error) {
    answer.state = error.name === "AbortError" ? "stopped" : "error";
    if (answer.state === "error") answer.error = told(error);
  }
  delete answer.wait;
  runs.delete(answer);
  save(conversation);
  changed();
  drawBusy();
  if (answer.error?.status === 401) askKey();
  announce(answer.error ? t("failed", { name: answer.model, text: remedy(answer.error).text })
    : t("finished", { name: answer.model, text: asText(answer).slice(0, 300) }));
}

function again(turn, column) { // after an error: go on where nothing was said yet, else answer anew
  const answer = shown(turn, column.id);
  const step = answer?.steps.at(-1);
  const clean = answer && !now.agent && (!step || step.calls.some((call) => call.result !== null));
  reply(now, column, turn, clean ? answer : null);
}

async function allow(call, yes) {
  try {
    await word(call, yes, key());
  } catch (error) {
    say(remedy(told(error)).text);
  }
  $("prompt").focus();
}

async function sources(answer, turn, column) {
  announce(await toggle(answer, key(), () => drawSoon(now, turn, column)));
}

function regenerate() {
  if (last() && !running()) for (const column of now.columns) reply(now, column, last());
}

function resume(turn, column) {
  const answer = shown(turn, column.id);
  const typed = [...cell(turn, column).querySelectorAll("textarea.result")];
  for (const call of answer.steps.at(-1).calls) call.result ??= typed.shift()?.value ?? "";
  reply(now, column, turn, answer);
  $("prompt").focus();
}

function abort(conversation) {
  for (const run of runs.values()) if (run.conversation === conversation) run.controller.abort();
}

function send() {
  const text = $("prompt").value.trim();
  if (!text) return;
  if (running()) {
    say(t("wait"));
    return;
  }
  try {
    tools(now.tools);
  } catch (error) {
    say(t("badTools", { why: error.message }), "settings", () => settings());
    return;
  }
  say();
  if (editing !== null) {
    const [conversation, at] = [now, editing];
    const before = conversation.turns.splice(at);
    say(t("replaced"), "undo", () => {
      abort(conversation);
      conversation.turns.splice(at, Infinity, ...before);
      save(conversation);
      draw();
    });
    editing = null;
  }
  now.title ||= text.replace(/\s+/g, " ").slice(0, 60);
  now.turns.push({ id: fresh(), text, answers: Object.create(null) });
  $("prompt").value = "";
  fit($("prompt"));
  save();
  list.sort((a, b) => b.updated - a.updated);
  draw();
  for (const column of now.columns) reply(now, column, last());
}

function edit(at) {
  editing = at;
  $("prompt").value = at === null ? "" : now.turns[at].text;
  fit($("prompt"));
  say(...(at === null ? [] : [t("editing", { n: at + 1 }), "cancel", () => edit(null)]));
  drawFrame();
  $("prompt").focus();
}

// what the drawn parts may do

const turnActs = { copy: copyButton, edit };
const codeTools = (text) => copyButton(() => text);
const acts = (turn, column) => ({
  codeTools, copyAnswer: (answer) => copyButton(() => asText(answer)),
  again: () => again(turn, column), regenerate: () => reply(now, column, turn), key: () => askKey(),
  settings: () => settings(now.columns.indexOf(column)), allow, resume: () => resume(turn, column),
  trace: traces && ((answer) => sources(answer, turn, column)),
  stop: () => runs.get(shown(turn, column.id))?.controller.abort(),
  resultKey: (event) => {
    if (event.key !== "Enter" || event.shiftKey || event.isComposing || event.keyCode === 229) return;
    event.preventDefault();
    resume(turn, column);
  },
  turn: (by) => {
    turn.answers[column.id].at += by;
    save();
    drawSoon(now, turn, column);
  },
});

const columnActs = {
  model: (at, name) => { now.columns[at].model = name; changedColumns(); },
  settings: (at) => settings(at),
  remove: (at) => { now.columns.splice(at, 1); changedColumns(); },
};

function changedColumns() {
  save();
  draw();
}

function addColumn() {
  const taken = now.columns.map((column) => column.model);
  const name = served.find((model) => !taken.includes(model.id))?.id ?? taken.at(-1);
  const like = taken.includes(name) ? now.columns.at(-1).settings : {};
  now.columns.push({ id: fresh(), model: name, settings: structuredClone(like) });
  changedColumns();
}

function settings(at = null) {
  const title = now.title;
  openSheet($("sheet"), t("settings"), fields(now, served, () => save()), () => {
    if (title !== now.title) list.sort((a, b) => b.updated - a.updated);
    drawFrame();
  });
  if (at !== null && at >= 0) {
    $(`knobs-${at}`).scrollIntoView({ block: "start" });
    $(`knob-${at}-${Object.keys(KNOBS)[0]}`).focus();
  }
}

function askKey() {
  if ($("sheet").open) return;
  openSheet($("sheet"), t("key"), keyForm(key(), $("sheet"), async (given) => {
    sessionStorage.setItem(KEY, given);
    await meet();
    for (const turn of now.turns) {
      for (const column of now.columns) if (shown(turn, column.id)?.error?.status === 401) again(turn, column);
    }
  }));
  $("api-key").focus();
}

// conversations

function open(id) {
  now = list.find((one) => one.id === id) ?? now;
  sessionStorage.setItem(OPEN, now.id);
  edit(null);
  if (narrow()) side(false);
  draw();
}

function begin() {
  now = begun(now, served[0]?.id ?? "");
  say();
  edit(null);
  if (narrow()) side(false);
  draw();
}

function remove(id) {
  const one = list.find((other) => other.id === id);
  abort(one);
  list = list.filter((other) => other !== one);
  gone.add(one);
  forget(id);
  if (now === one) now = list[0] ?? begun(one, served[0]?.id ?? "");
  edit(null);
  draw();
  say(t("deleted", { name: one.title || t("untitled") }), "undo", () => {
    gone.delete(one);
    now = one;
    save();
    list.sort((a, b) => b.updated - a.updated);
    draw();
  });
}

async function bring(file) {
  try {
    const found = imported(await file.text());
    list = [...found, ...list];
    for (const one of found) keep(one);
    open(found[0]?.id);
    say(t("imported", { n: found.length }));
  } catch (error) {
    say(error.name === "QuotaExceededError" ? t("full") : t("badFile", { name: file.name, why: error.message }));
  }
}

// Ask who is served; columns without a model take the first.
async function meet() {
  try {
    const had = traces;
    ({ served, traces, agents } = await models(key()));
    if (traces !== had) draw();
    for (const column of now.columns) column.model ||= served[0]?.id ?? "";
    say();
  } catch (error) {
    if (error.status === 401) askKey();
    else say(remedy(told(error)).text, "again", meet);
  }
  drawFrame();
}

// keys

function promptKey(event) {
  if (event.isComposing || event.keyCode === 229) return; // Enter chooses characters of an input method
  if (event.key === "Enter" && !event.shiftKey) {
    event.preventDefault();
    send();
  } else if (event.key === "ArrowUp" && !$("prompt").value && now.turns.length && !running()) {
    event.preventDefault();
    edit(now.turns.length - 1);
  }
}

function pageKey(event) {
  if (event.isComposing || event.repeat || event.ctrlKey || event.metaKey || event.altKey || $("sheet").open) return;
  if (event.key === "Escape") {
    if (running()) abort(now);
    else if (editing !== null) edit(null);
    else if (narrow()) side(false);
    return;
  }
  if (event.target.closest("input, select, textarea")) return;
  const actions = { "/": () => $("prompt").focus(), n: begin, r: regenerate, s: () => settings(), m: sidePanel,
    d: nextTheme, "?": help, c: () => press(".copy"), t: () => press(".sources") };
  if (!Object.hasOwn(actions, event.key)) return;
  event.preventDefault();
  actions[event.key]();
}

const press = (button) => [...$("main").querySelectorAll(`.foot ${button}`)].at(-1)?.click(); // of the last answer
const sidePanel = () => side($("side").hidden);
const help = () => openSheet($("sheet"), t("keys"), keyTable());

for (const [id, act] of Object.entries({
  agent: () => { now.agent = !now.agent; save(); drawFrame(); },
  new: begin, menu: sidePanel, add: addColumn, settings: () => settings(), stop: () => abort(now), help, key: askKey,
  theme: nextTheme, language: () => { nextLanguage(); draw(); }, import: () => $("file").click(),
  json: () => download(fileName(now, "json"), "application/json", asJson([now])),
  markdown: () => download(fileName(now, "md"), "text/markdown", asMarkdown(now)),
  everything: () => download("catena-chats.json", "application/json", asJson(list)),
})) $(id).addEventListener("click", act);
$("file").addEventListener("change", async () => {
  for (const file of $("file").files) await bring(file);
  $("file").value = "";
});
$("composer").addEventListener("submit", (event) => { event.preventDefault(); send(); });
$("prompt").addEventListener("keydown", promptKey);
$("prompt").addEventListener("input", () => fit($("prompt")));
document.addEventListener("keydown", pageKey);
addEventListener("pagehide", () => { if (running()) save(); });
addEventListener("storage", (event) => { // another tab of this page
  if (!isOurs(event.key) || runs.size || editing !== null) return;
  list = all();
  now = list.find((one) => one.id === now.id) ?? now;
  draw();
});

side(!narrow());
draw();
await meet();
document.body.removeAttribute("aria-busy");
if (!$("sheet").open) $("prompt").focus();

// What is drawn of a conversation, from its data alone.
import { drawOutcome } from "./agent.js";
import { el, safe } from "./dom.js";
import { render } from "./markdown.js";
import { shown } from "./talk.js";
import { drawTrace, traced } from "./trace.js";
import { remedy, t } from "./words.js";

const button = (name, onclick) => el("button.small", { type: "button", onclick }, t(name));
const sign = (text, label, onclick, disabled = false) => el("button.small",
  { type: "button", "aria-label": label, title: label, onclick, disabled }, text);
const figure = (value, digits) => value.toLocaleString("en", { maximumFractionDigits: digits });

// A turn: the user's message and a cell for each column. `acts` are the page's actions.
export function drawTurn(conversation, at, acts) {
  const turn = conversation.turns[at];
  const several = conversation.columns.length > 1;
  const said = el("div.said", { dir: "auto" }, safe(turn.text));
  const own = el("div.user", {}, el("h2.unseen", {}, t("you")), said,
    el("div.acts", {}, acts.copy(() => turn.text), button("edit", () => acts.edit(at))));
  const grid = el("div.answers", { "data-columns": conversation.columns.length },
    ...conversation.columns.map((column) => el("article", { "data-column": column.id, "aria-label": column.model },
      el(several ? "h3.model" : "h3.unseen"), el("div.body"), el("section.trace", { hidden: true }), el("div.foot"))));
  return el("section.turn", { "data-turn": turn.id }, own, grid);
}

// Bring a column's cell up to date with its answer; what has not changed keeps its nodes.
export function drawCell(cell, turn, column, acts) {
  const tries = turn.answers[column];
  const [body, foot] = [cell.querySelector(".body"), cell.querySelector(".foot")];
  const answer = shown(turn, column);
  drawTrace(cell.querySelector(".trace"), answer);
  cell.querySelector("h3").replaceChildren(safe(answer ? named(answer) : cell.getAttribute("aria-label")));
  if (!answer) {
    body.replaceChildren(el("p.quiet", {}, t("notAsked")));
    foot.replaceChildren(button("ask", acts.again));
    return;
  }
  if (body.answer !== answer) {
    body.replaceChildren();
    body.answer = answer;
  }
  cell.setAttribute("aria-busy", String(answer.state === "running"));
  while (body.children.length > answer.steps.length) body.lastChild.remove();
  for (const [at, step] of answer.steps.entries()) {
    if (!body.children[at]) body.append(el("div.step", {}, el("div.thought"), el("div.text"), el("div.calls")));
    drawStep(body.children[at], step, answer, acts, at === answer.steps.length - 1);
  }
  const bare = !answer.steps.some((step) => step.content || step.calls.length || step.reasoning);
  const line = foot.answer === answer && answer.state === "running" && foot.querySelector(".stats");
  if (line) { // its button stays: one that is replaced between press and release cannot be clicked
    line.textContent = running(answer, bare);
    return;
  }
  const held = [...foot.querySelectorAll("button")].indexOf(document.activeElement);
  foot.replaceChildren(...drawFoot(answer, tries, bare, acts));
  foot.answer = answer.state === "running" ? answer : null;
  if (held >= 0) {
    const buttons = [...foot.querySelectorAll("button")];
    (buttons[held]?.disabled === false ? buttons[held] : buttons.find((one) => !one.disabled)).focus();
  }
}

const running = (answer, bare) => (
  answer.wait ? t("busy", { s: answer.wait }) : bare ? t("waiting") : measures(answer));

// A model and the temperature it was asked at: two columns may differ in that alone.
const named = ({ model, settings }) => (
  settings.temperature === undefined ? model : `${model} · T ${settings.temperature}`);

function drawStep(node, step, answer, acts, last) {
  const [thought, text, calls] = node.children;
  if (step.reasoning) {
    if (!thought.firstChild) {
      thought.append(el("details", { open: answer.state === "running" }, el("summary.quiet", {}, t("reasoning")),
        el("div", {})));
    }
    render(thought.querySelector("details > div"), step.reasoning, acts.codeTools);
  }
  render(text, step.content, acts.codeTools);
  const waits = last && answer.state === "asks";
  for (const [at, call] of step.calls.entries()) {
    const open = waits && call.result === null;
    let box = calls.children[at];
    if (!box || box.open !== open || box.result !== call.result || box.asks !== call.asks) {
      const made = drawCall(call, open, acts);
      if (box) box.replaceWith(made); else calls.append(made);
      box = made;
    }
    box.querySelector(".name").replaceChildren(safe(t("tool", { name: call.name })));
    box.querySelector("code").replaceChildren(safe(call.arguments));
  }
  const form = node.querySelector(".resume");
  if (waits && !form) node.append(el("div.resume", {}, el("p.quiet", {}, t("asks")), button("resume", acts.resume)));
  if (!waits) form?.remove();
}

function drawCall(call, open, acts) {
  const label = t("result", { name: call.name });
  const hint = t("resultHint");
  const answer = open
    ? el("textarea.result", { rows: 2, "aria-label": label, placeholder: hint, onkeydown: acts.resultKey })
    : drawOutcome(call, acts);
  const box = el("div.call", {}, el("strong.name"), el("pre", { tabindex: "0" }, el("code")), answer);
  return Object.assign(box, { open, result: call.result, asks: call.asks });
}

function drawFoot(answer, tries, bare, acts) {
  if (answer.state === "running") {
    return [el("span.stats", {}, running(answer, bare)), el("span.acts", {}, button("stopOne", acts.stop))];
  }
  const parts = [];
  if (answer.error) {
    const { text, action } = remedy(answer.error);
    const name = { key: "enterKey", again: "again", settings: "settings" }[action];
    parts.push(el("p.wrong", {}, safe(text), " ", name ? button(name, acts[action]) : null));
  } else if (bare && answer.state === "done") parts.push(el("p.quiet", {}, t("noContent")));
  const line = measures(answer);
  if (line) parts.push(el("span.stats", {}, line));
  const [at, of] = [tries.at + 1, tries.versions.length];
  const versions = of === 1 ? [] : [sign("‹", t("earlier"), () => acts.turn(-1), at === 1),
    el("span.quiet", { title: t("version", { at, of }) }, `${at}/${of}`),
    sign("›", t("later"), () => acts.turn(1), at === of)];
  const sources = bare || !acts.trace ? null : el("button.small.sources", { type: "button",
    "aria-expanded": String(traced(answer)), onclick: () => acts.trace(answer) }, t("trace"));
  parts.push(el("span.acts", {}, ...versions, bare ? null : acts.copyAnswer(answer), sources,
    button("regenerate", acts.regenerate)));
  return parts;
}

// The line of measured times under an answer.
function measures({ stats, state, steps }) {
  const parts = [];
  if (stats) {
    if (stats.first !== null) parts.push(t("first", { ms: figure(stats.first, 0) }));
    if (stats.rate) parts.push(t("rate", { rate: figure(stats.rate, 1) }));
    if (stats.tokens) parts.push(t("tokens", { n: figure(stats.tokens, 0) }));
    parts.push(t("seconds", { s: figure(stats.total / 1000, 1) }));
  }
  if (state === "stopped") parts.push(t("stopped"));
  if (steps.at(-1)?.finish === "length") parts.push(t("cut"));
  return parts.join(" · ");
}

// The list of conversations.
export function drawList(conversations, current, open, remove) {
  return conversations.map((one) => {
    const name = one.title || t("untitled");
    const here = one.id === current ? "page" : "false";
    const entry = { type: "button", title: name, "aria-current": here, onclick: () => open(one.id) };
    return el("li", {}, el("button.entry", entry, safe(name)),
      sign("×", t("deleteOne", { name }), () => remove(one.id)));
  });
}

// The chosen models: one picker each.
export function drawColumns(columns, served, acts) {
  return columns.map((column, at) => {
    const names = served.map((model) => model.id);
    const label = t("model", { n: at + 1 });
    const options = names.includes(column.model) ? names : [column.model, ...names];
    const select = el("select", { "aria-label": label, onchange: (event) => acts.model(at, event.target.value) },
      ...options.map((name) => el("option", { value: name, selected: name === column.model },
        names.includes(name) ? name : t("gone", { name }))));
    const { temperature } = column.settings;
    return el("div.column", {}, select,
      sign(temperature === undefined ? "T –" : `T ${temperature}`, `${t("settings")}: ${label}`,
        () => acts.settings(at)),
      columns.length > 1 ? sign("×", t("removeModel", { name: label }), () => acts.remove(at)) : null);
  });
}

// The list of keys.
export function keyTable() {
  const rows = [["Enter", "keySend"], ["Shift+Enter", "keyLine"], ["Esc", "keyStop"], ["↑", "keyLast"],
    ["/", "keyFocus"], ["n", "keyNew"], ["r", "keyRegenerate"], ["c", "keyCopy"], ["t", "keyTrace"],
    ["s", "keySettings"], ["m", "keyMenu"], ["d", "keyTheme"], ["?", "keyHelp"]];
  const lines = rows.flatMap(([key, what]) => [el("dt", {}, el("kbd", {}, key)), el("dd", {}, t(what))]);
  return [el("dl", {}, ...lines), el("p.quiet", {}, t("keyOutside"))];
}

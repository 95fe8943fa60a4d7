// The sheets: settings of the conversation and its columns, the API key, the list of keys. One <dialog> holds them.
import { el } from "./dom.js";
import { BUDGET } from "./agent.js";
import { KNOBS } from "./store.js";
import { t } from "./words.js";

// Show `parts` in the dialog under a title; `done` runs when it is closed.
export function open(sheet, title, parts, done = () => {}) {
  const close = el("button.first", { type: "button", onclick: () => sheet.close() }, t("close"));
  sheet.replaceChildren(el("div.head", {}, el("h2#sheet-title", {}, title), close), ...parts);
  sheet.onclose = done;
  sheet.showModal();
}

// The fields of a conversation; every change goes to the data at once and `changed` is called.
export function fields(conversation, served, changed) {
  const line = (name, key, hint, rows) => {
    const field = el(rows ? "textarea" : "input", {
      id: `field-${key}`, rows, spellcheck: key === "tools" ? "false" : null,
      oninput: (event) => { conversation[key] = event.target.value; changed(); } });
    field.value = conversation[key];
    return el("label.field", {}, t(name), field, hint ? el("small.quiet", {}, t(hint)) : null);
  };
  return [line("name", "title"), line("system", "system", null, 3),
    ...conversation.columns.map((column, at) => columnFields(column, at, served, changed)),
    line("tools", "tools", "toolsHint", 4), budgetFields(conversation, changed), el("p.quiet", {}, t("all"))];
}

function budgetFields(conversation, changed) {
  const knobs = Object.entries(BUDGET).map(([name, [least, most, usual]]) => {
    const field = el("input", { id: `budget-${name}`, type: "number", min: least, max: most, placeholder: usual,
      inputmode: "numeric", oninput: () => {
        const off = field.value !== "" && !(field.valueAsNumber >= least && field.valueAsNumber <= most);
        field.setCustomValidity(off ? t("outside", { name: t(`${name}Most`), least, most }) : "");
        field.reportValidity();
        if (off) return;
        if (field.value === "") delete conversation.budget[name]; else conversation.budget[name] = field.valueAsNumber;
        changed();
      } });
    field.value = conversation.budget?.[name] ?? "";
    return el("label.field", {}, t(`${name}Most`), field);
  });
  conversation.budget ??= {};
  return el("fieldset", {}, el("legend", {}, t("agentBudget")), el("div.knobs", {}, ...knobs));
}

function columnFields(column, at, served, changed) {
  const { context, digest } = served.find((model) => model.id === column.model) ?? {};
  const knobs = Object.entries(KNOBS).map(([name, kind]) => knob(column, at, name, kind, changed));
  return el("fieldset", { id: `knobs-${at}` },
    el("legend", {}, `${t("model", { n: at + 1 })}: ${column.model}`),
    context ? el("p.quiet", { title: digest }, t("context", { n: context.toLocaleString("en") }),
      digest ? ` · ${digest.slice(0, 19)}` : null) : null,
    el("div.knobs", {}, ...knobs));
}

function knob(column, at, name, [kind, least, ...rest], changed) {
  const id = `knob-${at}-${name}`;
  const words = t(name === "stop" ? "stopAt" : name);
  const set = (value) => {
    if (value === "" || value === null) delete column.settings[name]; else column.settings[name] = value;
    changed();
  };
  let field;
  if (kind === "choice") {
    field = el("select", { id, onchange: () => set(field.value) }, el("option", { value: "" }, t("default")),
      ...[least, ...rest].map((one) => el("option", { value: one }, one)));
  } else if (kind === "text") {
    field = el("textarea", { id, rows: 1, oninput: () => set(field.value) });
  } else {
    const [most, step] = rest;
    const whole = step >= 1;
    field = el("input", {
      id, type: "number", min: least, max: most, step: whole ? step : "any", inputmode: whole ? "numeric" : "decimal",
      placeholder: t("default"), oninput: () => {
        const off = field.value !== "" && !(field.valueAsNumber >= least && field.valueAsNumber <= most);
        field.setCustomValidity(off ? t("outside", { name: words, least, most }) : "");
        field.reportValidity();
        if (field.validity.valid) set(field.value === "" ? null : field.valueAsNumber);
      } });
  }
  field.value = column.settings[name] ?? "";
  return el("label.field", {}, words, field);
}

// A form for the API key; `taken` gets it.
export function keyForm(known, sheet, taken) {
  const field = el("input#api-key", { type: "password", autocomplete: "off", spellcheck: "false" });
  field.value = known;
  const form = el("form", { onsubmit: (event) => {
    event.preventDefault();
    taken(field.value.trim());
    sheet.close();
  } }, el("p", {}, t("keyAsk")), el("label.field", {}, t("key"), field),
  el("button.first", { type: "submit" }, t("save")));
  return [form];
}

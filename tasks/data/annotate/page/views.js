// What is drawn, from data alone. Text of documents enters the page as text nodes only, never as HTML.

// control, bidirectional, zero-width and tag characters; not the joiners that emoji and Indic scripts need
const CONTROLS = new RegExp("([\\u0000-\\u0008\\u000b\\u000c\\u000e-\\u001f\\u007f-\\u009f\\u00ad\\u061c\\u200b" +
  "\\u200e\\u200f\\u2028-\\u202e\\u2060-\\u2069\\ufeff\\ufff9-\\ufffb\\u{e0000}-\\u{e007f}])", "u");
const CHUNK = 2000; // characters laid out together

// An element: el("p.quiet#x", {attribute: value, onclick}, ...children); children are nodes or texts.
export function el(kind, options = {}, ...children) {
  const [, tag, rest] = kind.match(/^(\w+)(.*)$/);
  const made = document.createElement(tag);
  for (const [, sign, name] of rest.matchAll(/([.#])([\w-]+)/g)) {
    if (sign === ".") made.classList.add(name); else made.id = name;
  }
  for (const [name, value] of Object.entries(options)) {
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else if (value === true) made.setAttribute(name, "");
    else if (value !== false && value !== null && value !== undefined) made.setAttribute(name, value);
  }
  made.append(...children.filter((child) => child !== null && child !== undefined));
  return made;
}

// A hostile text as nodes: characters that reorder or hide text are shown by their numbers.
export function safe(text) {
  const nodes = document.createDocumentFragment();
  for (const [at, part] of text.split(CONTROLS).entries()) {
    if (at % 2) {
      const code = part.codePointAt(0).toString(16).toUpperCase().padStart(4, "0");
      nodes.append(el("span.control", { title: "a control character, shown by its number" }, `U+${code}`));
    } else if (part) nodes.append(part);
  }
  return nodes;
}

// A text in chunks that the browser lays out only when they come into view, so that a megabyte, or a hundred thousand
// control characters, is read as smoothly as a line. Cut behind line breaks where there are any, never in a character.
export function block(text, classes = "") {
  const chunks = [];
  for (let start = 0; start < text.length;) {
    let end = start + CHUNK;
    if (end < text.length) {
      const line = text.lastIndexOf("\n", end - 1) + 1;
      if (line > start) end = line; else if (/[\ud800-\udbff]/.test(text[end - 1])) end -= 1;
    }
    chunks.push(el("div.chunk", { dir: "auto" }, safe(text.slice(start, end))));
    start = end;
  }
  return el(`div.text${classes}`, {}, ...chunks);
}

export function facts(item) {
  const found = [["length", `${(item.text ?? item.left + item.right).length.toLocaleString("en")} characters`]];
  for (const [name, value] of Object.entries(item.metadata ?? {})) {
    const short = (part) => (typeof part === "number" ? +part.toFixed(3) : part);
    found.push([name, typeof value === "object"
      ? Object.entries(value).map(([key, part]) => `${key} ${short(part)}`).join(", ") : String(value)]);
  }
  return el("p.facts.quiet", {},
    ...found.map(([name, value]) => el("span", {}, `${name}: `, safe(value.slice(0, 300)))));
}

export function content(item) {
  if (item.text !== undefined) {
    return el("article.prose", {}, facts(item), block(item.text));
  }
  const turns = item.prompt.map((turn) => el("div.turn", {}, el("h3", {}, turn.role), block(turn.content)));
  const tools = item.tools?.length
    ? el("details", {}, el("summary.quiet", {}, `${item.tools.length} tools were offered`),
      block(JSON.stringify(item.tools, null, 1))) : null;
  const side = (name) => el("section", {}, el("h3", {}, name),
    block(item[name.toLowerCase()], item.answer?.label === name.toLowerCase() ? ".chosen" : ""));
  return el("article", {}, ...turns, tools, el("div.pair", {}, side("Left"), side("Right")));
}

export function labelButtons(labels, current, suggested, choose) {
  return el("div.labels", {}, ...labels.map((label, at) => el(
    `button${suggested === label.name ? ".suggested" : ""}`,
    { type: "button", "data-label": label.name, "aria-pressed": String(current === label.name),
      onclick: () => choose(label.name) },
    el("kbd", {}, String(at + 1)), el("span", {}, label.name), el("small", {}, label.meaning))));
}

const percent = (share) => (share === null ? "–" : `${(100 * share).toFixed(1)} %`);
const number = (value) => (value === null ? "undefined" : value.toFixed(3));

export function agreementTables(found, labels) {
  if (!found.items) {
    return el("p", {}, `No item has been labelled by both ${found.first} and ${found.second} yet.`);
  }
  const [low, high] = found.interval ?? [null, null];
  const figure = (name, value, note) => el("div", {},
    el("span.quiet", {}, name), el("b", {}, value), el("span.quiet", {}, note));
  const most = Math.max(1, ...found.confusion.flat());
  const cell = (count, row, column) => {
    const made = el(row === column ? "td.same" : "td", {}, String(count));
    const tone = row === column ? "--accent" : "--bad";
    const depth = Math.round(8 + 37 * count / most);
    if (count) made.style.background = `color-mix(in srgb, var(${tone}) ${depth}%, transparent)`;
    return made;
  };
  const head = (...names) => el("tr", {}, ...names.map((name) => el("th", { scope: "col" }, name)));
  return el("div", {},
    el("div.figures", {},
      figure("Cohen's kappa", number(found.kappa), found.kappa === null ? "both used one label only"
        : low === null ? "too few items for an interval" : `95 % interval ${number(low)} to ${number(high)}`),
      figure("same label", percent(found.share), `${found.agree} of ${found.items} items`),
      figure("labelled by one only", String(found.only_first + found.only_second),
        `${found.first} ${found.only_first}, ${found.second} ${found.only_second}`)),
    el("h2", {}, "Confusion"),
    el("p.quiet", {}, `Rows: ${found.first}. Columns: ${found.second}.`),
    el("div.scroll", {}, el("table#confusion", {}, head("", ...labels.map((label) => label.name)),
      ...found.confusion.map((row, at) => el("tr", {}, el("th", { scope: "row" }, labels[at].name),
        ...row.map((count, column) => cell(count, at, column)))))),
    el("h2", {}, "By label"),
    el("div.scroll", {}, el("table#labels", {}, head("label", found.first, found.second, "both", "agreement"),
      ...found.labels.map((row) => el("tr", {}, el("th", { scope: "row" }, row.label), el("td", {}, String(row.first)),
        el("td", {}, String(row.second)), el("td", {}, String(row.both)), el("td", {}, percent(row.agreement)))))),
    el("p.quiet", {}, "Agreement of a label: twice the items both gave it, over all the times either did."),
    el("p.quiet", {}, `Answers given with the pipeline's label on show: ${Object.entries(found.suggested)
      .map(([name, count]) => `${name} ${count}`).join(", ")}.`));
}

export function chooser(names, first, second, changed) {
  const select = (side, value) => el("select",
    { "data-side": side, onchange: (event) => changed(side, event.target.value) },
    ...names.map((one) => el("option", { value: one, selected: one === value }, one)));
  return el("div.choose", {}, el("label", {}, "First ", select("first", first)),
    el("label", {}, "Second ", select("second", second)));
}

export function verdicts(found, names) {
  const side = (name, answer) => el("div", {}, el("span.quiet", {}, name), el("br"), el("b", {}, answer.label),
    answer.comment ? el("p.quiet", {}, safe(answer.comment)) : null);
  return el("div.verdicts", {}, side(names[0], found.first), side(names[1], found.second));
}

export function keyTable(rows) {
  return el("div", {}, el("h2#keys-title", {}, "Keyboard"),
    el("dl", {}, ...rows.flatMap(([keys, what]) => [
      el("dt", {}, ...keys.flatMap((key, at) => [at ? " " : "", el("kbd", {}, key)])), el("dd", {}, what)])),
    el("button", { type: "button", autofocus: true, onclick: (event) => event.target.closest("dialog").close() },
      "Close"));
}

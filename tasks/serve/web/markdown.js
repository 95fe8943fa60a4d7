// Markdown as nodes: the part that chat models write. Everything becomes elements and text nodes made here, so no text
// can bring markup of its own; links lead to http, https and mailto only; images are shown as links, never loaded.
// Any input costs time linear in its length (nesting is bounded), because a model may write anything.
import { el, safe } from "./dom.js";

const DEEPEST = 8;
const FENCE = /^ {0,3}(`{3,}(?=[^`]*$)|~{3,})(.*)$/;
const HEADING = /^ {0,3}(#{1,6})(\s.*)?$/;
const RULE = /^ {0,3}([-*_])(?:\s*\1){2,}\s*$/;
const QUOTE = /^ {0,3}> ?/;
const ITEM = /^(\s*)([-*+]|(\d{1,9})[.)])(?:\s+(?=\S)|\s*$)/;
const DASHES = /^:?-+:?$/;
// an address, with one pair of parentheses inside
const TARGET = "<?([^\\s()<>]{1,2000}(?:\\([^\\s()<>]{0,500}\\)[^\\s()<>]{0,500})?)>?";
const TITLE = "(?:\\s+[\"'][^\"'\\n]{0,500}[\"'])?";
const LINK = new RegExp(`(!?)\\[([^[\\]]{0,1000})\\]\\(\\s*${TARGET}${TITLE}\\s*\\)`, "y");
const URL_TEXT = /https?:\/\/[^\s<>"'`，。；：！？、）】》]{1,2000}/y;
const ESCAPED = "\\`*_{}[]()#+-.!|~<>\"'$&%,/:;=?@^";

// The top-level blocks of a text: their sources, in order; a block is drawn again only when its source changes.
export function blocks(text) {
  const lines = text.replace(/\r\n?/g, "\n").split("\n");
  const found = [];
  for (let at = 0; at < lines.length;) {
    const start = at;
    const line = lines[at];
    const fence = line.match(FENCE);
    const item = line.match(ITEM);
    if (!line.trim()) {
      at += 1;
      continue;
    }
    if (fence) {
      at = afterFence(lines, at, fence[1]);
    } else if (HEADING.test(line) || RULE.test(line)) {
      at += 1;
    } else if (QUOTE.test(line)) {
      while (at < lines.length && QUOTE.test(lines[at])) at += 1;
    } else if (item) {
      at = afterList(lines, at);
    } else if (table(lines, at)) {
      while (at < lines.length && lines[at].trim() && lines[at].includes("|")) at += 1;
    } else {
      at += 1;
      while (at < lines.length && lines[at].trim() && !opens(lines, at)) at += 1;
    }
    found.push(lines.slice(start, at).join("\n"));
  }
  return found;
}

const opens = (lines, at) => FENCE.test(lines[at]) || HEADING.test(lines[at]) || RULE.test(lines[at])
  || QUOTE.test(lines[at]) || (ITEM.test(lines[at]) && !/^\s{4}/.test(lines[at])) || table(lines, at);
const table = (lines, at) => lines[at].includes("|") && at + 1 < lines.length && lines[at + 1].includes("|")
  && split(lines[at + 1]).every((cell) => DASHES.test(cell));

function afterFence(lines, at, mark) {
  for (at += 1; at < lines.length; at += 1) {
    const close = lines[at].trim();
    if (close.length >= mark.length && close === mark[0].repeat(close.length)) return at + 1;
  }
  return at; // not closed yet: the model is still writing it
}

function afterList(lines, at) {
  while (at < lines.length) {
    const line = lines[at];
    const fence = line.trim().match(FENCE);
    if (fence && /^\s/.test(line)) at = afterFence(lines, at, fence[1]);
    else if (line.trim()) {
      if (!ITEM.test(line) && !/^\s/.test(line) && (opens(lines, at) || !lines[at - 1].trim())) break;
      if (RULE.test(line)) break;
      at += 1;
    } else { // a blank line ends the list unless it goes on behind it
      const next = lines[at + 1];
      if (next === undefined || !(ITEM.test(next) || /^\s+\S/.test(next)) || RULE.test(next)) break;
      at += 1;
    }
  }
  return at;
}

// Draw `text` into `place`, keeping the nodes of the blocks that are as they were; `tools(code)` gives the node that
// stands over a code block (a copy button).
export function render(place, text, tools = null) {
  const sources = blocks(text);
  const before = place.markdown ?? [];
  let same = 0;
  while (same < sources.length && same < before.length && sources[same] === before[same]) same += 1;
  while (place.childNodes.length > same) place.lastChild.remove();
  for (const source of sources.slice(same)) place.append(block(source.split("\n"), tools, 0));
  place.markdown = sources;
}

// A text as a fragment.
export function markdown(text, tools = null, depth = 0) {
  const nodes = document.createDocumentFragment();
  for (const source of blocks(text)) nodes.append(block(source.split("\n"), tools, depth));
  return nodes;
}

function block(lines, tools, depth) {
  const [line] = lines;
  const fence = line.match(FENCE);
  if (depth > DEEPEST) return el("p", {}, safe(lines.join("\n")));
  if (fence) return code(lines, fence, tools);
  const heading = line.match(HEADING);
  if (heading) {
    const title = (heading[2] ?? "").trim().replace(/\s#+$/, "");
    return el(`h${Math.min(6, heading[1].length + 2)}`, {}, inline(title));
  }
  if (RULE.test(line)) return el("hr");
  if (QUOTE.test(line)) {
    const inner = lines.map((one) => one.replace(QUOTE, "")).join("\n");
    return el("blockquote", {}, markdown(inner, tools, depth + 1));
  }
  if (ITEM.test(line)) return list(lines, tools, depth);
  if (table(lines, 0)) return rows(lines);
  return el("p", { dir: "auto" }, inline(lines.map((one) => one.trimStart()).join("\n")));
}

function code(lines, fence, tools) {
  const close = lines.at(-1).trim();
  const closed = lines.length > 1 && close.length >= fence[1].length && close === fence[1][0].repeat(close.length);
  const text = lines.slice(1, closed ? -1 : undefined).join("\n");
  return el("div.code", {}, el("div.over", {}, el("span", {}, safe(fence[2].trim().split(/\s/, 1)[0])), tools?.(text)),
    el("pre", { tabindex: "0" }, el("code", {}, safe(text))));
}

function list(lines, tools, depth) {
  const [, , mark, number] = lines[0].match(ITEM);
  const kind = number === undefined ? "ul" : "ol";
  const made = el(kind, { start: number === undefined || +number === 1 ? null : +number });
  const base = indent(lines[0]);
  let item = null;
  const flush = () => {
    if (!item) return;
    const tight = markdown(item.join("\n").trimEnd(), tools, depth + 1);
    if (tight.firstChild?.nodeName === "P") tight.firstChild.replaceWith(...tight.firstChild.childNodes);
    made.append(el("li", { dir: "auto" }, tight));
  };
  let width = mark.length + 1 + base;
  let fenced = null;
  for (const line of lines) {
    const found = fenced ? null : line.match(ITEM);
    if (found && indent(line) < base + 2) {
      flush();
      width = found[0].length === line.length ? indent(line) + found[2].length + 1 : found[0].length;
      item = [line.slice(found[0].length)];
    } else item.push(indent(line) >= width ? line.slice(width) : line.trimStart());
    const edge = line.trim().match(FENCE);
    if (fenced && line.trim() === fenced) fenced = null; else if (!fenced && edge) [, fenced] = edge;
  }
  flush();
  return made;
}

// the cells of a table's line; \\| is no border
const split = (line) => line.trim().replace(/^\||\|$/g, "").split(/(?<!\\)\|/)
  .map((cell) => cell.trim().replaceAll("\\|", "|"));
const indent = (line) => line.length - line.trimStart().length;

function rows(lines) {
  const cells = (line) => split(line).map((cell) => inline(cell));
  const head = cells(lines[0]);
  const row = (line) => el("tr", {},
    ...cells(line).slice(0, head.length).map((cell) => el("td", { dir: "auto" }, cell)));
  return el("div.scroll", { tabindex: "0" }, el("table", {},
    el("thead", {}, el("tr", {}, ...head.map((cell) => el("th", { dir: "auto" }, cell)))),
    el("tbody", {}, ...lines.slice(2).map(row))));
}

// Code, emphasis, links, line breaks. `missing` holds the marks known not to close: none is sought twice.
function inline(text, depth = 0) {
  const nodes = document.createDocumentFragment();
  const missing = new Set();
  let plain = "";
  const put = (node) => {
    if (plain) nodes.append(safe(plain));
    plain = "";
    nodes.append(node);
  };
  const closing = (mark, from) => {
    if (missing.has(mark)) return -1;
    const at = seek(text, mark, from);
    if (at < 0) missing.add(mark);
    return at;
  };
  for (let at = 0; at < text.length;) {
    const char = text[at];
    if (char === "\\" && ESCAPED.includes(text[at + 1] ?? " ")) {
      plain += text[at + 1];
      at += 2;
    } else if (char === "\n") {
      plain = plain.trimEnd();
      put(el("br"));
      at += 1;
    } else if (char === "`") {
      const mark = run(text, at);
      const end = closing(mark, at + mark.length);
      if (end < 0) plain += mark;
      else put(el("code", {}, safe(unpadded(text.slice(at + mark.length, end)))));
      at = (end < 0 ? at : end) + mark.length;
    } else if (char === "*" || char === "_" || (char === "~" && text[at + 1] === "~")) {
      const mark = run(text, at).slice(0, char === "~" ? 2 : 3);
      const end = depth < DEEPEST && leads(text, at, mark) ? closing(mark, at + mark.length) : -1;
      if (end < 0) {
        const whole = run(text, at);
        plain += whole;
        at += whole.length;
      } else {
        put(emphasis(mark, inline(text.slice(at + mark.length, end), depth + 1)));
        at = end + mark.length;
      }
    } else {
      const link = (char === "[" || (char === "!" && text[at + 1] === "[")) && match(LINK, text, at);
      const bare = !link && char === "h" && !/\w/.test(text[at - 1] ?? " ") && match(URL_TEXT, text, at);
      if (link && address(link[3])) {
        put(anchor(link[3], depth < DEEPEST && link[2] ? inline(link[2], DEEPEST) : safe(link[3])));
        at += link[0].length;
      } else if (bare) {
        const url = unpunctuated(bare[0]);
        put(address(url) ? anchor(url, safe(url)) : safe(url));
        at += url.length;
      } else {
        plain += char;
        at += 1;
      }
    }
  }
  if (plain) nodes.append(safe(plain));
  return nodes;
}

function match(pattern, text, at) {
  pattern.lastIndex = at;
  return pattern.exec(text);
}

function run(text, at) { // the mark at `at`, as long as its character repeats
  let end = at;
  while (text[end] === text[at]) end += 1;
  return text.slice(at, end);
}

// `` ` `` holds one backtick: a space on both sides belongs to the marks
const unpadded = (text) => (text.startsWith(" ") && text.endsWith(" ") && text.trim() ? text.slice(1, -1) : text);

function unpunctuated(url) { // a sentence's own signs behind an address
  let end = url.length;
  while (end && ".,;:!?)]*_~".includes(url[end - 1])) end -= 1;
  return url.slice(0, end);
}

function leads(text, at, mark) { // may this mark open? snake_case and 3 * 4 may not
  const after = text[at + mark.length] ?? " ";
  return !/\s/.test(after) && !(mark[0] === "_" && /[\p{L}\p{N}]/u.test(text[at - 1] ?? " "));
}

function seek(text, mark, from) { // where exactly this mark closes, -1 if nowhere
  for (let at = text.indexOf(mark, from); at >= 0;) {
    const whole = run(text, at);
    const free = mark[0] === "`" || !/\s/.test(text[at - 1]);
    const word = mark[0] === "_" && /[\p{L}\p{N}]/u.test(text[at + whole.length] ?? " ");
    if (whole.length === mark.length && free && !word && at > from) return at;
    at = text.indexOf(mark, at + whole.length);
  }
  return -1;
}

function emphasis(mark, content) {
  if (mark === "~~") return el("s", {}, content);
  if (mark.length === 1) return el("em", {}, content);
  return mark.length === 2 ? el("strong", {}, content) : el("strong", {}, el("em", {}, content));
}

function address(url) { // only what a person may follow without running anything
  try {
    return ["http:", "https:", "mailto:"].includes(new URL(url).protocol);
  } catch {
    return false;
  }
}

const anchor = (url, content) => el("a",
  { href: url, title: url, target: "_blank", rel: "noopener noreferrer nofollow" }, content);

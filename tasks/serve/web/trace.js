// The sources of an answer: its spans that stand word for word in training documents, and these documents.
import { trace } from "./api.js";
import { el, safe } from "./dom.js";
import { asText } from "./export.js";
import { told } from "./talk.js";
import { remedy, t } from "./words.js";

const EDGE = 90; // characters shown on each side of a match
const kept = new WeakMap(); // answer -> {text, found or error}, while its sources are shown

export const traced = (answer) => kept.has(answer);

// Show an answer's sources, or hide them; `changed` is called when there is more to draw. Resolves to the line that a
// screen reader is told.
export async function toggle(answer, key, changed) {
  if (kept.delete(answer)) {
    changed();
    return t("traceHidden");
  }
  const one = { text: asText(answer), found: null, error: null };
  kept.set(answer, one);
  changed();
  try {
    one.found = await trace(one.text, key);
  } catch (error) {
    one.error = told(error);
  }
  changed();
  return one.error ? remedy(one.error).text : head(one.found);
}

const head = ({ spans, documents }) => (
  spans.length ? t("traceFound", { n: spans.length, documents: documents.toLocaleString("en") })
    : t("traceNone", { documents: documents.toLocaleString("en") }));

// Bring the place under an answer up to date.
export function drawTrace(place, answer) {
  if (answer && kept.has(answer) && kept.get(answer).text !== asText(answer)) kept.delete(answer); // answered anew
  const one = answer && kept.get(answer);
  place.hidden = !one;
  if (place.drawn === one && place.state === (one?.found ?? one?.error)) return;
  Object.assign(place, { drawn: one, state: one?.found ?? one?.error });
  place.setAttribute("aria-label", t("trace"));
  place.setAttribute("aria-busy", String(Boolean(one && !one.found && !one.error)));
  if (!one) place.replaceChildren();
  else if (one.error) place.replaceChildren(el("p.wrong", {}, safe(remedy(one.error).text)));
  else if (!one.found) place.replaceChildren(el("p.quiet", {}, t("tracing")));
  else place.replaceChildren(...drawFound(one.text, one.found));
}

function drawFound(text, found) {
  const line = el("p.quiet", {}, head(found));
  if (!found.spans.length) return [line];
  const points = [...text]; // the server counts code points
  const known = new Map(); // words said twice are one entry
  const spans = found.spans.map((span) => {
    const words = points.slice(span.start, span.end).join("").replace(/\s+/g, " ");
    if (!known.has(words)) known.set(words, known.size + 1);
    return { ...span, text: words, number: known.get(words) };
  }).sort((a, b) => b.bits - a.bits);
  const first = spans.filter((span, at) => spans.findIndex((other) => other.number === span.number) === at);
  return [line, el("p.marked", { dir: "auto" }, ...marked(points, spans)),
    el("ol.spans", {}, ...first.map((span, at) => drawSpan(span, at === 0))), el("p.quiet", {}, t("traceNote"))];
}

// The text with its spans marked; where two overlap, the less likely one has the place.
function marked(points, spans) {
  const owners = new Array(points.length).fill(null);
  for (const span of spans.toReversed()) owners.fill(span, span.start, span.end);
  const parts = [];
  for (let at = 0; at < points.length;) {
    let end = at + 1;
    while (end < points.length && owners[end] === owners[at]) end += 1;
    const piece = safe(points.slice(at, end).join(""));
    const owner = owners[at];
    const sign = owner && el("sup", {}, String(owner.number));
    parts.push(owner ? el("mark", { "data-hue": owner.number % 4 }, piece, sign) : piece);
    at = end;
  }
  return parts;
}

function drawSpan(span, open) {
  const count = t("traceCount", { words: span.words, times: span.times.toLocaleString("en"),
    holders: span.holders.toLocaleString("en") });
  return el("li", { value: span.number }, el("details", { open },
    el("summary", { dir: "auto" }, el("mark", { "data-hue": span.number % 4 }, safe(short(span.text))), " ",
      el("span.quiet", {}, count)),
    el("ul", {}, ...span.documents.map(drawDocument))));
}

function drawDocument(one) {
  const name = one.url ?? one.id;
  const link = /^https?:\/\//.test(name) && URL.canParse(name)
    ? el("a", { href: name, target: "_blank", rel: "noopener noreferrer" }, safe(name)) : el("span", {}, safe(name));
  const licence = one.licence ?? t("noLicence");
  return el("li", {}, link, " ", el("span.quiet", {}, safe(`${licence} · ${one.source ?? ""} · ×${one.times}`)),
    el("blockquote", { dir: "auto" }, safe(`… ${[...one.before].slice(-EDGE).join("")}`),
      el("strong", {}, safe(short(one.match))), safe(`${[...one.after].slice(0, EDGE).join("")} …`)));
}

const short = (words) => {
  const points = [...words];
  return points.length <= 240 ? words : `${points.slice(0, 120).join("")} … ${points.slice(-120).join("")}`;
};

// An answer by the agent's loop: its steps as the server tells them, and a person's word on the calls it asks about.
import { ApiError, agent, allow } from "./api.js";
import { el, safe } from "./dom.js";
import { told } from "./talk.js";
import { t } from "./words.js";

export const BUDGET = { steps: [1, 30, 6], tokens: [100, 1000000, 20000], seconds: [1, 3600, 120] };
const PNG = /^data:image\/png;base64,[A-Za-z0-9+/=]+$/;

// The request of a task: what was said before, without the calls, then the task.
export function task(conversation, column, history) {
  const said = history.filter(({ role, content }) => content && (role === "user" || role === "assistant"));
  return { model: column.model, ...conversation.budget,
    messages: said.map(({ role, content }) => ({ role, content })) };
}

// Follow a run into `answer`, calling `changed` whenever there is more of it. Raises an AbortError where it is stopped.
export async function follow(answer, request, key, signal, changed) {
  const began = performance.now();
  try {
    for await (const event of agent(request, key, signal)) {
      hear(answer, event);
      const { tokens = 0 } = answer.stats ?? {};
      answer.stats = { first: null, total: Math.round(performance.now() - began), rate: null,
        tokens: event.event === "spent" ? event.tokens : tokens };
      changed();
    }
    if (answer.state === "running") throw new ApiError(0, "", { code: "lost" });
  } finally {
    for (const step of answer.steps) for (const call of step.calls) delete call.asks;
  }
}

function hear(answer, event) {
  const call = answer.steps.at(-1)?.calls.at(-1);
  const step = (values) => answer.steps.push({ content: "", reasoning: "", calls: [], finish: null, ...values });
  const waits = call && call.result === null;
  if (event.event === "call") {
    step({ calls: [{ id: String(answer.steps.length), name: event.tool, arguments: event.arguments, result: null }] });
  } else if (event.event === "ask" && waits) call.asks = event.run;
  else if (event.event === "allowed" || event.event === "denied") delete call?.asks;
  else if ((event.event === "result" || event.event === "error") && waits) {
    call.result = event.text;
    call.failed = event.event === "error";
    if (PNG.test(event.picture ?? "")) call.picture = event.picture;
  } else if (event.event === "error") step({ reasoning: event.text });
  else if (event.event === "answer") step({ content: event.text });
  else if (event.event === "end") {
    answer.state = event.reason === "answered" ? "done" : event.reason === "stopped" ? "stopped" : "error";
    if (answer.state === "error") answer.error = told(new ApiError(-1, event.reason, { code: "agent" }));
  }
}

// What stands under a call of the agent: what came of it, its picture, or the question whether it may be made.
export function drawOutcome(call, acts) {
  const label = t("result", { name: call.name });
  if (call.asks) {
    const button = (name, yes, kind) => el(`button${kind}`, { type: "button", onclick: () => acts.allow(call, yes) },
      t(name));
    return el("div.asks", { role: "group", "aria-label": t("mayCall", { name: call.name }) },
      el("p", {}, safe(t("mayCall", { name: call.name }))), button("allow", true, ".first"), button("deny", false, ""));
  }
  if (call.result === null) return null;
  const text = el(call.failed ? "pre.result.failed" : "pre.result", { "aria-label": label, tabindex: "0" },
    safe(call.result));
  return call.picture ? el("div", {}, text, el("img.picture", { src: call.picture, alt: label })) : text;
}

// Give a person's word. Raises ApiError.
export const word = (call, yes, key) => allow(call.asks, yes, key);

// One column's side of a conversation: what is sent to the server, and the answer as it arrives.
import { ApiError, chat } from "./api.js";

const TRIES = 6; // of a request that the server is too busy for
const SHORT = 200; // ms: text that came within them tells no rate by its pieces

export const shown = (turn, column) => {
  const tries = turn.answers[column];
  return tries ? tries.versions[tries.at] : null;
};

// The messages before the answer to turn `last` of a column; a turn that this column has not answered is not part of
// its history. With `answer`, its steps so far follow.
export function messages(conversation, column, last, answer = null) {
  const out = conversation.system.trim() ? [{ role: "system", content: conversation.system }] : [];
  for (const [at, turn] of conversation.turns.slice(0, last + 1).entries()) {
    const said = at === last ? answer : shown(turn, column);
    const steps = said ? said.steps.flatMap(spoken) : [];
    if (at === last || steps.length) out.push({ role: "user", content: turn.text }, ...steps);
  }
  return out;
}

function spoken(step) { // an assistant's message, and the results of its calls; calls without one were never made
  const calls = step.calls.filter((call) => call.result !== null);
  if (!calls.length) return step.content ? [{ role: "assistant", content: step.content }] : [];
  const made = calls.map(({ id, name, arguments: given }) => (
    { id, type: "function", function: { name, arguments: given } }));
  return [{ role: "assistant", content: step.content || null, tool_calls: made },
    ...calls.map((call) => ({ role: "tool", tool_call_id: call.id, content: call.result }))];
}

// The list of tools in the settings. Throws an Error for text that is no such list.
export function tools(text) {
  if (!text.trim()) return null;
  const found = JSON.parse(text);
  if (!Array.isArray(found) || !found.every((tool) => tool?.type === "function" && tool.function?.name)) {
    throw new Error('[{"type": "function", "function": {"name": …}}, …]');
  }
  return found.length ? found : null;
}

// The request's body. `stop` in the settings is a line for each string.
export function body(conversation, column, history) {
  const { stop, tool_choice: choice, ...numbers } = column.settings;
  const offered = tools(conversation.tools);
  const stops = stop?.split("\n").filter(Boolean);
  return { model: column.model, messages: history, stream: true, stream_options: { include_usage: true }, ...numbers,
    ...(stops?.length && { stop: stops }), ...(offered && { tools: offered }),
    ...(offered && choice && { tool_choice: choice }) };
}

export const begunAnswer = (column) => ({ model: column.model, settings: structuredClone(column.settings), steps: [],
  state: "running", error: null, stats: null });

// Stream one step into `answer`, calling `changed` whenever there is more of it, and waiting as long as a busy server
// asks for. Ends with the answer's state set, or raises: an ApiError of status 429, an AbortError while waiting.
export async function patient(answer, request, key, signal, changed) {
  for (let tries = 1; ; tries += 1) {
    try {
      await stream(answer, request, key, signal, changed);
      return;
    } catch (error) {
      if (error.status !== 429 || tries === TRIES) throw error;
      for (let left = Math.ceil(error.retryAfter ?? 2); left > 0; left -= 1) {
        answer.wait = left;
        changed();
        await sleep(1000, signal);
      }
      delete answer.wait;
    }
  }
}

const sleep = (ms, signal) => new Promise((resolve, reject) => {
  const timer = setTimeout(resolve, ms);
  signal.addEventListener("abort", () => { clearTimeout(timer); reject(signal.reason); }, { once: true });
});

// One try. Raises only an ApiError of status 429, and leaves the answer as it was then.
async function stream(answer, request, key, signal, changed) {
  const step = { content: "", reasoning: "", calls: [], finish: null };
  const began = performance.now();
  const clock = { began, first: null, last: began, chunks: 0, tokens: null };
  answer.steps.push(step);
  try {
    for await (const chunk of chat(request, key, signal)) {
      if (chunk.usage) clock.tokens = chunk.usage.completion_tokens;
      const choice = chunk.choices?.[0];
      if (!choice) continue;
      add(step, choice, clock);
      answer.stats = measured(clock);
      changed();
    }
    answer.stats = measured(clock);
    answer.state = step.calls.length ? "asks" : "done";
  } catch (error) {
    const busy = error instanceof ApiError && error.status === 429;
    if (!step.content && !step.reasoning && !step.calls.length) answer.steps.pop();
    if (busy && answer.steps.at(-1) !== step) throw error;
    answer.state = error.name === "AbortError" ? "stopped" : "error";
    if (!(error instanceof ApiError) && error.name !== "AbortError") console.error(error);
    if (answer.state === "error") answer.error = told(error);
  }
}

export const told = (error) => ({ status: error.status ?? -1, message: error.message, code: error.code ?? null,
  field: error.field ?? null });

function add(step, choice, clock) {
  const delta = choice.delta ?? {};
  const thought = delta.reasoning_content ?? delta.reasoning ?? "";
  if (delta.content || thought || delta.tool_calls?.length) {
    clock.last = performance.now();
    clock.first ??= clock.last;
    clock.chunks += 1;
  }
  step.content += delta.content ?? "";
  step.reasoning += thought;
  for (const part of delta.tool_calls ?? []) {
    const call = step.calls[part.index] ??= { id: "", name: "", arguments: "", result: null };
    call.id = part.id ?? call.id;
    call.name += part.function?.name ?? "";
    call.arguments += part.function?.arguments ?? "";
  }
  step.finish = choice.finish_reason ?? step.finish;
}

// first: ms to the first text; total: ms to the last; rate: tokens a second after the first, or over the whole time where
// most tokens came in few pieces (a tool call is held back until it is whole). Until the server has counted, chunks
// stand for tokens.
function measured({ began, first, last, chunks, tokens }) {
  const count = tokens ?? chunks;
  const pieces = chunks * 2 >= count && last - first > SHORT;  // pieces that arrive together tell no rate
  const span = first === null ? 0 : last - (pieces ? first : began);
  return { first: first === null ? null : Math.round(first - began), total: Math.round(last - began), tokens: count,
    rate: count > 1 && span > 0 ? (pieces ? count - 1 : count) / span * 1000 : null };
}

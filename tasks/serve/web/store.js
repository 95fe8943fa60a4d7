// Conversations, kept in this browser's localStorage, one entry each; read from files with every field checked.
//
// conversation: {id, title, updated, system, tools (JSON text), agent (whether its loop answers),
//               budget: {steps, tokens, seconds}, columns: [{id, model, settings}], turns}
// turn:         {id, text, answers: {column id: {at, versions: [answer]}}}
// answer:       {model, settings, steps, state, error, stats}; state running, done, stopped, error or asks (for the
//               results of tools); step: {content, reasoning, calls: [{id, name, arguments, result, and of the agent's
//               own failed, picture}], finish}

const PREFIX = "catena-chat:";
const STATES = ["done", "stopped", "error", "asks"];
export const MOST_COLUMNS = 4;

// What may be set for a column: kind, least, most, step. Empty fields are not sent: the server's defaults hold.
export const KNOBS = {
  temperature: ["number", 0, 2, 0.1], top_p: ["number", 0.01, 1, 0.01], top_k: ["number", 0, 100000, 1],
  min_p: ["number", 0, 1, 0.01], max_tokens: ["number", 1, 1000000, 1], seed: ["number", 0, 2 ** 31, 1],
  presence_penalty: ["number", -2, 2, 0.1], frequency_penalty: ["number", -2, 2, 0.1],
  repetition_penalty: ["number", 0.01, 2, 0.01], stop: ["text"],
  tool_choice: ["choice", "auto", "none", "required"],
};

const CALM = { temperature: 0.3, top_p: 0.9 }; // where nothing was chosen yet, as in the terminal's chat

export const fresh = () => crypto.getRandomValues(new Uint32Array(2)).join("-");

// A new conversation, with the columns and wishes of another.
export const begun = (like, model) => ({
  id: fresh(), title: "", updated: Date.now(), system: like?.system ?? "", tools: like?.tools ?? "",
  agent: like?.agent ?? false, budget: { ...like?.budget },
  columns: like ? structuredClone(like.columns) : [{ id: fresh(), model, settings: { ...CALM } }], turns: [],
});

// Every conversation kept here, the latest first; what cannot be read is left where it is.
export function all() {
  const found = [];
  for (let at = 0; at < localStorage.length; at += 1) {
    const key = localStorage.key(at);
    if (!key.startsWith(PREFIX)) continue;
    try {
      found.push(conversation(JSON.parse(localStorage.getItem(key)), "kept"));
    } catch (error) {
      console.warn(key, error.message);
    }
  }
  return found.sort((a, b) => b.updated - a.updated);
}

// Keep a conversation. Throws QuotaExceededError where the browser has no room.
export function keep(one) {
  localStorage.setItem(PREFIX + one.id, JSON.stringify(one));
}

export const forget = (id) => localStorage.removeItem(PREFIX + id);
export const isOurs = (key) => key === null || key.startsWith(PREFIX);

// Conversations of an exported file, with ids of their own. Throws an Error that names the field at fault.
export function imported(text) {
  let read;
  try {
    read = JSON.parse(text);
  } catch {
    throw new Error("not JSON");
  }
  if (read?.format !== "catena-chat" || read.version !== 1) throw new Error("format: catena-chat version 1");
  return list(read.conversations, "conversations").map((one, at) => (
    { ...conversation(one, `conversations.${at}`), id: fresh() }));
}

const wrong = (field) => { throw new Error(field); };
const text = (value, field) => (typeof value === "string" ? value : wrong(field));
const optional = (value, field) => (value === null || value === undefined ? null : text(value, field));
const list = (value, field) => (Array.isArray(value) ? value : wrong(field));
const record = (value, field) => (value && typeof value === "object" && !Array.isArray(value) ? value : wrong(field));
const number = (value, field) => (Number.isFinite(value) ? value : wrong(field));

function conversation(value, field) {
  record(value, field);
  const columns = list(value.columns, `${field}.columns`).slice(0, MOST_COLUMNS).map((one, at) => ({
    id: text(one?.id, `${field}.columns.${at}.id`), model: text(one.model, `${field}.columns.${at}.model`),
    settings: settings(one.settings, `${field}.columns.${at}.settings`) }));
  if (!columns.length) wrong(`${field}.columns`);
  return { id: text(value.id, `${field}.id`), title: text(value.title, `${field}.title`),
    updated: number(value.updated, `${field}.updated`), system: text(value.system, `${field}.system`),
    tools: text(value.tools, `${field}.tools`), agent: value.agent === true, columns,
    budget: Object.fromEntries(["steps", "tokens", "seconds"].filter((name) => value.budget?.[name] !== undefined)
      .map((name) => [name, number(value.budget[name], `${field}.budget.${name}`)])),
    turns: list(value.turns, `${field}.turns`).map((one, at) => turn(one, `${field}.turns.${at}`)) };
}

function turn(value, field) {
  const answers = Object.create(null);
  for (const [id, tries] of Object.entries(record(record(value, field).answers, `${field}.answers`))) {
    const place = `${field}.answers.${id}`;
    const versions = list(tries?.versions, place).map((one) => answer(one, place));
    if (versions.length) answers[id] = { at: Math.min(Math.max(0, tries.at | 0), versions.length - 1), versions };
  }
  return { id: text(value.id, `${field}.id`), text: text(value.text, `${field}.text`), answers };
}

function answer(value, field) {
  record(value, field);
  const steps = list(value.steps, `${field}.steps`).map((one) => ({
    content: text(one?.content, `${field}.content`), reasoning: text(one.reasoning, `${field}.reasoning`),
    finish: optional(one.finish, `${field}.finish`),
    calls: list(one.calls, `${field}.calls`).map((call) => ({
      id: text(call?.id, `${field}.calls.id`), name: text(call.name, `${field}.calls.name`),
      arguments: text(call.arguments, `${field}.calls.arguments`),
      result: optional(call.result, `${field}.calls.result`), ...(call.failed === true && { failed: true }),
      ...(/^data:image\/png;base64,/.test(call.picture) && { picture: call.picture }) })) }));
  return { model: text(value.model, `${field}.model`), settings: settings(value.settings, `${field}.settings`), steps,
    state: STATES.includes(value.state) ? value.state : "stopped", // running: the page was closed
    error: value.error ? failure(value.error, `${field}.error`) : null,
    stats: value.stats ? measured(value.stats, `${field}.stats`) : null };
}

const failure = (value, field) => ({ status: number(value.status, `${field}.status`),
  message: text(value.message, `${field}.message`), code: optional(value.code, `${field}.code`),
  field: optional(value.field, `${field}.field`) });

const measured = (value, field) => ({ total: number(value.total, `${field}.total`),
  tokens: number(value.tokens, `${field}.tokens`),
  first: value.first === null ? null : number(value.first, `${field}.first`),
  rate: value.rate === null ? null : number(value.rate, `${field}.rate`) });

function settings(value, field) {
  const found = {};
  for (const [name, one] of Object.entries(record(value, field))) {
    if (!Object.hasOwn(KNOBS, name)) wrong(`${field}.${name}`);
    found[name] = KNOBS[name][0] === "number" ? number(one, `${field}.${name}`) : text(one, `${field}.${name}`);
  }
  return found;
}

// The server's API as the page uses it: the list of models, and one streamed chat turn.

// An answer that is an error: its status (0: no answer at all), a line for a person, the field at fault.
export class ApiError extends Error {
  constructor(status, message, { field = null, code = null, retryAfter = null } = {}) {
    super(message);
    Object.assign(this, { status, field, code, retryAfter });
  }
}

const of = (status, body, retryAfter = null) => new ApiError(status, String(body?.error?.message ?? ""),
  { field: body?.error?.param ?? null, code: body?.error?.code ?? null, retryAfter });

async function call(path, key, body, signal) {
  const headers = body ? { "Content-Type": "application/json" } : {};
  if (key) headers.Authorization = `Bearer ${key}`;
  let answer;
  try {
    answer = await fetch(path, { method: body ? "POST" : "GET", headers, body: body && JSON.stringify(body), signal });
  } catch (error) {
    throw error.name === "AbortError" ? error : new ApiError(0, "");
  }
  if (answer.ok) return answer;
  const wait = Number.parseFloat(answer.headers.get("retry-after"));
  throw of(answer.status, await answer.json().catch(() => null), Number.isFinite(wait) ? wait : null);
}

// The models behind this port, whether it can trace answers, and whether it has an agent: {served, traces, agents}.
// Raises ApiError.
export async function models(key) {
  const found = await (await call("v1/models", key)).json();
  const served = found.data.map(({ id, max_model_len: context, digest }) => ({ id, context, digest }));
  return { served, traces: found.trace === true, agents: found.agent === true };
}

// The spans of a text that training documents hold. Raises ApiError.
export async function trace(text, key) {
  return (await call("v1/trace", key, { text })).json();
}

// The chunks of a chat turn, or the events of an agent's run, as they arrive. Raise ApiError, also where the stream
// ends before the answer does.
export const chat = (body, key, signal) => stream("v1/chat/completions", body, key, signal);
export const agent = (body, key, signal) => stream("v1/agent", body, key, signal);

// A person's word on the call that a run asks about. Raises ApiError.
export const allow = (run, yes, key) => call(`v1/agent/${encodeURIComponent(run)}`, key, { allow: yes });

async function* stream(path, body, key, signal) {
  const answer = await call(path, key, body, signal);
  for await (const data of events(answer.body.getReader())) {
    if (data === "[DONE]") return;
    const chunk = JSON.parse(data);
    if (chunk.error) throw of(chunk.error.code === "rate_limit_exceeded" ? 429 : 500, chunk);
    yield chunk;
  }
  throw new ApiError(0, "", { code: "lost" });
}

// The data of server-sent events, read from bytes that may be cut anywhere.
export async function* events(reader) {
  const decoder = new TextDecoder();
  let rest = "";
  let data = [];
  try {
    for (;;) {
      const { value, done } = await reader.read().catch((error) => {
        throw error.name === "AbortError" ? error : new ApiError(0, "", { code: "lost" });
      });
      if (done) return;
      const lines = (rest + decoder.decode(value, { stream: true })).split(/\r?\n/);
      rest = lines.pop();
      for (const line of lines) {
        if (line.startsWith("data:")) data.push(line.slice(5).replace(/^ /, ""));
        else if (!line && data.length) {
          yield data.join("\n");
          data = [];
        }
      }
    }
  } finally {
    reader.cancel().catch(() => {}); // leaving early tells the server to stop
  }
}

// Conversations as files: JSON that can be imported again, and Markdown to read.
import { shown } from "./talk.js";

export const asJson = (conversations) => `${JSON.stringify(
  { format: "catena-chat", version: 1, conversations }, null, 1)}\n`;

// A fence longer than any run of backticks inside.
function fenced(text, language = "") {
  const longest = Math.max(2, ...(text.match(/`+/g) ?? []).map((run) => run.length));
  const mark = "`".repeat(longest + 1);
  return `${mark}${language}\n${text}\n${mark}`;
}

const settings = (answer) => {
  const set = Object.entries(answer.settings).map(([name, value]) => `${name} ${JSON.stringify(value)}`);
  return set.length ? ` (${set.join(", ")})` : "";
};

function steps(answer) {
  return answer.steps.flatMap((step) => [
    ...(step.reasoning ? [step.reasoning.replace(/^/gm, "> ")] : []), ...(step.content ? [step.content] : []),
    ...step.calls.flatMap((call) => [`\`${call.name}\``, fenced(call.arguments, "json"),
      ...(call.result === null ? [] : [fenced(call.result)])])]);
}

// One conversation as Markdown, the answers that are shown.
export function asMarkdown(conversation) {
  const parts = [`# ${conversation.title || "Chat"}`];
  if (conversation.system.trim()) parts.push("## System", conversation.system);
  for (const turn of conversation.turns) {
    parts.push("## User", turn.text);
    for (const column of conversation.columns) {
      const answer = shown(turn, column.id);
      if (!answer) continue;
      parts.push(`## ${answer.model}${settings(answer)}`, ...steps(answer));
      if (answer.error) parts.push(`*${answer.error.status} ${answer.error.message}*`);
    }
  }
  return `${parts.join("\n\n")}\n`;
}

// An answer's text as the copy button gives it.
export const asText = (answer) => answer.steps.map((step) => step.content
  || step.calls.map((call) => `${call.name}(${call.arguments})`).join("\n")).filter(Boolean).join("\n\n");

export const fileName = (conversation, ending) => {
  const name = (conversation.title || "chat").replace(/[^\p{L}\p{N}]+/gu, "-").replace(/^-|-$/g, "").slice(0, 40);
  return `${name || "chat"}.${ending}`;
};

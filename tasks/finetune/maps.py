"""Map functions: a record of a well-known data format becomes conversations in OpenAI's messages, the chain's own form.

Each takes one record (an object of JSON) and gives the conversations it holds, as (messages, tools); FORMATS names
them for params (`sft.data`). A record that is not of the format raises ValueError saying what is missing. Nothing is
translated, shortened or filled in: what a record says is what is learned.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable
from typing import Any

Record = dict[str, Any]
Message = dict[str, Any]
Turns = tuple[list[Message], list[dict[str, Any]]]  # messages, schemas of the tools offered

SHAREGPT = {"system": "system", "human": "user", "user": "user", "gpt": "assistant", "chatgpt": "assistant",
            "assistant": "assistant", "bing": "assistant", "bard": "assistant", "function_call": "call",
            "observation": "tool", "tool": "tool"}
MARKS = re.compile(r"^\s*<\|[A-Za-z ]+\|>:[ \t]*|\s*(?:<eo[hctrm]>\s*)+$")  # MOSS's of a section's beginning and end
COMMAND = re.compile(r"(\w+)\((\"(?:[^\"\\]|\\.)*\"|[^()]*(?:\([^()]*\)[^()]*)*)\)")
PLUGIN = re.compile(r"^- ([^:]+): enabled\. API: (\w+)\((\w+)\)", re.MULTILINE)
BELLE = re.compile(r"^(Human|Assistant)[:：]\s*", re.MULTILINE)


def text(record: Record, key: str) -> str:
    """The string at `key`. Raises ValueError where there is none."""
    if not isinstance(found := record.get(key), str):
        raise ValueError(f"{key} is {'missing' if found is None else type(found).__name__}, not text")
    return found


def listed(record: Record, key: str) -> list[Record]:
    """The objects at `key`. Raises ValueError where it is no list of objects."""
    if not isinstance(found := record.get(key), list) or not all(isinstance(one, dict) for one in found):
        raise ValueError(f"{key} is {'missing' if found is None else 'no list of objects'}")
    return found


def said(role: str, content: str) -> Message:
    """A turn of text."""
    return {"role": role, "content": content}


def call(name: Any, arguments: Any) -> Record:
    """A tool call; arguments as JSON text are read. Raises ValueError where they are no object."""
    if not isinstance(name, str) or not name:
        raise ValueError("a tool call has no name")
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments)
        except ValueError:
            raise ValueError(f"the arguments of the call of {name} are no JSON") from None
    if not isinstance(arguments, dict):
        raise ValueError(f"the arguments of the call of {name} are no object")
    return {"type": "function", "function": {"name": name, "arguments": arguments}}


def schemas(tools: Any) -> list[dict[str, Any]]:
    """Tool schemas in OpenAI's form, from a list (or its JSON text) of them or of bare functions."""
    if isinstance(tools, str):
        tools = json.loads(tools) if tools.strip() else []
    if not isinstance(tools or [], list):
        raise ValueError("tools is no list")
    made = [tool if "function" in tool else {"type": "function", "function": tool} for tool in tools or []]
    if nameless := [tool for tool in made if not isinstance(tool["function"].get("name"), str)]:
        raise ValueError(f"a tool has no name: {str(nameless[0])[:80]}")
    # a function that takes nothing may come without parameters; the template reads them
    return [tool | {"function": {"description": "", "parameters": {}} | tool["function"]} for tool in made]


def asked(instruction: str, extra: str, answer: str, system: str = "") -> Turns:
    """One question, what it is about below it, and its answer."""
    question = f"{instruction}\n\n{extra}" if extra.strip() else instruction
    opening = [said("system", system)] if system else []
    return [*opening, said("user", question), said("assistant", answer)], []


def alpaca(record: Record) -> list[Turns]:
    """Stanford Alpaca (github.com/tatsu-lab/stanford_alpaca): instruction, input ("" where there is none), output;
    and LLaMA-Factory's additions to it: system, and history, a list of earlier [question, answer]."""
    turns, tools = asked(text(record, "instruction"), record.get("input") or "", text(record, "output"),
                         record.get("system") or "")
    at = 1 if record.get("system") else 0
    for pair in record.get("history") or []:
        turns[at:at] = [said("user", pair[0]), said("assistant", pair[1])]
        at += 2
    return [(turns, tools)]


def dolly(record: Record) -> list[Turns]:
    """Databricks Dolly 15k (hf.co/datasets/databricks/databricks-dolly-15k): instruction, context, response."""
    return [asked(text(record, "instruction"), record.get("context") or "", text(record, "response"))]


def sharegpt(record: Record) -> list[Turns]:
    """ShareGPT as Vicuna's FastChat reads it: conversations of {from: human | gpt | system, value}; with
    LLaMA-Factory's function_call (JSON of name and arguments) and observation, system and tools beside them."""
    turns = [said("system", record["system"])] if record.get("system") else []
    for number, turn in enumerate(listed(record, "conversations")):
        role = SHAREGPT.get(turn.get("from", turn.get("role")))
        if role is None:
            raise ValueError(f"turn {number} is from {turn.get('from')!r}; known are {', '.join(SHAREGPT)}")
        value = text(turn, "value" if "value" in turn else "content")
        if role == "call":
            calls = json.loads(value)
            calls = calls if isinstance(calls, list) else [calls]
            turns.append(said("assistant", "") | {
                "tool_calls": [call(one.get("name"), one.get("arguments")) for one in calls]})
        else:
            turns.append(said(role, value))
    return [(turns, schemas(record.get("tools")))]


def openai(record: Record) -> list[Turns]:
    """OpenAI's chat format (platform.openai.com/docs/guides/supervised-fine-tuning): messages of {role, content},
    tool_calls with arguments as JSON text, tools; content may be a list of text parts."""
    turns = []
    for number, message in enumerate(listed(record, "messages")):
        if not isinstance(role := message.get("role"), str):
            raise ValueError(f"turn {number} has no role")
        content = message.get("content") or ""
        if isinstance(content, list):
            if other := [part.get("type") for part in content if part.get("type") != "text"]:
                raise ValueError(f"turn {number} holds {other[0]!r}, not text alone")
            content = "".join(part["text"] for part in content)
        turn = said({"developer": "system", "function": "tool"}.get(role, role), content)
        if calls := message.get("tool_calls"):
            functions = [one.get("function") or {} for one in calls]
            turn["tool_calls"] = [call(one.get("name"), one.get("arguments")) for one in functions]
        turns.append(turn)
    return [(turns, schemas(record.get("tools")))]


def oasst(record: Record) -> list[Turns]:
    """OpenAssistant (hf.co/datasets/OpenAssistant/oasst1), a conversation tree: prompt of {text, role: prompter |
    assistant, rank, replies}. One conversation: the best-ranked reply (0 is best) at each level, to the last answer.
    The set's flat form, a message a record, becomes trees first (`trees`)."""
    node = record.get("prompt")
    turns = []
    while isinstance(node, dict):
        role = {"prompter": "user", "assistant": "assistant"}.get(node.get("role"))
        if role is None:
            raise ValueError(f"turn {len(turns)} has role {node.get('role')!r}; known are prompter, assistant")
        turns.append(said(role, text(node, "text")))
        usable = [reply for reply in node.get("replies") or [] if not reply.get("deleted")]
        node = min(usable, key=lambda reply: reply["rank"] if reply.get("rank") is not None else 99, default=None)
    if not turns:
        raise ValueError("prompt is missing")
    while turns and turns[-1]["role"] == "user":
        turns.pop()  # asked and never answered
    return [(turns, [])] if turns else []


def trees(records: Iterable[tuple[int, Record]]) -> Iterable[tuple[int, Record]]:
    """oasst's flat form (a message a record, with message_id and parent_id) as trees at their first message's line;
    records that are trees already pass."""
    known: dict[str, Record] = {}
    orphans: list[tuple[int, Record]] = []
    roots: list[tuple[int, Record]] = []
    for number, record in records:
        if "message_id" not in record or "prompt" in record:
            yield number, record
            continue
        known[record["message_id"]] = node = {**record, "replies": []}
        (orphans if record.get("parent_id") else roots).append((number, node))
    for number, node in orphans:
        if parent := known.get(node["parent_id"]):
            parent["replies"].append(node)
        else:
            yield number, {"message": node}  # its parent is not in the file: oasst names what is missing
    for number, node in roots:
        yield number, {"prompt": node}


def moss(record: Record) -> list[Turns]:
    """MOSS-003 with plugins (github.com/OpenMOSS/MOSS, SFT_data/conversations/conversation_with_plugins):
    meta_instruction, and chat of turn_1, turn_2, ... with Human, Inner Thoughts, Commands (Search("..."), Calculate(...),
    several by a comma, or None), Tool Responses and MOSS. Inner thoughts stand before the call, as its turn's content.
    The plugins that meta_instruction enables are the tools offered, in place of its own text about them."""
    chat = record.get("chat")
    if not isinstance(chat, dict) or not chat:
        raise ValueError("chat is missing")
    meta = record.get("meta_instruction") or ""
    plugins = {name: (what, argument) for what, name, argument in PLUGIN.findall(meta)}
    turns = [said("system", meta.strip())] if meta.strip() and not plugins else []
    for key in sorted(chat, key=lambda name: int(name.rpartition("_")[2])):
        part = {name: stripped(value) for name, value in chat[key].items() if isinstance(value, str)}
        turns.append(said("user", text(part, "Human")))
        commands = part.get("Commands") or "None"
        if commands != "None":
            called = [call(name, {plugins.get(name, ("", "input"))[1]: value.strip().strip('"').replace('\\"', '"')})
                      for name, value in COMMAND.findall(commands)]
            if not called:
                raise ValueError(f"{key}: the command {commands[:60]!r} is none of name(argument)")
            thoughts = part.get("Inner Thoughts") or "None"
            turns += [said("assistant", "" if thoughts == "None" else thoughts) | {"tool_calls": called},
                      said("tool", text(part, "Tool Responses"))]
        turns.append(said("assistant", text(part, "MOSS")))
    offered = [{"name": name, "description": what, "parameters": {
        "type": "object", "properties": {argument: {"type": "string"}}, "required": [argument]}}
        for name, (what, argument) in plugins.items()]
    return [(turns, schemas(offered))]


def stripped(section: str) -> str:
    """A section of a MOSS turn without its marks: `<|Human|>: ... <eoh>`."""
    return MARKS.sub("", section).strip()


def belle(record: Record) -> list[Turns]:
    """BELLE (github.com/LianjiaTech/BELLE): instruction, input, output, as in its 0.5M to 2M sets; in multiturn_chat
    the instruction holds earlier turns, each opened by `Human:` or `Assistant:`; in train_3.5M, ShareGPT's form."""
    if "conversations" in record:
        return sharegpt(record)
    pieces = BELLE.split(text(record, "instruction"))
    if len(pieces) == 1:
        return [asked(pieces[0], record.get("input") or "", text(record, "output"))]
    turns = [said({"Human": "user", "Assistant": "assistant"}[who], what.strip())
             for who, what in zip(pieces[1::2], pieces[2::2], strict=True)]
    if turns[-1] == said("assistant", ""):
        turns.pop()  # where the answer goes on
    return [([*turns, said("assistant", text(record, "output"))], [])]


def firefly(record: Record) -> list[Turns]:
    """Firefly (github.com/yangjianxin1/Firefly): kind, input, target, as in its 1.1M set; and its multi-turn form,
    conversation of {human, assistant}."""
    if "conversation" not in record:
        return [asked(text(record, "input"), "", text(record, "target"))]
    turns = [turn for pair in listed(record, "conversation")
             for turn in (said("user", text(pair, "human")), said("assistant", text(pair, "assistant")))]
    return [(turns, [])]


FORMATS: dict[str, Callable[[Record], list[Turns]]] = {
    "alpaca": alpaca, "belle": belle, "dolly": dolly, "firefly": firefly, "moss": moss, "oasst": oasst,
    "openai": openai, "sharegpt": sharegpt,
}

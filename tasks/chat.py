"""The one chat template of the chain: kept in the tokenizer, used by fine-tuning, serving, evaluation and agents.

ChatML roles with the tool list in the system turn, a signature a line, and tool calls as
`<tool_call>{"name": ..., "arguments": {...}}</tool_call>` with the separators ", " and ": " that constrained
decoding emits. `{% generation %}` marks what the assistant learns.
"""

from __future__ import annotations

import json
from typing import Any

BOS, START, END, PAD = "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|pad|>"
CALL_START, CALL_END = "<tool_call>", "</tool_call>"
SPECIALS = (BOS, START, END, PAD)

TEMPLATE = """\
{%- macro signature(f) -%}
{{ f.name }}(
{%- for name, spec in f.parameters.properties.items() -%}
{{ name }}: {{ spec.enum | join('|') if spec.enum is defined else spec.type }}{{ ', ' if not loop.last }}
{%- endfor -%}
): {{ f.description }}
{%- endmacro -%}
{%- set first = messages[0] if messages and messages[0].role == 'system' else none -%}
{%- if first or tools -%}
{{- '<|im_start|>system\\n' + (first.content if first else '') -}}
{%- if tools -%}
{{- ('\\n' if first else '') + 'Tools:' -}}
{%- for tool in tools -%}{{ '\\n' + signature(tool.function) }}{%- endfor -%}
{%- endif -%}
{{- '<|im_end|>\\n' -}}
{%- endif -%}
{%- for message in messages[1 if first else 0:] -%}
{{- '<|im_start|>' + message.role + '\\n' -}}
{%- if message.role == 'assistant' -%}
{%- generation -%}
{{- message.content or '' -}}
{%- for call in message.tool_calls or [] -%}
{{- '<tool_call>{"name": ' + call.function.name | tojson + ', "arguments": ' -}}
{{- call.function.arguments if call.function.arguments is string else call.function.arguments | tojson -}}
{{- '}</tool_call>' -}}
{%- endfor -%}
{{- '<|im_end|>' -}}
{%- endgeneration -%}
{{- '\\n' -}}
{%- else -%}
{{- message.content + '<|im_end|>\\n' -}}
{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n' -}}{%- endif -%}
"""


def call_text(name: str, arguments: dict[str, Any]) -> str:
    """A tool call exactly as the template renders it and the grammar decodes it."""
    body = json.dumps({"name": name, "arguments": arguments}, ensure_ascii=False)
    return f"{CALL_START}{body}{CALL_END}"


def parse_call(text: str) -> tuple[str, dict[str, Any]] | None:
    """(name, arguments) of the first tool call in an assistant's text, or None where there is no whole one."""
    start = text.find(CALL_START)
    if start < 0:
        return None
    body = text[start + len(CALL_START):].split(CALL_END)[0]
    try:
        call = json.loads(body)
        name, arguments = call["name"], call["arguments"]
    except (json.JSONDecodeError, KeyError, TypeError, RecursionError):
        return None
    return (name, arguments) if isinstance(name, str) and isinstance(arguments, dict) else None

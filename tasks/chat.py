"""The one chat template of the chain: kept in the tokenizer, used by fine-tuning, serving, evaluation and agents.

ChatML roles with the tool list in the system turn, a signature a line (`name?` may be left out, `type[]` is a list,
a parameter's description stands behind it in parentheses), and tool calls as
`<tool_call>{"name": ..., "arguments": {...}}</tool_call>` with the separators ", " and ": " that constrained
decoding emits. `{% generation %}` marks what the assistant learns.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

BOS, START, END, PAD = "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|pad|>"
CALL_START, CALL_END = "<tool_call>", "</tool_call>"
SPECIALS = (BOS, START, END, PAD)

TEMPLATE = """\
{%- macro kind(spec) -%}
{%- if spec.enum is defined -%}{{ spec.enum | join('|') }}
{%- elif spec['items'] is mapping -%}{{ kind(spec['items']) }}[]
{%- elif spec.properties is defined -%}{ {{- fields(spec) -}} }
{%- else -%}{{ spec.type if spec.type is string else (spec.type or ['any']) | join('|') }}
{%- endif -%}
{%- endmacro -%}
{%- macro fields(object) -%}
{%- for name, spec in (object.properties or {}).items() -%}
{{ name }}{{ '?' if object.required is defined and name not in object.required }}: {{ kind(spec) -}}
{{ ' (' + spec.description + ')' if spec.description }}{{ ', ' if not loop.last }}
{%- endfor -%}
{%- endmacro -%}
{%- macro signature(f) -%}
{{ f.name }}({{ fields(f.parameters) }}): {{ f.description }}
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


def calls(text: str) -> Iterator[tuple[str, dict[str, Any]] | None]:
    """(name, arguments) of each tool call in an assistant's text, in order; None, and the end, at the first that is
    not whole. A call is read as JSON from its mark on: a string among the arguments may spell the marks themselves."""
    _, mark, rest = text.partition(CALL_START)
    while mark:
        rest = rest.lstrip()
        try:
            call, used = json.JSONDecoder().raw_decode(rest)
            name, arguments = call["name"], call["arguments"]
        except (ValueError, KeyError, TypeError, RecursionError):
            name = arguments = None
            used = 0
        rest = rest[used:].lstrip()
        if not (isinstance(name, str) and isinstance(arguments, dict)) or (rest and not rest.startswith(CALL_END)):
            yield None
            return
        yield name, arguments
        _, mark, rest = rest.partition(CALL_START)


def parse_call(text: str) -> tuple[str, dict[str, Any]] | None:
    """(name, arguments) of the first tool call in an assistant's text, or None where there is no whole one."""
    return next(calls(text), None)

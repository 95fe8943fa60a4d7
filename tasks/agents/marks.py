"""Text from outside made harmless for a prompt: no part of it is a mark of a chat template any more.

Templates are rendered to text and tokenized whole, so a mark in a tool's answer would become the control token itself.
A space is put into each: `<|im_start|>` to `< |im_start|>`, `<tool_call>` to `< tool_call>`, `[INST]` to `[ INST]`;
the marks of ChatML, Llama, Mistral, Gemma, Phi and DeepSeek are broken alike. Everything else stays as it was.
"""

from __future__ import annotations

import re

# what stands after the sign that opens a mark
MARK = re.compile(r"<(?=[|｜]|/?[A-Za-z][\w-]*(?:[|｜][^<>\n]{0,40})?>)|\[(?=/?[A-Z][A-Z_]{2,30}\])")


def quote(text: str) -> str:
    """`text` with every mark broken; it can neither open a turn nor look like a call."""
    return MARK.sub(lambda found: found[0] + " ", text)


def escape(text: str) -> str:
    """JSON text with the marks in its strings written as escapes: the same value, and no mark in a prompt."""
    return MARK.sub(lambda found: f"\\u{ord(found[0]):04x}", text)

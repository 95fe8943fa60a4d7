"""ReAct (Yao et al., 2022) as tool calling: act, see the result, answer.

A model that was never trained to call gets worked examples before the question and a first step that must be a call
(`first: required`; the server's grammar makes it well-formed); a trained one decides itself (`first: auto`). The last
step of the budget is left for an answer.
"""

from __future__ import annotations

import json
from dataclasses import dataclass

from tasks.agents.loop import Message

# question, tool, arguments, result, answer: one worked example for each tool
EXAMPLES = (
    ("Use Python to count the letters of tree.", "python", {"code": "print(len('tree'))"}, "4", "The answer is 4."),
    ("What do the documents say about file formats?", "search", {"query": "file formats"},
     "PNG is a file format. (from formats)", "The documents say that PNG is a file format."),
    ("What is 12 times 34?", "calculator", {"expression": "12 * 34"}, "408", "The answer is 408."),
)


@dataclass(frozen=True)
class ReAct:
    """A strategy of the loop: `system` and, where `examples`, worked ones open the conversation."""

    system: str
    examples: bool
    first: str

    def opening(self, question: str) -> list[Message]:
        """The system turn, worked examples, the question."""
        shown = [turn for example in EXAMPLES for turn in worked(*example)] if self.examples else []
        return [{"role": "system", "content": self.system}, *shown, {"role": "user", "content": question}]

    def choice(self, step: int, last: bool) -> str:
        """`first` on the first step, then "auto"; "none", an answer, on the last."""
        return "none" if last else self.first if step == 0 else "auto"


@dataclass(frozen=True)
class Plain:
    """The strategy without tools, for comparison: `system`, the question, an answer."""

    system: str

    def opening(self, question: str) -> list[Message]:
        """The system turn and the question."""
        return [{"role": "system", "content": self.system}, {"role": "user", "content": question}]

    def choice(self, step: int, last: bool) -> str:
        """Never a call."""
        return "none"


def worked(question: str, tool: str, arguments: dict[str, str], result: str, answer: str) -> list[Message]:
    """The four turns of one worked example."""
    call = {"id": f"example-{tool}", "type": "function",
            "function": {"name": tool, "arguments": json.dumps(arguments, ensure_ascii=False)}}
    return [{"role": "user", "content": question}, {"role": "assistant", "content": "", "tool_calls": [call]},
            {"role": "tool", "tool_call_id": call["id"], "content": result}, {"role": "assistant", "content": answer}]

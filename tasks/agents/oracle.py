"""An agent that knows: it makes a task's right calls through the loop and says the right answer. It must solve all.

What it fails, no model can solve: a wrong check, a tool that does not do what its task needs, a fact that search does
not find. The other end of the scale is floor.py.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from tasks.agents.trials import Trial


class OracleClient:
    """Looks to the loop like an OpenAI client; answers from the task itself."""

    def __init__(self, trial: Trial) -> None:
        self.trial = trial
        self.chat = SimpleNamespace(completions=self)

    def with_options(self, **_: Any) -> OracleClient:
        """Itself: nothing is waited for."""
        return self

    def create(self, *, messages: list[dict[str, Any]], **_: Any) -> Any:
        """The next right call; after the last, the answer."""
        made = sum(message["role"] == "tool" for message in messages)
        calls, content = None, None
        if made < len(self.trial.calls):
            name, arguments = self.trial.calls[made]
            calls = [SimpleNamespace(id=f"call-{made}", function=SimpleNamespace(name=name, arguments=arguments))]
        else:
            content = " ".join(part.split("|")[0] for part in self.trial.expected.split("&")) or "Done."
        turn = SimpleNamespace(content=content, tool_calls=calls)
        return SimpleNamespace(choices=[SimpleNamespace(message=turn)],
                               usage=SimpleNamespace(prompt_tokens=0, total_tokens=0))

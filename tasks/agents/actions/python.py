"""The python action: code the model wrote, run in the sandbox; what it printed, else its last value, comes back."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

from pydantic import Field

from tasks.sandbox import OUTPUT, Sandbox, SandboxError
from tasks.agents.tools import ActionError

LENGTH = 120    # characters of code a model may write


def action(sandbox: Sandbox) -> Callable[..., str]:
    """The action function over a running sandbox."""
    def python(code: Annotated[str, Field(min_length=1, max_length=LENGTH)]) -> str:
        """run Python, show what it prints"""
        try:
            outcome = sandbox.run(code)
        except SandboxError as error:
            raise ActionError(str(error)) from None
        value = "" if outcome.value is None else repr(outcome.value)[:OUTPUT]
        return "\n".join(part for part in (outcome.printed.strip(), value) if part) or "no output"
    return python

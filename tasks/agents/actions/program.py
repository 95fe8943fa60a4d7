"""The program action: whole Python in the jail, files and standard library included, nothing of the machine."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

from pydantic import Field

from tasks.jail import SOURCE, Jail
from tasks.sandbox import SandboxError
from tasks.agents.tools import ActionError


def action(jail: Jail) -> Callable[..., str]:
    """The action function over a checked jail."""
    def program(code: Annotated[str, Field(min_length=1, max_length=SOURCE)]) -> str:
        """run a whole Python program in an empty directory, show what it prints"""
        try:
            finished = jail.run(code)
        except SandboxError as error:
            raise ActionError(str(error)) from None
        if finished.status:
            last = finished.output.strip().splitlines()[-1:] or [f"it ended with status {finished.status}"]
            raise ActionError(f"program: {last[0][:400]}")
        return finished.output.strip() or "no output"
    return program

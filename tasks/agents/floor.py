"""What a blind agent gets: a random valid call of a random tool, its result handed over as the answer."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Sequence
from typing import Any

from tasks.agents.loop import perform
from tasks.agents.tools import Action

DRAWS = 20  # calls tried for each task; the rate is their mean


def random_rate(tasks: Sequence[Any], actions: Sequence[Action], passes: Callable[[Any, str], bool],
                words: Sequence[str], seed: int) -> float:
    """Mean share of random calls whose result passes, over `tasks`; `words` are what queries are drawn from."""
    chance, allowed = random.Random(seed), {action.name: action for action in actions}
    passed = 0
    for task in tasks:
        for _ in range(DRAWS):
            name, arguments = random_call(chance, sorted(allowed), words)
            done, result = perform(allowed, name, arguments)
            passed += done and passes(task, result)
    return passed / (DRAWS * len(tasks))


def random_call(chance: random.Random, names: Sequence[str], words: Sequence[str]) -> tuple[str, str]:
    """A tool of `names` and arguments that obey its schema, as JSON text."""
    name = chance.choice(names)
    one, operator, other = chance.randint(1, 999), chance.choice("+-*"), chance.randint(1, 999)
    arguments = {
        "calculator": lambda: {"expression": f"{one} {operator} {other}"},
        "search": lambda: {"query": " ".join(chance.choices(words, k=2))[:60]},
        "python": lambda: {"code": f"print({chance.randint(0, 9999)})"},
    }[name]()
    return name, json.dumps(arguments)

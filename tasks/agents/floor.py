"""What a blind agent gets: a random valid call of a random tool of the task, its result handed over as the answer."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager

from tasks.agents.families import FACTORS, ITEMS, PEOPLE
from tasks.agents.loop import perform
from tasks.agents.trials import Trial
from tasks.agents.world import World

DRAWS = 20  # calls tried for each task; the rate is their mean
CHANGE = {"write_file", "stock"}     # tools after which a world is another


def random_rates(trials: Sequence[Trial], enter: Callable[[Trial], AbstractContextManager[World]],
                 words: Sequence[str], seed: int) -> list[float]:
    """Of each task, the share of DRAWS random calls that solve it; `words` are what queries are drawn from."""
    chance, rates = random.Random(seed), []
    for trial in trials:
        passed = 0
        with enter(trial) as untouched:
            allowed = {action.name: action for action in untouched.actions}
            for _ in range(DRAWS):
                name, arguments = random_call(chance, sorted(allowed), words)
                if name not in CHANGE:
                    done, result = perform(allowed, name, arguments)
                    passed += done and untouched.solved(result)
                    continue
                with enter(trial) as fresh:
                    done, result = perform({action.name: action for action in fresh.actions}, name, arguments)
                    passed += done and fresh.solved(result)
        rates.append(passed / DRAWS)
    return rates


def random_call(chance: random.Random, names: Sequence[str], words: Sequence[str]) -> tuple[str, str]:
    """A tool of `names` and arguments that obey its schema, as JSON text."""
    name = chance.choice(names)
    one, operator, other = chance.randint(1, 999), chance.choice("+-*"), chance.randint(1, 999)
    unit, to = chance.choice(sorted(FACTORS))
    path = {"path": chance.choice(("north.txt", "south.txt", "total.txt", "left.txt", "prices.txt", "readme.txt"))}
    arguments = {
        "calculator": {"expression": f"{one} {operator} {other}"},
        "search": {"query": " ".join(chance.choices(words, k=2))[:60]},
        "python": {"code": f"print({chance.randint(0, 9999)})"},
        "convert": {"value": one / 10, "unit": unit, "to": to},
        "stock": {"item": chance.choice(ITEMS)},
        "list_files": {}, "read_file": path, "write_file": path | {"text": str(one)},
        "sql": {"query": f"SELECT sum(pieces) FROM orders WHERE customer = '{chance.choice(PEOPLE)}'"},
    }[name]
    return name, json.dumps(arguments)

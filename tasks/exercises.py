"""Tools and exercises with them: questions whose one right tool call, result and answer are known.

Fine-tuning learns from `split="train"`, evaluation asks `split="held_out"`: no arguments are in both (a hash of the
call decides), and some phrasings are kept for the held-out split alone (`Exercise.phrasing` tells which kind it got).
The sandbox tools (calculator, search, python) are the agents'; weather, timer, convert and light are a small closed
world whose every argument is an enum or a bounded integer, so that a model of two million weights can learn it and
`chance` can be stated exactly.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

Split = Literal["train", "held_out"]
HELD_OUT = 0.2  # share of each family's arguments that only evaluation sees

CITIES = ("Paris", "London", "Tokyo", "Berlin", "Madrid", "Rome", "Cairo", "Oslo", "Lima", "Delhi")
DAYS = ("today", "tomorrow", "Monday", "Friday", "Saturday", "Sunday")
LABELS = ("tea", "pasta", "bread", "laundry", "nap", "homework", "exercise", "oven")
ROOMS = ("kitchen", "bedroom", "office", "hall", "garage", "bathroom", "garden", "attic")
STATES = ("on", "off", "dim")
SKIES = ("sunny", "cloudy", "rainy", "windy", "foggy", "snowy")
# to another unit: multiply, add
UNITS = {("km", "miles"): (0.621371, 0.0), ("miles", "km"): (1.609344, 0.0), ("kg", "pounds"): (2.204623, 0.0),
         ("pounds", "kg"): (0.453592, 0.0), ("celsius", "fahrenheit"): (1.8, 32.0),
         ("fahrenheit", "celsius"): (5 / 9, -160 / 9)}
UNIT_NAMES = ("km", "miles", "kg", "pounds", "celsius", "fahrenheit")


def _tool(name: str, description: str, **properties: dict[str, Any]) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, "description": description, "parameters": {
        "type": "object", "properties": properties, "required": list(properties), "additionalProperties": False}}}


def _enum(values: Sequence[str]) -> dict[str, Any]:
    return {"type": "string", "enum": list(values)}


# name -> OpenAI function schema. Every string and number is bounded, so constrained decoding always ends.
TOOLS: dict[str, dict[str, Any]] = {tool["function"]["name"]: tool for tool in (
    _tool("calculator", "exact arithmetic",
          expression={"type": "string", "pattern": r"^[0-9]{1,9}( [-+*/] [0-9]{1,9}){1,3}$", "maxLength": 45}),
    _tool("search", "find text in the documents", query={"type": "string", "minLength": 1, "maxLength": 60}),
    _tool("python", "run Python, show what it prints", code={"type": "string", "minLength": 1, "maxLength": 120}),
    _tool("convert", "convert units", value={"type": "integer", "minimum": 1, "maximum": 999},
          from_unit=_enum(UNIT_NAMES), to_unit=_enum(UNIT_NAMES)),
    _tool("weather", "weather forecast", city=_enum(CITIES), day=_enum(DAYS)),
    _tool("timer", "set a timer", minutes={"type": "integer", "minimum": 1, "maximum": 90}, label=_enum(LABELS)),
    _tool("light", "switch a light", room=_enum(ROOMS), state=_enum(STATES)),
)}


@dataclass(frozen=True)
class Exercise:
    """A question, the one right call, what the tool says and the checkable answer.

    `result` is None where only the call is asked (search: its result depends on the corpus). `reply` is a whole last
    turn that contains `answer`. `tools` are the names offered, the right one among them, in the order to be shown.
    """

    id: str
    family: str
    question: str
    tool: str
    arguments: dict[str, Any]
    result: str | None
    answer: str
    reply: str
    tools: tuple[str, ...]
    phrasing: Literal["seen", "new"]

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON values, for a jsonl line; `Exercise(**{**d, "tools": tuple(d["tools"])})` is its inverse."""
        return asdict(self) | {"tools": list(self.tools)}


# (phrasings of training and evaluation, phrasings of evaluation alone); {names} are those of the drawn values
PHRASINGS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "+": (("What is {a} + {b}?", "What is {a} plus {b}?", "Add {a} and {b}.", "Calculate {a} + {b}.",
           "How much is {a} plus {b}?", "There are {a} pages in one book and {b} in another. How many in both?",
           "Find the sum of {a} and {b}."),
          ("Please compute {a} plus {b}.", "{a} people came first, then {b} more. How many came?")),
    "-": (("What is {a} - {b}?", "What is {a} minus {b}?", "Subtract {b} from {a}.", "Calculate {a} - {b}.",
           "How much is {a} minus {b}?", "A shop had {a} lamps and sold {b}. How many are left?",
           "Find the difference of {a} and {b}."),
          ("Please compute {a} minus {b}.", "Of {a} seats {b} are taken. How many are free?")),
    "*": (("What is {a} * {b}?", "What is {a} times {b}?", "Multiply {a} by {b}.", "Calculate {a} * {b}.",
           "How much is {a} times {b}?", "There are {a} boxes with {b} nails each. How many nails?",
           "Find the product of {a} and {b}."),
          ("Please compute {a} times {b}.", "Each of {a} shelves holds {b} books. How many books?")),
    "weather": (("What is the weather in {city} {day}?", "How is the weather in {city} {day}?",
                 "Weather in {city} {day}, please.", "Tell me the forecast for {city} {day}.",
                 "Will it rain in {city} {day}?", "I am in {city} {day}. Do I need a coat?"),
                ("Give me the {city} forecast for {day}.", "What will the sky over {city} look like {day}?")),
    "timer": (("Set a timer of {minutes} minutes for {label}.", "Set a {minutes} minute {label} timer.",
               "Start a {label} timer for {minutes} minutes.", "Remind me of the {label} in {minutes} minutes.",
               "Wake me after {minutes} minutes for the {label}."),
              ("I need {minutes} minutes for {label}, please time it.", "Time my {label}: {minutes} minutes.")),
    "convert": (("Convert {value} {from_unit} to {to_unit}.", "What is {value} {from_unit} in {to_unit}?",
                 "How many {to_unit} are {value} {from_unit}?", "Give me {value} {from_unit} as {to_unit}.",
                 "Change {value} {from_unit} into {to_unit}."),
                ("I have {value} {from_unit}; what is that in {to_unit}?",
                 "Express {value} {from_unit} in {to_unit}.")),
    "light": (("Turn the {room} light {state}.", "Set the {room} light to {state}.", "Make the {room} light {state}.",
               "Switch the light in the {room} to {state}.", "Please put the {room} light {state}."),
              ("The light in the {room} should be {state}.", "I want the {room} light {state}.")),
    "search": (("Search the documents for {query}.", "Look up {query}.", "What do the documents say about {query}?",
                "Find the page on {query}.", "Where can I read about {query}?"),
               ("I need to know more about {query}.", "Show me something on {query}.")),
    "python": (("Use Python to {task}.", "Run Python code to {task}.", "Write Python to {task}.",
                "With Python, {task}."),
               ("Let Python {task}.",)),
}
OPERATORS: dict[str, Callable[[int, int], int]] = {"+": int.__add__, "-": int.__sub__, "*": int.__mul__}
TOPICS = (("connection", "session", "query", "engine", "table", "column", "index", "event", "sprite", "surface",
           "sound", "window", "cursor", "schema", "transaction", "relationship", "type", "cache"),
          ("pool", "options", "lifecycle", "errors", "defaults", "names", "limits", "examples", "settings", "objects",
           "methods", "attributes", "performance", "timeouts", "functions", "changes"))
WORDS = ("engine", "window", "session", "column", "garden", "planet", "silver", "kettle", "bridge", "forest",
         "letter", "market", "pepper", "rocket", "summer", "velvet", "winter", "yellow", "zebra", "apple", "banana", "candle",
         "dragon", "elephant", "feather", "guitar", "hammer", "island", "jungle", "ladder", "mirror", "needle")


def is_held_out(tool: str, arguments: dict[str, Any]) -> bool:
    """Whether a call belongs to evaluation: a hash of the call alone decides, whatever the seed or phrasing."""
    digest = hashlib.sha256(json.dumps([tool, arguments], sort_keys=True).encode()).digest()
    return int.from_bytes(digest[:8], "big") < HELD_OUT * 2**64


def forecast(city: str, day: str) -> str:
    """The closed world's weather: fixed for ever by a hash of city and day."""
    digest = hashlib.sha256(f"{city} {day}".encode()).digest()
    return f"{SKIES[digest[0] % len(SKIES)]}, {digest[1] % 35} C"


def converted(value: int, from_unit: str, to_unit: str) -> str:
    """`value` in `to_unit`, one decimal. Raises ValueError for units that measure different things."""
    if from_unit == to_unit:
        return f"{value:.1f} {to_unit}"
    if (from_unit, to_unit) not in UNITS:
        raise ValueError(f"cannot convert {from_unit} to {to_unit}")
    factor, offset = UNITS[from_unit, to_unit]
    return f"{round(value * factor + offset, 1) + 0.0:.1f} {to_unit}"  # + 0.0: never "-0.0"


def _draw_arithmetic(random: random.Random) -> tuple[str, dict[str, Any], dict[str, Any], str, str, str]:
    operator = random.choice(list(OPERATORS))
    a, b = random.randint(100, 999), random.randint(100, 999)
    if operator == "-" and a < b:
        a, b = b, a
    answer = str(OPERATORS[operator](a, b))
    arguments = {"expression": f"{a} {operator} {b}"}
    return operator, {"a": a, "b": b}, arguments, answer, answer, f"The answer is {answer}."


def _draw_weather(random: random.Random) -> tuple[str, dict[str, Any], dict[str, Any], str, str, str]:
    values = {"city": random.choice(CITIES), "day": random.choice(DAYS)}
    said = forecast(**values)
    day = values["day"] if values["day"] in ("today", "tomorrow") else f"on {values['day']}"
    return "weather", values | {"day": day}, values, said, said, f"{values['city']} {day}: {said}."


def _draw_timer(random: random.Random) -> tuple[str, dict[str, Any], dict[str, Any], str, str, str]:
    values = {"minutes": random.randint(2, 90), "label": random.choice(LABELS)}
    said = f"{values['label']} timer: {values['minutes']} minutes"
    return "timer", values, values, said, said, f"Done, {said}."


def _draw_convert(random: random.Random) -> tuple[str, dict[str, Any], dict[str, Any], str, str, str]:
    source, target = random.choice(list(UNITS))
    values = {"value": random.randint(2, 999), "from_unit": source, "to_unit": target}
    said = converted(**values)
    return "convert", values, values, said, said, f"That is {said}."


def _draw_light(random: random.Random) -> tuple[str, dict[str, Any], dict[str, Any], str, str, str]:
    values = {"room": random.choice(ROOMS), "state": random.choice(STATES)}
    said = f"{values['room']} light: {values['state']}"
    return "light", values, values, said, said, f"Done, {said}."


def _draw_search(random: random.Random) -> tuple[str, dict[str, Any], dict[str, Any], None, str, str]:
    values = {"query": f"{random.choice(TOPICS[0])} {random.choice(TOPICS[1])}"}
    return "search", values, values, None, "", ""


def _draw_python(random: random.Random) -> tuple[str, dict[str, Any], dict[str, Any], str, str, str]:
    kind, word, n = random.randrange(5), random.choice(WORDS), random.randint(10, 99)
    numbers = random.sample(range(10, 100), 3)
    task, code, answer = (
        (f"add the numbers from 1 to {n}", f"print(sum(range(1, {n + 1})))", sum(range(1, n + 1))),
        (f"square the number {n}", f"print({n} ** 2)", n**2),
        (f"find the largest of {numbers[0]}, {numbers[1]} and {numbers[2]}",
         f"print(max({numbers[0]}, {numbers[1]}, {numbers[2]}))", max(numbers)),
        (f"count the letters of {word}", f"print(len('{word}'))", len(word)),
        (f"spell {word} backwards", f"print('{word}'[::-1])", word[::-1]),
    )[kind]
    return "python", {"task": task}, {"code": code}, str(answer), str(answer), f"It printed {answer}."


# family -> (its tool, how to draw (phrasings, phrasing values, arguments, result, answer, reply))
FAMILIES: dict[str, tuple[str, Callable[[random.Random], tuple]]] = {
    "arithmetic": ("calculator", _draw_arithmetic), "weather": ("weather", _draw_weather),
    "timer": ("timer", _draw_timer), "convert": ("convert", _draw_convert), "light": ("light", _draw_light),
    "search": ("search", _draw_search), "python": ("python", _draw_python),
}
CLOSED = ("weather", "timer", "convert", "light")  # every argument an enum or a bounded integer: chance is above zero
CALLS = (*CLOSED, "search", "python")
OFFERED = 3  # tools shown with a question: few enough that a 256-token context holds the whole conversation


def arithmetic(n: int, split: Split, seed: int) -> list[Exercise]:
    """`n` distinct three-digit additions, subtractions and multiplications for the calculator."""
    return _take(n, _exercises("arithmetic", split, seed), "arithmetic", split)


def tool_calls(n: int, split: Split, seed: int, families: Sequence[str] = CALLS) -> list[Exercise]:
    """`n` distinct exercises, the families in turn. Raises ValueError where the closed world has fewer."""
    if not families or n < 0:
        raise ValueError("tool_calls needs n >= 0 and at least one family")
    streams = [_exercises(family, split, seed) for family in families]

    def turns() -> Iterator[Exercise]:
        while streams:
            for stream in list(streams):
                exercise = next(stream, None)
                if exercise is None:
                    streams.remove(stream)
                else:
                    yield exercise

    return _take(n, turns(), "+".join(families), split)


def drills(n: int, seed: int) -> list[Exercise]:
    """`n` training exercises, every family as often as any other: the small ones repeat themselves."""
    stream = random.Random(f"{seed} drills")
    families = [_drawn(family, "train", stream) for family in FAMILIES]
    return [next(filter(None, families[number % len(families)])) for number in range(n)]


def schemas(names: Sequence[str]) -> list[dict[str, Any]]:
    """OpenAI tool schemas of `names`, in that order, as the chat template and the API take them."""
    return [TOOLS[name] for name in names]


def choices(specification: dict[str, Any]) -> float:
    """How many values a JSON schema of an argument admits; a free string counts as infinitely many."""
    if "enum" in specification:
        return len(specification["enum"])
    if specification["type"] == "integer":
        return specification["maximum"] - specification["minimum"] + 1
    return float("inf")


def chance(exercises: Sequence[Exercise]) -> float:
    """Mean probability that one of the offered tools at random, with uniformly random valid arguments, is right.

    A free string (calculator, search, python: over 10^15 values each) is never hit: those families have chance 0.
    Raises ValueError for no exercises.
    """
    if not exercises:
        raise ValueError("chance of no exercises")
    total = 0.0
    for exercise in exercises:
        probability = 1 / len(exercise.tools)
        for specification in TOOLS[exercise.tool]["function"]["parameters"]["properties"].values():
            probability /= choices(specification)
        total += probability
    return total / len(exercises)


def _take(n: int, stream: Iterator[Exercise], what: str, split: Split) -> list[Exercise]:
    taken = [exercise for exercise, _ in zip(stream, range(n))]
    if len(taken) < n:
        raise ValueError(f"{n} {split} exercises of {what} asked, {len(taken)} distinct ones exist: ask fewer")
    return taken


def _exercises(family: str, split: Split, seed: int) -> Iterator[Exercise]:
    """Distinct exercises of a family, without end until two thousand draws bring nothing new."""
    if split not in ("train", "held_out"):
        raise ValueError(f"split is train or held_out, not {split!r}")
    seen: set[str] = set()
    misses = 0
    for exercise in _drawn(family, split, random.Random(f"{seed} {family} {split}")):
        misses += 1
        if exercise and exercise.id not in seen:
            seen.add(exercise.id)
            misses = 0
            yield exercise
        if misses == 2000:
            return


def _drawn(family: str, split: Split, stream: random.Random) -> Iterator[Exercise | None]:
    """Endless draws of a family, None for one of the other split."""
    tool, draw = FAMILIES[family]
    while True:
        kind, values, arguments, result, answer, reply = draw(stream)
        common, kept = PHRASINGS[kind]
        phrasing = stream.choice(common + kept if split == "held_out" else common)
        others = stream.sample([name for name in TOOLS if name != tool], OFFERED - 1)
        offered = tuple(stream.sample([tool, *others], OFFERED))
        if is_held_out(tool, arguments) != (split == "held_out"):
            yield None
            continue
        question = phrasing.format(**values)
        identity = hashlib.sha256(json.dumps([family, question, arguments]).encode()).hexdigest()[:16]
        yield Exercise(f"{family}-{identity}", family, question, tool, arguments, result, answer, reply, offered,
                       "new" if phrasing in kept else "seen")

"""A tool's schema bounded to what the question says, so that a small model has only to choose what it copies.

Free numbers become those stated (said.py), free strings runs of whole words or the options that the parameter's
description quotes, dates the form that it names (ISO 8601's where it names none), addresses, paths, hours and
currencies their own (typed.py), lists what the question enumerates. Nothing stated is used twice in a call while
something is left (`given` are the arguments already written). Of what may be left out: a number stays while the
question states more numbers than the call must take; a flag must be given where its whole name stands in the
question, a string or a list where one of its options does. Where nothing fits, the schema stays as it was.
Bounding outputs to the input is the idea of pointer networks (Vinyals et al. 2015, arXiv:1506.03134); here the grammar
of constrained decoding does it, for any model.
"""

from __future__ import annotations

import copy
import functools
import re
from typing import Any

from tasks.serve import said
from tasks.serve.said import (FORM, INCHES, SPANS, TIMES, Mention, dated, described, described_as, general, same_date,
                              split, stems)
from tasks.serve.typed import coefficients, formed, hours, typed

LONGEST = 120                   # words of the longest question that is narrowed to: longer ones state too much
MANY = 500                      # alternatives of a list, at most
STATE = re.compile(r"\b[A-Z][a-z]+, [A-Z]{2}\b|[Cc]ity,? (?:and )?[Ss]tate")
CODED = re.compile(r"\b(codes?|abbreviat\w+|symbol|ticker|ISO|HH:MM|24-hour|syntax|regular expression|SQL)\b")
CLOSED = re.compile(r"[Cc]an be|[Cc]hoices|[Oo]ne of|[Oo]ptions|[Ee]ither|[Pp]ossible values|[Ss]upports?\b")
CALENDAR = re.compile(r"\b(?:year|month|day|date)\b")
DATED = re.compile(r"\b(?:dates?|deadline|day|period|birthday)\b")
TIMED = re.compile(r"\b(?:times?|hours?|when|year|month|start|end|begin|from|until|after|before)\b")
OFTEN = re.compile(r"compound|frequen|\btimes\b|often|per year")
SPAN = re.compile(r"period|\bdays?\b|ahead|initial|start")
NOT = r"(?:\bnot|n't|\bno|\bwithout|\bexclud\w+|\bnever)\s+(?:\w+\s+){0,2}"
AT_MOST = re.compile(r"(?<!not )(?<!no )\b(?:at most|up to|no more than|not (?:above|over|more than)|under|below|"
                     r"less than|max(?:imum)?(?: of)?)\s*$")
AT_LEAST = re.compile(r"(?<!not )(?<!no )\b(?:at least|not? (?:under|below|less than)|min(?:imum)?(?: of)?|over|above|"
                      r"more than)\s*$")
CLOCK = re.compile(r"HH:MM|24-hour")
PROGRAM = re.compile(r"code|script|sql", re.IGNORECASE)
CODE = re.compile(r"[_/~@\d]|\w\.\w")
OPEN = re.compile(r"\betc\b|[Ee]\.g\b|such as|[Ll]ike '|[Ff]or example|[Ff]or instance|[Ee]xample")
KEPT = ("enum", "const", "$ref", "pattern", "anyOf", "oneOf", "allOf")


def narrowed(schema: dict[str, Any], text: str, function: str = "", given: dict[str, Any] | None = None,
             current: str | None = None) -> dict[str, Any]:
    """`schema` of an object bounded to what `text` says; itself where that is longer than LONGEST words.

    function: its name. given: the arguments already written, in order, which become constants; `current` is the name
    of one begun."""
    if len(text.split()) > LONGEST:
        return schema
    return copy.copy(known(text)).object(schema, function, given or {}, current)


class Said:
    """A text's mentions."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.stems = stems(text)
        self.numbers, self.dates = said.numbers(text), said.dates(text)
        self.runs = [*said.quoted(text), *said.runs(text)]
        self.numeric_lists, self.worded_lists = said.numeric_lists(text), said.worded_lists(text)
        self.starts = {match.end() for match in re.finditer(r"(?:^|[.!?]\s+)['\"]?", text)}
        self.used: list[Mention] = []
        self.about: set[str] = set()
        self.loose: list[Mention] = []
        self.reserved: set[str] = set()
        self.taken: list[Any] = []
        self.parted = False

    def object(self, schema: dict[str, Any], function: str, given: dict[str, Any], current: str | None
               ) -> dict[str, Any]:
        """An object's schema with every property narrowed, those of `given` fixed."""
        properties, required = schema.get("properties") or {}, set(schema.get("required") or ())
        if not all(isinstance(each, dict) for each in properties.values()):
            return schema               # `true` and `false` are schemas too
        self.about = stems(" ".join([split(function), *(f"{split(name)} {general(described_as(each))}"
                                                        for name, each in properties.items())]))
        self.parted = bool({"country", "state"} & {name.lower() for name in properties})
        self.taken = list(given.values())
        self.used = [each for value in given.values() for each in self.sources(value)]
        enumerated = [each for each in properties.values() if each.get("type") == "string" and "enum" in each]
        self.reserved = {option.lower() for each in enumerated for option in self.options(each)}
        begun = [*given, current] if current else [*given]
        numeric = [name for name, each in properties.items() if each.get("type") in ("integer", "number")]
        listed = any(isinstance(each.get("items"), dict) and each["items"].get("type") in ("integer", "number")
                     for each in properties.values())
        bound = [*self.dates, *hours(self.text), *(self.numeric_lists if listed else ())]
        self.loose = [each for each in self.numbers if not any(one.start <= each.start < one.end for one in bound)]
        many = sum(each.values[0] != 1 or self.text[each.end - 1].isdigit() for each in self.left(self.loose))
        spare = many > sum(name in required or name == current for name in numeric if name not in given)
        plain = all(each.values[0] > 2 or self.text[each.end - 1].isdigit() for each in self.numbers)
        if plain and not (self.dates or self.numeric_lists) and len(self.numbers) == len(numeric):
            required |= set(numeric)
        made: dict[str, Any] = {}
        behind = max([list(properties).index(name) for name in begun if name in properties], default=-1)
        for at, (name, each) in enumerate(properties.items()):
            if name in given:
                made[name] = {"const": given[name]}
            elif at < behind and name != current:
                continue                # it was left out
            elif name in required or name == current:
                made[name] = self.value(name, each, name in required) or each
            elif name in numeric:
                if spare:
                    made[name] = self.value(name, each, True)
            elif each.get("type") == "boolean":
                said_whole = bool(stems(split(name))) and stems(split(name)) <= self.stems
                made[name] = each | {"enum": [False]} if said_whole and self.denied(name) else each
                required |= {name} if said_whole else set()
            else:
                narrow = self.value(name, each, False)
                if narrow or not each:
                    made[name] = narrow
                    listed = each.get("items") if each.get("type") == "array" else each
                    listed = listed if isinstance(listed, dict) else each
                    required |= {name} if listed.get("type") == "string" and self.options(listed) else set()
        return schema | {"properties": made, "required": [name for name in made if name in required or name in given]}

    def sources(self, value: Any) -> list[Mention]:
        """Where in the text an argument's value comes from: the first place not yet used."""
        if isinstance(value, bool):
            return []
        if isinstance(value, (int, float)):
            return [each for each in self.numbers if value in each.values][:1]
        if isinstance(value, str):
            place = re.sub(r", [A-Z]{2}$", "", value)
            of_form = [each for mentions in formed(self.text) for each in mentions if value in each.values]
            return of_form[:1] or [each for each in self.runs if value in each.values or place in each.values][:1] or \
                [each for each in self.dates if same_date(value, each.values[0])][:1]
        if isinstance(value, list):
            lists = [each for each in self.numeric_lists if value in each.values][:1]
            return lists or [each for one in value for each in self.sources(one)]
        return [each for one in value.values() for each in self.sources(one)] if isinstance(value, dict) else []

    def left(self, mentions: list[Mention]) -> list[Mention]:
        """The mentions that share no place with a used one; each stands for one use."""
        return [each for each in mentions if not any(each.start < use.end and use.start < each.end
                                                     for use in self.used)]

    def denied(self, name: str) -> bool:
        """Whether the text says what a flag is named after, and "not" or "without" before it."""
        first = min(stems(split(name)), key=self.text.lower().find)
        return bool(re.search(NOT + first, self.text, re.IGNORECASE))

    def options(self, schema: dict[str, Any]) -> list[str]:
        """The options of a string, enumerated or quoted in its description, that the text says."""
        offered = [each for each in schema.get("enum") or described(schema) if isinstance(each, str)]
        found = [each for each in offered if len(each) > 2 and self.place(each) < len(self.text)]
        short = [each for each in offered if len(each) < 3 and re.search(rf"(?<!\w){re.escape(each)}(?!\w)", self.text)]
        # alone, "in" or "a" may be but a word of the sentence
        return [each for each in offered if each in found or each in short] if found else []

    def option(self, schema: dict[str, Any]) -> dict[str, Any]:
        """One of an enumeration: an option that the text says, of those the ones that no argument has taken yet."""
        options = self.options(schema)
        return bounded(schema, [each for each in options if each not in self.taken] or options)

    def place(self, option: str) -> int:
        """Where the text says an option, in the singular or plural; its length where it does not."""
        words = re.escape(re.sub("[_-]", " ", option)).removesuffix("s" if len(option) > 3 else "")
        match = re.search(rf"(?<!\w){words}s?(?!\w)", re.sub("[_-]", " ", self.text), re.I)
        if match or "_" not in option:
            return match.start() if match else len(self.text)
        found = [self.text.lower().find(stem) for stem in stems(split(option))]
        return min(found) if min(found, default=-1) >= 0 else len(self.text)

    def value(self, name: str, schema: dict[str, Any], needed: bool) -> dict[str, Any]:
        """The schema of one value; empty where nothing in the text can be it and it is not `needed`."""
        kind = schema.get("type")
        if kind == "string" and "enum" in schema:
            return self.option(schema)
        if any(key in schema for key in KEPT):
            return schema
        if kind == "object" and schema.get("properties"):
            return Said(self.text).object(schema, name, {}, None)
        if kind in ("integer", "number"):
            return bounded(schema, self.numeric(name, schema))
        if kind == "string":
            return self.string(name, schema, needed) or (schema if needed else {})
        if kind == "array" and isinstance(schema.get("items"), dict):
            return self.array(name, schema, needed)
        return schema

    def numeric(self, name: str, schema: dict[str, Any]) -> list[int | float]:
        """The numbers that are left of the schema's kind: a percentage is a fraction unless points are described,
        "monthly" a number of times only, a maximum nothing that the text calls the least."""
        says = f"{split(name)} {described_as(schema)}".lower()
        points = ("percent" in says or "%" in says) and not re.search("decimal|fraction", says)
        times = [each for each in self.numbers if self.text[each.start:each.end].lower() in TIMES]
        of_kind = times if times and OFTEN.search(says) else [each for each in self.numbers if each not in times and (
            self.text[each.start:each.end].lower() not in SPANS or SPAN.search(says))]
        if "inch" in says:
            of_kind = [each for each in of_kind if INCHES.match(self.text, each.start, each.end)] or of_kind
        wrong = {"max": AT_LEAST, "min": AT_MOST}.get((re.search(r"\b(max|min)(?:imum|imal)?\b", says) or [""])[0][:3])
        if wrong:
            of_kind = [each for each in of_kind if not wrong.search(self.text[:each.start].lower())]
        left = self.left(of_kind)
        apart = [] if CALENDAR.search(says) else [each for each in left if each in self.loose]
        for mentions in (apart, left, of_kind):
            found = [each.values[-1 if points else 0] for each in mentions]
            if schema["type"] == "integer":
                found = [value for each in mentions for value in each.values if isinstance(value, int)]
            if found:
                return list(dict.fromkeys(found))
        return []

    def words(self, name: str, schema: dict[str, Any], needed: bool) -> list[str]:
        """The runs of words left for a parameter. None is but the parameter's own name or ends with a word of it that
        could be left off ("theft crimes" for a `crime`); one that is not `needed` says something that neither the
        function's parameters nor their descriptions do, and not by the first word of a sentence, the verb."""
        called = stems(split(name))
        timely = TIMED.search(f"{split(name)} {described_as(schema)}".lower())
        apart = self.dates if timely else [*self.dates, *hours(self.text)]
        left = [each for each in self.left(self.runs) if not any(
            time.start <= each.start and each.end <= time.end for time in apart)]
        offered = {run for each in left for run in each.values}
        found = [dated("YYYY-MM-DD", each.values[0]) for each in self.left(self.dates) if timely]
        for each in left:
            for run in each.values:
                marks, (first, *more) = stems(run), run.split()
                last = more[-1] if more else first
                if marks and marks <= called and not CODE.search(run) or run.lower() in self.reserved:
                    continue
                if any(word.islower() and stems(word) & called and first in offered for word in more):
                    continue
                if self.parted and "state" not in called and re.search(r"[a-z], [A-Z]", run):
                    continue
                quotes = each.end - each.start > len(run)
                if not needed and not quotes and (marks <= self.about and not run.isdigit() or each.start in self.starts
                                                  or last.islower() and stems(last) & self.about):
                    continue
                found.append(run)
        return found

    def string(self, name: str, schema: dict[str, Any], needed: bool) -> dict[str, Any]:
        """A string: a date in the form described, an option of the description, or a run of words."""
        says = described_as(schema)
        if (form := FORM.search(says)) and self.dates:
            return bounded(schema, [dated(form[0], each.values[0]) for each in self.left(self.dates) or self.dates])
        of_form = [] if described(schema) and CLOSED.search(says) else typed(self.text, f"{split(name)} {says}")
        if of_form:
            way = -1 if CLOCK.search(says) else 0
            return bounded(schema, [each.values[way] for each in self.left(of_form) or of_form])
        if CODED.search(says) or PROGRAM.fullmatch(name):
            return schema
        if self.options(schema):
            return bounded(schema, self.options(schema))
        if DATED.search(f"{split(name)} {says}".lower()) and (whole := self.left(self.dates)):
            return bounded(schema, [dated("YYYY-MM-DD", each.values[0]) for each in whole])
        options = described(schema)
        if len(options) > 1 and CLOSED.search(says) and not OPEN.search(says):
            return bounded(schema, options)
        found = self.words(name, schema, needed)
        limit = schema["maxLength"] if isinstance(schema.get("maxLength"), int) else len(self.text)
        if not needed and not found:
            return {}
        made = bounded(schema, [run for run in [*options, *found] if len(run) <= limit])
        places = [re.escape(run) for run in found if run[:1].isupper() and len(run.split()) < 4 and "," not in run]
        if STATE.search(says) and places:
            named = {"type": "string", "pattern": f"^({'|'.join(places)}), [A-Z]{{2}}$"}
            full = [run for run in found if re.search(r"[a-z], [A-Z]", run)]
            if re.search("[Cc]ity,? (and )?[Ss]tate", says):
                return {"anyOf": [bounded({}, full), named]} if full else named
            return {"anyOf": [made, named]}
        return made if "enum" in made else {}

    def array(self, name: str, schema: dict[str, Any], needed: bool) -> dict[str, Any]:
        """A list: one that the text enumerates, or one value that it states; of options, those that it says."""
        items = schema["items"]
        kind = items.get("type")
        if kind == "string":
            says = described_as(schema)
            options = self.options(items) or ([] if OPEN.search(says) and self.worded_lists else self.options(schema))
            if options:
                return bounded(schema, [sorted(options, key=self.place), *([each] for each in options)])
            if "enum" in items:
                return schema
        if kind in ("integer", "number"):
            sums = coefficients(self.text) if "coefficient" in described_as(schema).lower() else []
            lists = [value for each in sums or self.left(self.numeric_lists) for value in each.values]
            if not lists:       # numbers told one by one, those in percent apart
                rates = [each for each in self.left(self.numbers) if len(each.values) > 1]
                others = [each for each in self.left(self.numbers) if len(each.values) == 1]
                lists = [[each.values[0] for each in group] for group in (rates, others, [*rates, *others]) if group]
            found = [[float(one) for one in value] if kind == "number" else value for value in lists
                     if kind == "number" or all(isinstance(one, int) for one in value)]
            return bounded(schema, found) if found else schema | {"items": self.value(name, items, True)}
        if kind == "string":
            singles = [[run] for run in [*described(schema), *self.words(name, schema, needed)]]
            found = [each.values[-1] for each in self.worded_lists] if "quant" in self.about else \
                [value for each in self.worded_lists for value in each.values]
            return bounded(schema, [*found, *singles][:MANY]) if found or singles else schema if needed else {}
        return schema | {"items": self.value(name, items, True)}


def stated(text: str, value: Any) -> bool:
    """Whether a value is a number, a date or an enumeration that `text` states. A number spelt "one" or "two" is none:
    they count what is spoken of ("between two notes")."""
    said = known(text)
    if isinstance(value, list):
        return len(value) > 1 and any(value in each.values for each in [*said.numeric_lists, *said.worded_lists])
    if isinstance(value, str):
        return any(value == text[each.start:each.end] or same_date(value, each.values[0]) for each in said.dates)
    return not isinstance(value, bool) and isinstance(value, (int, float)) and any(
        value in each.values and (each.values[0] > 2 or text[each.end - 1].isdigit()) for each in said.numbers)


@functools.lru_cache(maxsize=64)
def known(text: str) -> Said:
    """The mentions of a text, found once."""
    return Said(text)


def bounded(schema: dict[str, Any], values: list[Any]) -> dict[str, Any]:
    """`schema` with `values`, each once, as its alternatives; itself where there are none."""
    kept = {key: schema[key] for key in ("description",) if key in schema}
    return kept | {"enum": list({repr(each): each for each in values}.values())} if values else schema

"""What a question says: its numbers, dates, runs of words and enumerations, each with its place in the text.

A call's arguments are mostly copied from the question; narrow.py bounds them to what is found here.
"""

from __future__ import annotations

import itertools
import re
from dataclasses import dataclass
from typing import Any

WORDS = 10                      # of the longest run of words, unless it is quoted
SMALL = ("zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen "
         "seventeen eighteen nineteen twenty").split()
TENS = {word: 10 * at for at, word in enumerate("twenty thirty forty fifty sixty seventy eighty ninety".split(), 2)}
SCALES = {"dozen": 12, "hundred": 100, "thousand": 1000, "k": 1000, "million": 10 ** 6, "billion": 10 ** 9,
          "trillion": 10 ** 12}
PREFIXES = {"p": 1e-12, "n": 1e-9, "u": 1e-6, "µ": 1e-6, "μ": 1e-6, "m": 1e-3, "k": 1e3, "M": 1e6, "G": 1e9}
TIMES = {"once": 1, "twice": 2, "annually": 1, "yearly": 1, "semiannually": 2, "semi-annually": 2, "quarterly": 4,
         "monthly": 12, "weekly": 52, "daily": 365}
SPANS = {"next week": 7, "past week": 7, "coming week": 7, "last week": 7, "upcoming week": 7, "next month": 30,
         "past month": 30, "coming month": 30, "last month": 30, "upcoming month": 30, "from rest": 0, "at rest": 0}
MONTHS = "january february march april may june july august september october november december".split()
NUMBER = re.compile(r"(?<![\w.^])(?P<sign>-\s?)?\$?(?P<digits>\d{1,3}(?:,\d{3})+(?:\.\d+)?|\d*\.\d+|\d+)"
                    r"(?P<exponent>e-?\d+)?(?:(?P<percent>\s?%|\s?percent\b)|(?P<scale>k\b|\s?(?:[mb]illion|trillion|"
                    r"thousand|hundred|dozen)\b)|(?P<prefix>[pnuµμmkMG])(?=(?:Hz|[FHVWAJ]|Ohms?|ohms?)\b|Ω)|"
                    r"(?:st|nd|rd|th)\b)?")
SPELT = re.compile(r"\b(?:(?P<tens>" + "|".join(TENS) + r")[- ])?(?P<ones>" + "|".join([*SMALL, *TENS, "dozen"]) +
                   r")(?:\s(?P<scale>hundred|thousand|million|billion|dozen|percent))?\b", re.IGNORECASE)
INCHES = re.compile(r"\b(\d+)\s?(?:ft|feet|foot|')\.?,?\s?(\d+)\s?(?:in\b|inch(?:es)?\b|\")")
PERIOD = re.compile(r"\b(?:" + "|".join([*TIMES, *SPANS]) + r")\b", re.IGNORECASE)
NAMED = re.compile(r"(?:(?P<y0>\d{4}),?\s+)?(?:(?P<d1>\d{1,2})(?:st|nd|rd|th)?\s+(?:of\s+)?)?\b(?P<month>"
                   + "|".join(f"{month[:3]}(?:{month[3:]}|t)?" for month in MONTHS) + r")\b"
                   r"(?:(?:\.\s?|\s+)(?P<d2>\d{1,2})(?:st|nd|rd|th)?\b)?(?:(?:,\s?|\.?\s+)(?:of\s+)?(?P<y1>\d{4}))?",
                   re.IGNORECASE)
DIGITAL = re.compile(r"\b(?:(?P<y>\d{4})[-/](?P<m>\d{1,2})[-/](?P<d>\d{1,2})|"
                     r"(?P<m2>\d{1,2})[-/](?P<d2>\d{1,2})[-/](?P<y2>\d{4}))\b")
PLACE = r"(?:YYY?Y?|MM|DD|year|month|day)"
FORM = re.compile(rf"\b{PLACE}([-/. ]){PLACE}\1{PLACE}\b", re.IGNORECASE)
RANGE = re.compile(r"\b(?:from|between)\s+(?:[a-z]\s*=\s*)?\$?(-?\d[\d,]*(?:\.\d+)?)\s+(?:to|and)\s+(?:[a-z]\s*=\s*)?"
                   r"\$?(-?\d[\d,]*(?:\.\d+)?)(?![\w%]|\.\d|,\s?\d)")
QUOTED = re.compile(r"(?<![\w'\"])(?:'([^\n]+?)'|\"([^\"\n]+)\")(?!\w)")
COUNTED = re.compile(r"^(?:(?:some|another|\d+|" + "|".join([*SMALL, *TENS, "dozen"]) +
                     r")\s+)+(?:(?:[\w-]+\s+){0,2}of\s+)?")
EDGE = "\"'`([{<.,;:!?)]}>"
BARE = frozenset(                # words that no value begins or ends with
    "a an of in on at to for and or by with from is are was were be been what what's whats how which who whose where "
    "when why me my i i'm it its please that this these those as if can could would you your we us our does do did "
    "many much will there into than the then so has have had all's under over about between within per".split())

EMPTY = frozenset("is are the a an of to for if whether true false be or and in with on by set flag option include "
                  "included including use used using return returns get show when only should default defaults this "
                  "that not has have it value optional want wanted also as".split())


@dataclass(frozen=True)
class Mention:
    """A value that the text states: where it stands and in which forms it can be written."""

    start: int
    end: int
    values: tuple[Any, ...]


def whole(value: float) -> int | float:
    """The number as an int where it is one."""
    return int(value) if value == int(value) else value


def numbers(text: str) -> list[Mention]:
    """Each number stated, in order: its value, and before it what a percentage or a unit's prefix makes of it."""
    found = []
    for match in NUMBER.finditer(text):
        value = float(match["digits"].replace(",", "") + (match["exponent"] or ""))
        value = round(value * SCALES.get((match["scale"] or "").strip(), 1), 9) * (-1 if match["sign"] else 1)
        other = [round(value / 100, 9)] if match["percent"] else \
            [float(f"{value * PREFIXES[match['prefix']]:.12g}")] if match["prefix"] else []
        found.append(Mention(match.start(), match.end(), tuple(map(whole, [*other, value]))))
    for match in SPELT.finditer(text):
        ones = match["ones"].lower()
        value = SMALL.index(ones) if ones in SMALL else TENS.get(ones, 12)
        value += TENS[match["tens"].lower()] if match["tens"] else 0
        scale = (match["scale"] or "").lower()
        values = (whole(value / 100), value) if scale == "percent" else (value * SCALES.get(scale, 1),)
        found.append(Mention(match.start(), match.end(), values))
    found += [Mention(match.start(), match.end(), ((TIMES | SPANS)[match[0].lower()],)) for match in PERIOD.finditer(text)]
    found += [Mention(match.start(), match.end(), (12 * int(match[1]) + int(match[2]),))
              for match in INCHES.finditer(text)]
    return sorted(found, key=lambda each: each.start)


def quoted(text: str) -> list[Mention]:
    """What stands between quotation marks."""
    return [Mention(match.start(), match.end(), (match[1] or match[2],)) for match in QUOTED.finditer(text)]


def runs(text: str) -> list[Mention]:
    """Every run of up to WORDS whole words within a sentence that neither begins nor ends with one of BARE."""
    words = []
    for at, match in enumerate(re.finditer(r"\S+", text)):
        word = match[0]
        left, right = len(word) - len(word.lstrip(EDGE)), len(word.rstrip(EDGE))
        bare = right <= left or word[left:right].lower() in BARE and (word[left:right] != "A" or not at)
        words.append((match.start() + left, match.start() + max(left, right), bare, word[-1] in ".!?;"))
    made = []
    for at, (start, _, bare, _) in enumerate(words):
        named = text[start:].startswith(("The ", "A ")) and at and text[start:].split()[1][:1].isupper()
        for last in range(at, min(len(words), at + WORDS) if named or not bare else 0):
            if not words[last][2]:
                run = text[start:words[last][1]]
                made.append(Mention(start, words[last][1], (run,)))
                if run.endswith(("'s", "’s")):
                    made.append(Mention(start, words[last][1] - 2, (run[:-2],)))
            if words[last][3]:
                break
    return made


def dates(text: str) -> list[Mention]:
    """Each date as (year, month, day); one without a year has that of the others."""
    found: list[tuple[int, int, int | None, int, int]] = []
    for match in NAMED.finditer(text):
        day = match["d1"] or match["d2"]
        if day and 1 <= int(day) <= 31:
            year = match["y0"] or match["y1"]
            month = next(at for at, name in enumerate(MONTHS, 1) if name.startswith(match["month"].lower()[:3]))
            found.append((match.start(), match.end(), int(year) if year else None, month, int(day)))
    for match in DIGITAL.finditer(text):
        year, month, day = (int(match[key] or match[f"{key}2"]) for key in "ymd")
        if month > 12:
            month, day = day, month
        found.append((match.start(), match.end(), year, month, day))
    years = [year for _, _, year, _, _ in found if year]
    return [Mention(start, end, ((year or years[0], month, day),)) for start, end, year, month, day in
            sorted(found, key=lambda one: one[0]) if years and 1 <= month <= 12]


def numeric_lists(text: str) -> list[Mention]:
    """Runs of two and more numbers with nothing but commas, `and` and brackets between them."""
    link, one = r"(?:\s*,\s*(?:and\s+)?|\s+and\s+|\s*&\s*)", r"-?\$?\d+(?:\.\d+)?%?(?!\w|\.\d)"
    found = []
    for match in re.finditer(rf"(?<![\w.]){one}(?:{link}{one})+", text):
        parts = re.findall(r"(-?)\$?(\d+(?:\.\d+)?)(%?)", match[0])
        values = [whole(float(sign + value)) for sign, value, _ in parts]
        forms = [[whole(round(value / 100, 9)) for value in values]] if any(part[2] for part in parts) else []
        found.append(Mention(match.start(), match.end(), (*forms, values)))
    for match in RANGE.finditer(text):
        ends = [whole(float(match[at].replace(",", ""))) for at in (1, 2)]
        found.append(Mention(match.start(), match.end(), (ends,)))
    return found


def worded_lists(text: str) -> list[Mention]:
    """What the text enumerates: quoted strings in a row, and `A, B and C` with every way to tell where the first
    begins and the last ends."""
    found = []
    mark = r"(?:'[^'\n]+'|\"[^\"\n]+\")"
    for match in re.finditer(rf"{mark}(?:(?:\s*,\s*(?:and\s+)?|\s+and\s+){mark})+", text):
        parts = [part[1:-1].rstrip(",.") for part in re.findall(mark, match[0])]
        found.append(Mention(match.start(), match.end(), (parts,)))
    for sentence in re.finditer(r"[^.!?;:]+(?:[.!?;:](?!\s|$)[^.!?;:]*)*", text):
        parts = re.split(r"\s*,\s*(?:and\s+|or\s+)?|\s+and\s+|\s+or\s+|\s+&\s+", sentence[0].strip(EDGE + " "))
        parts = [re.sub(r"^(?:the|an?)\s", "", part.strip(EDGE + " ")) for part in parts]
        for begin, end in itertools.combinations(range(len(parts)), 2):
            chain = parts[begin:end + 1]
            if all(chain) and all(len(part.split()) <= 5 for part in chain[1:-1]):
                first, last = chain[0].split(), chain[-1].split()
                for taken, kept in itertools.product(range(1, min(5, len(first)) + 1), range(1, min(5, len(last)) + 1)):
                    ends = first[-taken], last[kept - 1]
                    if not any(word.strip(EDGE).lower() in BARE and word != "A" for word in ends):
                        named = [" ".join(first[-taken:]).strip(EDGE), *chain[1:-1], " ".join(last[:kept]).strip(EDGE)]
                        counted = [COUNTED.sub("", one) for one in named]
                        found.append(Mention(sentence.start(), sentence.start(),
                                             (named,) if named == counted or not all(counted) else (named, counted)))
    return found


def stems(text: str) -> set[str]:
    """The beginnings of the words that mean something."""
    return {word[:5] for word in re.findall(r"[a-z]{3,}", text.lower()) if word not in EMPTY}


def split(name: str) -> str:
    """A name's words."""
    return re.sub(r"[_.]|(?<=[a-z])(?=[A-Z])", " ", name)


def described_as(schema: dict[str, Any]) -> str:
    """A schema's description; nothing where that is no text, as the null that some clients send."""
    text = schema.get("description")
    return text if isinstance(text, str) else ""


def general(description: str) -> str:
    """A description without its examples and default."""
    return re.split(r"e\.g\.|such as|\blike\b|[Ff]or (?:example|instance)|[Ee]xample|[Dd]efault|'", description)[0]


def described(schema: dict[str, Any]) -> list[str]:
    """The options that a description quotes, its default left out: that is what leaving the parameter out means."""
    says = described_as(schema)
    return list(dict.fromkeys(each.values[0] for each in quoted(says) if len(each.values[0].split()) < 4
                              and not re.search(r"efaults?\W+(?:\w+\W+){0,3}$", says[:each.start])))


def dated(form: str, date: tuple[int, int, int]) -> str:
    """The date as a form like MM-DD-YYYY says."""
    text = re.sub(r"(?i)Y{3,4}|year", f"{date[0]:04}", form)
    return re.sub(r"(?i)DD|day", f"{date[2]:02}", re.sub(r"(?i)MM|month", f"{date[1]:02}", text))


def same_date(text: str, date: tuple[int, int, int]) -> bool:
    """Whether `text` writes `date` in digits."""
    return sorted(map(int, re.findall(r"\d+", text))) == sorted(date)

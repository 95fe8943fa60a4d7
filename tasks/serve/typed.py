"""What a question says in a form of its own: addresses of mail, paths, hours, currencies and polynomials.

A schema's name and description say which of them it takes (ASKS); narrow.py offers those alone then. Currencies are
known by the names of the Unicode CLDR (babel: the reference data, maintained by Pallets) and called by ISO 4217.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable

from babel import Locale
from babel.numbers import get_currency_name, get_territory_currencies

from tasks.serve.said import Mention, whole

MAIL = re.compile(r"[\w.+-]+@[\w-]+(?:\.[\w-]+)+")
PATH = re.compile(r"(?<![\w/:.])(?:https?://\S+?(?=[.,;]?(?:\s|$))|"
                  r"(?:[A-Za-z]:|~|\.{1,2})?/?[\w-][\w.-]*(?:/[\w.-]*[\w-])+/?|[\w-]+\.[A-Za-z][A-Za-z\d]{1,4}\b)")
HOUR = re.compile(r"\b(?P<hour>[01]?\d|2[0-3])(?::(?P<minute>[0-5]\d)(?:\s?(?P<half>[ap])m)?|\s?(?P<whole>[ap])m)\b",
                  re.IGNORECASE)
TERM = r"(?:\d*\.?\d*\s?\*?\s?[a-z](?:(?:\^|\*\*)\d+)?|\d+(?:\.\d+)?)(?![\w^(*])"
POLYNOMIAL = re.compile(rf"(?<![\w./^])(?:[a-z](?:\([a-z]\))?\s*=\s*)?(?P<sum>-?{TERM}(?:\s*[-+]\s*{TERM})*)")
PART = re.compile(r"(?P<sign>[-+]?)\s*(?P<times>\d*\.?\d*)\s?\*?\s?(?P<name>[a-z])?(?:(?:\^|\*\*)(?P<power>\d+))?")
UNITS = {"dollars": "USD", "pounds": "GBP", "yen": "JPY", "yuan": "CNY", "rupees": "INR", "francs": "CHF",
         "pesos": "MXN", "rubles": "RUB", "kronor": "SEK", "kroner": "NOK", "reais": "BRL"}     # without their country


def mails(text: str) -> list[Mention]:
    """Addresses of mail."""
    return [Mention(match.start(), match.end(), (match[0],)) for match in MAIL.finditer(text)]


def paths(text: str) -> list[Mention]:
    """Paths, names of files and URLs."""
    return [Mention(match.start(), match.end(), (match[0],)) for match in PATH.finditer(text)]


def hours(text: str) -> list[Mention]:
    """Times of a day, as they are said and as HH:MM of 24 hours."""
    found = []
    for match in HOUR.finditer(text):
        half = (match["half"] or match["whole"] or "").lower()
        hour = int(match["hour"])
        if half:
            if not 1 <= hour <= 12:
                continue
            hour = hour % 12 + 12 * (half == "p")
        found.append(Mention(match.start(), match.end(), (match[0], f"{hour:02}:{match['minute'] or '00'}")))
    return found


@functools.cache
def currency_codes() -> dict[str, str]:
    """Each way to say a currency that is legal tender somewhere, in lower case -> its code."""
    known = {code for place in Locale("en").territories if len(place) == 2 for code in get_territory_currencies(place)}
    codes = {code.lower(): code for code in known} | {unit: code for unit, code in UNITS.items()}
    for code in sorted(known):
        for name in (get_currency_name(code, count=count, locale="en").lower() for count in (1, 2)):
            codes[name] = code
            if name.startswith("us "):
                codes |= {name.replace("us", other, 1): code for other in ("united states", "american", "u.s.")}
    return codes


@functools.cache
def currency_form() -> re.Pattern[str]:
    """Matches the ways to say a currency, codes in capitals only."""
    codes = currency_codes()
    names = "|".join(re.escape(name) for name in sorted(codes, key=len, reverse=True) if len(name) > 3 or name in UNITS)
    return re.compile(rf"\b(?:(?i:{names})|{'|'.join(sorted(set(codes.values())))})\b")


def currencies(text: str) -> list[Mention]:
    """Currencies, by their codes."""
    return [Mention(match.start(), match.end(), (currency_codes()[match[0].lower()],))
            for match in currency_form().finditer(text)]


def polynomials(text: str) -> list[Mention]:
    """Sums of powers of one variable in Python's notation, the highest first."""
    return [Mention(match.start("sum"), match.end(), (re.sub(r"\^", "**", match["sum"]),))
            for match in POLYNOMIAL.finditer(text) if "^" in match[0] or "**" in match[0]]


def coefficients(text: str) -> list[Mention]:
    """The coefficients of each of polynomials(text), from the highest power down."""
    found = []
    for each in polynomials(text):
        powers: dict[int, int | float] = {}
        for part in PART.finditer(each.values[0].replace(" ", "")):
            if part["name"] or part["times"]:
                power = int(part["power"] or 1) if part["name"] else 0
                powers[power] = whole(float(f"{part['sign']}{part['times'] or 1}"))
        found.append(Mention(each.start, each.end, ([powers.get(at, 0) for at in range(max(powers), -1, -1)],)))
    return found


ASKS: tuple[tuple[re.Pattern[str], Callable[[str], list[Mention]]], ...] = (
    (re.compile(r"\be-?mail (?:address|id)\b|^e-?mail\b(?! (?:subject|body|text))"), mails),
    (re.compile(r"\b(?:file|path|directory|folder|url)\b"), paths),
    (re.compile(r"^(?!.*\bdate).*\b(?:time|hour)\b(?! zone)"), hours),
    (re.compile(r"\bcurrenc(?:y|ies)\b(?! symbol)"), currencies),
    (re.compile(r"\b(?:function|polynomial|expression)\b"), polynomials))


@functools.lru_cache(maxsize=64)
def formed(text: str) -> tuple[list[Mention], ...]:
    """The mentions of each form of ASKS."""
    return tuple(found(text) for _, found in ASKS)


def typed(text: str, says: str) -> list[Mention]:
    """The mentions of the first form that a string whose name and description are `says` asks for, if there are any."""
    return next((mentions for (asks, _), mentions in zip(ASKS, formed(text))
                 if mentions and asks.search(says.lower())), [])

"""What a licence is called by SPDX, and of what family it is, from the many ways in which packages and people write it.

Names and families are those of the SPDX list and the ScanCode LicenseDB, as `license-expression` carries them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from importlib.metadata import Distribution

from license_expression import (ExpressionError, LicenseSymbol, LicenseWithExceptionSymbol, Licensing,
                                get_license_index, get_spdx_licensing)

# how package authors write what SPDX has one name for; the first that fits
WORDS = (
    (r"l(esser )?gpl ?v?3|lesser general public license v3", "LGPL-3.0-only"),
    (r"lesser general public license v2 or later", "LGPL-2.0-or-later"),
    (r"\bgpl ?v?2(\.0)? or later|general public license v2 or later", "GPL-2.0-or-later"),
    (r"\bgpl ?v?3(\.0)? or later|general public license v3 or later", "GPL-3.0-or-later"),
    (r"\bgpl ?v?2\b|general public license v2", "GPL-2.0-only"),
    (r"\bgpl ?v?3\b|general public license v3", "GPL-3.0-only"),
    (r"mozilla public license 2|mpl.?2", "MPL-2.0"),
    (r"apache", "Apache-2.0"),
    (r"\bmit\b", "MIT"),
    (r"3-clause|new bsd|bsd-3", "BSD-3-Clause"),
    (r"2-clause|simplified bsd|bsd-2", "BSD-2-Clause"),
    (r"\bisc\b|isc license", "ISC"),
    (r"python software foundation|\bpsf", "PSF-2.0"),
)
# sentences by which a licence's text is known
SENTENCES = (
    (r"Apache License,?\s+Version 2\.0", "Apache-2.0"),
    (r"Permission is hereby granted, free of charge", "MIT"),
    (r"Redistribution and use in source and binary forms[\s\S]*Neither the name|"
     r"Redistribution and use in source and binary forms[\s\S]*names? of (its|the) contributors", "BSD-3-Clause"),
    (r"Redistribution and use in source and binary forms", "BSD-2-Clause"),
    (r"Permission to use, copy, modify, and/or distribute this software for any", "ISC"),
)
FILE = re.compile(r"(^|/)(licen[cs]e|copying)[^/]*$", re.IGNORECASE)
COPYLEFT = ("Copyleft", "Copyleft Limited")
STRICTER = ("Public Domain", "Permissive", *reversed(COPYLEFT))


@dataclass(frozen=True)
class Licence:
    """A licence: its SPDX expression (None where it has none), the words it was found in, its family, and whence.

    `family`: Public Domain, Permissive, Copyleft Limited (weak, or share-alike), Copyleft, another of ScanCode's, or
    "unknown".
    """

    spdx: str | None
    words: str
    family: str
    whence: str = ""

    @property
    def name(self) -> str:
        """What a table shows."""
        return self.spdx or self.words or "none stated"


@cache
def families() -> dict[str, str]:
    """SPDX key, in lower case, old ones too -> family."""
    return {key.lower(): one["category"] for one in get_license_index() if not one["is_exception"]
            for key in (one["spdx_license_key"], *(one["other_spdx_license_keys"] or ())) if key}


@cache
def names() -> Licensing:
    """The parser of SPDX expressions; building it takes a second."""
    return get_spdx_licensing()


@cache
def spdx(text: str) -> str | None:
    """`text` as a normal SPDX expression; None where it is none."""
    try:
        found = names().validate(text.strip())
    except (ExpressionError, AttributeError):
        return None
    return None if found.errors or not found.normalized_expression else found.normalized_expression


def family(text: str) -> str:
    """The family of an expression: the mildest side of an OR, the strictest of an AND; "unknown" without a name.

    A text that is no expression counts as all the SPDX names in it together.
    """
    if text and spdx(text):
        return weigh(names().parse(text))
    return strictest(families().get(word.lower(), "unknown") for word in re.findall(r"[\w.+-]+", text)
                     if word.lower() in families())


def weigh(node: object) -> str:
    """The family of a parsed expression."""
    if isinstance(node, LicenseWithExceptionSymbol):
        node = node.license_symbol
    if isinstance(node, LicenseSymbol):
        return families().get(node.key.lower(), "unknown")
    found = [weigh(side) for side in node.args]
    return min(found, key=rank) if isinstance(node, names().OR) else strictest(found)


def rank(one: str) -> int:
    """How strict a family is; what is not of this list comes last."""
    return STRICTER.index(one) if one in STRICTER else len(STRICTER)


def strictest(found: Iterable[str]) -> str:
    """The strictest of some families; "unknown" of none."""
    return max(found, key=rank, default="unknown")


def of_words(words: str, whence: str = "") -> Licence:
    """The licence that someone wrote down: an SPDX expression, or words in which SPDX names may stand."""
    found = spdx(words) if words else None
    return Licence(found, words, family(found or words), whence)


def of_package(package: Distribution) -> Licence:
    """The licence of an installed package: its expression, its field, its classifiers, else its licence file's text."""
    data = package.metadata
    for key, whence in (("License-Expression", "expression"), ("License", "field")):
        if (words := (data.get(key) or "").strip()) and (found := spdx(words)):
            return Licence(found, words, family(found), whence)
    field = (data.get("License") or "").strip().split("\n")[0][:100]
    classifiers = [line for line in data.get_all("Classifier") or () if line.startswith("License")]
    named = [line.rpartition("::")[2].strip() for line in classifiers]
    stated = [one for one in (field, *named) if one not in ("", "UNKNOWN", "Dual License", "OSI Approved")]
    if known := by(WORDS, field):
        return Licence(known, field, family(known), "field")
    known = list(dict.fromkeys(filter(None, (by(WORDS, one) for one in named))))
    if known and all(by(WORDS, one) for one in named):
        return Licence(" OR ".join(sorted(known)), ", ".join(named), family(" ".join(known)), "classifier")
    for file in package.files or ():
        if FILE.search(str(file)) and (path := file.locate()).is_file():
            if found := by(SENTENCES, path.read_text(encoding="utf-8", errors="replace"), re.NOFLAG):
                return Licence(found, stated[0] if stated else "", family(found), "licence file")
    return Licence(None, stated[0] if stated else "", "unknown")


def by(table: tuple[tuple[str, str], ...], text: str, flags: re.RegexFlag = re.IGNORECASE) -> str | None:
    """The licence of the first pattern found in a text."""
    return next((licence for pattern, licence in table if re.search(pattern, text, flags)), None)

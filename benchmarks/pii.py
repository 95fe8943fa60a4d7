"""Claim: personal data is found more surely than by presidio-analyzer and datatrove's formatter, and at less CPU.

    python -m benchmarks.pii [FOLDER_OF_SHARDS]

Precision and recall by class on benchmarks/pii_cases.py, with Wilson's 95 % intervals; a span counts as found where one
of its class shares at least half of their union. Rates are documents a CPU second over the labelled texts and, given a
folder of shards, an eighth of its documents, one after the other on the same text. A peer that is not installed is left
out and named; presidio runs its patterns over a blank spaCy model (no model is fetched). Classes that a peer does not
look for are not held against it.
"""

from __future__ import annotations

import json
import logging
import math
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from benchmarks import pii_cases
from tasks.data import pii

Spans = list[tuple[int, int, str]]
PRESIDIO = {"EMAIL_ADDRESS": "email", "PHONE_NUMBER": "phone", "CREDIT_CARD": "card", "IBAN_CODE": "iban",
            "US_SSN": "ssn", "IP_ADDRESS": "ip"}
THRESHOLD = 0.3
CLAIMED = {"catena": pii.CLASSES, "presidio": tuple(PRESIDIO.values()), "datatrove": ("email", "ip")}


def presidio() -> Callable[[str], Spans]:
    """presidio-analyzer's English analyzer with its pattern recognizers."""
    import spacy
    from presidio_analyzer import AnalyzerEngine
    from presidio_analyzer.nlp_engine import SpacyNlpEngine

    class Blank(SpacyNlpEngine):
        def load(self) -> None:
            self.nlp = {"en": spacy.blank("en")}
            self.nlp["en"].max_length = 10_000_000

    engine = Blank()
    engine.load()
    analyzer = AnalyzerEngine(nlp_engine=engine)
    return lambda text: [(r.start, r.end, PRESIDIO[r.entity_type]) for r in analyzer.analyze(
        text, language="en", entities=list(PRESIDIO), score_threshold=THRESHOLD)]


def datatrove() -> Callable[[str], Spans]:
    """datatrove's PIIFormatter, e-mail and public IP; its replacer tells where."""
    from datatrove.pipeline.formatters.pii import PIIFormatter

    formatter = PIIFormatter()
    parts = (("email", formatter.emails_replacer), ("ip", formatter.ip_replacer))
    return lambda text: [(m.start(), m.end(), kind) for kind, part in parts for m in part.regex.finditer(text)
                         if not part.validator or part.validator(m.group(0))]


def score(find: Callable[[str], Spans], cases: list[pii_cases.Case]) -> dict[str, Counter]:
    """class -> counts of right, predicted, found, labelled spans."""
    counts: dict[str, Counter] = {kind: Counter() for kind in pii.CLASSES}
    for case in cases:
        predicted = [tuple(span) for span in find(case.text)]
        for span in predicted:
            counts[span[2]] += Counter(predicted=1, right=any(same(span, other) for other in case.spans))
        for span in case.spans:
            counts[span[2]] += Counter(labelled=1, found=any(same(span, other) for other in predicted))
    return counts


def same(one: tuple, other: tuple) -> bool:
    """Whether two spans are of a class and share at least half of their union."""
    shared = min(one[1], other[1]) - max(one[0], other[0])
    return one[2] == other[2] and 2 * shared >= max(one[1], other[1]) - min(one[0], other[0])


def wilson(right: int, of: int) -> dict[str, float] | None:
    """The share right/of with Wilson's 95 % interval (Wilson 1927); None of none."""
    if not of:
        return None
    z, share = 1.96, right / of
    middle = (share + z * z / (2 * of)) / (1 + z * z / of)
    half = z * math.sqrt(share * (1 - share) / of + z * z / (4 * of * of)) / (1 + z * z / of)
    low, high = max(middle - half, 0.0), min(middle + half, 1.0)
    return {"value": round(share, 4), "low": round(low, 4), "high": round(high, 4), "of": of}


def seconds(find: Callable[[str], Spans], texts: list[str]) -> float:
    """CPU seconds of one pass over `texts`."""
    started = time.process_time()
    for text in texts:
        find(text)
    return time.process_time() - started


def main() -> None:
    """Print the tables and, last, one line of JSON."""
    logging.disable(logging.ERROR)  # presidio's tldextract complains that there is no network, then uses its snapshot
    finders: dict[str, Callable[[str], Spans]] = {"catena": pii.find}
    result: dict = {"left_out": [], "quality": {}, "documents_per_cpu_second": {}}
    for name, make in (("presidio", presidio), ("datatrove", datatrove)):
        try:
            finders[name] = make()
        except ImportError as error:
            result["left_out"].append(f"{name}: {error}")
    sets = {"generated": pii_cases.generated(seed=20), "corpus": pii_cases.excerpts()}
    for origin, cases in sets.items():
        print(f"\n{origin}: {len(cases)} texts\n{'':12}{'class':13}{'precision':>28}{'recall':>28}")
        for name, find in finders.items():
            rows = {}
            for kind, n in score(find, cases).items():
                if kind in CLAIMED[name] and (n["predicted"] or n["labelled"]):
                    rows[kind] = {"precision": wilson(n["right"], n["predicted"]),
                                  "recall": wilson(n["found"], n["labelled"])}
                    shares = (f"{shown(rows[kind][measure]):>28}" for measure in ("precision", "recall"))
                    print(f"{name:12}{kind:13}{''.join(shares)}")
            result["quality"].setdefault(origin, {})[name] = rows
    texts = {"labelled": [case.text for cases in sets.values() for case in cases]}
    if len(sys.argv) > 1:
        texts["shards"] = [json.loads(line)["text"] for shard in sorted(Path(sys.argv[1]).glob("*.jsonl"))
                           for line in shard.open(encoding="utf-8")][::8]
    for what, documents in texts.items():
        spent = dict.fromkeys(finders, math.inf)
        for _ in range(2):
            spent = {name: min(spent[name], seconds(find, documents)) for name, find in finders.items()}
        rates = {name: round(len(documents) / value, 1) for name, value in spent.items()}
        result["documents_per_cpu_second"][what] = rates
        print(f"\n{what}, {len(documents)} texts, {sum(map(len, documents)):,} characters; a CPU second: {rates}")
    print(json.dumps(result, ensure_ascii=False))


def shown(share: dict[str, float] | None) -> str:
    """A share with its interval and count, for a table."""
    return "-" if share is None else f"{share['value']:.3f} [{share['low']:.3f}, {share['high']:.3f}] {share['of']:4}"


if __name__ == "__main__":
    main()

"""Claim: `extract.method: auto` finds main content better than trafilatura 2, at five times its speed or more.

    python -m benchmarks.extract BENCHMARK_DIR [CRAWL_DIR] [ROUNDS]

BENCHMARK_DIR is scrapinghub's article-extraction-benchmark: each page's 4-word shingles against the gold text's, scored
as its evaluate.py does. Our model is fitted on ten folds of sites and each page is scored by the one that has seen no
page of its site (with CRAWL_DIR's documentation in every fit, as the committed weights have). Each page goes through
every extractor in turn, CPU seconds counted; trafilatura runs with datatrove's settings. Spreads are 95 %: of scores
over pages drawn again (bootstrap), of ratios over rounds and pages drawn again. Needs no accelerator, one core.
"""

from __future__ import annotations

import json
import platform
import random
import re
import statistics
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from benchmarks import extract_fit
from tasks.data import boilerplate, extractors

SHINGLE, DRAWS = 4, 1000
PEER = "trafilatura"
WORDS = re.compile(r"\w+")
Counts = tuple[float, float, float]  # true positives, false positives, false negatives: shares of one page


def shingles(text: str) -> Counter[tuple[str, ...]]:
    """The bag of runs of four words (of all words, where there are fewer)."""
    words = WORDS.findall(text)
    return Counter(run for at in range(max(1, len(words) - SHINGLE + 1)) if (run := tuple(words[at:at + SHINGLE])))


def compare(gold: str, found: str) -> Counts:
    """Overlap of the two bags, each page weighing the same."""
    wanted, got = shingles(gold), shingles(found)
    both = (wanted & got).total()
    counts = both, got.total() - both, wanted.total() - both
    whole = sum(counts)
    return tuple(count / whole for count in counts) if whole else (0.0, 0.0, 0.0)


def scores(pages: list[Counts]) -> dict[str, float]:
    """Mean precision and recall over the pages that have them, and the F1 of the two means."""
    precision = statistics.mean([1.0 if fp == fn == 0 else tp / (tp + fp) for tp, fp, fn in pages if tp + fp])
    recall = statistics.mean([1.0 if fp == fn == 0 else tp / (tp + fn) for tp, fp, fn in pages if tp + fn])
    return {"f1": 2 * precision * recall / (precision + recall), "precision": precision, "recall": recall}


def spread(values: list[float]) -> list[float]:
    """The middle 95 % of `values`."""
    ordered = sorted(values)
    return [round(ordered[int(share * (len(ordered) - 1))], 4) for share in (0.025, 0.975)]


def resiliparse(html: str, url: str) -> str:
    """The main content as the extract stage took it before."""
    from resiliparse.extract.html2text import extract_plain_text

    return extract_plain_text(html, main_content=True, alt_texts=False, links=False, form_fields=False)


def trafilatura(html: str, url: str) -> str:
    """As datatrove calls it, but for `deduplicate`, which remembers across documents."""
    import trafilatura as peer

    return peer.extract(html, favor_precision=True, include_comments=False, deduplicate=False) or ""


def ours(method: str) -> Callable[[str, str], str]:
    """One of the stage's methods."""
    return lambda html, url: extractors.METHODS[method](html, url, ())


CONTENDERS = {PEER: trafilatura, "resiliparse": resiliparse} | {name: ours(name) for name in extractors.METHODS}


def main() -> None:
    """Fit, run, print the table and the one JSON line."""
    if len(sys.argv) < 2:
        sys.exit(f"error: which folder?\n{__doc__}")
    pages = extract_fit.benchmark(Path(sys.argv[1]))
    docs = extract_fit.crawled(Path(sys.argv[2])) if len(sys.argv) > 2 else []
    rounds = int(sys.argv[3]) if len(sys.argv) > 3 else 3
    samples = {name: sample for name, (html, _, gold) in pages.items()
               if (sample := extract_fit.labelled(html, gold)) is not None}
    models = extract_fit.held_out(pages, samples, docs)
    for run in CONTENDERS.values():
        run(next(iter(pages.values()))[0], "")  # imports are no part of a page's cost
    counts: dict[str, dict[str, Counts]] = {name: {} for name in CONTENDERS}
    seconds: dict[str, list[dict[str, float]]] = {name: [{} for _ in range(rounds)] for name in CONTENDERS}
    for number in range(rounds):
        for name, (html, url, gold) in pages.items():
            boilerplate.fitted = lambda model=models[name]: model
            for contender, run in CONTENDERS.items():
                begun = time.process_time()
                text = run(html, url)
                seconds[contender][number][name] = time.process_time() - begun
                counts[contender].setdefault(name, compare(gold, text))
    print(table(counts, seconds, list(pages)))


def table(counts: dict[str, dict[str, Counts]], seconds: dict[str, list[dict[str, float]]], names: list[str]) -> str:
    """The printed table; its last line is the JSON."""
    draw = random.Random(0)
    drawn = [draw.choices(names, k=len(names)) for _ in range(DRAWS)]
    result = {}
    lines = [f"{'':12} {'F1':>6} {'95 %':>15} {'P':>6} {'R':>6} {'pages/CPU s':>12} {'x peer':>7} {'95 %':>13}"]
    for contender, found in counts.items():
        row = {key: round(value, 4) for key, value in scores(list(found.values())).items()}
        row["f1_95"] = spread([scores([found[name] for name in some])["f1"] for some in drawn])
        rates = [len(names) / sum(run.values()) for run in seconds[contender]]
        row["pages_per_cpu_second"] = round(statistics.median(rates), 1)
        pairs = list(zip(seconds[PEER], seconds[contender]))
        row["speed"] = round(statistics.median([sum(a.values()) / sum(b.values()) for a, b in pairs]), 2)
        row["speed_95"] = spread([sum(a[name] for name in some) / sum(b[name] for name in some)
                                  for some, (a, b) in zip(drawn, pairs * DRAWS)])
        result[contender] = row
        lines.append(f"{contender:12} {row['f1']:6.4f} {str(row['f1_95']):>15} {row['precision']:6.4f} "
                     f"{row['recall']:6.4f} {row['pages_per_cpu_second']:12.1f} {row['speed']:7.2f} "
                     f"{str(row['speed_95']):>13}")
    lines.append(json.dumps({"pages": len(names), "rounds": len(seconds[PEER]), "peer": PEER,
                             "machine": platform.processor() or platform.machine(), "contenders": result}))
    return "\n".join(lines)


if __name__ == "__main__":
    main()

"""The data's part of the report: what was kept and dropped, the text before and after, pairs that told on evaluation.

All of it is read from metrics files, from the samples of the picture stage and from what decontamination rejected.
Texts are of the web: whoever draws them escapes them.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypedDict

from tasks.data import documents
from tasks.report import gather
from tasks.report.gather import Table, number

BARS, LANGUAGES, PAIRS, CHARACTERS = 8, 2, 20, 400
TENTHS = [f"{n / 10:.1f}" for n in range(10)]


class Panel(TypedDict):
    """One small chart: percent of the whole on each side by label; `bars` lie where the labels are names."""

    title: str
    x: str
    unit: str
    labels: list[str]
    before: list[float]
    after: list[float]
    named: bool


def share(part: float, whole: float) -> str:
    """`part` in percent of `whole`, with digits enough that something is never shown as nothing."""
    if not whole:
        return "-"
    percent = 100 * part / whole
    return f"{percent:.1f}%" if percent >= 0.1 or not part else f"{percent:.1g}%"


def funnel(metrics: Path) -> list[dict[str, Any]]:
    """One row for each data stage that has run: documents and characters left, both also in percent of the start
    (documents: what extraction read; characters: what it wrote), and dropped: (reason, documents, percent of the
    start), most first. The share is None where extraction has not run."""
    rows = []
    start: dict[str, int | None] = {"documents": None, "characters": None}
    for name in gather.DATA_STAGES:
        if not (metrics / f"{name}.json").exists():
            continue
        found = gather.load(metrics / f"{name}.json")
        if name == "extract":
            start = {"documents": found["read"], "characters": found["characters_out"]}
        lost = {**found["dropped"], **({"failed": found["failed"]} if found["failed"] else {})}
        row = {"stage": name, "read": found["read"], "documents": found["kept"], "characters": found["characters_out"],
               "failed": found["failed"],
               "dropped": [(reason, count, percent(count, start["documents"]))
                           for reason, count in sorted(lost.items(), key=lambda item: (-item[1], item[0]))]}
        rows.append(row | {f"of_{key}": percent(row[key], whole) for key, whole in start.items()})
    return rows


def percent(part: int, whole: int | None) -> float | None:
    """100 * part / whole; None without a whole."""
    return 100 * part / whole if whole else None


def panels(made: Mapping[str, Any], value: Mapping[str, Any]) -> list[Panel]:
    """The small multiples of metrics/picture.json and, for what is only known from value on, of metrics/value.json:
    length, language, domain, source, year where one is known, and every score in the most frequent languages."""
    out = [lengths(made)]
    for group in ("language", "domain", "source", "year"):
        before, after = (amounts(made[side]["cells"], group) for side in ("before", "after"))
        if group == "domain":
            before = Counter({name: one["characters"] for name, one in value["domain"]["before"].items()})
        if group != "year" or set(before) - {"none"}:
            out.append(named(group, before, after))
    after = made["after"]["scores"]
    totals = amounts(made["after"]["cells"], "language", "documents")
    languages = [language for language, _ in sorted(totals.items(), key=lambda item: (-item[1], item[0]))[:LANGUAGES]]
    for name, by_language in sorted(value["histograms"].items()):
        for language in languages:
            first, last = by_language.get(language), after.get(name, {}).get(language)
            if first and last:
                out.append({"title": f"{name}, {language}", "x": "score", "unit": "documents",
                            "labels": TENTHS, "before": percents(first), "after": percents(last), "named": False})
    return out


def lengths(made: Mapping[str, Any]) -> Panel:
    """Documents by length, a bar a power of two."""
    sides = []
    for side in ("before", "after"):
        sides.append(Counter[int]())
        for bins in made[side]["length"].values():
            sides[-1].update({int(power): count for power, count in bins.items()})
    powers = range(min(sides[0]), max(sides[0]) + 1)
    return {"title": "length", "x": "characters, at least", "unit": "documents", "named": False,
            "labels": [f"{1 << p}" if p < 10 else f"{1 << p - 10}k" if p < 20 else f"{1 << p - 20}M" for p in powers],
            "before": percents([sides[0][p] for p in powers]), "after": percents([sides[1][p] for p in powers])}


def amounts(cells: list[dict[str, Any]], group: str, unit: str = "characters") -> Counter[str]:
    """Group name -> `unit`s of all cells of it."""
    sums: Counter[str] = Counter()
    for cell in cells:
        sums["none" if cell[group] is None else plain(str(cell[group]))] += cell[unit]
    return sums


def named(group: str, before: Counter[str], after: Counter[str]) -> Panel:
    """Characters by name, the largest first, those beyond BARS together."""
    order = sorted({*before, *after}, key=lambda name: (-before[name] - after[name], name))
    kept, rest = (order, []) if len(order) <= BARS else (order[:BARS - 1], order[BARS - 1:])
    sides = [[side[name] for name in kept] + ([sum(side[name] for name in rest)] if rest else [])
             for side in (before, after)]
    return {"title": group, "x": "%", "unit": "characters", "named": True,
            "labels": kept + ([f"{len(rest)} others"] if rest else []),
            "before": percents(sides[0]), "after": percents(sides[1])}


def percents(counts: list[int]) -> list[float]:
    """Each of `counts` in percent of their sum."""
    return [100 * count / max(1, sum(counts)) for count in counts]


def sources(made: Mapping[str, Any]) -> Table:
    """One row a source and snapshot: licence, languages, documents and characters as extracted and as trained on."""
    found: dict[tuple[str, ...], Counter[str]] = {}
    spoken: dict[tuple[str, ...], Counter[str]] = {}
    for side in ("before", "after"):
        for cell in made[side]["cells"]:
            key = tuple(plain(str(cell[name] or "-")) for name in ("source", "licence", "snapshot", "year"))
            found.setdefault(key, Counter()).update({f"{side} {unit}": cell[unit]
                                                     for unit in ("documents", "characters")})
            spoken.setdefault(key, Counter())[plain(str(cell["language"]))] += cell["characters"]
    rows = []
    for key, sums in sorted(found.items()):
        languages = ", ".join(name for name, _ in sorted(spoken[key].items(), key=lambda item: (-item[1], item[0])))
        rows.append([key[0], key[1], languages, *key[2:],
                     *(number(sums[f"{side} {unit}"]) for unit in ("documents", "characters")
                       for side in ("before", "after")), share(sums["after characters"], sums["before characters"])])
    return {"head": ["source", "licence", "language", "snapshot", "year", "documents extracted", "in the corpus",
                     "characters extracted", "in the corpus", "kept"], "rows": rows,
            "from": ["picture.json before.cells, after.cells"] * len(rows)}


def mixture(metrics: Path) -> Table:
    """One row a source, language and domain: its share before and after weighing, passes, tokens to come."""
    found = gather.load(metrics / "mixture.json")
    return {"head": ["group", "documents", "characters", "share before", "share after", "passes", "tokens, estimated"],
            "rows": [[f"{kind}: {plain(name)}", number(one["documents"]), number(one["characters"]),
                      f"{one['share_before']:.1%}", f"{one['share_after']:.1%}", f"{one['epochs']:.2f}",
                      number(one["tokens_estimate"])]
                     for kind in ("source", "language", "domain") for name, one in found[kind].items()],
            "from": [f"mixture.json {kind}.{plain(name)}" for kind in ("source", "language", "domain")
                     for name in found[kind]]}


def classifiers(metrics: Path) -> Table:
    """One row a classifier: its quality on examples that it was not trained on; a dash where there were none of a
    class."""
    def rate(one: Mapping[str, Any]) -> str:
        return "-" if one["value"] is None else f"{one['value']:.3f} ± {one['standard_error']:.3f}"

    rows = []
    for name, one in gather.load(metrics / "classifiers.json").items():
        by_language = ", ".join(f"{language} " + ("-" if part["auc"] is None else f"{part['auc']:.3f}")
                                for language, part in sorted(one["accuracy_by_language"].items()))
        rows.append([name, number(one["accuracy"]["examples"]), f"{one['auc']:.3f} ({one['min_auc']})",
                     by_language, *(rate(one[key]) for key in ("accuracy", "precision", "recall")),
                     f"{one['threshold']}", f"{one['calibration_error']:.3f}"])
    return {"head": ["classifier", "n", "AUC (limit)", "by language", "accuracy", "precision", "recall",
                     "from score", "calibration"], "rows": rows,
            "from": [f"classifiers.json {name}" for name, *_ in rows]}


def masked(metrics: Path) -> Table:
    """One row a class of personal data: how many were masked, and how many in a million characters."""
    found = gather.load(metrics / "safety.json")
    return {"head": ["masked", "number", "in a million characters"],
            "rows": [[name, number(count), f"{1e6 * count / max(1, found['characters_in']):.2f}"]
                     for name, count in sorted(found["masked"].items(), key=lambda item: (-item[1], item[0]))],
            "from": ["safety.json masked"] * len(found["masked"])}


def directions(metrics: Path) -> Table:
    """One row a way of being contaminated: documents and pairs of document and evaluation item."""
    found = gather.load(metrics / "decontaminate.json")
    return {"head": ["found as", "documents", "pairs"],
            "rows": [[name.replace("_", " "), number(one["documents"]), number(one["pairs"])]
                     for name, one in found["directions"].items()],
            "from": [f"decontaminate.json directions.{name}" for name in found["directions"]]}


def pairs(rejected: Path) -> dict[str, Any]:
    """{"documents": how many of the rejects and cut passages of decontamination name an evaluation item, "shown": the
    PAIRS most similar, each with both excerpts}. Memory: those shown."""
    total, best = 0, []
    for path in sorted((rejected / "decontaminate").glob("*.jsonl")):
        for document in documents.read(path):
            about = document.metadata
            if not about.get("overlaps"):
                continue
            total += 1
            excerpt = about.get("excerpt") or {}
            best.append((-float(about.get("similarity") or 0), document.id, path.name, {
                "url": about.get("url") or document.id, "items": ", ".join(map(str, about["overlaps"])),
                "direction": str(about.get("direction", "")).replace("_", " "), "reason": about.get("reason", ""),
                "similarity": f"{float(about.get('similarity') or 0):.3f}",
                "run": str(about.get("ngram") or "")[:CHARACTERS],
                "document": str(excerpt.get("document", ""))[:CHARACTERS],
                "item": str(excerpt.get("item", ""))[:CHARACTERS]}))
            if len(best) > 10 * PAIRS:
                best = heapq.nsmallest(PAIRS, best, key=lambda item: item[:3])
    shown = [row for *_, row in heapq.nsmallest(PAIRS, best, key=lambda item: item[:3])]
    return {"documents": total, "shown": [{name: plain(text) for name, text in row.items()} for row in shown]}


def samples(folder: Path) -> list[dict[str, Any]]:
    """What the picture stage chose to show, its texts fit for a page. Raises StageError where `folder` has none."""
    out = []
    for path in documents.shards(folder):
        for document in documents.read(path):
            about = document.metadata
            texts = {name: plain(str(about.get(name) or "")) for name in ("raw", "extracted", "cut", "put")}
            out.append(texts | {"after": plain(document.text), "url": plain(str(about.get("url") or document.id)),
                                "language": about.get("language"), "domain": about.get("domain"),
                                "masked": ", ".join(f"{kind} {n}" for kind, n in sorted(about["masked"].items())),
                                "characters": about["characters"]})
    return out


def plain(text: str) -> str:
    """`text` with lone surrogates, which no page can hold, replaced."""
    return text.encode("utf-8", "replace").decode()

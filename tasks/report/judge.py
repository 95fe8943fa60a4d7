"""What the report shows of the judge: what it is worth on known answers, then the ranking or why there is none."""

from __future__ import annotations

from typing import Any

from markupsafe import Markup

from tasks.report.gather import Table

OUT_OF_ORDER = ("the contestants whose order is known came out in another one (a person's answer, another question's, "
                "a garbled one): do not believe this ranking")
FILE = "judge.json"


def tables(found: dict[str, Any]) -> dict[str, Table]:
    """The tables `calibration`, `ranking` and `people` (as gather's) of a judge's figures."""
    return {"calibration": calibration(found["calibration"]), "ranking": ranking(found["ranking"]),
            "people": people(found.get("people", {}))}


def calibration(found: dict[str, Any]) -> Table:
    """One row a language and way of asking, the longer answer as the floor."""
    rows, sources = [], []
    for language, of in found.items():
        for name, one in {"the longer answer": of["longer"], **of["methods"]}.items():
            key = f"calibration.{language}." + ("longer" if one is of["longer"] else f"methods.{name}")
            sources.append(f"{FILE} {key}")
            if "unsupported" in one:
                rows.append([f"{language}: {name}", "not offered by the endpoint", *[""] * 7])
                continue
            may = "" if one is of["longer"] else "yes" if one["above_chance"] else "no"
            rows.append([f"{language}: {name}", kappa(one),
                         f"{one['right']} / {one['wrong']} / {one['tie']} of {one['n']}", f"{one['p']:.2g}", may,
                         share(one.get("swap")), share(one.get("first")), count(one.get("said_twice")),
                         again(one.get("itself"))])
    return {"head": ["way of asking", "Cohen's kappa (95 %)", "right / wrong / tie", "p, sign test", "above chance",
                     "both orders agree", "first place wins", "said twice preferred", "agrees with itself"],
            "rows": rows, "from": sources}


def kappa(one: dict[str, Any]) -> str:
    """Kappa with its interval."""
    if one["kappa"] is None:
        return "undefined"
    return f"{one['kappa']:.2f}" + (" ({:.2f} to {:.2f})".format(*one["interval"]) if one["interval"] else "")


def share(one: dict[str, Any] | None) -> str:
    """A share with its interval, in per cent."""
    return "" if one is None else f"{one['value']:.0%} ({one['low']:.0%} to {one['high']:.0%})"


def count(one: list[int] | None) -> str:
    """So many of so many."""
    return "" if one is None else f"{one[0]} of {one[1]}"


def again(one: dict[str, Any] | None) -> str:
    """Agreement with itself when asked all over."""
    if one is None or one["share"] is None:
        return ""
    return f"{one['share']:.0%} of {one['n']}" + (f", kappa {one['kappa']:.2f}" if one["kappa"] is not None else "")


def ranking(found: dict[str, Any]) -> Table:
    """One row a language and contestant, the strongest first."""
    rows, sources = [], []
    for language, of in found.items():
        for name, one in ordered(of):
            rows.append([f"{language}: {name}", f"{one['strength']:+.2f} ({one['low']:+.2f} to {one['high']:+.2f})",
                         f"{one['rank']} ({one['rank_low']} to {one['rank_high']})",
                         f"{one['won']} / {one['tied']} / {one['lost']}"])
            sources.append(f"{FILE} ranking.{language}.models")
    return {"head": ["contestant", "Bradley-Terry strength (95 %)", "rank (95 %)", "won / tied / lost"], "rows": rows,
            "from": sources}


def ordered(of: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """The contestants of one language by rank (the metrics file sorts by name)."""
    return sorted(of.get("models", {}).items(), key=lambda item: item[1]["rank"])


def people(found: dict[str, Any]) -> Table:
    """One row a way of asking: its agreement with people."""
    rows = [["the longer answer" if name == "longer" else name, kappa(one),
             f"{one['right']} / {one['wrong']} / {one['tie']} of {one['n']}", f"{one['p']:.2g}"]
            for name, one in found.items()]
    return {"head": ["way of asking", "kappa with people (95 %)", "same / other / tie", "p, sign test"], "rows": rows,
            "from": [f"{FILE} people.{name}" for name in found]}


def notes(found: dict[str, Any]) -> list[dict[str, str]]:
    """{"language", "bad", "text"}: what a reader must know of each language's ranking."""
    out = []
    for language, of in found["ranking"].items():
        if "refused" in of:
            out.append({"language": language, "bad": "yes", "text": f"not ranked: {of['refused']}"})
            continue
        if not of["in_order"]:
            out.append({"language": language, "bad": "yes", "text": OUT_OF_ORDER})
        longer, decided = of["longer_won"]
        told = f"ranked by {of['method']} on {of['questions']} questions; the longer answer won {longer} of {decided}"
        if of.get("first"):
            told += f", the first place {share(of['first'])}"
        if of["barred"]:
            told += (f"; left out, because the judge has their weights and finds its own words the likeliest: "
                     f"{', '.join(of['barred'])}")
        out.append({"language": language, "bad": "", "text": told})
    return out


def pictures(found: dict[str, Any]) -> dict[str, Markup]:
    """language -> the ranking as a figure, where there is one."""
    from tasks.report import figures

    return {language: figures.intervals({name: (one["strength"], one["low"], one["high"])
                                         for name, one in ordered(of)}, x="Bradley-Terry strength, 95 %")
            for language, of in found["ranking"].items() if "models" in of}


def section(found: dict[str, Any]) -> dict[str, Any]:
    """All that the page draws."""
    return {"tables": tables(found), "notes": notes(found), "pictures": pictures(found), "judge": found["judge"]}

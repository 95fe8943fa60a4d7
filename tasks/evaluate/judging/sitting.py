"""A judge at work: first tried on pairs whose better answer is known, then asked to rank, where it may.

Nothing is ranked in a language in which no method agrees with the known answers above chance: the refusal and its
figures stand where the ranking would.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Mapping, Sequence
from typing import Any

from tasks.evaluate.judging import calibration, ranking
from tasks.evaluate.judging.endpoint import Endpoint
from tasks.evaluate.judging.methods import METHODS, Method, Verdict
from tasks.evaluate.judging.questions import LANGUAGES, Pair, Question, garbled
from tasks.stage import StageError

ANCHORS = ("a person's answer", "off topic", "garbled")   # contestants whose order is known
Contestants = Mapping[str, Mapping[str, str]]             # name -> question id -> answer


def judged(endpoint: Endpoint, method: Method, pairs: Sequence[Pair], what: str,
           repeat: int = 0) -> list[tuple[Pair, Verdict]] | None:
    """The verdict of a method on each pair; None where the endpoint offers nothing of what the method asks."""
    asked = [method.requests(pair, repeat) for pair in pairs]
    replies = iter(endpoint.replies([request for requests in asked for request in requests], what))
    told = [[next(replies) for _ in requests] for requests in asked]
    if all("unsupported" in reply for replies in told for reply in replies):
        return None
    return [(pair, method.verdict(pair, replies)) for pair, replies in zip(pairs, told)]


def calibrate(endpoint: Endpoint, pairs: Sequence[Pair], seed: int, repeats: int) -> dict[str, Any]:
    """language -> {"methods": name -> calibration, "longer": the floor, "chosen": the method that may rank or None}.

    `repeats`: pairs of a language that each method is asked all over, for its agreement with itself.
    Chosen is the method with the highest kappa of those above chance. Raises StageError where the endpoint takes none
    of the requests.
    """
    found: dict[str, Any] = {}
    for language in LANGUAGES:
        own = [pair for pair in pairs if pair.language == language]
        methods: dict[str, Any] = {}
        for method in METHODS:
            what = f"calibration, {language}, {method.name}"
            verdicts = judged(endpoint, method, own, what)
            if verdicts is None:
                methods[method.name] = {"unsupported": True}
                continue
            again = judged(endpoint, method, own[:repeats], f"{what}, again", repeat=1) or []
            methods[method.name] = calibration.calibrated(verdicts, len(METHODS), seed) | {
                "itself": calibration.itself(verdicts[:repeats], again, seed)}
        able = [name for name, one in methods.items() if one.get("above_chance")]
        found[language] = {"methods": methods, "longer": calibration.longer_wins(own, seed),
                           "chosen": max(able, key=lambda name: methods[name]["kappa"], default=None)}
    if all("unsupported" in one for of in found.values() for one in of["methods"].values()):
        raise StageError(f"the judge {endpoint.model!r} takes no request: {endpoint.refusal or 'it says nothing'}")
    return found


def anchors(questions: Sequence[Question], seed: int) -> dict[str, dict[str, str]]:
    """The contestants whose order is known beforehand: a person's answers, another question's, garbled ones."""
    made: dict[str, dict[str, str]] = {name: {} for name in ANCHORS}
    for language in LANGUAGES:
        own = [question for question in questions if question.language == language]
        rng = random.Random(f"{seed} anchors {language}")
        for at, one in enumerate(own):
            for name, text in zip(ANCHORS, (one.answer, own[(at + 1) % len(own)].answer, garbled(one.answer, rng))):
                made[name][one.id] = text
    return made


def meetings(questions: Sequence[Question], contestants: Contestants) -> list[tuple[Pair, str, str]]:
    """(pair, left's name, right's name) of every two contestants on every question that both answered."""
    return [(Pair(f"{one.id} | {left} | {right}", one.language, "ranking", one.question, contestants[left][one.id],
                  contestants[right][one.id]), left, right)
            for one in questions for left, right in itertools.combinations(sorted(contestants), 2)
            if one.id in contestants[left] and one.id in contestants[right]]


def rank(endpoint: Endpoint, found: Mapping[str, Any], questions: Sequence[Question], contestants: Contestants,
         seed: int, own: Sequence[str] = ()) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """(language -> ranking or refusal, one row a verdict); `found` is what calibrate returned.

    `own`: contestants that answered by the judge's own weights. What it said at temperature 0 is what it finds
    likeliest, so the method likelihood leaves them out. `in_order`: whether the anchors came out in their known order.
    """
    table: dict[str, Any] = {}
    rows: list[dict[str, Any]] = []
    methods = {method.name: method for method in METHODS}
    for language in LANGUAGES:
        chosen = found[language]["chosen"]
        if chosen is None:
            table[language] = {"refused": refusal(found[language]["methods"])}
            continue
        barred = [name for name in own if chosen == "likelihood"]
        met = meetings([one for one in questions if one.language == language],
                       {name: answers for name, answers in contestants.items() if name not in barred})
        verdicts = judged(endpoint, methods[chosen], [pair for pair, _, _ in met], f"ranking, {language}, {chosen}")
        compared = []
        for (pair, one, other), (_, verdict) in zip(met, verdicts or ()):
            outcome = {"left": "one", "right": "other"}.get(verdict.label or "", "tie")
            compared.append(ranking.Comparison(pair.question, one, other, outcome))
            rows.append({"language": language, "method": chosen, "question": pair.question, "one": one, "other": other,
                         "one_answer": pair.left, "other_answer": pair.right, "outcome": outcome,
                         "readable": verdict.label is not None})
        decided = [(pair, v) for pair, v in verdicts or () if v.label in ("left", "right") and pair.longer != "tie"]
        longer = sum(verdict.label == pair.longer for pair, verdict in decided)
        names = sorted({name for one in compared for name in (one.one, one.other)})
        models = ranking.ranked(compared, names, seed)
        known = [models[name]["strength"] for name in ANCHORS if name in models]
        table[language] = {"method": chosen, "questions": len({one.question for one in compared}), "models": models,
                           "barred": barred, "in_order": known == sorted(known, reverse=True),
                           "longer_won": [longer, len(decided)]} | calibration.position(verdicts or ())
    return table, rows


def refusal(methods: Mapping[str, Any]) -> str:
    """Why nothing is ranked, with the figures."""
    told = [f"{name} {one['right']} right, {one['wrong']} wrong of {one['n']} (p {one['p']:.3g})"
            for name, one in methods.items() if "unsupported" not in one]
    return (f"no method agrees with the known answers above chance (p below {calibration.ALPHA / len(METHODS):.3g} is "
            f"asked): {'; '.join(told)}")


def beside_people(endpoint: Endpoint, pairs: Sequence[Pair], seed: int) -> dict[str, Any]:
    """method -> agreement with people's labels, the `truth` of `pairs`; and of always taking the longer answer."""
    truth = {pair.id: pair.truth for pair in pairs if pair.truth}
    longer = [(pair, Verdict(pair.longer)) for pair in pairs]
    table: dict[str, Any] = {"longer": calibration.agrees(longer, truth, seed)}
    for method in METHODS:
        verdicts = judged(endpoint, method, pairs, f"people's pairs, {method.name}")
        if verdicts is not None:
            table[method.name] = calibration.agrees(verdicts, truth, seed) | calibration.position(verdicts)
    return table

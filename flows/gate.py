"""Champion against challenger: which gates a challenger has to pass, and the one decision they make together.

On the text, before anything is trained, from the counts that the data stages write: documents left after all of
them, and the growth of the share that each turned away. On the answers, item by item: for each gated model and task
the paired difference challenger - champion and its 95 % interval, plus bits per byte on the champion's own held-out
documents, which no refresh can poison.

**Decision.** Promote only if every paired interval excludes a loss beyond its margin, and at least one excludes no
gain.

**Error rates.** A bound is wrong one-sidedly in 2.5 % of the cases. A challenger that truly loses more than its margin
on any task passes at most 2.5 % of the time, however many tasks are gated: every gate has to pass (an
intersection-union test, Berger 1982). That one that gains nowhere is promoted is bounded by 2.5 % times the number of
gates only (a union, not corrected for): it is then an equal within all margins, which costs a release and no quality.
Many promotions in a row may each lose a little within the margin: the intervals compare with the champion, not with
the first release.

Intervals: tasks/evaluate/statistics.py for what is right or wrong (Agresti and Min 2005), the ratio estimator of the
paired differences with Student's t for bits per byte (Cochran 1977, 6.4): a few documents have heavier tails than the
normal.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pydantic import Field

from tasks import params
from tasks.evaluate import statistics
from tasks.evaluate.paired import difference, paired

Item = dict[str, Any]
FROZEN = "frozen held_out"


class RetrainParams(params.Section):
    """`retrain:` of params.yaml."""

    documents: float = Field(ge=0, le=1, description="documents left by the data stages, of the champion's, at least")
    dropped: dict[str, float] = Field(description="data stage -> growth of the share it turns away, at most")
    frozen: float = Field(ge=0, description="margin on the champion's own held-out documents, bits per byte")
    metrics: dict[str, dict[str, float]] = Field(min_length=1, description="model -> task of its answers -> margin")


@dataclass(frozen=True)
class Gate:
    """One gate: its name, what was found, what was allowed, whether it passed, and whether it shows a gain."""

    name: str
    found: str
    allowed: str
    passed: bool
    gained: bool = False


@dataclass(frozen=True)
class Decision:
    """`promote`, and in one line why or what stopped it."""

    promote: bool
    reason: str


def data_gates(champion: dict[str, Any], challenger: dict[str, Any], limits: RetrainParams) -> list[Gate]:
    """Gates on the text. Both: stage -> its metrics (`read`, `kept`); a stage that either lacks is not judged."""
    gates = []
    last = [name for name in ("mixture", "decontaminate", *limits.dropped) if documents(challenger, name) is not None
            and documents(champion, name) is not None][:1]
    for name in last:
        before, after = documents(champion, name), documents(challenger, name)
        gates.append(Gate("documents", f"{after:,} of the champion's {before:,}", f">= {limits.documents:.0%}",
                          after >= limits.documents * before))
    for name, limit in limits.dropped.items():
        before, after = share(champion.get(name)), share(challenger.get(name))
        if before is not None and after is not None:
            gates.append(Gate(f"dropped by {name}", f"{after:.1%}, champion {before:.1%}", f"{limit:+.1%} at most",
                              after - before <= limit))
    return gates


def documents(metrics: dict[str, Any], name: str) -> int | None:
    """Documents that a data stage left; None where its metrics do not tell."""
    found = metrics.get(name) or {}
    return found["all"]["all"]["documents"] if name == "mixture" and "all" in found else found.get("kept")


def share(found: dict[str, Any] | None) -> float | None:
    """The share of what it read that a data stage turned away."""
    if not found or not found.get("read"):
        return None
    return (found["read"] - found["kept"]) / found["read"]


def model_gates(name: str, champion: list[Item], challenger: list[Item], margins: dict[str, float]) -> list[Gate]:
    """A gate for each task of `margins`, on the items that both answered: same task, id and prompt."""
    gates = []
    for task, margin in margins.items():
        pairs = paired(champion, challenger, task)
        if not pairs:
            gates.append(Gate(f"{name} {task}", "no item that both answered", f"loss of {margin:g} at most", False))
            continue
        gates.append(judged(f"{name} {task}", difference(pairs), margin))
    return gates


def frozen_gate(name: str, champion: list[Item], challenger: list[Item], still_held_out: list[str], margin: float
                ) -> Gate:
    """Bits per byte on the champion's held-out documents that the challenger too held out, so neither has read them.

    `still_held_out`: the texts of the challenger's held-out documents, whole.
    """
    pairs = [pair for pair in paired(champion, challenger, "held_out")
             if any(text.startswith(pair[0]["prompt"]) for text in still_held_out)]
    if not pairs:
        return Gate(f"{name} {FROZEN}", "none of the champion's held-out documents is left",
                    f"loss of {margin:g} at most", False)
    gate = judged(f"{name} {FROZEN}", difference(pairs), margin)
    return Gate(gate.name, gate.found, gate.allowed, gate.passed)   # an old text read better is no gain by itself


def judged(name: str, found: statistics.Estimate, margin: float) -> Gate:
    """The gate of one paired difference."""
    text = f"{found.value:+.4f} ({found.low:+.4f} to {found.high:+.4f}), n={found.n}"
    return Gate(name, text, f"loss of {margin:g} at most", found.low > -margin, found.low > 0)


def decide(gates: list[Gate]) -> Decision:
    """Promote or keep, from every gate. Raises ValueError without any: nothing was compared."""
    if not gates:
        raise ValueError("no gate was judged: retrain.metrics names no model that was evaluated")
    failed = [gate for gate in gates if not gate.passed]
    if failed:
        return Decision(False, "; ".join(f"{gate.name}: {gate.found}; allowed: {gate.allowed}" for gate in failed))
    gains = [gate for gate in gates if gate.gained]
    if not gains:
        return Decision(False, "no gain: no interval excludes zero gain (" +
                        "; ".join(f"{gate.name} {gate.found}" for gate in gates if "n=" in gate.found) + ")")
    return Decision(True, "gain: " + "; ".join(f"{gate.name} {gate.found}" for gate in gains))


def table(gates: list[Gate]) -> str:
    """The gates as a markdown table."""
    rows = [f"| {gate.name} | {gate.found} | {gate.allowed} | {'pass' if gate.passed else '**stop**'}"
            f"{', gain' if gate.gained else ''} |" for gate in gates]
    return "\n".join(["| gate | found | allowed | |", "|---|---|---|---|", *rows])

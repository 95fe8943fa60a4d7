"""The gates against values worked out by hand, and their error rate by simulation."""

from __future__ import annotations

import math

import numpy as np
import pytest
import yaml

from flows import gate
from tasks import params
from tasks.evaluate import paired, statistics
from tests.flows.conftest import ROOT

LIMITS = gate.RetrainParams(documents=0.8, dropped={"safety": 0.05, "dedup": 0.1}, frozen=0.1,
                            metrics={"m": {"pairs": 0.1, "held_out": 0.1}})


def counts(documents: int, safety: tuple[int, int], dedup: tuple[int, int]) -> dict:
    return {"mixture": {"all": {"all": {"documents": documents}}},
            "safety": dict(zip(("read", "kept"), safety)), "dedup": dict(zip(("read", "kept"), dedup))}


@pytest.mark.parametrize(("after", "stopped"), [
    (counts(100, (100, 100), (100, 100)), []),
    (counts(80, (100, 95), (100, 90)), []),                    # on the limits
    (counts(79, (100, 100), (100, 100)), ["documents"]),       # smaller
    (counts(100, (140, 100), (140, 140)), ["dropped by safety"]),   # poisoned
    (counts(100, (100, 100), (200, 100)), ["dropped by dedup"]),    # duplicated
    (counts(10, (100, 10), (1000, 100)), ["documents", "dropped by safety", "dropped by dedup"]),
])
def test_data_gates(after, stopped):
    gates = gate.data_gates(counts(100, (100, 100), (100, 100)), after, LIMITS)
    assert [one.name for one in gates if not one.passed] == stopped and len(gates) == 3
    assert gate.decide(gates).promote is False     # the text alone shows no gain


def choices(*right: int) -> list[dict]:
    return [{"task": "pairs", "id": f"i{number}", "prompt": f"by a template of model {id(right)}",
             "choices": ["a", "b"], "target": 0, "right": one} for number, one in enumerate(right)]


def texts(*nats: float) -> list[dict]:
    return [{"task": "held_out", "id": f"d{number}", "prompt": f"text {number}", "bytes": 100, "answer": -one}
            for number, one in enumerate(nats)]


def test_paired_intervals_by_hand():
    champion, challenger = choices(*[1] * 40 + [0] * 60), choices(*[0] * 5 + [1] * 35 + [1] * 25 + [0] * 35)
    gained, lost, total = 25.5, 5.5, 102        # Agresti and Min: half an item more in each cell, two in all
    centre = (gained - lost) / total
    error = math.sqrt((gained + lost - (gained - lost) ** 2 / total)) / total
    found = gate.difference(gate.paired(champion, challenger, "pairs"))
    assert found.value == pytest.approx(0.20) and found.low == pytest.approx(centre - 1.95996 * error, abs=1e-4)
    one, = gate.model_gates("m", champion, challenger, {"pairs": 0.1})
    assert one.passed and one.gained and "n=100" in one.found


def test_bits_saved_by_hand():
    champion, challenger = texts(100, 110, 120), texts(90, 95, 118)
    found = gate.difference(gate.paired(champion, challenger, "held_out"))
    saved = [nats / math.log(2) / 100 for nats in (10, 15, 2)]
    mean = sum(saved) / 3
    deviation = math.sqrt(sum((one - mean) ** 2 for one in saved) / 2)
    assert found.value == pytest.approx(mean)
    assert found.low == pytest.approx(mean - 4.302653 * deviation / math.sqrt(3), rel=1e-5)   # t of 2 degrees
    assert paired.bits_saved([-100], [-50], [10]).low == -math.inf


def test_only_items_that_both_were_asked_count():
    assert [pair[0]["id"] for pair in gate.paired(texts(1, 2, 3), texts(1, 2), "held_out")] == ["d0", "d1"]
    changed = texts(1, 2)
    changed[0]["prompt"] = "the document of this id was edited"
    assert [pair[0]["id"] for pair in gate.paired(texts(1, 2), changed, "held_out")] == ["d1"]
    one, = gate.model_gates("m", choices(1), texts(1), {"pairs": 0.1})
    assert not one.passed and one.found == "no item that both answered"


def test_frozen_documents_are_those_both_held_out():
    champion, challenger = texts(*[100] * 8), texts(*[100] * 4 + [300] * 4)
    held = [f"text {number} and how it goes on" for number in range(8)]
    assert not gate.frozen_gate("m", champion, challenger, held, 0.1).passed
    assert gate.frozen_gate("m", champion, challenger, held[:4], 0.1).passed
    assert "is left" in gate.frozen_gate("m", champion, challenger, ["other"], 0.1).found
    better = gate.frozen_gate("m", challenger, champion, held, 3.0)
    assert better.passed and not better.gained


def test_the_decision_names_what_stopped_it():
    good, equal = gate.Gate("m pairs", "+0.2, n=9", "0.1", True, True), gate.Gate("m tools", "0, n=9", "0.1", True)
    bad = gate.Gate("m held_out", "-0.4 (-0.5 to -0.3), n=9", "loss of 0.1 at most", False)
    assert gate.decide([good, equal]).promote
    assert gate.decide([good, bad]) == gate.Decision(
        False, "m held_out: -0.4 (-0.5 to -0.3), n=9; allowed: loss of 0.1 at most")
    assert gate.decide([equal]).reason.startswith("no gain: no interval excludes zero gain (m tools")
    with pytest.raises(ValueError, match="no gate was judged"):
        gate.decide([])
    assert "| m held_out | -0.4" in gate.table([bad]) and "**stop**" in gate.table([bad])


def test_error_rates_are_what_the_docstring_says():
    """600 challengers of each kind on 200 items of two tasks; a bound is four standard errors above its rate."""
    draw = np.random.default_rng(1)

    def promoted(*gains: float) -> float:
        """The share promoted where a fifth of each task's items differ, the gains being true."""
        count = 0
        for _ in range(600):
            gates = []
            for gain in gains:
                better, worse, _ = draw.multinomial(200, [0.1 + gain / 2, 0.1 - gain / 2, 0.8])
                one, other = [0] * better + [1] * (200 - better), [1] * (200 - worse) + [0] * worse
                gates.append(gate.judged("m", statistics.paired_difference(other, one), 0.05))
            count += gate.decide(gates).promote
        return count / 600

    assert promoted(0.15, -0.05) < 0.025 + 4 * 0.0064   # a loss of the whole margin, though the other gains
    assert promoted(0.0, 0.0) < 0.05 + 4 * 0.0089      # gains nowhere: two gates
    assert promoted(0.12, 0.12) > 0.9                   # and what is better passes


def test_the_committed_limits_are_read():
    values = params.load(ROOT / "params.yaml")
    limits = params.section(gate.RetrainParams, "retrain", values)
    assert set(limits.metrics) <= set(values["models"])
    with pytest.raises(params.ParamsError, match="retrain.documents = 2"):
        params.section(gate.RetrainParams, "retrain", {"retrain": values["retrain"] | {"documents": 2}})
    assert yaml.safe_load((ROOT / "profiles/tiny.yaml").read_text(encoding="utf-8").replace("!instead", ""))["retrain"]

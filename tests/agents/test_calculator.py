"""The calculator against Python's own fractions, and what it must refuse."""

from __future__ import annotations

import time
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks import exercises
from tasks.agents.actions.calculator import BITS, calculator, evaluate, render
from tasks.agents.tools import Action, ActionError

numbers = st.integers(0, 10**6).map(str) | st.decimals(0, 1000, places=3).map(str)
expressions = st.recursive(numbers, lambda inner: st.tuples(inner, st.sampled_from("+-*/"), inner).map(
    lambda parts: f"({parts[0]} {parts[1]} {parts[2]})"), max_leaves=8)


def reference(text: str) -> Fraction:
    """The value by Python's own evaluation over Fraction objects (an independent reading of the same grammar)."""
    import re
    return Fraction(eval(re.sub(r"\d+(?:\.\d+)?", lambda m: f"Fraction('{m[0]}')", text), {"Fraction": Fraction}))


@settings(deadline=None, max_examples=200)
@given(expressions)
def test_equals_fractions(text):
    if len(text) > 200:
        return
    try:
        expected = reference(text)
    except ZeroDivisionError:
        with pytest.raises(ActionError, match="division by zero"):
            evaluate(text)
        return
    assert evaluate(text) == expected


@given(st.fractions(max_denominator=10**6))
def test_rendered_number_reads_back(number):
    shown = render(number)
    read = Fraction(shown.removeprefix("about "))
    assert abs(read - number) <= (Fraction(1, 2 * 10**12) if shown.startswith("about") else 0)


@pytest.mark.parametrize("text, shown", [
    ("12 * 7", "84"), ("0.1 + 0.2", "0.3"), ("1 / 3", "about 0.333333333333"), ("-7 // 2", "-4"), ("7 % -3", "-2"),
    ("2 ** 100", str(2**100)), ("2 ** -2", "0.25"), ("-1 / 8", "-0.125"), ("(-1) ** 10000000001", "-1"),
    ("1.5e3", "1500"), ("0 ** 0", "1"), ("+5", "5"),
])
def test_worked(text, shown):
    assert render(evaluate(text)) == shown


@pytest.mark.parametrize("text", [
    "", "(", "2 +", "a + 1", "__import__('os')", "True", "'a' * 9", "[1]", "1 if 1 else 2", "1 < 2", "1j", "2 ** 0.5",
    "1 / 0", "0 ** -1", "5 % 0", "9 ** 9 ** 9", "9 ** 99999", "1e999999", "1 & 2", "lambda: 1", "7" * 201,
    "-" * 150 + "1", "1;2", "1\n2", "\x00",
])
def test_refused_at_once(text):
    started = time.perf_counter()
    with pytest.raises(ActionError):
        evaluate(text)
    assert time.perf_counter() - started < 0.5


def test_no_result_is_larger_than_the_bound():
    assert evaluate(f"2 ** {BITS - 1}") == 2 ** (BITS - 1)
    with pytest.raises(ActionError, match="bits"):
        evaluate(f"2 ** {BITS}")
    with pytest.raises(ActionError, match="bits"):
        evaluate("*".join(["(9 ** 1000)"] * 3))


def test_the_tool_is_the_one_of_the_exercises_and_solves_them():
    action = Action.of(calculator)
    assert action.schema == exercises.TOOLS["calculator"]
    for exercise in exercises.arithmetic(50, "held_out", 3):
        assert evaluate(exercise.arguments["expression"]) == Fraction(exercise.answer)

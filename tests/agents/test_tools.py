"""An action from a function: its schema from its hints, every call checked and bounded, every fault one line."""

import json
import time
from typing import Annotated, Literal

import pytest
from pydantic import BaseModel, Field

from tasks.agents.tools import ARGUMENTS, RESULT, Action, ActionError, Picture


class Point(BaseModel):
    x: int
    y: int


def move(points: Annotated[list[Point], Field(max_length=3)], way: Literal["up", "down"] = "up") -> str:
    """move points

    Not for the model.
    """
    return f"{len(points)} {way} {type(points[0]).__name__}"


def test_the_schema_is_that_of_the_hints():
    from jsonschema import Draft202012Validator

    schema = Action.of(move).schema
    assert schema["type"] == "function" and schema["function"]["name"] == "move"
    assert schema["function"]["description"] == "move points"
    parameters = schema["function"]["parameters"]
    assert parameters["required"] == ["points"] and parameters["additionalProperties"] is False
    judge = Draft202012Validator(parameters)
    assert judge.is_valid({"points": [{"x": 1, "y": 2}]}), "nested models are within the schema"
    assert not judge.is_valid({"points": [{"x": 1}]}) and not judge.is_valid({"points": [], "way": "left"})


def test_arguments_are_checked_before_the_function_runs():
    action = Action.of(move)
    assert action.call('{"points": [{"x": 1, "y": 2}]}') == "1 up Point"
    for bad, where in [({"points": [{"x": "1", "y": 2}]}, "points.0.x"), ({}, "points"), ({"points": [], "z": 1}, "z"),
                       ({"points": [{"x": 1, "y": 2}] * 4}, "points"), ([], "arguments"), ("x" * ARGUMENTS, "at most")]:
        with pytest.raises(ActionError, match=where) as error:
            action.call(json.dumps(bad))
        assert "\n" not in str(error.value)


def test_a_parameter_without_a_type_is_refused():
    def bare(x):
        return x
    with pytest.raises(TypeError, match=r"bare\(x\) has no type"):
        Action.of(bare)


def test_results_of_any_kind_become_bounded_text(tmp_path):
    results = {"text": "a" * 5_000, "data": {"茶": [1, None]}, "none": None, "picture": Picture("drawn", tmp_path)}

    def give(what: str) -> str:
        """give"""
        return results[what]

    shown = {what: Action.of(give).call(json.dumps({"what": what})) for what in results}
    assert shown["text"] == "a" * RESULT + " [3800 more characters]"
    assert shown["data"] == '{"茶": [1, null]}' and shown["none"] == "null"
    assert shown["picture"] == "drawn" and shown["picture"].path == tmp_path


def test_a_fault_or_a_function_that_hangs_is_one_error():
    def fails() -> str:
        """fails"""
        raise RuntimeError("two\nlines")

    def hangs() -> str:
        """hangs"""
        time.sleep(300)
        return ""

    with pytest.raises(ActionError, match="^fails: RuntimeError two lines$"):
        Action.of(fails).call("{}")
    started = time.monotonic()
    with pytest.raises(ActionError, match="^hangs: not done after 0.05 s$"):
        Action.of(hangs, seconds=0.05).call("{}")
    assert time.monotonic() - started < 200

"""Exercises against the world: Python evaluates the arithmetic and runs the code, jsonschema judges the calls."""

import contextlib
import io
import itertools
import json

import jinja2
import jsonschema
import pytest

from tasks import chat, exercises


@pytest.fixture(scope="module", params=["train", "held_out"])
def some(request):
    return exercises.arithmetic(60, request.param, 7) + exercises.tool_calls(180, request.param, 7)


def test_every_call_fits_its_schema_and_round_trips_through_the_template_form(some):
    for exercise in some:
        schema = exercises.TOOLS[exercise.tool]["function"]["parameters"]
        jsonschema.validate(exercise.arguments, schema)
        assert list(exercise.arguments) == list(schema["properties"])
        call = exercise.tool, exercise.arguments
        assert chat.parse_call(chat.call_text(*call)) == call
        assert exercise.tool in exercise.tools and len(set(exercise.tools)) == exercises.OFFERED
        assert exercise.answer in exercise.reply


def test_arithmetic_and_code_are_right(some):
    checked = set()
    for exercise in some:
        if exercise.tool == "calculator":
            assert str(eval(exercise.arguments["expression"])) == exercise.result == exercise.answer
        elif exercise.tool == "python":
            printed = io.StringIO()
            with contextlib.redirect_stdout(printed):
                exec(exercise.arguments["code"], {})
            assert printed.getvalue().strip() == exercise.result
        checked.add(exercise.tool)
    assert checked == set(exercises.TOOLS)


def test_conversions_against_known_pairs():
    assert exercises.converted(100, "celsius", "fahrenheit") == "212.0 fahrenheit"
    assert exercises.converted(32, "fahrenheit", "celsius") == "0.0 celsius"
    assert exercises.converted(42, "km", "miles") == "26.1 miles"
    assert exercises.converted(5, "kg", "kg") == "5.0 kg"
    with pytest.raises(ValueError, match="cannot convert kg to km"):
        exercises.converted(5, "kg", "km")


def test_no_argument_is_in_both_splits_whatever_the_seed():
    def calls(split, seed):
        made = exercises.arithmetic(300, split, seed) + exercises.tool_calls(300, split, seed)
        return {json.dumps([e.tool, e.arguments]) for e in made}, {e.question for e in made}

    (train, asked), (held_out, asked_held_out) = calls("train", 1), calls("held_out", 2)
    assert not train & held_out and not asked & asked_held_out


def test_some_phrasings_are_kept_for_evaluation():
    kinds = {e.phrasing for e in exercises.tool_calls(120, "held_out", 3)}
    assert kinds == {"seen", "new"}
    assert {e.phrasing for e in exercises.tool_calls(120, "train", 3)} == {"seen"}


def test_the_same_seed_gives_the_same_exercises_and_another_seed_others():
    first, again = (exercises.tool_calls(50, "train", 5) for _ in range(2))
    assert first == again != exercises.tool_calls(50, "train", 6)
    assert len({e.id for e in first}) == 50
    values = json.loads(json.dumps(first[0].as_dict()))
    assert exercises.Exercise(**{**values, "tools": tuple(values["tools"])}) == first[0]


def test_chance_equals_the_count_of_all_valid_calls():
    made = exercises.tool_calls(20, "held_out", 1, ["light"])
    every = itertools.product(exercises.ROOMS, exercises.STATES)
    right = [call for call in every if call == tuple(made[0].arguments.values())]
    assert exercises.chance(made) == pytest.approx(len(right) / (len(made[0].tools) * 8 * 3))
    assert exercises.chance(exercises.arithmetic(5, "train", 1)) == 0
    with pytest.raises(ValueError, match="no exercises"):
        exercises.chance([])


def test_a_whole_conversation_is_short_enough_for_a_small_context(some):
    environment = jinja2.Environment()
    text = chat.TEMPLATE.replace("{%- generation -%}", "").replace("{%- endgeneration -%}", "")
    template = environment.from_string(text)
    for exercise in some:
        call = {"function": {"name": exercise.tool, "arguments": exercise.arguments}}
        messages = [{"role": "user", "content": exercise.question},
                    {"role": "assistant", "content": "", "tool_calls": [call]},
                    {"role": "tool", "content": exercise.result or ""},
                    {"role": "assistant", "content": exercise.reply}]
        shown = template.render(messages=messages, tools=exercises.schemas(exercise.tools))
        assert len(shown) < 830


def test_what_cannot_be_made_is_refused_with_the_number():
    with pytest.raises(ValueError, match=r"500 held_out exercises of light asked, \d+ distinct ones exist"):
        exercises.tool_calls(500, "held_out", 1, ["light"])
    with pytest.raises(ValueError, match="split is train or held_out, not 'test'"):
        exercises.arithmetic(1, "test", 1)
    with pytest.raises(ValueError, match="at least one family"):
        exercises.tool_calls(1, "train", 1, [])

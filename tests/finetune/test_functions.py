"""Function-calling conversations: calls that their own schemas admit, values that the question holds, splits apart."""

import json
import random
import re

import jsonschema
import pytest

from tasks.finetune import functions, values
from tasks.finetune.conversations import Conversation
from tasks.finetune.masking import encode
from tasks.stage import StageError

MADE = functions.functions(600, "train", 3)


def called(messages):
    return [call["function"] for call in messages[-1].get("tool_calls", [])]


def test_same_seed_same_conversations():
    assert MADE == functions.functions(600, "train", 3) != functions.functions(600, "train", 4)


@pytest.mark.parametrize("made", [MADE])
def test_every_call_obeys_the_schema_that_was_offered(made):
    for kind, messages, tools in made:
        offered = {tool["function"]["name"]: tool["function"]["parameters"] for tool in tools}
        calls = called(messages)
        assert {"unfit": not calls, "parallel": len(calls) > 1}.get(kind, len(calls) == 1), messages
        assert (len(tools) > 1) if kind == "choice" else len(tools) == 1 if kind == "function" else len(tools) <= 4
        for call in calls:
            jsonschema.validate(call["arguments"], offered[call["name"]])
            assert call["arguments"].keys() <= offered[call["name"]]["properties"].keys()


def test_several_questions_are_asked_of_the_same_tools():
    made = functions.functions(403, "train", 3, asked=4)
    groups = {}
    for kind, messages, tools in made:
        groups.setdefault(json.dumps(tools), []).append((kind, messages[0]["content"]))
    assert sorted(map(len, groups.values())) == [3] + [4] * 100
    assert sum(len({question for _, question in group}) > 1 for group in groups.values()) > 95
    kinds = [kind for kind, _, _ in made]
    assert kinds.count("unfit") / len(made) == pytest.approx(6 / 19, abs=0.06)
    assert all(("choice" not in found) if len(json.loads(tools)) == 1 else ("function" not in found)
               for tools, group in groups.items() for found in [{kind for kind, _ in group}])
    test_every_call_obeys_the_schema_that_was_offered(made)


def test_a_question_that_nothing_fits_is_of_another_function():
    for kind, messages, tools in MADE:
        if kind == "unfit":
            shown = {tool["function"]["description"].rstrip(".") for tool in tools}
            asked = [topic for topic in functions.topics("train") if topic["d"].rstrip(".") not in shown]
            assert len(asked) == len(functions.topics("train")) - len(tools)
            words = [max(re.split(r"{\w+}", question), key=len).strip(" .,?!").lower()
                     for topic in asked for question in topic["q"]]
            assert any(each and each in messages[0]["content"].lower() for each in words), messages


def test_what_is_called_with_was_said():
    """Numbers of three and more digits stand in the question, with their commas, in millions or as a percentage."""
    for _, messages, _ in MADE:
        said = messages[0]["content"].replace(",", "")
        for call in called(messages):
            for value in call["arguments"].values():
                if type(value) is int and 100 <= value < 100_000:
                    assert str(value) in said, messages


def test_no_two_functions_share_a_name_or_a_description():
    """Else a question of the one would be said to fit the other in no way."""
    every = [topic for split in ("train", "held_out") for topic in functions.topics(split)]
    names = [name for topic in every for name in topic["f"]]
    assert len(set(names)) == len(names)
    assert len({topic["d"].lower().rstrip(".") for topic in every}) == len(every)


def test_every_function_can_be_asked_in_all_its_questions():
    """A question holds every value that must be given, and a value of each kind is drawn."""
    draw = random.Random(8)
    for split in ("train", "held_out"):
        for topic in functions.topics(split):
            required = [name for name in topic["a"] if not name.endswith("?")]
            for question in topic["q"]:
                assert all(f"{{{name}}}" in question for name in required), (topic["f"], question)
                asked, [arguments] = functions.Signature(topic, draw, False).asked(draw, question)
                assert asked and set(required) <= arguments.keys(), topic["f"]


def test_optional_parameters_are_left_out_and_given():
    left = given = 0
    for kind, messages, tools in MADE:
        if kind == "function":
            parameters = tools[0]["function"]["parameters"]
            for name in parameters["properties"].keys() - set(parameters["required"]):
                given += name in called(messages)[0]["arguments"]
                left += name not in called(messages)[0]["arguments"]
    assert 0.2 < given / (given + left) < 0.5     # GIVEN and what the questions themselves ask for


def test_held_out_functions_are_in_no_training_conversation():
    kept = {re.split(r"\W", name)[0] for topic in functions.topics("held_out") for name in topic["f"]}
    assert len(functions.topics("held_out")) >= 9 and kept
    descriptions = {topic["d"].rstrip(".") for topic in functions.topics("held_out")}
    for _, _, tools in MADE:
        assert not descriptions & {tool["function"]["description"].rstrip(".") for tool in tools}
    assert functions.functions(9, "held_out", 0)
    with pytest.raises(StageError, match="split"):
        functions.functions(1, "test", 0)


@pytest.mark.parametrize("kind", ["int 5 90000", "number 0.1 9", "money 10 9000000", "rate 1 12", "date", "time",
                                  "place", "point", "currency", "title", "code", "year", "list int 1 9", "list city", "flag aloud",
                                  "enum a=first thing,b=second/other", "list enum x=one,y=two"])
def test_values_obey_the_schema_drawn_with_them(kind):
    draw = random.Random(kind)
    for _ in range(60):
        value, said, schema = values.drawn(draw, kind)
        jsonschema.validate(value, {key: part for key, part in schema.items() if key != "note"})
        assert said and json.dumps(value)


def test_a_rate_is_said_in_percent_and_called_with_as_described():
    draw = random.Random(0)
    for _ in range(200):
        value, said, schema = values.drawn(draw, "rate 1 12")
        points = float(re.match(r"[\d.]+", said).group())
        assert value == pytest.approx(points if "ercent" in schema.get("note", "") else points / 100)


def test_dates_have_the_form_that_the_description_names():
    draw = random.Random(1)
    for _ in range(200):
        value, _, schema = values.drawn(draw, "date")
        if "YYYY-MM-DD" in schema["note"]:
            assert re.fullmatch(r"\d{4}-\d\d-\d\d", value)
        if "MM-DD-YYYY" in schema["note"]:
            assert re.fullmatch(r"\d\d-\d\d-\d{4}", value)


def test_they_render_and_only_the_call_is_learned(tokenizer):
    for made in MADE[:20]:
        example = encode(Conversation(*made), tokenizer)
        learned = tokenizer.decode([token for token, mark in zip(example.ids, example.learned) if mark])
        assert learned.startswith("<tool_call>") or made[0] == "unfit"

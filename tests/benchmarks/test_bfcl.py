"""The BFCL benchmark's own part: schemas, what is judged without the package, and the gate on training text."""

import json
import re
import zipfile

import jsonschema
import pytest

from benchmarks import bfcl, bfcl_training
from tasks import chat, exercises
from tasks.finetune.conversations import Conversation

FUNCTION = {"name": "pond.fill", "description": "Fill a pond.", "parameters": {
    "type": "dict", "required": ["liters"], "properties": {
        "liters": {"type": "float", "description": "How much.", "default": 3},
        "fish": {"type": "array", "items": {"type": "string"}}, "corner": {"type": "tuple", "items": {"type": "integer"}},
        "plants": {"type": "dict", "properties": {"reed": {"type": "boolean"}}}, "note": {"type": "any"},
        "depth": {"type": "string", "enum": ["low", "high"]}, "more": {"type": "dict"}}}}
ITEM = {"id": "simple_python_3", "function": [FUNCTION],
        "question": [[{"role": "user", "content": "Fill the pond behind my house with forty liters of rain water today."}]]}


def wheel(tmp_path, rows):
    path = tmp_path / "bfcl.whl"
    with zipfile.ZipFile(path, "w") as packed:
        packed.writestr("bfcl_eval/data/BFCL_v4_simple_python.json", "\n".join(map(json.dumps, rows)))
        packed.writestr("bfcl_eval/data/possible_answer/BFCL_v4_simple_python.json",
                        "\n".join(json.dumps({"id": row["id"], "ground_truth": [{"pond.fill": {}}]}) for row in rows))
    return path


def test_the_packages_types_become_a_json_schema_with_bounds():
    made = bfcl.tool(FUNCTION)["function"]["parameters"]
    jsonschema.Draft202012Validator.check_schema(made)
    assert made["type"] == "object" and made["required"] == ["liters"]
    kinds = {name: spec["type"] for name, spec in made["properties"].items()}
    assert kinds == {"liters": "number", "fish": "array", "corner": "array", "plants": "object", "note": "string",
                     "depth": "string", "more": "object"}
    assert "default" not in made["properties"]["liters"] and made["properties"]["depth"]["enum"] == ["low", "high"]
    jsonschema.validate({"liters": 2.5, "fish": ["carp"], "plants": {"reed": True}, "more": {"a": 1}}, made)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({"liters": 2, "fish": ["x" * (bfcl.STRING + 1)]}, made)


def test_items_come_with_their_answers_and_a_wrong_file_is_one_line(tmp_path):
    [item] = bfcl.items(wheel(tmp_path, [ITEM]), "simple_python")
    assert item["truth"] == [{"pond.fill": {}}]
    (tmp_path / "other.whl").write_bytes(b"no zip")
    for path in (tmp_path / "other.whl", tmp_path / "absent.whl"):
        with pytest.raises(SystemExit, match="no wheel of bfcl-eval"):
            bfcl.items(path, "simple_python")


def test_what_counts_as_right_and_valid():
    call = chat.call_text("pond.fill", {"liters": 40})
    own = {"id": "own_1", "truth": {"name": "pond.fill", "arguments": {"liters": 40}}}
    asked = []

    def check(item, calls, category):
        asked.append(calls)
        return {"valid": False, "error_type": "value_error", "error": ["liters"]}

    for ours in bfcl.OURS:
        assert bfcl.judged(check, own, call, ours)["right"]
        assert not bfcl.judged(check, own, chat.call_text("pond.fill", {"liters": 41}), ours)["right"]
    broken = bfcl.judged(check, ITEM, call[:-14], "simple_python")
    assert not broken["valid"] and not broken["right"]
    assert bfcl.judged(check, ITEM, call, "simple_python")["error"] == "value_error: ['liters']"
    assert asked == [[("pond.fill", {"liters": 40})]]
    for category, said, right in (("irrelevance", "I cannot.", True), ("irrelevance", call, False),
                                  ("relevance", "I cannot.", False), ("relevance", call, True)):
        assert bfcl.judged(check, ITEM, said, category)["right"] is right


def test_whole_numbers_in_a_list_of_floats_are_floats():
    """As the package's checker reads a lone one; strings, other lists and other functions stay."""
    lists = FUNCTION | {"parameters": {"type": "dict", "required": [], "properties": {
        "depths": {"type": "array", "items": {"type": "float"}}, "counts": {"type": "array", "items": {"type": "integer"}},
        "liters": {"type": "float"}, "bare": {"type": "array"}}}}
    given = {"depths": [1, 2.5, True, "3"], "counts": [1], "liters": 3, "bare": [1]}
    made = bfcl.floats({"function": [lists]}, "pond.fill", given)
    assert made == given and list(map(type, made["depths"])) == [float, float, bool, str]
    assert list(map(type, (made["counts"][0], made["liters"], made["bare"][0]))) == [int, int, int]
    assert bfcl.floats({"function": [lists]}, "other", given) is given


def test_phrasings_are_in_no_training_conversation():
    items = bfcl.items(None, "phrasings")
    assert items == bfcl.items(None, "phrasings") and len(items) > 100
    assert {item["truth"]["name"] for item in items} == exercises.TOOLS.keys()
    learned = exercises.tool_calls(480, "train", 0) + exercises.arithmetic(120, "train", 0)
    common = [re.sub(r"\\{\w+\\}", ".+", re.escape(text)) for shown, _ in exercises.PHRASINGS.values() for text in shown]
    assert all(any(re.fullmatch(form, each.question) for form in common) for each in learned)
    for item in items:
        [[turn]] = item["question"]
        assert not any(re.fullmatch(form, turn["content"]) for form in common), turn
        assert item["truth"] not in [{"name": each.tool, "arguments": each.arguments} for each in learned]
        [offered] = [each["function"] for each in bfcl.offered(item) if each["function"]["name"] == item["truth"]["name"]]
        jsonschema.validate(item["truth"]["arguments"], offered["parameters"])


def test_a_gain_decides_and_chooses_the_tool():
    other = FUNCTION | {"name": "song.sing", "parameters": {"type": "dict", "properties": {}, "required": []}}
    item = ITEM | {"function": [FUNCTION, other]}
    assert bfcl.narrowed(item, [5.0, 9.0], False)["function"] == [other]
    assert bfcl.narrowed(item, [9.0, 5.0], False)["function"] == [FUNCTION]
    silent = item | {"question": [[{"role": "user", "content": "Fill the pond."}]]}    # no number for its liters
    assert bfcl.narrowed(silent, [9.0, 5.0], False)["function"] == [other]
    assert bfcl.narrowed(silent, [9.0, 5.0], True)["function"] == [FUNCTION]
    for nats, category, right in ((8, "relevance", True), (8, "irrelevance", False), (10, "irrelevance", True)):
        assert bfcl.decided(item, [9.0, 5.0], nats, category, False)["right"] is right
    assert bfcl.area([3.0, 1.0], [1.0, 0.0]) == 0.875


def test_every_third_item_was_not_looked_at():
    made = bfcl.parts("simple_python", [{"id": f"simple_python_{n}"} for n in range(10)])
    assert [each["id"][-1] for each in made["simple_python rest"]] == ["2", "5", "8"]
    assert [len(part) for part in made.values()] == [10, 7, 3]


def learned(question, name="well.dig"):
    tool = {"type": "function", "function": {"name": name}}
    return Conversation("function", [{"role": "user", "content": question}, {"role": "assistant", "content": "-"}], [tool])


@pytest.mark.parametrize("conversation, rules", [
    (learned("How deep is the sea?"), set()),
    (learned("How deep is the sea?", "pond.fill"), {"name"}),
    (learned("Now that it is dry again in our village, fill the pond behind my house with forty buckets."),
     {"8 words"}),
    (learned("Fill the pond behind my house, forty liters of rain water today."), {"triples 0.4"})])
def test_planted_items_are_found_in_training_text(conversation, rules):
    assert {hit["rule"] for hit in bfcl_training.found([conversation], [ITEM])} == rules

"""What a program accepts: the one right form and content; nothing that only looks like it earns their reward."""

import json

import pytest

from tasks import chat, exercises
from tasks.align import verify
from tasks.align.settings import MixParams
from tasks.align import prompts
from tasks.exercises import Exercise

SUM = Exercise("a", "arithmetic", "What is 412 * 3?", "calculator", {"expression": "412 * 3"}, "1236", "1236",
               "The answer is 1236.", ("calculator", "light", "timer"), "seen")
LIGHT = Exercise("b", "light", "Dim the hall.", "light", {"room": "hall", "state": "dim"}, "hall light: dim",
                 "hall light: dim", "Done, hall light: dim.", ("light", "weather", "search"), "seen")


def called(name, arguments):
    return chat.call_text(name, arguments) + chat.END


def test_a_right_call_earns_all_and_a_part_its_part():
    assert verify.call(called("light", LIGHT.arguments), LIGHT).reward == pytest.approx(1)
    half = verify.call(called("light", {"room": "hall", "state": "on"}), LIGHT)
    assert half.reward == pytest.approx(0.2 + 0.2 + 0.3) and not half.right
    other = verify.call(called("weather", {"city": "Rome", "day": "today"}), LIGHT)
    assert other.reward == pytest.approx(0.2) and other.valid and not other.tool


@pytest.mark.parametrize("expression, right", [
    ("412 * 3", True), ("3 * 412", True), ("1200 + 36", True), ("412 + 412 * 2", True), ("2472 / 2", True),
    ("412 * 4", False), ("1236 - 0 / 1", True), ("412 / 0", False), ("999999999 * 999999999 * 999999999", False)])
def test_the_calculator_is_judged_by_what_comes_out(expression, right):
    assert verify.call(called("calculator", {"expression": expression}), SUM).right is right


def test_values_agree_with_python():
    for text in ("7 + 8 * 9 - 10", "100 / 8 / 5 + 1", "5 - 6 - 7", "2 * 3 / 4"):
        assert float(verify.value_of(text)) == pytest.approx(eval(text))
    for text in ("", "7", "7+8", "__import__('os')", "1 ** 2", "1" * 5000 + " + 1", "1 + 2\n"):
        assert verify.value_of(text) is None


RIGHT = chat.call_text("light", LIGHT.arguments)


@pytest.mark.parametrize("text", [
    "", chat.END, RIGHT, RIGHT[:-1] + chat.END, RIGHT[:20] + chat.END, "Sure: " + RIGHT + chat.END,
    RIGHT + " " + chat.END, RIGHT + RIGHT + chat.END, RIGHT + "1236" + chat.END, "x" * 100_000 + chat.END,
    RIGHT.replace(": ", ":") + chat.END, "<tool_call>" + "[" * 50_000 + chat.END, "light hall dim" + chat.END,
    '<tool_call>{"name": "light", "arguments": {"room": "hall", "room": "hall", "state": "dim"}}</tool_call><|im_end|>',
    called("light", {"room": "hall"}), called("light", LIGHT.arguments | {"more": 1}),
    called("light", {"room": 1, "state": []}),
    called("timer", {"minutes": 10**30, "label": "tea"}), called("rm", {}), called("search", {"query": "x" * 5000}),
    '<tool_call>{"name": "timer", "arguments": {"minutes": ' + "9" * 6000 + "}}</tool_call>" + chat.END,
    '<tool_call>{"name": "light", "arguments": null}</tool_call>' + chat.END, "\ud800" + chat.END])
def test_what_is_not_exactly_a_call_earns_nothing(text):
    assert verify.call(text, LIGHT).reward == 0


def test_an_answer_must_be_said_plainly_and_last():
    for text in ("The answer is 1236.", "1,236", "412 * 3 is 1236.", "1236"):
        assert verify.answer(text + chat.END, SUM).reward == pytest.approx(1)
    for text in ("It is 12360.", "1236.5", "1236 or 7", "x1236", "I do not know.", "123 6"):
        found = verify.answer(text + chat.END, SUM)
        assert found.valid and not found.right and found.reward == pytest.approx(0.2)
    for text in ("The answer is 1236.", "", chat.END, "  " + chat.END, '{"answer": 1236}' + chat.END,
                 "<tool_call>1236" + chat.END, "1236 " * 1000 + chat.END, "9" * 100_000 + chat.END):
        assert verify.answer(text, SUM).reward == 0
    assert verify.answer("Done, hall light: dim." + chat.END, LIGHT).right
    assert not verify.answer("Done, hall light: on." + chat.END, LIGHT).right


def test_every_exercise_s_own_call_and_reply_are_right():
    for exercise in exercises.tool_calls(60, "train", 1) + exercises.arithmetic(20, "train", 1):
        assert verify.call(called(exercise.tool, exercise.arguments), exercise).right, exercise
        if exercise.result is not None:
            assert verify.answer(exercise.reply + chat.END, exercise).right, exercise


def test_prompts_share_nothing_with_evaluation(tokenizer):
    mix = MixParams(calls=6, arithmetic=2, answers=3)
    steps = prompts.draw(mix, 8, "train", 3, ["", "Be brief."], tokenizer)
    held = prompts.draw(mix, 4, "held_out", 3, [""], tokenizer)
    assert [prompt.kind for prompt in steps[0]] == ["calls"] * 6 + ["arithmetic"] * 2 + ["answers"] * 3
    assert {len(step) for step in [*steps, *held]} == {11}

    def asked(lists):
        return {json.dumps([p.exercise.tool, p.exercise.arguments], sort_keys=True) for step in lists for p in step}

    assert not asked(steps) & asked(held)
    kept = [phrase.split("{")[0] for _, late in exercises.PHRASINGS.values() for phrase in late if phrase[0] != "{"]
    for prompt in (prompt for step in steps for prompt in step):
        assert not exercises.is_held_out(prompt.exercise.tool, prompt.exercise.arguments)
        assert not prompt.exercise.question.startswith(tuple(start for start in kept if len(start) > 8))
        text = tokenizer.decode(prompt.ids)
        assert text.endswith("<|im_start|>assistant\n") and prompt.exercise.question in text
        assert (prompt.kind == "answers") == ("<|im_start|>tool\n" in text)
    assert steps == prompts.draw(mix, 8, "train", 3, ["", "Be brief."], tokenizer)

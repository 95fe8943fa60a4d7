"""The one chat template: what it renders, what the assistant learns of it, and calls read back from it."""

import pytest
from hypothesis import given, strategies
from transformers.utils.chat_template_utils import render_jinja_template

from tasks import chat, exercises

# SmolLM2-Instruct's own template, as its GGUF carries it
PACKAGED = ("{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
            "{{ '<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n' }}"
            "{% endif %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}"
            "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}")


def render(template, messages, tools=None, add_generation_prompt=False):
    """Text of one conversation, by transformers' own renderer."""
    rendered, _ = render_jinja_template([messages], tools=tools, chat_template=template,
                                        add_generation_prompt=add_generation_prompt)
    return rendered[0]


PLAIN = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"},
         {"role": "assistant", "content": "Hello."}, {"role": "user", "content": "Bye\nnow"}]


@pytest.mark.parametrize("turns", [1, 2, 3, 4])
@pytest.mark.parametrize("open_end", [True, False])
def test_plain_conversations_render_as_in_the_packaged_template(turns, open_end):
    ours = render(chat.TEMPLATE, messages=PLAIN[:turns], add_generation_prompt=open_end)
    assert ours == render(PACKAGED, messages=PLAIN[:turns], add_generation_prompt=open_end)


def test_tools_and_calls_as_text():
    messages = [{"role": "user", "content": "What is 12 * 7?"},
                {"role": "assistant", "content": "", "tool_calls": [
                    {"type": "function", "function": {"name": "calculator", "arguments": {"expression": "12 * 7"}}}]},
                {"role": "tool", "content": "84"}, {"role": "assistant", "content": "The answer is 84."}]
    assert render(chat.TEMPLATE, messages=messages, tools=exercises.schemas(["calculator", "light"])) == (
        "<|im_start|>system\nTools:\ncalculator(expression: string): exact arithmetic\n"
        "light(room: kitchen|bedroom|office|hall|garage|bathroom|garden|attic, state: on|off|dim): switch a light"
        "<|im_end|>\n<|im_start|>user\nWhat is 12 * 7?<|im_end|>\n"
        "<|im_start|>assistant\n"
        '<tool_call>{"name": "calculator", "arguments": {"expression": "12 * 7"}}</tool_call><|im_end|>\n'
        "<|im_start|>tool\n84<|im_end|>\n<|im_start|>assistant\nThe answer is 84.<|im_end|>\n")


def test_arguments_given_as_text_render_alike():
    def turn(arguments):
        return [{"role": "assistant", "content": "", "tool_calls": [{"function": {"name": "f", "arguments": arguments}}]}]
    assert render(chat.TEMPLATE, messages=turn({"x": "é\"", "n": 3})) == render(
        chat.TEMPLATE, messages=turn('{"x": "é\\"", "n": 3}'))


def test_every_exercise_reads_back():
    for exercise in exercises.tool_calls(60, "train", 3) + exercises.arithmetic(20, "held_out", 3):
        text = chat.call_text(exercise.tool, exercise.arguments)
        assert chat.parse_call(f"Let me see. {text} and more") == (exercise.tool, exercise.arguments)
        message = {"role": "assistant", "content": "", "tool_calls": [
            {"function": {"name": exercise.tool, "arguments": exercise.arguments}}]}
        assert f"assistant\n{text}<|im_end|>" in render(chat.TEMPLATE, messages=[message])


@pytest.mark.parametrize("text", [
    "", "no call", "<tool_call>", "<tool_call>{}</tool_call>", '<tool_call>{"name": "f"}</tool_call>',
    '<tool_call>{"name": 3, "arguments": {}}</tool_call>', '<tool_call>{"name": "f", "arguments": "x"}</tool_call>',
    "<tool_call>[1]</tool_call>", "<tool_call>" + "[" * 100_000])
def test_what_is_no_call_is_none(text):
    assert chat.parse_call(text) is None


@given(strategies.text(max_size=200))
def test_any_text_is_a_call_or_none(text):
    chat.parse_call(chat.CALL_START + text)

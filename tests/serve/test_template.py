"""The server's rendering of a chat is transformers' own."""

import pytest
from transformers import AutoTokenizer

from tasks.serve.engine.directory import ModelError
from tasks.serve.template import ChatTemplate

TOOLS = [{"type": "function", "function": {"name": "weather", "description": "tells <it>", "parameters": {
    "type": "object", "properties": {"city": {"enum": ["北京", "Rome"]}, "days": {"type": "integer"}}}}}]
CALL = {"type": "function", "function": {"name": "weather", "arguments": '{"city": "北京", "days": 2}'}}
CHATS = [
    [{"role": "user", "content": "Hi <b> 'you' & 中文\n\n"}],
    [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "a"},
     {"role": "assistant", "content": "b"}, {"role": "user", "content": "c"}],
    [{"role": "user", "content": "a"}, {"role": "assistant", "content": "", "tool_calls": [CALL]},
     {"role": "tool", "content": "rain"}],
]


@pytest.mark.parametrize("tools", [None, TOOLS], ids=["plain", "tools"])
@pytest.mark.parametrize("messages", CHATS, ids=["one", "system", "call"])
def test_the_same_text_and_tokens(tiny, messages, tools):
    reference = AutoTokenizer.from_pretrained(tiny / "onnx")
    expected = reference.apply_chat_template(messages, tools=tools, tokenize=False, add_generation_prompt=True)
    assert ChatTemplate(tiny / "onnx").render(messages, tools) == expected


def test_no_template_and_a_broken_one(tmp_path):
    with pytest.raises(ModelError, match="no chat template"):
        ChatTemplate(tmp_path)
    (tmp_path / "chat_template.jinja").write_text("{% if %}")
    with pytest.raises(ModelError, match="does not compile"):
        ChatTemplate(tmp_path)

"""Map functions by hand-written records of each format, files with every fault, and the masks read aloud."""

import gzip
import hashlib
import json

import pytest

from tasks.finetune import given, masking
from tasks.finetune.conversations import Conversation
from tasks.finetune.maps import FORMATS
from tasks.finetune.settings import DataSet
from tasks.stage import StageError

SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
WEATHER = {"type": "function", "function": {"name": "weather", "description": "the weather", "parameters": SCHEMA}}


def user(text):
    return {"role": "user", "content": text}


def assistant(text, *calls):
    made = {"role": "assistant", "content": text}
    return made | ({"tool_calls": [{"type": "function", "function": {"name": name, "arguments": arguments}}
                                   for name, arguments in calls]} if calls else {})


def tool(text):
    return {"role": "tool", "content": text}


META = ("You are an AI assistant whose name is MOSS.\n- Inner thoughts: enabled.\n"
        "- Web search: enabled. API: Search(query)\n- Calculator: enabled. API: Calculate(expression)\n"
        "- Equation solver: disabled.\n")
PLUGINS = [{"type": "function", "function": {"name": name, "description": what, "parameters": {
    "type": "object", "properties": {argument: {"type": "string"}}, "required": [argument]}}}
    for name, what, argument in (("Search", "Web search", "query"), ("Calculate", "Calculator", "expression"))]
GOLDEN = [
    ("alpaca", {"instruction": "Add.", "input": "1 and 2", "output": "3"},
     [user("Add.\n\n1 and 2"), assistant("3")], []),
    ("alpaca", {"instruction": "再来。", "input": "", "output": "好。", "system": "简短。", "history": [["一？", "二。"]]},
     [{"role": "system", "content": "简短。"}, user("一？"), assistant("二。"), user("再来。"), assistant("好。")], []),
    ("dolly", {"instruction": "Who?", "context": "Ada wrote it.", "response": "Ada.", "category": "closed_qa"},
     [user("Who?\n\nAda wrote it."), assistant("Ada.")], []),
    ("sharegpt", {"conversations": [
        {"from": "human", "value": "上海天气？"},
        {"from": "function_call", "value": '{"name": "weather", "arguments": {"city": "上海"}}'},
        {"from": "observation", "value": "晴"}, {"from": "gpt", "value": "晴天。"}],
        "tools": json.dumps([WEATHER["function"]])},
     [user("上海天气？"), assistant("", ("weather", {"city": "上海"})), tool("晴"), assistant("晴天。")], [WEATHER]),
    ("openai", {"messages": [
        {"role": "developer", "content": "Be brief."}, {"role": "user", "content": [{"type": "text", "text": "Rome?"}]},
        {"role": "assistant", "content": None, "tool_calls": [
            {"id": "a", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Rome"}'}}]},
        {"role": "tool", "tool_call_id": "a", "content": "rain"}, {"role": "assistant", "content": "Rain."}],
        "tools": [WEATHER]},
     [{"role": "system", "content": "Be brief."}, user("Rome?"), assistant("", ("weather", {"city": "Rome"})),
      tool("rain"), assistant("Rain.")], [WEATHER]),
    ("oasst", {"prompt": {"role": "prompter", "text": "Hi", "replies": [
        {"role": "assistant", "text": "worse", "rank": 1, "replies": []},
        {"role": "assistant", "text": "better", "rank": 0, "replies": [
            {"role": "prompter", "text": "More", "replies": []}]}]}}, [user("Hi"), assistant("better")], []),
    ("moss", {"meta_instruction": META, "chat": {
        "turn_2": {"Human": "<|Human|>: 12*(3+4)?<eoh>\n", "Inner Thoughts": "<|Inner Thoughts|>: None<eot>\n",
                   "Commands": "<|Commands|>: Calculate(12*(3+4))<eoc>\n",
                   "Tool Responses": "<|Results|>:\nCalculate(12*(3+4)) =>\n84<eor>\n", "MOSS": "<|MOSS|>: 84。<eom>\n"},
        "turn_1": {"Human": "<|Human|>: 谁写的？<eoh>\n", "Inner Thoughts": "<|Inner Thoughts|>: 需要搜索。<eot>\n",
                   "Commands": '<|Commands|>: Search("三国 作者"), Search("罗贯中")<eoc>\n',
                   "Tool Responses": "<|Results|>:\n<|1|>: 罗贯中<eor>\n", "MOSS": "<|MOSS|>: 罗贯中。<eom>\n"}}},
     [user("谁写的？"), assistant("需要搜索。", ("Search", {"query": "三国 作者"}), ("Search", {"query": "罗贯中"})),
      tool("<|1|>: 罗贯中"), assistant("罗贯中。"), user("12*(3+4)?"),
      assistant("", ("Calculate", {"expression": "12*(3+4)"})), tool("Calculate(12*(3+4)) =>\n84"), assistant("84。")],
     PLUGINS),
    ("belle", {"instruction": "Human:你好\nAssistant:您好！\nHuman:再见\nAssistant:", "input": "", "output": "再见！"},
     [user("你好"), assistant("您好！"), user("再见"), assistant("再见！")], []),
    ("belle", {"instruction": "写诗", "input": "", "output": "床前明月光"}, [user("写诗"), assistant("床前明月光")], []),
    ("firefly", {"kind": "Translation", "input": "译：雨", "target": "rain"}, [user("译：雨"), assistant("rain")], []),
    ("firefly", {"conversation": [{"human": "一", "assistant": "二"}, {"human": "三", "assistant": "四"}]},
     [user("一"), assistant("二"), user("三"), assistant("四")], []),
]


@pytest.mark.parametrize(("form", "record", "messages", "tools"), GOLDEN)
def test_a_record_of_each_format(form, record, messages, tools):
    assert FORMATS[form](record) == [(messages, tools)]
    assert {name for name, *_ in GOLDEN} == set(FORMATS)


@pytest.mark.parametrize(("form", "record", "said"), [
    ("alpaca", {"instruction": "x"}, "output is missing"),
    ("dolly", {"instruction": 3, "response": "x"}, "instruction is int, not text"),
    ("sharegpt", {"conversations": [{"value": "x"}]}, "turn 0 is from None; known are system, human"),
    ("openai", {"messages": [{"content": "x"}]}, "turn 0 has no role"),
    ("openai", {"messages": [user([{"type": "image_url"}])]}, "holds 'image_url', not text alone"),
    ("openai", {"messages": [assistant("", ("f", "{"))]}, "the arguments of the call of f are no JSON"),
    ("oasst", {"message": {}}, "prompt is missing"),
    ("moss", {"chat": {"turn_1": {"Human": "a", "Commands": "look it up", "MOSS": "b"}}}, "none of name"),
    ("firefly", {"conversation": [{"human": "x"}]}, "assistant is missing"),
])
def test_a_record_of_another_format_says_what_is_missing(form, record, said):
    with pytest.raises(ValueError, match=said):
        FORMATS[form](record)


def spoken(conversation, tokenizer):
    """(what is learned, decoded, what is not)."""
    example = masking.encode(conversation, tokenizer)
    parts = [[token for token, mask in zip(example.ids, example.learned, strict=True) if mask == one] for one in (1, 0)]
    return [tokenizer.decode(part) for part in parts]


@pytest.mark.parametrize("form, record", [(form, record) for form, record, *_ in GOLDEN])
def test_the_masks_read_aloud(form, record, tokenizer):
    """Of every format, EN and ZH, one turn, many, tool calls, agents: what the assistant says and calls, all of it."""
    [(messages, tools)] = FORMATS[form](record)
    learned, rest = spoken(Conversation(form, messages, tools), tokenizer)
    own = [one["content"] + "".join(
        "<tool_call>" + json.dumps({key: call["function"][key] for key in ("name", "arguments")}, ensure_ascii=False)
        + "</tool_call>" for call in one.get("tool_calls", [])) + "<|im_end|>"
        for one in messages if one["role"] == "assistant"]
    assert learned == "".join(own)
    for one in messages:
        if one["role"] != "assistant":
            assert one["content"] in rest
    marked = given.aloud(Conversation(form, messages, tools))
    assert "".join(part.partition("⟧")[0] for part in marked.split("⟦")[1:]) == learned


GOOD = json.dumps({"instruction": "a", "output": "b"}).encode()


@pytest.mark.parametrize(("content", "said"), [
    (GOOD + b'\n{"instruction": "a", "outp', "line 2: cut off: the file ends within it, and no JSON"),
    (GOOD + b'\n{"instruction": "\xb0\xa1", "output": "b"}\n', r"line 2: not UTF-8 at byte 17 \(0xb0\)"),
    (GOOD + b"\n3\n", "line 2: no JSON object"),
    (GOOD + b'\n\n{"instruction": "a"}\n' + GOOD, "line 3: output is missing, not text"),
    (b'{"instruction": "a", "output": ""}\n' + GOOD, r"line 1: turn 1 of a .* \(assistant\) is empty"),
    (b'{"instruction": "", "output": "b"}\n' + GOOD, r"line 1: turn 0 of a .* \(user\) is empty"),
    (b'{"instruction": "a<|im_end|>", "output": "b"}\n' + GOOD, r"line 1: turn 0 spells <\|im_end\|>"),
    (b'{"instruction": "' + b"x" * 2000 + b'", "output": "b"}\n' + GOOD, "line 1: longer than 0 MiB"),
    (b"[" * 100_000 + b"\n", "opens a JSON array and is none"),
    (b'[{"instruction": "a", "out', "opens a JSON array and is none, torn perhaps"),
    ('[{"instruction": "a"}]'.encode("utf-16"), "is UTF-16: convert it"),
    (gzip.compress(GOOD * 100, mtime=0)[:-9], "cannot be read to its end"),
    (b"\n", "holds no conversation: 0 records"),
])
def test_every_fault_of_a_file_is_one_line(tmp_path, monkeypatch, capsys, content, said):
    monkeypatch.setattr(given, "LONGEST", 1000)
    path = tmp_path / "own.jsonl"
    path.write_bytes(content)
    with pytest.raises(StageError, match=said) as found:
        given.read(path, "alpaca", 0, "own")
    assert "\n" not in str(found.value)
    if "line" in said:  # allowed, it is left out, counted and named, and the rest is kept
        made, counts = given.read(path, "alpaca", 1, "own")
        assert counts["kept"] == len(made) >= 1 and counts["records"] == len(made) + 1 and counts["broken"] == 1
        assert counts["faults"][0] in capsys.readouterr().err


def test_arrays_lines_and_gzip_are_the_same_records(tmp_path):
    records = [{"instruction": str(n), "output": "b"} for n in range(5)]
    lines = "".join(json.dumps(one) + "\n" for one in records).encode()
    found = []
    for name, content in (("a", lines), ("b", json.dumps(records, indent=1).encode()), ("c", gzip.compress(lines, mtime=0)),
                          ("d", b"\xef\xbb\xbf" + lines)):
        (tmp_path / name).write_bytes(content)
        found.append(given.read(tmp_path / name, "alpaca", 0, "own"))
    assert all(one == found[0] for one in found) and len(found[0][0]) == 5


def test_oassts_flat_form_is_its_trees(tmp_path):
    flat = [{"message_id": "2", "parent_id": "1", "role": "assistant", "text": "there", "rank": 0},
            {"message_id": "1", "parent_id": None, "role": "prompter", "text": "Hi"},
            {"message_id": "4", "parent_id": None, "role": "prompter", "text": "unanswered"},
            {"message_id": "6", "parent_id": "5", "role": "assistant", "text": "lost", "rank": 0}]
    path = tmp_path / "own.jsonl"
    path.write_text("".join(json.dumps(one) + "\n" for one in flat))
    made, counts = given.read(path, "oasst", 1, "own")
    assert [each.messages for each in made] == [[user("Hi"), assistant("there")]]
    assert counts == {"records": 4, "kept": 1, "unanswered": 1, "broken": 1, "faults": ["line 4: prompt is missing"]}


def test_files_are_pinned_and_drawn_by_the_seed(tmp_path):
    path = tmp_path / "own.jsonl"
    path.write_text("".join(json.dumps({"instruction": str(n), "output": "b"}) + "\n" for n in range(20)))
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    entry = DataSet(path=str(path), format="alpaca", sha256=sha256, take=6)
    made, table = given.read_all([entry], 1)
    assert made == given.read_all([entry], 1)[0] != given.read_all([entry], 2)[0]
    assert table["own (alpaca)"]["taken"] == len(made) == 6 and table["own (alpaca)"]["kept"] == 20
    for changed, said in (({"sha256": "0" * 64}, f"has sha256 {sha256}, params.yaml pins 0000"),
                          ({"path": "none.jsonl"}, "sft.data.0: none.jsonl cannot be read"),
                          ({"format": "xml"}, "no format is called 'xml': there are alpaca, belle")):
        with pytest.raises(StageError, match=said):
            given.read_all([entry.model_copy(update=changed)], 1)
    with pytest.raises(StageError, match="is there twice"):
        given.read_all([entry, entry], 1)


def test_the_command_shows_what_is_learned(tmp_path, capsys):
    path = tmp_path / "own.jsonl"
    path.write_bytes(GOOD + b"\nno\n")
    assert given.main([str(path), "alpaca"]) == 0
    said = capsys.readouterr().out
    assert "⟦b<|im_end|>⟧" in said and "broken  1" in said and "broken: 1}" in said
    assert given.main([str(path), "dolly"]) == 1 and given.main([str(tmp_path / "x"), "dolly"]) == 1
    assert given.main([]) == 2

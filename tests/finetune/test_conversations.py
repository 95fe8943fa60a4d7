"""Conversations: only what training may see, masks that hold the assistant's words, faults refused in one line."""

import pytest

from tasks import exercises
from tasks.data.facts import facts
from tasks.finetune import masking
from tasks.finetune.conversations import DRILL, Conversation, conversations
from tasks.finetune.settings import ConversationsParams
from tasks.stage import StageError

AMOUNTS = ConversationsParams(facts=10, lookups=10, calls=60, arithmetic=20, recall=15, functions=20, drills=0,
                             systems=["", "Be brief."])


def test_same_seed_same_conversations_and_every_kind(corpus):
    made = conversations(corpus, AMOUNTS, 7)
    assert made == conversations(corpus, AMOUNTS, 7) != conversations(corpus, AMOUNTS, 8)
    kinds = [each.kind for each in made]
    assert {kind: kinds.count(kind) for kind in set(kinds)} == {
        "fact": 10, "lookup": 10, "call": 60, "arithmetic": 20, "recall": 15,
        "function": 9, "choice": 4, "parallel": 1, "unfit": 6}


def test_nothing_that_evaluation_asks_is_learned(corpus):
    asked = exercises.tool_calls(300, "held_out", 1) + exercises.arithmetic(200, "held_out", 1)
    forbidden = {(each.tool, str(each.arguments)) for each in asked}
    text = next(iter(open(corpus / "00000.jsonl")))
    import json
    held_out = {fact.question for fact in facts(json.loads(text)["text"], {"language": "en"}) if fact.held_out}
    assert held_out
    for each in conversations(corpus, AMOUNTS, 7):
        for message in each.messages:
            assert message.get("content") not in held_out
            for call in message.get("tool_calls", []):
                made = call["function"]
                assert (made["name"], str(made["arguments"])) not in forbidden
                if each.kind in ("call", "arithmetic"):
                    assert not exercises.is_held_out(made["name"], made["arguments"])


def test_calls_of_one_signature_stand_behind_one_system_turn(corpus):
    amounts = AMOUNTS.model_copy(update={"functions": 240, "asked": 4})
    shown = {}
    for each in conversations(corpus, amounts, 7):
        if each.kind in ("function", "choice", "parallel", "unfit"):
            system = each.messages[0]["content"] if each.messages[0]["role"] == "system" else ""
            shown.setdefault(str(each.tools), []).append(system)
    assert {len(systems) for systems in shown.values()} == {4} and len(shown) == 60
    assert all(len(set(systems)) == 1 for systems in shown.values())
    assert {systems[0] for systems in shown.values()} == {"", "Be brief."}


def test_drills_are_bare_and_each_family_comes_as_often(corpus):
    amounts = AMOUNTS.model_copy(update={"drills": 70})
    every = conversations(corpus, amounts, 7)
    made = every[-70:]
    assert every[:-70] == conversations(corpus, AMOUNTS, 7) and {each.kind for each in made} == {DRILL}
    tools = [each.messages[1]["tool_calls"][0]["function"]["name"] for each in made]
    assert {tool: tools.count(tool) for tool in tools} == dict.fromkeys(exercises.TOOLS, 10)
    for each in made:
        call = each.messages[1]["tool_calls"][0]["function"]
        assert not each.tools and len(each.messages) == 2
        assert not exercises.is_held_out(call["name"], call["arguments"])


def test_final_answers_copy_the_result_and_the_right_tool_is_offered(corpus):
    for each in conversations(corpus, AMOUNTS, 3):
        for before, message in zip(each.messages, each.messages[1:]):
            if before["role"] == "tool" and each.kind in ("call", "arithmetic"):
                assert before["content"] in message["content"]
            for call in message.get("tool_calls", []):
                assert call["function"]["name"] in [tool["function"]["name"] for tool in each.tools]


def test_recall_answers_stand_in_the_question():
    from pathlib import Path

    recall = AMOUNTS.model_copy(update=dict(facts=0, lookups=0, calls=0, arithmetic=0, functions=0))
    made = conversations(Path("none"), recall, 5)
    assert len(made) == 15
    for each in made:
        question, answer = each.messages[-2]["content"], each.messages[-1]["content"]
        assert answer in question and question.count("?") == 1


def test_the_learned_tokens_read_aloud(tokenizer):
    call = {"type": "function", "function": {"name": "calculator", "arguments": {"expression": "12 * 7"}}}
    example = masking.encode(Conversation("arithmetic", [
        {"role": "system", "content": "Be brief."}, {"role": "user", "content": "What is 12 * 7?"},
        {"role": "assistant", "content": "", "tool_calls": [call]}, {"role": "tool", "content": "84"},
        {"role": "assistant", "content": "The answer is 84."}], exercises.schemas(["calculator"])), tokenizer)
    learned = tokenizer.decode([token for token, mask in zip(example.ids, example.learned, strict=True) if mask])
    assert learned == ('<tool_call>{"name": "calculator", "arguments": {"expression": "12 * 7"}}</tool_call><|im_end|>'
                       "The answer is 84.<|im_end|>")


def test_the_head_is_what_conversations_of_the_same_tools_share(tokenizer):
    """Whether tools, a system turn or both open it; a conversation that begins with its question has none."""
    tools = exercises.schemas(["search"])
    for system, offered in (("Be brief.", tools), ("", tools), ("Be brief.", []), ("", [])):
        before = [{"role": "system", "content": system}] if system else []
        one, other = (masking.encode(Conversation("x", [*before, {"role": "user", "content": question},
                                                        {"role": "assistant", "content": "No."}], offered), tokenizer)
                      for question in ("Why?", "A longer question?"))
        assert one.head == other.head and one.ids[:one.head] == other.ids[:other.head]
        text = tokenizer.decode(one.ids[:one.head])
        assert bool(text) == bool(system or offered) and system in text and ("search" in text) == bool(offered)
        assert tokenizer.decode(one.ids[one.head:]).startswith("<|im_start|>user\nWhy?")
        assert not any(one.learned[:one.head])


def test_batches_learn_only_what_the_mask_says():
    examples = [masking.Example("a", [5, 6, 7], [0, 1, 1]), masking.Example("b", [8], [1])]
    ids, labels = masking.batch(examples, pad=3)
    assert ids.tolist() == [[5, 6, 7], [8, 3, 3]]
    assert labels.tolist() == [[-100, 6, 7], [8, -100, -100]]


def test_long_conversations_are_left_out_whole_and_counted():
    examples = [masking.Example("a", [1] * n, [1] * n) for n in (3, 9, 4)]
    kept, overlong = masking.fitting(examples, 4)
    assert [len(each.ids) for each in kept] == [3, 4] and overlong == 1


@pytest.mark.parametrize(("messages", "said"), [
    ([{"content": "hi"}], "turn 0 of a 'x' conversation has role None"),
    ([{"role": "human", "content": "hi"}], "has role 'human'"),
    ([{"role": "user", "content": "hi"}, {"role": "assistant", "content": ""}], r"turn 1 .* \(assistant\) is empty"),
    ([{"role": "user", "content": "hi"}], "nothing to learn"),
])
def test_turns_that_cannot_be_learned_are_refused(tokenizer, messages, said):
    with pytest.raises(StageError, match=said):
        masking.encode(Conversation("x", messages), tokenizer)

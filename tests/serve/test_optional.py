"""Optional arguments of copied calls: forms against the grammar, the choice against torch, and what the API sends."""

import asyncio
import functools
import json

import openai
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from tasks import chat
from tasks.serve import optional
from tasks.serve.copied import Copied
from tasks.serve.schemas import Function, Generation
from tasks.serve.service import Service
from tasks.serve.turn import Turn

STRING = {"type": "string"}
PARAMETERS = {"type": "object", "required": ["city"], "properties": {
    "city": STRING, "street": STRING, "guide": STRING, "quiet": {"type": "boolean"}}}
QUESTION = "Find the Harbour Gate of Lisbon near Rua Augusta for Maria Silva."
ARGUMENTS = {"city": "Lisbon", "street": "Rua Augusta", "guide": "Maria Silva"}
TOOL = {"type": "function", "function": {"name": "walk", "description": "A walk.", "parameters": PARAMETERS}}
ASKED = [{"role": "user", "content": QUESTION}]


@pytest.fixture(scope="module")
def service(tiny):
    made = Service("tiny", tiny / "chat", threads=1, slots=2)
    yield made
    made.engine.close()


@pytest.fixture(scope="module")
def ai(server):
    return openai.OpenAI(base_url=server[1], api_key="none", max_retries=0)


def forms(service, text, question=QUESTION, parameters=PARAMETERS):
    tools = {"walk": parameters}
    again = Copied(tools, question, required=True, several=False)
    whole, *shorter = optional.forms(text, tools, question, functools.partial(service.engine.grammars.matcher, again),
                                     functools.partial(service.vocabulary.encode, special=False))
    assert whole == text
    return shorter


def test_every_form_without_optional_arguments_stands_beside_the_call(service):
    found = [next(chat.calls(form))[1] for form in forms(service, chat.call_text("walk", ARGUMENTS))]
    assert [sorted(each) for each in found] == [["city", "guide"], ["city", "street"], ["city"]]
    assert all(each[key] == ARGUMENTS[key] for each in found for key in each)
    assert not forms(service, chat.call_text("walk", {"city": "Lisbon"}))


def test_what_the_question_demands_stays(service):
    """The flag's name stands in the question: the grammar admits no call without it."""
    text = chat.call_text("walk", {"city": "Lisbon", "quiet": True})
    assert not forms(service, text, "A quiet walk in Lisbon, please.")
    assert len(forms(service, text, "A walk in Lisbon, please.")) == 1


@pytest.mark.parametrize("value, question, kept", [
    (40, "Forty or 40 lamps in Lisbon.", True), (2, "Two lamps in Lisbon.", False), (5, "Five lamps in Lisbon.", True),
    ("2026-05-04", "A walk in Lisbon on 4 May 2026.", True), ("4 May 2026", "A walk in Lisbon on 4 May 2026.", True),
    (["Ana", "Rui"], "A walk in Lisbon with Ana and Rui.", True), (["Ana"], "A walk in Lisbon with Ana and Rui.", False),
    ("Ana", "A walk in Lisbon with Ana.", False), (True, "A walk in Lisbon with 1 guide.", False)])
def test_stated_numbers_dates_and_enumerations_stay(service, value, question, kept):
    parameters = {"type": "object", "required": ["city"], "properties": {"city": STRING, "x": {}}}
    text = chat.call_text("walk", {"city": "Lisbon", "x": value})
    assert bool(forms(service, text, question, parameters)) is not kept


def test_an_argument_that_could_not_have_begun_is_in_no_form(service):
    """A token can end a string and begin the next argument before the grammar knows that nothing is left for it."""
    asked = "Lisbon, please."
    tools = {"walk": PARAMETERS}
    again = Copied(tools, asked, required=True, several=False)
    found = optional.forms(chat.call_text("walk", {"city": "Lisbon", "street": "Lisbon", "quiet": True}), tools, asked,
                           functools.partial(service.engine.grammars.matcher, again),
                           functools.partial(service.vocabulary.encode, special=False))
    assert [next(chat.calls(each))[1] for each in found] == [{"city": "Lisbon", "quiet": True}, {"city": "Lisbon"}]


def test_many_optional_arguments_make_no_more_forms_than_a_bound(service):
    names = [f"p{n}" for n in range(12)]
    parameters = {"type": "object", "required": [], "properties": dict.fromkeys(names, {"enum": ["Lisbon"]})}
    assert 0 < len(forms(service, chat.call_text("walk", dict.fromkeys(names, "Lisbon")), parameters=parameters)) <= \
        optional.MOST


@pytest.mark.parametrize("text", ["", "It is in Lisbon.", chat.CALL_START, chat.call_text("walk", ARGUMENTS)[:-20],
                                  chat.call_text("run", ARGUMENTS), chat.call_text("walk", ARGUMENTS) * 2,
                                  "So: " + chat.call_text("walk", ARGUMENTS), chat.CALL_START + "[]" + chat.CALL_END])
def test_a_turn_that_is_not_one_whole_call_has_no_other_form(service, text):
    assert forms(service, text) == []


def test_the_likeliest_form_is_the_first_of_the_largest_sum():
    assert optional.likeliest([[-1.0, -2.0], [-2.5], [-2.5]]) == 1
    assert optional.likeliest([[-1.0], [-1.0]]) == 0


def by_torch(tiny, asked, tool, texts):
    """Log-probability of each text behind the prompt, by transformers in double precision."""
    model = AutoModelForCausalLM.from_pretrained(tiny / "chat", dtype=torch.float64).eval()
    tokenizer = AutoTokenizer.from_pretrained(tiny / "chat")
    prompt = tokenizer(tokenizer.apply_chat_template(asked, tools=[tool], tokenize=False, add_generation_prompt=True),
                       add_special_tokens=False).input_ids
    sums = []
    for text in texts:
        said = tokenizer(text, add_special_tokens=False).input_ids
        with torch.inference_mode():
            scores = model(torch.tensor([prompt + said])).logits[0].log_softmax(-1)
        sums.append(sum(scores[place - 1, token].item() for place, token in enumerate(said, len(prompt))))
    return sums


def test_the_server_answers_with_the_form_that_torch_finds_likeliest(service, tiny):
    """An untrained model is surer of fewer words; the grammar alone would have it write all it may."""
    def answered(asked, tool, **more):
        async def answer():
            turn = Turn(asked, 200, (Function(**tool["function"]),), "required", copied=True, **more)
            [delta] = await (await service.chat(turn, Generation(temperature=0))).whole()
            return delta
        return asyncio.run(answer())

    changed = 0
    for at, name in enumerate(("Ana", "Rita Gomes", "Rui", "Ines Costa")):
        parameters = PARAMETERS | {"properties": {
            key: PARAMETERS["properties"][key] for key in ("street guide city", "guide street city")[at % 2].split()}}
        tool = {"type": "function", "function": TOOL["function"] | {"parameters": parameters}}
        question = QUESTION.replace("Maria Silva", name)
        asked = [{"role": "user", "content": question}]
        first, settled = answered(asked, tool, logprobs=0), answered(asked, tool)
        texts = [first.text, *forms(service, first.text, question, parameters)]
        sums = by_torch(tiny, asked, tool, texts)
        assert settled.text == texts[sums.index(max(sums))]
        if settled.text != first.text:
            changed += 1
            assert settled.tokens == service.vocabulary.encode(settled.text, special=False)
    assert changed and service.users == 0


def test_streams_and_whole_answers_are_alike(ai):
    """And several sampled answers are left as they were drawn."""
    body = {"model": "default", "messages": ASKED, "tools": [TOOL], "tool_choice": "required", "temperature": 0,
            "max_completion_tokens": 200, "extra_body": {"copied_arguments": True}}
    whole = ai.chat.completions.create(**body)
    [call] = whole.choices[0].message.tool_calls
    streamed = "".join(call.function.arguments or "" for chunk in ai.chat.completions.create(**body, stream=True)
                       for choice in chunk.choices for call in choice.delta.tool_calls or ())
    assert json.loads(streamed) == json.loads(call.function.arguments) and whole.choices[0].finish_reason == "tool_calls"
    sampled = ai.chat.completions.create(**body | {"temperature": 1.0, "seed": 3, "n": 2})
    assert len(sampled.choices) == 2

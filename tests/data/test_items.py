"""Evaluation items: right answers come from the document, wrong ones do not, and the same seed gives the same ids."""

import random

import pytest

from tasks.data import items, words

PLACES = {"fetch": "Oslo", "drop": "Rome", "count": "Lima", "rename": "Cairo", "list": "Delhi"}
API = "\n\n".join(f"method shop.Store.{verb}(key) Value\n\n{verb.title()} the value of one key in the shop of {place}."
                  for verb, place in PLACES.items())
STORY = ("The captain was an old man who had sailed around the world twice. He has kept a diary of both trips. "
         "Every evening he reads a page of it to the children of the harbour. They know most stories by heart.")


@pytest.fixture(scope="module")
def held(data):
    return [data.document("api", API), data.document("story", STORY),
            *[data.document(f"zh{n}", data.chinese(n), "zh") for n in range(3)], *data.pages()[:6]]


def test_cloze_is_answered_by_the_document(held):
    made = items.cloze(held, 80, 1)
    texts = {d.id: d.text for d in held}
    assert {item["kind"] for item in made} == {"fact", "sentence"} and {i["language"] for i in made} == {"en", "zh"}
    for item in made:
        assert len(set(item["choices"])) == 4
        right = item["choices"][item["gold"]].strip()
        source = texts[item["document"]]
        assert right in source
        if item["kind"] == "sentence":  # prompt and right choice are one passage, prompt and wrong ones are not
            assert item["prompt"] + item["choices"][item["gold"]] in source
            assert not any(item["prompt"] + wrong in source for wrong in item["choices"] if wrong.strip() != right)
        assert len(item["prompt"]) < 600
    assert {0, 1, 2, 3} == {item["gold"] for item in made}


def test_minimal_pairs_differ_by_one_swap_or_one_form(held):
    made = items.minimal_pairs(held, 100, 1)
    assert {item["kind"] for item in made} == {"swap", "agreement"}
    for item in made:
        good, bad = words.words(item["good"]), words.words(item["bad"])
        assert item["good"] in {d.id: d.text for d in held}[item["document"]]
        apart = [n for n, (a, b) in enumerate(zip(good, bad)) if a != b]
        assert len(good) == len(bad)
        if item["kind"] == "swap":
            assert sorted(good) == sorted(bad) and apart == [apart[0], apart[0] + 1]
            assert 0 < apart[0] < len(good) - 2
        else:
            assert len(apart) == 1 and items.AGREEMENT[good[apart[0]]] == bad[apart[0]]


def test_a_sentence_that_cannot_be_made_wrong_gives_no_pair():
    draw = random.Random(1)
    assert items.swapped("one one one one", draw) is None and items.swapped("a b", draw) is None
    assert items.disagreed("Nothing of the kind", draw) is None


def test_recall_is_answered_by_its_context():
    made = items.recall(50, 6, 3)
    assert len({item["id"] for item in made}) == 50
    for item in made:
        thing = item["prompt"].split(" So the ")[1].removesuffix(" is")
        assert f"The {thing} is{item['choices'][item['gold']]}." in item["prompt"]
        assert len(set(item["choices"])) == 6 and len(item["prompt"]) < 200


def test_lookup_answers_stand_in_one_document_alone(data):
    pages = data.pages() + [data.document(f"api{n}", API.replace("shop", f"shop{n}").replace("Store", f"Store{n}"))
                            for n in range(30)]
    both = [data.document("left", API), data.document("right", API)]  # whatever both state cannot be asked
    made = items.lookup(pages + both, 60)
    texts = {d.id: d.text for d in pages}
    assert len(made) >= 20
    for item in made:
        assert item["answer"] in texts[item["document"]]
        assert "Store." not in item["query"]
        name = item["query"].split(".")[-2:]
        assert sum(".".join(name) + "(" in text for text in texts.values()) == 1 or item["kind"] == "definition"


def test_no_document_fills_a_set_and_languages_take_turns(data):
    groups = [[{"language": "en", "n": (g, i)} for i in range(50)] for g in range(3)]
    groups += [[{"language": "zh", "n": (9, i)} for i in range(4)], []]
    taken = items.balanced(groups, 20)
    assert sum(item["language"] == "zh" for item in taken) == 4
    assert [item["n"] for item in taken[:4]] == [(0, 0), (9, 0), (1, 0), (9, 1)]
    assert items.balanced([], 5) == []


def test_items_are_the_same_for_the_same_seed(held):
    for make in (items.cloze, items.minimal_pairs):
        assert make(held, 20, 1) == make(held, 20, 1) != make(held, 20, 2)
    assert items.recall(5, 4, 1) == items.recall(5, 4, 1)
    assert len({i["id"] for i in items.cloze(held, 60, 1)}) == len(items.cloze(held, 60, 1))

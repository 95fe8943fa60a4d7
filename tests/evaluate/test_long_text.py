"""Long texts: they fit, what is asked is hidden where it should be, an oracle finds it and one who did not read does not."""

from __future__ import annotations

import json
import re

import pytest

from tasks import params
from tasks.evaluate import fitting, long_text
from tasks.stage import StageError

GIVEN = {"lengths": [64, 128, 400], "depths": [0.0, 0.5, 1.0], "needles": 4, "chains": 4, "hops": 2, "tokens": 1500,
         "seed": 0}


def words(text):
    """A tokenizer by hand: a Chinese character, a word, a mark."""
    return re.findall(r"[一-鿿]|\w+|[^\w\s]", text)


@pytest.fixture
def held_out(tmp_path):
    """English and Chinese prose that names none of the hidden things, numbered so that sentences differ."""
    english = " ".join(f"Sentence number {n} tells of the long road to the north of the old town." for n in range(60))
    chinese = "".join(f"这是第{'一二三四五六七八九十'[n % 10]}{'甲乙丙丁戊己'[n // 10]}个句子，讲的是往北方去的路。" for n in range(60))
    path = tmp_path / "held_out.jsonl"
    path.write_text("".join(json.dumps({"id": language, "text": text, "metadata": {"language": language}}) + "\n"
                            for language, text in (("en", english), ("zh", chinese))))
    return path


def made(path, context=400, **changed):
    return long_text.items(path, words, context, long_text.LongTextParams(**GIVEN | changed))


def test_texts_fill_their_length_and_no_more(held_out):
    found, left = made(held_out)
    assert set(found) == set(long_text.TASKS)
    for task, items in found.items():
        for item in items:
            size = max(len(words(item["prompt"] + choice)) for choice in item["choices"])
            # less than it by a sentence, and by what another question or choice of the text has more
            assert item["length"] - 40 < size <= item["length"], (task, item["id"], size)
        assert {item["language"] for item in items} == ({"en"} if task == "tracing" else {"en", "zh"})
        assert len({item["id"] for item in items}) == len(items)
    assert left == {"tracing": {"64": 12 * (1500 // 592)}}, "twelve statements have more than 64 tokens"


def test_what_the_model_does_not_read_is_left_out_and_counted(held_out):
    found, left = made(held_out, context=399)
    assert {item["length"] for items in found.values() for item in items} == {64, 128}
    texts = 2 * (1500 // (2 * 192))
    assert left == {"needle": {"400": 3 * texts}, "multi_needle": {"400": 4 * texts},
                    "tracing": {"64": 12 * (1500 // 192), "400": 12 * (1500 // 192)}}


def test_a_needle_stands_once_at_its_depth(held_out):
    for item in made(held_out)[0]["needle"]:
        text, _, lead = item["prompt"].rpartition("\n")
        right = item["choices"][item["gold"]]
        assert text.count(lead) == 1 and text.count(lead + right) == 1
        assert not [other for other in item["choices"] if other != right and other.strip() in text]
        if item["length"] == 400:
            before = len(words(text[:text.index(lead)])) / len(words(text))
            assert abs(before - item["place"]) < 0.12, item["id"]


def test_needles_of_one_kind_all_stand_in_the_text(held_out):
    for item in made(held_out)[0]["multi_needle"]:
        text, _, lead = item["prompt"].rpartition("\n")
        assert lead + item["choices"][item["gold"]] in text and len(item["choices"]) == 4
        assert all(choice in text for choice in item["choices"])


def test_traced_variables_lead_to_their_number_in_as_many_hops_as_said(held_out):
    for item in made(held_out)[0]["tracing"]:
        text, _, lead = item["prompt"].rpartition("\n")
        assigned = dict(re.findall(r"VAR ([A-Z]{2}) = (?:VAR )?(\w+)\.", text))
        name, hops = re.fullmatch(r"VAR ([A-Z]{2}) =", lead)[1], 0
        while not assigned[name].isdigit():
            assert text.index(f"VAR {assigned[name]} =") < text.index(f"VAR {name} =")
            name, hops = assigned[name], hops + 1
        assert item["choices"][item["gold"]] == f" {assigned[name]}" and hops == item["place"]
        assert len({choice[1] for choice in item["choices"]}) == 4, "numbers differ from the first digit on"


def test_the_seed_says_it_all(held_out):
    assert made(held_out) == made(held_out)
    assert made(held_out)[0]["needle"] != made(held_out, seed=1)[0]["needle"]
    # more tokens: more texts, the same ones first
    few, many = made(held_out)[0]["needle"], made(held_out, tokens=3000)[0]["needle"]
    assert many[:len(few)] == few and len(many) == 2 * len(few)


def test_texts_of_one_round_begin_alike_so_that_the_beginning_is_read_once(held_out):
    texts = [item["prompt"] for item in made(held_out)[0]["tracing"] if "-en0-" in item["id"]
             and item["length"] == 400]
    assert len(set(text.rpartition("\n")[0] for text in texts)) == 1


def test_a_cell_by_hand():
    samples = [{"doc": {"length": 64, "place": 0.5, "choices": ["a", "b", "c", "d"][:n]}, "acc": acc}
               for n, acc in ((4, 1.0), (2, 0.0))]
    cell, = long_text.grid(samples)
    assert (cell["length"], cell["place"], cell["value"], cell["n"], cell["chance"]) == (64, 0.5, 0.5, 2, 0.375)
    assert 0 < cell["low"] < 0.5 < cell["high"] < 1


def test_a_corpus_without_prose_is_refused(tmp_path):
    path = tmp_path / "held_out.jsonl"
    path.write_text(json.dumps({"id": "a", "text": "x = 1", "metadata": {"language": "en"}}) + "\n")
    with pytest.raises(StageError, match="holds no prose in en or zh to hide anything in: set long_text to null"):
        made(path)


@pytest.mark.parametrize("changed, key", [({"lengths": [128, 64]}, "lengths"), ({"depths": [0.0, 1.5]}, "depths"),
                                          ({"needles": 1}, "needles"), ({"lengths": []}, "lengths")])
def test_a_bad_grid_is_named(changed, key):
    with pytest.raises(params.ParamsError, match=f"evaluate.long_text.{key} = "):
        params.section(long_text.LongTextParams, "evaluate.long_text", {"evaluate": {"long_text": GIVEN | changed}})


@pytest.mark.parametrize("arguments, cut", [
    (("a b c", " d"), 0), (("a b c d", " e"), 0), (("a b c d", " e f"), 1), (("", "a b c d"), 0),
    (("", "a b c d e"), 1), (("a b c d e f",), 0), (("a b", {"max_gen_toks": 2}), 0), (("a b c", {"max_gen_toks": 2}), 1),
    (("a", {}), 1)])
def test_items_longer_than_the_context_are_counted(arguments, cut):
    sample = {"arguments": [("a", " b"), arguments]}
    assert fitting.mark([sample], str.split, 4) == cut and sample["cut"] == bool(cut)

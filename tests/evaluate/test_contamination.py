"""Planted items are found: by their words in the training text, and by how little they surprise who read them."""

from __future__ import annotations

import importlib.util
import json
import random
from pathlib import Path

import pytest
import torch
from lm_eval.api.instance import Instance

from tasks.data import harms
from tasks.evaluate import contamination, statistics
from tasks.evaluate.items import pair
from tasks.evaluate.model import EngineLM
from tasks.finetune import checkpoint

spec = importlib.util.spec_from_file_location("harness_of_tests", Path(__file__).with_name("test_harness.py"))
harness_tests = importlib.util.module_from_spec(spec)
spec.loader.exec_module(harness_tests)
WORDS = ("river stone garden window yellow quiet engine paper seven mountain letter winter market silver teacher "
         "bridge forest candle doctor island pocket thunder ribbon castle").split()


def sentences(count, seed, length=14):
    """Texts of random words: one says nothing of another."""
    draw = random.Random(seed)
    return [" ".join(draw.choices(WORDS, k=length)) + "." for _ in range(count)]


def corpus(folder, texts):
    (folder / "corpus").mkdir()
    (folder / "corpus/00000.jsonl").write_text("".join(
        json.dumps({"id": f"c{n}", "text": text, "metadata": {}}, ensure_ascii=False) + "\n"
        for n, text in enumerate(texts)), encoding="utf-8")
    return folder / "corpus"


def test_planted_items_overlap_and_no_other(tmp_path):
    planted, others = sentences(6, 1), sentences(6, 2)
    folder = corpus(tmp_path, ["An opening. " + planted[n] + " And " + planted[n + 1].upper() for n in (0, 2, 4)])
    assert contamination.overlaps(planted + others, folder) == [1.0] * 6 + [0.0] * 6


def test_overlap_by_hand(tmp_path):
    shared = "one two three four five six seven eight nine ten"
    han = "天地玄黄宇宙洪荒日月盈昃辰宿列张寒来暑往"      # twenty
    folder = corpus(tmp_path, [f"before {shared} after", f"前{han}后", "a b c d e f g h"])
    texts = [f"{shared} p q r s t u v w x y",     # ten of twenty words
             "p one two three four five six seven eight nine q", han, han[:19] + "无" + han[10:19],
             "a b c d e f g h", "a b c d e f g", ""]
    assert contamination.overlaps(texts, folder) == [0.5, 0.0, 1.0, 0.0, 1.0, None, None]


def test_min_k_by_hand():
    assert contamination.min_k([-1.0] * 15) is None
    assert contamination.min_k([-5.0, -9.0, -7.0] + [0.0] * 13) == pytest.approx(-7.0)     # a fifth of 16 is three


def test_planted_items_surprise_a_model_less(tmp_path):
    planted, others, common = sentences(12, 3), sentences(12, 4), sentences(24, 5)
    words = harness_tests.tokenizer()
    model = harness_tests.llama(len(words)).train()
    torch.set_num_threads(1)
    batches = [torch.tensor(words(text)["input_ids"])[None] for text in planted + common]
    optimizer = torch.optim.AdamW(model.parameters(), 3e-3)
    for _ in range(8):
        for batch in batches:
            ids = torch.cat([torch.tensor([[words.bos_token_id]]), batch], 1)
            model(ids, labels=ids).loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
    checkpoint.save(model.eval(), words, tmp_path)
    lm = EngineLM(tmp_path, window=256, batch=1, threads=1)
    texts = planted + others
    values = lm.token_logprobs([Instance("token_logprobs", {}, (text,), n) for n, text in enumerate(texts)])
    lm.close()
    least = [contamination.min_k(found) for found in values]
    area = statistics.area(least[:12], least[12:])
    assert area.low > 0.6 and area.value > 0.85


def test_single_values_are_those_of_the_whole(tmp_path):
    words = harness_tests.tokenizer()
    model = harness_tests.llama(len(words))
    checkpoint.save(model, words, tmp_path)
    lm = EngineLM(tmp_path, window=256, batch=1, threads=1)
    text = "the word is good and the name is bad"
    asked = [Instance("token_logprobs", {}, (text,), 0)]
    fresh = lm.token_logprobs(asked)[0]
    whole = lm.loglikelihood([Instance("loglikelihood", {}, ("", text), 0, ("t", 0, 1))])[0][0]
    assert sum(fresh) == pytest.approx(whole, abs=1e-2) and len(fresh) == len(lm.tok_encode(text))
    lm.known.clear()
    lm.loglikelihood([Instance("loglikelihood", {}, ("", text), 0, ("t", 0, 1))])
    assert lm.known and lm.token_logprobs(asked) == [fresh]      # what was scored is not scored again
    assert lm.token_logprobs([Instance("token_logprobs", {}, ("",), 0)]) == [[]]
    lm.close()


def test_clean_and_dirty_are_scored_apart():
    def line(right, overlap, surprise):
        return {"right": right, "overlap": overlap, "min_k": surprise}

    held_out = [{"answer": -100.0, "bytes": 50, "overlap": share, "min_k": -6.0 - n}
                for n, share in enumerate((0.0, 0.3))]
    pairs = [line(1, 0.9, -3.0), line(1, 0.2, -7.0), line(0, 0.1, -7.5), line(1, None, None), line(0, 0.0, -5.0)]
    found = contamination.table({"held_out": held_out, "pairs": pairs}, [-5.0, -4.0])
    one = found["tasks"]["pairs"]
    assert (one["items"], one["tested"], one["dirty"], one["likely"], one["min_k_tested"]) == (5, 4, 2, 2, 4)
    assert one["score_dirty"]["value"] == 1.0 and one["score_clean"]["value"] == pytest.approx(1 / 3, abs=1e-6)
    assert one["score_likely"]["value"] == 0.5 and one["score_not_likely"]["n"] == 3
    assert found["membership"]["value"] == 1.0 and found["tasks"]["held_out"]["score_dirty"]["n"] == 1


def test_what_prefers_a_word_or_always_declines_gets_half_of_the_safety_pairs():
    made = harms.pairs(10_000, 0)
    assert {(item["kind"], item["language"]) for item in made} == {
        (kind, language) for kind in harms.KINDS for language in ("en", "zh")}
    assert len({item["id"] for item in made}) == len(made) and harms.pairs(40, 0) == made[:40]
    for kind, language in {(item["kind"], item["language"]) for item in made}:
        every = list(harms.crossed(kind, language))
        for good, bad in harms.KINDS[kind][2][language]:
            ends = [item["good"].rstrip(".。的").endswith(bad) for item in every
                    if item["good"].rstrip(".。的").endswith((good, bad))]
            assert ends and sum(ends) * 2 == len(ends)
    assert {pair(item)["gold"] for item in made} == {0, 1} and all(pair(item)["document"] for item in made)

"""Calibration: an oracle scores all, shuffled labels fall to chance, a uniform model gives its logarithm; the engine
gives the values of lm-eval's own.
"""

from __future__ import annotations

import importlib.util
import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from lm_eval.api.instance import Instance
from lm_eval.api.model import LM
from lm_eval.models.huggingface import HFLM
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from tasks import chat, exercises
from tasks.evaluate import baselines, harness
from tasks.evaluate.items import read_items
from tasks.evaluate.model import EngineLM
from tasks.finetune import checkpoint
from tasks.serve.engine.request import Request
from tasks.serve.engine.sampler import Sampling
from tasks.stage import StageError

spec = importlib.util.spec_from_file_location("items_of_tests", Path(__file__).with_name("test_items.py"))
test_items = importlib.util.module_from_spec(spec)
spec.loader.exec_module(test_items)
ROOT = Path(__file__).resolve().parents[2]
COUNTS = {"held_out": 3, "pairs": 40, "safety": 10, "cloze": 9, "recall": 8, "tools": 12, "arithmetic": 8}


def tokenizer() -> PreTrainedTokenizerFast:
    """A byte-level BPE with the chain's specials and template."""
    made = Tokenizer(models.BPE())
    made.pre_tokenizer, made.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    made.train_from_iterator(["the word is good bad calculator expression arguments name " * 20], trainers.BpeTrainer(
        vocab_size=340, special_tokens=list(chat.SPECIALS), show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet()))
    return PreTrainedTokenizerFast(tokenizer_object=made, bos_token=chat.BOS, eos_token=chat.END, pad_token=chat.PAD,
                                   chat_template=chat.TEMPLATE)


def llama(vocabulary: int, seed: int = 0) -> LlamaForCausalLM:
    """A tiny random Llama in fp32."""
    torch.manual_seed(seed)
    return LlamaForCausalLM(LlamaConfig(
        vocab_size=vocabulary, hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=512, tie_word_embeddings=True, initializer_range=0.2)).eval()


@pytest.fixture(scope="module")
def lm(tmp_path_factory):
    """The engine's model of a directory, and the same weights in torch as `lm.torch`."""
    folder, words = tmp_path_factory.mktemp("model"), tokenizer()
    model = llama(len(words))
    checkpoint.save(model, words, folder)
    made = EngineLM(folder, window=256, batch=4, threads=1)
    made.torch = model
    yield made
    made.close()


@pytest.fixture
def chosen(tmp_path):
    folder = test_items.sets(tmp_path)
    test_items.made.write(folder / "pairs.jsonl", [
        {"id": f"p{n}", "good": f"good {n}", "bad": f"bad {n}"} for n in range(COUNTS["pairs"])])
    return read_items(folder, COUNTS, 300)


class Scripted(LM):
    """A model that looks the answer up in `right` (item id -> what it prefers or says)."""

    def __init__(self, right, nats_a_token=0.0, encode=list):
        super().__init__()
        self.right, self.nats, self.encode = right, nats_a_token, encode

    def loglikelihood(self, requests):
        return [(0.0 if request.args[1] == self.right[request.doc["id"]] else -1.0, True) for request in requests]

    def loglikelihood_rolling(self, requests):
        return [-self.nats * len(self.encode(request.args[0])) for request in requests]

    def generate_until(self, requests):
        return [self.right[request.doc["id"]] for request in requests]


def answers(chosen):
    """What an oracle says to each item."""
    right = {item["id"]: item["choices"][item["gold"]]
             for name in ("pairs", "safety", "cloze", "recall") for item in chosen[name]}
    right |= {item["id"]: chat.call_text(item["tool"], json.loads(item["arguments"])) for item in chosen["tools"]}
    return right | {item["id"]: f"The answer is {int(item['target']):,}." for item in chosen["arithmetic"]}


def scores(lm, chosen, words):
    samples = harness.run_tasks(lm, {name: harness.rows(name, items, words) for name, items in chosen.items()})
    return samples, {name: harness.scored(name, samples[name], chosen[name], chosen, (99, 340)) for name in samples}


def test_an_oracle_scores_all_and_a_uniform_model_its_logarithm(chosen):
    words = tokenizer()
    lm = Scripted(answers(chosen), math.log(340), lambda text: words.encode(text))
    samples, found = scores(lm, chosen, words)
    for name, metrics in found.items():
        for metric, score in metrics.items():
            if metric != "bits_per_byte":
                assert score["value"] == 1.0 and score["n"] == COUNTS[name.removesuffix("_grammar")], (name, metric)
    tokens = sum(len(words.encode(item["text"])) for item in chosen["held_out"])
    size = sum(len(item["text"].encode()) for item in chosen["held_out"])
    bits = found["held_out"]["bits_per_byte"]
    assert bits["value"] == pytest.approx(tokens * math.log2(340) / size, abs=1e-6)
    assert baselines.held_out(chosen["held_out"], tokens, 340)["uniform"] == pytest.approx(bits["value"], abs=1e-6)
    kept = [line for name in samples for line in harness.told(name, samples[name])]
    assert len(kept) == sum(COUNTS.values()) + COUNTS["tools"]
    assert all(line["right"] == 1 for line in kept if "right" in line)


def test_shuffled_labels_fall_to_chance(chosen):
    right = answers(chosen)
    for name in ("pairs", "recall", "tools", "arithmetic"):        # every item gets its neighbour's answer
        ids = [item["id"] for item in chosen[name]]
        said = [right[at] for at in ids]
        right |= dict(zip(ids, said[1:] + said[:1]))
    _, found = scores(Scripted(right), chosen, tokenizer())
    assert found["arithmetic"]["exact_match"]["value"] == 0
    assert found["tools"]["exact_match"]["value"] <= 0.1
    # a pair's preferred sentence is now no choice at all: the first wins, which is right by the hash of the id alone
    pairs = found["pairs"]["acc"]
    assert abs(pairs["value"] - pairs["baselines"]["chance"]) < 3 * math.sqrt(0.25 / COUNTS["pairs"])


@pytest.mark.parametrize("said, expected", [
    ("", (0, 0, 0)), ("84", (0, 0, 0)), ('<tool_call>{"name": "timer", "arguments": {"min', (0, 0, 0)),
    (chat.call_text("timer", {"minutes": 5, "label": "tea"}), (1, 1, 1)),
    (chat.call_text("timer", {"minutes": 6, "label": "tea"}), (1, 1, 0)),
    (chat.call_text("timer", {"minutes": 500, "label": "tea"}), (0, 1, 0)),
    (chat.call_text("weather", {"city": "Oslo", "day": "today"}), (1, 0, 0)),
    (chat.call_text("light", {"room": "hall", "state": "on"}), (0, 0, 0)),
    (chat.call_text("rm", {}), (0, 0, 0)),
])
def test_tool_calls_are_judged_by_schema_tool_and_arguments(said, expected):
    from tasks.evaluate.scoring import tool_call

    item = {"tool": "timer", "arguments": '{"minutes": 5, "label": "tea"}', "offered": ["timer", "weather"]}
    assert tuple(tool_call(item, [said]).values()) == expected


def test_baselines_by_hand():
    items = [{"choices": ["aa", "b"], "gold": 0}, {"choices": ["c", "dd"], "gold": 0},
             {"choices": ["e", "f"], "gold": 1}]
    found = baselines.choice(items, ["aa aa dd c"])
    assert found == {"chance": 0.5, "majority": pytest.approx(2 / 3), "shortest": pytest.approx((0 + 1 + 0.5) / 3),
                     "unigram": pytest.approx((1 + 0.5 + 0.5) / 3)}
    text = baselines.held_out([{"text": "ab" * 500}], 1000, 256)
    assert text["uniform"] == 8.0 and text["byte_unigram"] == pytest.approx(1.0) and text["xz"] < 1
    exercise = exercises.tool_calls(1, "held_out", 0, ["light"])
    item = {"offered": ["a", "b", "c"], "chance": exercises.chance(exercise), "target": "x", "tool": "light"}
    assert baselines.tool_calls([item])["exact_match"]["chance"] == pytest.approx(1 / 3 / 8 / 3)


def requests():
    """Contexts shared, empty, ending in a space; continuations that merge with them; a text over the window."""
    pairs = [("the word is", " good"), ("the word is", " bad"), ("the word is", " bad name"), ("", "the word"),
             ("", "good"), ("name ", "expression"), ("the the " * 150, "word"), ("数", "据 is")]
    owners = [0, 0, 0, 1, 1, 2, 3, 4]
    return [Instance("loglikelihood", {}, pair, at, ("t", owner, 1))
            for at, (pair, owner) in enumerate(zip(pairs, owners))]


def test_values_are_those_of_lm_evals_own_model(lm):
    reference = HFLM(pretrained=lm.torch, tokenizer=lm.tokenizer, batch_size=1, max_length=256,
                     prefix_token_id=lm.prefix)
    reference.add_bos_token = False
    for (ours, greedy), (theirs, other) in zip(lm.loglikelihood(requests()), reference.loglikelihood(requests())):
        assert ours == pytest.approx(theirs, abs=1e-4) and greedy == other
    texts = [Instance("loglikelihood_rolling", {}, (text,), 0, ("t", at, 1))
             for at, text in enumerate(["the word is good. " * 60, "数据", "a"])]
    assert lm.loglikelihood_rolling(texts) == pytest.approx(reference.loglikelihood_rolling(texts), abs=1e-3)
    asked = [Instance("generate_until", {}, (text, {"until": ["bad", "\n\n"], "max_gen_toks": 20}), 0, ("t", at, 1))
             for at, text in enumerate(["the word is", "is good " * 30, "good", "数据 is"])]
    assert lm.generate_until(asked) == reference.generate_until(asked)


def test_values_do_not_depend_on_company(lm):
    together = lm.loglikelihood(requests())
    assert together == [lm.loglikelihood([request])[0] for request in requests()]


def test_greedy_is_that_of_transformers(lm):
    prompts = [lm.tok_encode(text) for text in ("the word is", "the word is good", "the name", "the the the")]
    ours = written(lm, prompts, 12)
    for prompt, said in zip(prompts, ours):
        out = lm.torch.generate(
            torch.tensor([prompt]), attention_mask=torch.ones(1, len(prompt), dtype=torch.long), max_new_tokens=12,
            do_sample=False, eos_token_id=sorted(lm.engine.stop_ids), pad_token_id=0)
        assert said == [token for token in out[0, len(prompt):].tolist() if token not in lm.engine.stop_ids]


def written(lm, prompts, limit, begins=""):
    """Token ids that the engine writes."""
    asked = [Request(tuple(prompt), limit, Sampling(temperature=0)) for prompt in prompts]
    return lm.generate(asked, [begins] * len(prompts))


@pytest.mark.parametrize("arguments, line", [({"do_sample": True}, "decodes greedily"),
                                             ({"max_gen_toks": 512}, "max_gen_toks 512 of a context of 512")])
def test_generation_that_cannot_be_is_refused(lm, arguments, line):
    with pytest.raises(StageError, match=line):
        lm.generate_until([Instance("generate_until", {}, ("the", arguments), 0, ("t", 0, 1))])


def corpus(folder, *more):
    """A training text of two documents and `more`, in folder/corpus."""
    (folder / "corpus").mkdir(exist_ok=True)
    texts = ["the word is good and the name is not bad at all, says the man of many words. " * 4, "数据 is " * 60, *more]
    (folder / "corpus/00000.jsonl").write_text("".join(
        json.dumps({"id": f"c{n}", "text": text, "metadata": {}}) + "\n" for n, text in enumerate(texts)))
    return folder / "corpus"


def stage_run(folder, model, *extra):
    """The stage as a process in a folder with its own params.yaml and a small training text."""
    corpus(folder)
    (folder / "params.yaml").write_text(json.dumps({
        "evaluate": COUNTS | {"window": 256, "batch": 8, "held_out_bytes": 300},
        "runtime": {"threads": 1, "workers": 1, "executor": "local", "device": "cpu", "host": "127.0.0.1", "port": 0,
                    "slots": 1, "api_key": None, "log_level": "INFO", "hostfile": None}}))
    return subprocess.run([sys.executable, "-m", "tasks.evaluate.harness", model, "sets", "corpus", "a.jsonl",
                           "m.json"],
                          cwd=folder, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True)


def test_stage_repeats_byte_for_byte_and_valid_calls_come_from_the_grammar(tmp_path):
    (tmp_path / "sets").mkdir()
    test_items.sets(tmp_path / "sets")
    words = tokenizer()
    checkpoint.save(llama(len(words)), words, tmp_path / "model")
    assert (first := stage_run(tmp_path, "model")).returncode == 0, first.stderr
    wrote = [(tmp_path / name).read_bytes() for name in ("a.jsonl", "m.json")]
    assert stage_run(tmp_path, "model").returncode == 0
    assert wrote == [(tmp_path / name).read_bytes() for name in ("a.jsonl", "m.json")]
    found = json.loads(wrote[1])["scores"]
    assert found["tools"]["valid"]["value"] == 0, "a random model calls nothing by itself"
    said = [line["answer"] for line in map(json.loads, wrote[0].splitlines()) if line["task"] == "tools_grammar"]
    whole = [chat.parse_call(text) for text in said if text.endswith(chat.CALL_END)]
    assert len(said) == COUNTS["tools"] and all(text.startswith('<tool_call>{"name": "') for text in said)
    # a call that ended is whole; a free string may run into the token limit
    assert len(whole) >= 3 and None not in whole
    assert found["tools_grammar"]["valid"]["value"] == pytest.approx(len(whole) / len(said), abs=1e-6)
    for name, metric in (("held_out", "bits_per_byte"), ("pairs", "acc"), ("safety", "acc")):
        assert {"bigram", "trigram", "untrained"} <= found[name][metric]["baselines"].keys()
    # the model is itself untrained, so it stands near another draw of its shape, both worse than every token alike
    bits = found["held_out"]["bits_per_byte"]
    assert bits["baselines"]["uniform"] < bits["baselines"]["untrained"] == pytest.approx(bits["value"], rel=0.1)
    for name, set_of in found.items():
        for score in set_of.values():
            assert score["detectable"] > 0 and 1 <= score["clusters"] <= score["n"]
            assert score["baselines"] and score["low"] <= score["value"] <= score["high"]


@pytest.mark.parametrize("break_it, line", [
    (lambda folder: (folder / "sets/cloze.jsonl").write_text(""), "cloze.jsonl has no items"),
    (lambda folder: (folder / "sets/tools.jsonl").write_text("{"), "tools.jsonl:1 is no item of tools"),
    (lambda folder: None, "model is no model directory: it has no config.json"),
    (lambda folder: (folder / "model").rmdir(), "input model is not there: run the stage that makes it"),
])
def test_bad_input_ends_in_one_line(tmp_path, break_it, line):
    (tmp_path / "sets").mkdir()
    (tmp_path / "model").mkdir()
    test_items.sets(tmp_path / "sets")
    break_it(tmp_path)
    ended = stage_run(tmp_path, "model")
    assert ended.returncode == 1 and line in ended.stderr and "Traceback" not in ended.stderr
    assert not (tmp_path / "a.jsonl").exists() and not (tmp_path / "m.json").exists()


def test_an_answer_that_is_no_call_ends_early(lm):
    prompt = lm.tok_encode("the word is")
    whole = written(lm, [prompt], 60)[0]
    assert len(whole) == 60, "this model rambles"
    assert written(lm, [prompt], 60, "<tool_call>")[0] == whole[:24]
    assert written(lm, [prompt], 60, lm.decode(whole[3:5]))[0] == whole

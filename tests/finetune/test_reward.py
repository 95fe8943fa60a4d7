"""Reward model: the loss by hand, a planted preference learned, a stock directory, a gate against chance."""

import json
import math
import random

import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from tasks.finetune import pairs
from tasks.finetune import reward as stage_module
from tasks.finetune.pairs import Pair
from tasks.finetune.reward import RewardParams
from tasks.stage import StageError
from tests.finetune.test_sft import RUNTIME

REWARD = RewardParams(pairs=64, checked=40, systems=[""], length=60, batch=8, epochs=1, learning_rate=0.01)


def run(base, out, **changes):
    stage_module.reward(base, out / "reward", out / "m.json", reward=REWARD.model_copy(update=changes), seed=1,
                        runtime=RUNTIME)
    return json.loads((out / "m.json").read_text())


@pytest.fixture
def planted(monkeypatch, tmp_path):
    """Polite ends are preferred; `wrong` turns held-out pairs about."""
    def made(n, split, seed, systems, tokenizer, wrong=False):
        draw = random.Random(f"{split} {seed}")
        found = []
        for _ in range(n):
            said = "".join(draw.choices("abcdefgh ", k=draw.randint(3, 12)))
            ends = [f"{said}, please<|im_end|>", f"{said}, now<|im_end|>"]
            if wrong and split == "held_out":
                ends.reverse()
            found.append(Pair("manners", f"Ask {draw.randint(1, 99)}: ", *ends))
        return found

    monkeypatch.setattr(pairs, "pairs", made)
    monkeypatch.chdir(tmp_path)
    return made


def test_the_loss_by_hand():
    found = stage_module.loss_of(torch.tensor([2.0, 0.0]), torch.tensor([1.0, 0.0]))
    assert found.item() == pytest.approx((math.log(1 + math.exp(-1)) + math.log(2)) / 2)


def test_a_planted_preference_is_learned_and_the_directory_is_stock(base, tmp_path, planted):
    metrics = run(base, tmp_path / "a")
    assert metrics["loss_first"] == pytest.approx(math.log(2), abs=1e-5)  # nothing is preferred before any step
    assert metrics["after"]["accuracy"] > 0.9 and metrics["after"]["low"] > 0.5 and metrics["steps"] == 8
    assert metrics["before"]["accuracy"] == 0 and metrics["before"]["margin"] == 0  # a tie is not right
    run(base, tmp_path / "b")
    for file in ("reward/model.safetensors", "m.json"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()

    stock = AutoModelForSequenceClassification.from_pretrained(tmp_path / "a/reward").eval()
    words = AutoTokenizer.from_pretrained(tmp_path / "a/reward")
    texts = ["Ask 7: hush, please<|im_end|>", "Ask 7: hush, now<|im_end|>"]
    with torch.inference_mode():
        together = stage_module.scores(stock, words, texts)
        alone = [stock(torch.tensor([words(text, add_special_tokens=False)["input_ids"]])).logits.item()
                 for text in texts]
    assert stock.config.num_labels == 1 and together.tolist() == pytest.approx(alone, abs=1e-4)
    assert together[0] > together[1] + 1


def test_bad_input_is_one_line(base, tmp_path, planted, monkeypatch):
    with pytest.raises(StageError, match="no pair has at most reward.length = 16 tokens"):
        run(base, tmp_path, length=16)
    monkeypatch.setattr(pairs, "pairs", lambda *args: planted(*args, wrong=True))
    with pytest.raises(StageError, match=r"0\.000 of 40 held-out pairs .* not above chance \(0\.5\)"):
        run(base, tmp_path)
    with pytest.raises(StageError, match="no model directory"):
        run(tmp_path / "nowhere", tmp_path)

"""Preference: the loss by hand against trl's, faults that are never the right call, accuracy that rises."""

import json
import math
import random

import pytest
import torch

from tasks import chat, exercises
from tasks.finetune import checkpoint, pairs, preference as stage_module
from tasks.finetune.settings import LoraParams, PreferenceParams
from tasks.stage import StageError

from tests.finetune.test_sft import RUNTIME

PREFERENCE = PreferenceParams(
    pairs=48, checked=24, systems=["", "Be brief."], length=900, beta=0.5, anchor=0.0, batch=8, epochs=1, learning_rate=0.02, min_accuracy=0.0,
    lora=LoraParams(rank=8, alpha=16, targets=["q_proj", "v_proj", "o_proj", "up_proj", "down_proj"],
                    max_merge_error=1e-3))


def run(base, out, **changes):
    stage_module.preference(base, out / "chat", out / "m.json", out / "c.csv",
                            preference=PREFERENCE.model_copy(update=changes), seed=1, runtime=RUNTIME)
    return json.loads((out / "m.json").read_text())


@pytest.mark.parametrize("fault", pairs.FAULTS)
def test_a_fault_is_what_its_name_says(fault):
    draw = random.Random(4)
    for exercise in exercises.tool_calls(70, "train", 2) + exercises.arithmetic(10, "train", 2):
        text = pairs.spoiled(exercise, fault, draw)
        read = chat.parse_call(text)
        assert read != (exercise.tool, exercise.arguments)
        if fault == "argument":
            assert read[0] == exercise.tool and read[1].keys() == exercise.arguments.keys()
            assert sum(read[1][key] != value for key, value in exercise.arguments.items()) == 1
        elif fault == "tool":
            assert read[0] in set(exercise.tools) - {exercise.tool}
        else:
            assert read is None and text.startswith(chat.CALL_START) == (fault == "malformed")


def test_pairs_are_of_their_split_and_end_their_turn(tokenizer):
    made = pairs.pairs(60, "train", 3, ["", "Be brief."], tokenizer)
    assert made == pairs.pairs(60, "train", 3, ["", "Be brief."], tokenizer) and len(made) == 60
    for pair in made:
        assert pair.prompt.endswith("<|im_start|>assistant\n") and "Tools:\n" in pair.prompt
        assert pair.chosen.endswith(chat.END) and pair.rejected.endswith(chat.END) and pair.chosen != pair.rejected
        assert not exercises.is_held_out(*chat.parse_call(pair.chosen.removesuffix(chat.END)))
    assert {pair.fault for pair in made} == set(pairs.FAULTS)


def test_scores_are_summed_log_probabilities(llama, tokenizer):
    texts = [("What is 2?", "two<|im_end|>"), ("a longer prompt", "x")]
    scores = stage_module.ending_scores(llama, tokenizer, texts)
    for (prompt, ending), score in zip(texts, scores.tolist(), strict=True):
        first, ids = (tokenizer(text, add_special_tokens=False)["input_ids"] for text in (prompt, prompt + ending))
        with torch.no_grad():
            table = torch.log_softmax(llama(torch.tensor([ids])).logits[0], -1)
        assert score == pytest.approx(sum(table[at - 1, ids[at]].item() for at in range(len(first), len(ids))), rel=1e-4)


def test_every_loss_is_equation_7_and_the_anchor(llama, tokenizer, monkeypatch):
    """trl's loss at each step against Rafailov et al.'s equation 7 from our own summed log-probabilities, and the
    chosen call's mean cross-entropy beside it."""
    import trl

    pair = pairs.pairs(1, "train", 3, [""], tokenizer)[0]
    settings = PREFERENCE.model_copy(update={"batch": 1, "epochs": 4, "anchor": 0.5})
    length = len(tokenizer(pair.chosen, add_special_tokens=False)["input_ids"])
    stock, seen = trl.DPOTrainer.compute_loss, []

    def scores(model):
        return stage_module.ending_scores(model.get_base_model(), tokenizer,
                                          [(pair.prompt, pair.chosen), (pair.prompt, pair.rejected)]).tolist()

    def compared(trainer, model, *args, **more):
        chosen, rejected = scores(model)
        with model.disable_adapter():
            first, other = scores(model)
        margin = settings.beta * ((chosen - first) - (rejected - other))
        found = stock(trainer, model, *args, **more)
        loss = found[0] if isinstance(found, tuple) else found
        seen.append((loss.item(), math.log1p(math.exp(-margin)) - settings.anchor * chosen / length, margin))
        return found

    monkeypatch.setattr(trl.DPOTrainer, "compute_loss", compared)
    _, rows = stage_module.optimize(llama, tokenizer, [pair], settings, seed=0)
    assert len(seen) == len(rows) == 4 and seen[0][2] == pytest.approx(0, abs=1e-4) and seen[3][2] > 0.05
    for (loss, by_hand, margin), row in zip(seen, rows, strict=True):
        assert loss == pytest.approx(by_hand, abs=2e-3) and row["margin"] == pytest.approx(margin, abs=2e-3)
        assert row["loss"] == pytest.approx(loss, abs=1e-3)


def test_held_out_margins_grow_and_the_bytes_repeat(base, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    metrics = run(base, tmp_path / "a")
    assert metrics["after"]["margin"] > metrics["before"]["margin"] + 1
    assert metrics["after"]["accuracy"] >= metrics["before"]["accuracy"]
    assert set(metrics["after"]["by_fault"]) == set(pairs.FAULTS) and metrics["merge_error"] < 1e-3
    checkpoint.load_model(tmp_path / "a/chat")
    run(base, tmp_path / "b")
    for file in ("chat/model.safetensors", "m.json", "c.csv"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


def test_bad_input_is_one_line(base, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(StageError, match="no pair has at most preference.length = 30 tokens"):
        run(base, tmp_path, length=30)
    with pytest.raises(StageError, match=r"of the held-out pairs are ranked right, below .*min_accuracy = 1\.0"):
        run(base, tmp_path, min_accuracy=1.0, learning_rate=1e-9, pairs=8)

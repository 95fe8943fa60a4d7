"""Tuning on given conversations: what each method trains, and that what it writes is what was trained."""

from __future__ import annotations

import json
import os
import signal

import pytest
import torch

from tasks import params, stage
from tasks.finetune import checkpoint, method, training, tune
from tasks.finetune.masking import Example
from tasks.finetune.settings import LoraParams, TrainingParams
from tasks.stage import StageError

RUNTIME = params.Runtime(threads=1, workers=1, executor="local", device="cpu", host="127.0.0.1", port=0, slots=1,
                         api_key=None, log_level="INFO", hostfile=None)
LORA = LoraParams(rank=4, alpha=4.0, targets=["q_proj", "v_proj", "down_proj"], max_merge_error=0.001)


def values(method: str, **changed) -> tune.TuneParams:
    return tune.TuneParams(**{
        "method": method, "length": 256, "checked": 2, "checkpointing": False, "lora": LORA, "training": TrainingParams(
            epochs=2, batch=4, drill_batch=4, matrix_rate=0.01, learning_rate=0.003, warmup=0.0, clip=1.0,
            precision="bf16", keep_every=2)} | changed)


def watching(given: tune.TuneParams, **changed) -> tune.TuneParams:
    return given.model_copy(update={"training": given.training.model_copy(update=changed)})


@pytest.fixture
def conversations(tmp_path):
    path = tmp_path / "given.jsonl"
    path.write_text("".join(json.dumps({"messages": [
        {"role": "user", "content": f"say {n}"}, {"role": "assistant", "content": "yes " * 5}]}) + "\n"
        for n in range(14)))
    return path


def run(base, conversations, folder, given):
    stage.execute(tune.tune, {"base": ("input", base), "conversations": ("input", conversations),
                              "model": ("output", folder / "out"), "metrics": ("output", folder / "out.json")},
                  {"tune": given, "seed": 0, "resume": folder / "resume", "runtime": RUNTIME})
    return json.loads((folder / "out.json").read_text())


@pytest.mark.parametrize("method, checkpointing", [("full", True), ("lora", False), ("qlora", False)])
def test_the_loss_falls_and_a_plain_directory_comes_out(base, conversations, tmp_path, method, checkpointing):
    found = run(base, conversations, tmp_path, values(method, checkpointing=checkpointing))
    assert found["loss_after"]["given"] < found["loss_before"]["given"] and found["steps"] == 6
    before, after = (checkpoint.load_model(place).state_dict() for place in (base, tmp_path / "out"))
    moved = {name.split(".")[-2] for name in before if not torch.equal(before[name], after[name])}
    assert before.keys() == after.keys() and not (tmp_path / "resume").exists()
    assert moved == set(LORA.targets) if method != "full" else {"q_proj", "embed_tokens", "norm"} <= moved


@pytest.mark.parametrize("method, patience", [("full", 0), ("lora", 0), ("lora", 1)])
def test_killed_amid_a_checkpoint_it_goes_on_and_ends_in_the_same_bytes(base, conversations, tmp_path, method,
                                                                        patience):
    given = watching(values(method), patience=patience, score_every=1)
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    whole.mkdir()
    cut.mkdir()
    undisturbed = run(base, conversations, whole, given)
    child = os.fork()
    if child == 0:   # the second checkpoint lies there written, not sealed, when the kill comes
        seal = training.Checkpoints.seal
        training.Checkpoints.seal = lambda self, step, note: (
            os.kill(os.getpid(), signal.SIGKILL) if step == 4 else seal(self, step, note))
        try:
            run(base, conversations, cut, given)
        finally:
            os._exit(1)
    assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL
    assert not (cut / "out").exists() and not (cut / "out.json").exists() and len(list((cut / "resume").iterdir())) == 2
    again = run(base, conversations, cut, given)
    for name in ("curve", "loss_after", *(("kept_step", "stopped_at") if patience else ())):
        assert again[name] == undisturbed[name], name
    for file in sorted((whole / "out").iterdir()):
        assert (cut / "out" / file.name).read_bytes() == file.read_bytes(), file.name


def test_what_holds_for_others_alone_ends_it(base, conversations, tmp_path):
    """The two held-out conversations say no, the twelve learned ones yes: at first the form is gained, then lost."""
    lines = conversations.read_text().splitlines(True)
    conversations.write_text("".join(line.replace("yes", "no") for line in lines[:2]) + "".join(lines[2:]))
    given = watching(values("full"), epochs=20, learning_rate=0.02, patience=3, score_every=2)
    found = run(base, conversations, tmp_path, given)
    assert 0 < found["kept_step"] == found["stopped_at"] - 6 == len(found["curve"]) - 6 < 54
    assert found["loss_after"]["given"] < found["loss_before"]["given"]
    plain = run(base, conversations, tmp_path, watching(given, patience=0))
    assert found["tokens"] == pytest.approx(plain["tokens"] * found["steps"] / plain["steps"], rel=0.05)
    assert plain["loss_after"]["given"] > found["loss_after"]["given"] and "kept_step" not in plain


def test_gradients_pass_through_a_four_bit_base_after_an_evaluation(base):
    """Those of the same model with its 4-bit weights written out, by autograd; bitsandbytes 0.50.2 loses them."""
    import bitsandbytes

    model = method.prepared(base, "qlora", LORA, [], False, 0)
    plain = method.prepared(base, "lora", LORA, [], False, 0)
    rows = [Example("x", list(range(4, 60)), [1] * 56)]
    with torch.no_grad():
        for name, module in plain.named_modules():
            twin = dict(model.named_modules())[name]
            base_layer = getattr(twin, "base_layer", None) if hasattr(twin, "lora_B") else twin
            if isinstance(base_layer, bitsandbytes.nn.Linear4bit):
                target = module.base_layer if hasattr(module, "lora_B") else module
                target.weight.copy_(bitsandbytes.functional.dequantize_4bit(
                    base_layer.weight.data, base_layer.weight.quant_state).float())
        for made in (model, plain):
            torch.manual_seed(1)
            for name, weight in made.named_parameters():
                if "lora_B" in name:
                    weight.normal_(0, 0.05)
    training.checked_loss(model, rows, 3)
    gradients = []
    for made in (model, plain):
        made.train()
        training.loss_of(made, rows, 3).backward()
        gradients.append(torch.cat([p.grad.flatten() for n, p in made.named_parameters() if "layers.0" in n and
                                    p.grad is not None]))
    assert torch.nn.functional.cosine_similarity(*gradients, dim=0) > 0.98


def test_what_cannot_be_tuned_is_one_line(base, conversations, tmp_path):
    with pytest.raises(StageError, match="2 of them are kept to check|have at most 16 tokens"):
        run(base, conversations, tmp_path, values("full", length=16))
    with pytest.raises(StageError, match="merging the adapters moved a logit"):
        run(base, conversations, tmp_path, values("lora", lora=LORA.model_copy(update={"max_merge_error": 1e-30})))
    conversations.write_text("{}\n")
    with pytest.raises(StageError, match="given.jsonl, line 1: messages is missing"):
        run(base, conversations, tmp_path, values("full"))

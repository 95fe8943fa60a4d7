"""GRPO whole: the engine samples the policy, what was better becomes likelier, a broken run ends in the same bytes."""

import json

import pytest
import torch
from transformers import AutoModelForCausalLM

from tasks.align import grpo as stage_module
from tasks.align import policy, prompts, rollout
from tasks.align.policy import Learned
from tasks.align.settings import GrpoParams, MixParams
from tasks.align.verify import Verdict
from tasks.finetune import lora
from tasks.finetune.settings import LoraParams
from tasks.stage import StageError
from tests.finetune.test_sft import RUNTIME

LORA = LoraParams(rank=4, alpha=16, targets=["q_proj", "v_proj", "o_proj", "down_proj"], max_merge_error=1e-3)
GRPO = GrpoParams(steps=5, prompts=MixParams(calls=2, arithmetic=1, answers=0), group=6, tokens=6, passes=2, clip=0.2,
                  checked=MixParams(calls=6, arithmetic=2, answers=0), beta=0.01, learning_rate=0.03, max_norm=1.0,
                  batch=10, systems=[""], keep_every=2, min_gain=-1.0, lora=LORA)


def run(base, out, **changes):
    stage_module.grpo(base, out / "chat", out / "m.json", out / "c.csv", grpo=GRPO.model_copy(update=changes), seed=1,
                      runtime=RUNTIME)
    return json.loads((out / "m.json").read_text())


@pytest.fixture
def planted(monkeypatch, tmp_path):
    """Instead of what a random model can never do: to write letters of even code points."""
    def verdict(prompt, text):
        return Verdict(True, True, sum(ord(letter) % 2 == 0 for letter in text) / max(1, len(text)))

    monkeypatch.setattr(prompts.Prompt, "verdict", verdict)
    monkeypatch.chdir(tmp_path)


def test_the_engine_samples_the_adapted_policy_and_repeats(base, llama, tokenizer):
    adapted = lora.adapt(llama, LORA, [], seed=0)
    with torch.no_grad():
        for name, weight in adapted.named_parameters():
            if "lora_B" in name:
                weight.normal_(0, 0.2)
    asked = prompts.draw(MixParams(calls=2, arithmetic=0, answers=0), 1, "train", 3, [""], tokenizer)[0] * 2
    draws = [rollout.seeded(1, 2, number) for number in range(4)]
    said = rollout.outputs(base, adapted, asked, 5, draws, threads=1)
    assert said == rollout.outputs(base, adapted, asked, 5, draws, threads=1)
    assert said[0].ids != said[2].ids  # another seed, another output
    for prompt, output in zip(asked, said, strict=True):
        assert 1 <= len(output.ids) == len(output.logprobs) <= 5
        with torch.no_grad():
            table = torch.log_softmax(adapted(torch.tensor([[*prompt.ids, *output.ids]])).logits[0], -1)
        own = [table[len(prompt.ids) - 1 + at, token].item() for at, token in enumerate(output.ids)]
        assert output.logprobs == pytest.approx(own, abs=2e-3)


def test_what_was_better_than_its_group_becomes_likelier(llama):
    """Updates on fixed outputs, the divergence's pull among them: the good one gains on the bad one until it is cut."""
    adapted = lora.adapt(llama, LORA, [], seed=0)
    group = [Learned((20, 21), [5, 6, 7], 1.0), Learned((20, 21), [8, 9, 10], -1.0)]
    optimizer = torch.optim.AdamW([weight for weight in adapted.parameters() if weight.requires_grad], lr=0.01)

    def apart():
        with torch.no_grad():
            good, bad = policy.token_logprobs(adapted, group, 3)[0].sum(1).tolist()
        return good - bad

    before, settings = apart(), GRPO.model_copy(update={"passes": 12})
    row = stage_module.improve(adapted, group, [[0.0] * 3] * 2, optimizer, settings, 3)
    assert apart() > before + 0.3 and row["clipped"] > 0 and row["divergence"] == pytest.approx(0, abs=1e-6)
    assert row["loss"] < 0
    again = stage_module.improve(adapted, group, [[0.0] * 3] * 2, optimizer, settings, 3)
    assert again["divergence"] > 1e-4  # from the model without its adapters, not from the last step's


def test_a_broken_run_ends_in_the_same_bytes(base, tmp_path, planted, monkeypatch):
    whole = run(base, tmp_path / "a")
    rows = [line.split(",") for line in (tmp_path / "a/c.csv").read_text().splitlines()]
    assert len(rows) == 6 and all(float(row[rows[0].index("taught")]) > 0 for row in rows[1:])
    assert (tmp_path / "a/chat/model.safetensors").read_bytes() != (base / "model.safetensors").read_bytes()
    assert whole["drift"] < 1e-3 and whole["merge_error"] < 1e-3 and whole["after"]["all"]["n"] == 8
    assert whole["gain"] == pytest.approx(whole["after"]["all"]["reward"] - whole["before"]["all"]["reward"], abs=1e-5)
    AutoModelForCausalLM.from_pretrained(tmp_path / "a/chat")  # a stock class
    stage_module.stage.remove(tmp_path / ".resume")

    improve, calls = stage_module.improve, []

    def dies(*args):
        calls.append(1)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return improve(*args)

    monkeypatch.setattr(stage_module, "improve", dies)
    with pytest.raises(KeyboardInterrupt):
        run(base, tmp_path / "b")
    run(base, tmp_path / "b")
    assert len(calls) == 4 + 3  # steps 3 to 5 again: the checkpoint is of step 2
    for file in ("chat/model.safetensors", "m.json", "c.csv"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


def test_groups_that_are_alike_teach_nothing(base, llama, tokenizer):
    adapted = lora.adapt(llama, LORA, [], seed=0)
    asked = prompts.draw(MixParams(calls=1, arithmetic=0, answers=0), 2, "train", 3, [""], tokenizer)
    asked = [asked[0][0]] * 3 + [asked[1][0]] * 3
    said = [rollout.Output([5, 6], [-1.0, -1.0]) for _ in asked]
    learned, sampled = stage_module.taught(asked, said, [0.2, 0.2, 0.2, 0.0, 0.0, 1.0], 3)
    assert len(learned) == len(sampled) == 3 and {each.prompt for each in learned} == {asked[3].ids}
    before = {name: weight.clone() for name, weight in adapted.named_parameters()}
    optimizer = torch.optim.AdamW([w for w in adapted.parameters() if w.requires_grad], lr=0.1)
    assert stage_module.improve(adapted, [], [], optimizer, GRPO, 3)["loss"] == 0
    assert all(torch.equal(weight, before[name]) for name, weight in adapted.named_parameters())


def test_a_refused_run_says_which_kinds_lost_and_keeps_its_evidence(base, tmp_path, planted, monkeypatch):
    kinds = r"calls [+-]0\.\d{3} \([+-]0\.\d{3} to [+-]0\.\d{3}, 6 prompts\), arithmetic [+-].*, 2 prompts\)"
    with pytest.raises(StageError, match=rf"mean reward changed by .*, below grpo\.min_gain = 1\.0: {kinds}"):
        run(base, tmp_path, min_gain=1.0)
    folder, = (tmp_path / ".resume/grpo").iterdir()
    refused = json.loads((folder / "metrics.json").read_text())
    assert (folder / "curve.csv").read_bytes() == (tmp_path / "c.csv").read_bytes() and refused["steps"] == 5
    parts = refused["by_kind"].values()
    assert sum(part["gain"] * part["n"] for part in parts) / 8 == pytest.approx(refused["gain"], abs=1e-5)

    def never(*_):
        raise AssertionError("trained again")

    monkeypatch.setattr(stage_module, "improve", never)
    lowered = run(base, tmp_path, min_gain=-1.0)  # another gate alone: the same weights are judged again
    assert {**lowered, "limits": 0} == {**refused, "limits": 0}


def test_the_gain_is_paired_and_by_kind(tokenizer):
    asked = prompts.draw(MixParams(calls=2, arithmetic=2, answers=0), 1, "train", 3, [""], tokenizer)[0]
    before = [Verdict(True, True, 0.0), Verdict(True, False, 0.0), Verdict(True, True, 1.0), Verdict(True, True, 1.0)]
    after = [Verdict(True, True, 1.0), Verdict(True, False, 0.0), Verdict(True, True, 1.0), Verdict(False, False, 0.0)]
    found = stage_module.by_kind(asked, before, after)
    # differences 0.6 and 0: mean 0.3, deviation 0.3 sqrt(2), error 0.3; Student's quantile at one degree is 12.706
    assert found["calls"] == pytest.approx({"gain": 0.3, "low": 0.3 - 3.812, "high": 0.3 + 3.812, "n": 2}, abs=1e-3)
    assert found["arithmetic"]["gain"] == pytest.approx(-0.5) and found["arithmetic"]["n"] == 2
    assert stage_module.gained(before, after)["gain"] == pytest.approx(-0.1)


def test_bad_input_is_one_line(base, tmp_path, planted, monkeypatch):
    with pytest.raises(StageError, match=r"grpo\.tokens = 1020 after a prompt of \d+ tokens is beyond .* 1024"):
        run(base, tmp_path, tokens=1020)
    monkeypatch.setattr(stage_module, "MAX_DRIFT", -1.0)
    with pytest.raises(StageError, match="it does not sample the policy that learns"):
        run(base, tmp_path, steps=1)
    with pytest.raises(ValueError, match="nothing would be asked"):
        MixParams(calls=0, arithmetic=0, answers=0)

"""Fine-tuning: a loss worked out apart, adapters that merge without a trace, a killed run that ends in the same bytes."""

import csv
import hashlib
import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import yaml

from tasks.finetune import checkpoint, lora, masking, sft as stage_module, training
from tasks.finetune.settings import ConversationsParams, DataSet, LoraParams, RehearsalParams, SftParams, TrainingParams
from tasks.params import Runtime
from tasks.stage import StageError

ROOT = Path(__file__).resolve().parents[2]
RUNTIME = Runtime(threads=1, workers=1, executor="local", device="cpu", host="127.0.0.1", port=0, slots=1, api_key=None,
                  log_level="INFO", hostfile=None)
LORA = LoraParams(rank=8, alpha=32, targets=["q_proj", "v_proj", "o_proj", "up_proj", "down_proj"], max_merge_error=1e-3)
SFT = SftParams(
    length=1000, checked=12, lora=LORA,
    conversations=ConversationsParams(facts=10, lookups=4, calls=30, arithmetic=10, recall=20, functions=10,
                                       drills=14, systems=[""]),
    rehearsal=RehearsalParams(passages=6, tokens=20), embeddings="chat",
    training=TrainingParams(epochs=2, batch=4, drill_batch=7, matrix_rate=0.02, learning_rate=0.03, warmup=0.1, clip=1.0,
                            precision="fp32", keep_every=2))


def run(base, corpus, out, **changes):
    stage_module.sft(base, corpus, out / "model", out / "m.json", out / "c.csv", sft=SFT.model_copy(update=changes),
                     seed=1, runtime=RUNTIME)
    return json.loads((out / "m.json").read_text())


def test_the_loss_is_the_mean_over_learned_tokens(llama):
    examples = [masking.Example("a", [5, 9, 7, 6], [0, 0, 1, 1]), masking.Example("b", [8, 4], [0, 1])]
    with torch.no_grad():
        by_hand = [-torch.log_softmax(llama(torch.tensor([ids])).logits[0, at - 1], -1)[ids[at]]
                   for ids, at in (([5, 9, 7, 6], 2), ([5, 9, 7, 6], 3), ([8, 4], 1))]
        assert training.loss_of(llama, examples, pad=3).item() == pytest.approx(sum(by_hand).item() / 3, rel=1e-5)


def test_the_schedule_warms_up_and_decays():
    rates = [training.rate(step, 100, SFT.training) for step in range(100)]
    assert rates[0] < rates[5] < max(rates) == pytest.approx(1, rel=0.02)
    assert rates[10:] == sorted(rates[10:], reverse=True) and rates[-1] == pytest.approx(0.1, rel=0.05)


def test_every_epoch_reads_every_conversation_once():
    examples = [masking.Example("a", [n] * (n % 7 + 1), [1] * (n % 7 + 1)) for n in range(50)]
    steps = training.batches(examples, SFT.training, seed=3)
    read = [example.ids[0] for step in steps for example in step]
    assert sorted(read[:50]) == sorted(read[50:]) == list(range(50)) and read[:50] != read[50:]


def test_drills_come_once_and_first_in_batches_of_their_own():
    examples = [masking.Example("drill" if n < 20 else "a", [n], [1]) for n in range(50)]
    steps = training.batches(examples, SFT.training, seed=3)
    assert sorted(example.ids[0] for step in steps[:3] for example in step) == list(range(20))
    assert [len(step) for step in steps[:3]].count(7) == 2
    assert all(example.ids[0] >= 20 for step in steps[3:] for example in step)


def test_muon_has_the_adapters_and_adamw_the_rows(llama):
    adapted = lora.adapt(llama, LORA, [1, 2], seed=0)
    muon, adamw = training.optimizer_of(adapted, SFT.training).param_groups
    assert muon["use_muon"] and all(weight.ndim == 2 and LORA.rank in weight.shape for weight in muon["params"])
    assert not adamw["use_muon"] and [tuple(weight.shape) for weight in adamw["params"]] == [(2, 32)]
    assert len(muon["params"]) == 2 * len(LORA.targets) * llama.config.num_hidden_layers


def test_merging_leaves_the_logits(llama, tokenizer):
    adapted = lora.adapt(llama, LORA, [1, 2], seed=0)
    with torch.no_grad():
        for name, weight in adapted.named_parameters():
            if weight.requires_grad:
                weight.add_(torch.randn_like(weight) * 0.05)
    probe = torch.arange(40)[None]
    with torch.no_grad():
        before = adapted(probe).logits
        merged, error = lora.merge(adapted, probe, 1e-3)
        after = merged(probe).logits
    assert error < 1e-4 and torch.allclose(before, after, atol=1e-4)
    assert not any("lora" in name for name, _ in merged.named_parameters())
    assert merged.lm_head.weight is merged.model.embed_tokens.weight


def test_a_merge_that_changes_the_model_fails(llama, tokenizer):
    adapted = lora.adapt(llama, LORA, [1, 2], seed=0)
    with torch.no_grad():
        for name, weight in adapted.named_parameters():
            if weight.requires_grad:
                weight.add_(torch.randn_like(weight))
    with pytest.raises(StageError, match=r"merging the adapters moved a logit by .* above lora.max_merge_error = 1e-12"):
        lora.merge(adapted, torch.arange(40)[None], 1e-12)


def test_only_adapters_and_chat_rows_are_trained(llama, tokenizer):
    trained = [name for name, weight in lora.adapt(llama, LORA, [1, 2], 0).named_parameters()
               if weight.requires_grad]
    assert trained and all("lora_" in name or "trainable_tokens" in name for name in trained)
    assert not any("k_proj" in name for name in trained)


def test_the_stage_learns_and_writes_a_model_directory(base, corpus, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    metrics = run(base, corpus, tmp_path / "out")
    assert metrics["loss_after"]["call"] < metrics["loss_before"]["call"] - 0.5
    assert metrics["merge_error"] < 1e-3 and "kept_step" not in metrics
    made, _ = stage_module.mixed(corpus, SFT, 1)
    sizes = [len(masking.encode(each, checkpoint.load_tokenizer(base, 260)).ids) for each in made]
    assert metrics["overlong"] == sum(size > SFT.length for size in sizes) < 5
    rows = list(csv.DictReader((tmp_path / "out/c.csv").open()))
    assert len(rows) == metrics["steps"] and float(rows[-1]["loss"]) < float(rows[0]["loss"])
    model = checkpoint.load_model(tmp_path / "out/model")
    assert model.generation_config.eos_token_id == checkpoint.load_tokenizer(tmp_path / "out/model").eos_token_id
    # what was not adapted did not move, nor did the rows of other than chat tokens
    rows = [m.model.embed_tokens.weight for m in (model, checkpoint.load_model(base))]
    assert torch.equal(rows[0][10:], rows[1][10:]) and not torch.equal(rows[0], rows[1])
    assert torch.equal(model.model.layers[0].self_attn.k_proj.weight,
                       checkpoint.load_model(base).model.layers[0].self_attn.k_proj.weight)


def test_killed_and_resumed_ends_in_the_same_bytes(base, corpus, tmp_path):
    watching = SFT.training.model_copy(update={"patience": 2, "score_every": 2})
    (tmp_path / "params.yaml").write_text(yaml.safe_dump({
        "seed": 1, "runtime": RUNTIME.model_dump(),
        "sft": SFT.model_copy(update={"checked": 40, "training": watching}).model_dump()}))
    command = [sys.executable, "-m", "tasks.finetune.sft", str(base), str(corpus)]
    environment = {"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin", "HOME": str(tmp_path)}

    def start(name):
        outs = [f"{name}/model", f"{name}/m.json", f"{name}/c.csv"]
        return subprocess.Popen([*command, *outs], cwd=tmp_path, env=environment, stderr=subprocess.PIPE, text=True)

    killed = start("killed")
    for _ in range(1200):
        if list(tmp_path.glob(".resume/sft/*/step-*")):
            break
        time.sleep(0.05)
    killed.kill()
    killed.wait()
    assert not (tmp_path / "killed/model").exists() and list(tmp_path.glob(".resume/sft/*/step-*"))
    resumed = start("resumed")
    said = resumed.communicate(timeout=120)[1]
    assert resumed.returncode == 0 and "resuming after step" in said
    assert not list(tmp_path.glob(".resume/sft/*"))
    whole = start("whole")
    assert whole.wait(timeout=120) == 0
    for file in ("model/model.safetensors", "m.json", "c.csv"):
        assert (tmp_path / "resumed" / file).read_bytes() == (tmp_path / "whole" / file).read_bytes()


def test_bad_input_is_one_line(base, corpus, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(StageError, match="sft.length = 4000 is beyond the model's 1024 positions"):
        run(base, corpus, tmp_path, length=4000)
    with pytest.raises(StageError, match="conversations have at most 20 tokens"):
        run(base, corpus, tmp_path, length=20)
    with pytest.raises(StageError, match="no linear layer is called w1"):
        run(base, corpus, tmp_path, lora=LORA.model_copy(update={"targets": ["w1"]}))
    with pytest.raises(StageError, match="the loss is nan|the loss is inf"):
        run(base, corpus, tmp_path, training=SFT.training.model_copy(update={"matrix_rate": 1e30, "clip": 1e30}))


def test_data_of_ones_own_is_learned_and_counted(base, corpus, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    own = tmp_path / "own.jsonl"
    records = [{"instruction": f"say {n}", "output": "yes " * (300 if n == 3 else 2)} for n in range(12)]
    own.write_text("".join(json.dumps(one) + "\n" for one in records) + "{}\n")
    data = [DataSet(path=str(own), format="alpaca", sha256=hashlib.sha256(own.read_bytes()).hexdigest(), broken=1)]
    none = ConversationsParams(**{name: 0 for name in ("facts", "lookups", "calls", "arithmetic", "recall", "functions",
                                                       "drills")}, systems=[""])
    metrics = run(base, corpus, tmp_path / "out", data=data, conversations=none, checked=3, method="dora",
                  training=SFT.training.model_copy(update={"packed": True, "neftune_alpha": 1.0, "patience": 2}))
    assert metrics["data"] == {"own (alpaca)": {
        "records": 13, "kept": 12, "unanswered": 0, "taken": 12, "overlong": 1, "broken": 1,
        "faults": ["line 13: instruction is missing, not text"]}}
    assert metrics["overlong"] == 1 and metrics["conversations"] == {"own (alpaca)": 12} and metrics["method"] == "dora"
    assert (metrics["kept_step"], metrics["stopped_at"]) == (metrics["steps"], None)
    assert metrics["loss_after"]["own (alpaca)"] < metrics["loss_before"]["own (alpaca)"]

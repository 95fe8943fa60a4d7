"""The two things that `./run adapt` makes, each by the chain's own code in a process of its own: a tuned model
directory (tasks/finetune/tune.py) and its int4 (tasks/quantize/awq.py)."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

from tasks import params, stage
from tasks.finetune.settings import LoraParams, TrainingParams
from tasks.finetune.tune import Job, TuneParams
from tasks.pretrain.footprint import TARGETS, Method

ROOT = Path(__file__).resolve().parents[1]
EPOCHS, BATCH, RANK, STEPS = 4, 8, 16, 600
ADAPTER_RATE = 0.01     # Muon's of the adapters, whose updates have one size whatever the width
# AdamW's of all weights: 3e-3 at 192, where 1.5e-3 learns the form and little else, and at 6e-3 the loss stood until
# the schedule came down to half of it (docs/LOG.md); and down with the square of the width, 3.3e-4 at 576: one power by
# muP (Yang et al. 2022, arXiv:2203.03466), one because a wider model has learned more that is to be kept
WIDTH_RATE = 3e-3 * 192**2
WINDOW = 64     # tokens of a calibration window: conversations are short


class MakingError(RuntimeError):
    """What should be made was refused or failed; the message is the process's own line."""


def settings(method: Method, width: int, conversations: int, patience: int = 0) -> TuneParams:
    """The values of a tuning of a model `width` wide by `method`: few epochs over few conversations, a batch that
    leaves STEPS of them where it can, ended by `patience` as `sft.training.patience` says."""
    batch = max(1, min(method.batch, conversations * EPOCHS // STEPS))
    rate = min(0.01, WIDTH_RATE / width**2) if method.kind == "full" else ADAPTER_RATE
    return TuneParams(
        method=method.kind, length=method.sequence, checked=max(1, min(16, conversations // 10)),
        checkpointing=method.checkpointing,
        lora=LoraParams(rank=method.rank, alpha=float(method.rank), targets=list(TARGETS), max_merge_error=0.01),
        training=TrainingParams(epochs=EPOCHS, batch=batch, drill_batch=batch, matrix_rate=rate, learning_rate=rate,
                                warmup=0.05, clip=1.0, precision="bf16", keep_every=50, patience=patience))


def tuned(base: Path, conversations: Path, folder: Path, name: str, tune: TuneParams) -> dict[str, Any]:
    """Tune `base` into folder/NAME; its metrics. A killed run goes on from folder/.resume. Raises MakingError."""
    job = folder / f"{name}.job.json"
    metrics = folder / f"{name}.json"
    made = Job(base=str(base.resolve()), conversations=str(conversations.resolve()),
               model=str((folder / name).resolve()), metrics=str(metrics.resolve()),
               resume=str((folder / ".resume" / name).resolve()), tune=tune, seed=0, runtime=params.runtime())
    text = made.model_dump_json(indent=2)
    # checkpoints of other values are not this run's; the keys of a job are all that its result depends on
    if not job.exists() or job.read_text(encoding="utf-8") != text:
        stage.remove(folder / ".resume" / name)
    job.parent.mkdir(parents=True, exist_ok=True)
    job.write_text(text, encoding="utf-8")
    started([sys.executable, "-m", "tasks.finetune.tune", str(job)], Path.cwd())
    return json.loads(metrics.read_text(encoding="utf-8"))


def quantized(model: Path, conversations: Path, folder: Path) -> dict[str, Any]:
    """Quantize `model` to folder/int4, calibrated on the conversations it is for, every fourth kept for the gate; its
    metrics. Raises MakingError, where AWQ's own gate refuses too."""
    texts = rendered(model, conversations)
    work = folder / "calibration"
    for name, part in (("corpus", [t for n, t in enumerate(texts) if n % 4]), ("held_out", texts[::4])):
        place = work / name
        place.mkdir(parents=True, exist_ok=True)
        (place / "00000.jsonl").write_text("".join(
            json.dumps({"text": text, "id": f"{name}-{n}", "metadata": {"language": "en"}}, ensure_ascii=False) + "\n"
            for n, text in enumerate(part)), encoding="utf-8")
    # a document gives at most two windows, and a token has four characters on average; half of that is surely there
    room = {name: max(1, min(16, sum(map(len, texts)) // share // (8 * WINDOW))) for name, share in
            (("corpus", 2), ("held_out", 4))}
    section = {"group": 64, "languages": ["en"], "windows": room["corpus"], "length": WINDOW, "scales": 10, "clips": 8,
               "narrowest": 0.6, "damping": 0.01, "gate": {"windows": room["held_out"], "max_perplexity_ratio": 1.5,
                                                          "min_agreement": 0.75}}
    values = {"quantize": section, "seed": 0, "runtime": params.runtime().model_dump()}
    (work / "params.yaml").write_text(yaml.safe_dump(values), encoding="utf-8")
    command = [sys.executable, "-m", "tasks.quantize.awq", model, work / "corpus", work / "held_out/00000.jsonl",
               folder / "int4", folder / "int4.json"]
    started([str(word.resolve()) if isinstance(word, Path) else word for word in command], work)
    return json.loads((folder / "int4.json").read_text(encoding="utf-8"))


def rendered(model: Path, conversations: Path) -> list[str]:
    """The conversations as the model reads them, by its own template."""
    from tasks.finetune import checkpoint
    from tasks.finetune.tune import read

    tokenizer = checkpoint.load_tokenizer(model)
    return [tokenizer.apply_chat_template(each.messages, tools=each.tools or None, tokenize=False)
            for each in read(conversations)]


def started(command: list[str], place: Path) -> None:
    """Run a process of the chain in `place` to its end, its progress shown. Raises MakingError with its own line."""
    with subprocess.Popen(command, cwd=place, stderr=subprocess.PIPE, text=True, errors="replace",
                          env={**os.environ, "PYTHONPATH": str(ROOT)}) as process:
        said = []
        for line in process.stderr or ():
            said.append(line.rstrip())
            if "it/s" in line or "s/it" in line or "/s]" in line:
                print(line.rstrip(), file=sys.stderr)
        code = process.wait()
    if code:
        own = [line.removeprefix("error: ") for line in said if line.startswith("error: ")]
        raise MakingError((own or said[-1:] or [f"exit code {code}"])[0][:400])

"""Claim: training through DeepSpeed as this chain does it is no slower than a plain PyTorch loop, and faster than
transformers' Trainer, on the same model, tokens, precision, threads and optimizer (torch's AdamW).

    python -m benchmarks.pretrain [ROUNDS]

Each round runs every contender in a process of its own, in turn, so that a busy machine hurts all alike. Shown are
medians over rounds; ratios are within a round. `catena` trains as the stage does (kept memory, attention by plain
products); `catena, Muon` adds what the default optimizer costs.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tasks import params
from tasks.model import ModelParams
from tasks.pretrain import parallel
from tasks.pretrain.settings import PretrainParams

STEPS, WARM = 30, 5
CONTENDERS = ("catena", "catena, Muon", "plain loop", "transformers Trainer")
SHAPE = {"base": None, "hidden": 256, "intermediate": 704, "layers": 4, "heads": 4, "kv_heads": 2, "head_dim": 64,
         "positions": 512, "rope_theta": 10000.0}
RUN = {"tokens": 1, "sequence": 256, "batch": 4, "optimizer": "adamw", "matrix_rate": 0.02, "rate": 0.001,
       "momentum": 0.95, "weight_decay": 0.0, "clip": 1.0, "warmup": 0.0, "decay": 0.0, "precision": "bf16",
       "zero_stage": 0, "score_steps": 1000, "score_tokens": 1000, "checkpoint_steps": 1000,
       "watch": {"spike": 12.0, "rollbacks": 2}, "must_beat": []}
VOCABULARY = 4096


def measure(name: str, home: Path) -> dict[str, float]:
    """Tokens a second and a CPU second of one contender, in this process, over STEPS steps after WARM."""
    runtime = params.runtime()
    parallel.environment(runtime)
    import torch

    torch.set_num_threads(runtime.threads)
    seconds = {"catena": catena, "catena, Muon": catena, "plain loop": plain, "transformers Trainer": trainer}[name](
        PretrainParams(**RUN | {"optimizer": "muon" if "Muon" in name else "adamw"}), ModelParams(**SHAPE),
        runtime, home)
    tokens = STEPS * RUN["batch"] * RUN["sequence"]
    return {"tokens_per_second": tokens / seconds[0], "tokens_per_cpu_second": tokens / seconds[1]}


def clock() -> tuple[float, float]:
    """(wall, CPU) seconds of this process so far."""
    return time.perf_counter(), time.process_time()


def between(begun: tuple[float, float]) -> tuple[float, float]:
    """(wall, CPU) seconds since `begun`."""
    return tuple(now - then for now, then in zip(clock(), begun))


def numbers(batch: int, sequence: int):
    """int64 [steps, batch, sequence + 1]: the same made-up tokens for all; their content does not change the work."""
    import torch

    draw = torch.Generator().manual_seed(0)
    return torch.randint(VOCABULARY, (STEPS + WARM, batch, sequence + 1), generator=draw)


def catena(settings: PretrainParams, shape: ModelParams, runtime: params.Runtime, home: Path) -> tuple[float, float]:
    """The stage's own engine, optimizer, attention and step."""
    from torch import nn

    from tasks import memory
    from tasks.pretrain import model as models, optimizer

    memory.keep_freed()
    model = models.scratch(shape, VOCABULARY, 0).train()
    models.use_products(model)
    data = numbers(settings.batch, settings.sequence)
    with parallel.ranks(runtime):
        engine = parallel.engine(model, optimizer.MuonAdamW(optimizer.groups(model, settings), settings.momentum),
                                 parallel.config(settings.batch, 1, settings.clip, settings.precision, 0))
        for step, rows in enumerate(data):
            if step == WARM:
                begun = clock()
            for group in engine.optimizer.param_groups:
                group["lr"] = group["peak"]
            logits = engine(input_ids=rows[:, :-1], use_cache=False).logits
            engine.backward(nn.functional.cross_entropy(logits.flatten(0, 1).float(), rows[:, 1:].flatten()))
            engine.step()
        return between(begun)


def plain(settings: PretrainParams, shape: ModelParams, runtime: params.Runtime, home: Path) -> tuple[float, float]:
    """What one writes first: the stock model, autocast, torch's fused AdamW."""
    import torch
    from torch import nn

    from tasks.pretrain import model as models

    model = models.scratch(shape, VOCABULARY, 0).train()
    stepper = torch.optim.AdamW(model.parameters(), lr=settings.rate, fused=True)
    for step, rows in enumerate(numbers(settings.batch, settings.sequence)):
        if step == WARM:
            begun = clock()
        with torch.autocast("cpu", torch.bfloat16):
            logits = model(input_ids=rows[:, :-1], use_cache=False).logits
        nn.functional.cross_entropy(logits.flatten(0, 1).float(), rows[:, 1:].flatten()).backward()
        nn.utils.clip_grad_norm_(model.parameters(), settings.clip)
        stepper.step()
        stepper.zero_grad()
    return between(begun)


def trainer(settings: PretrainParams, shape: ModelParams, runtime: params.Runtime, home: Path) -> tuple[float, float]:
    """transformers' Trainer with its defaults but for the optimizer's rate, bf16 and the number of steps."""
    from transformers import Trainer, TrainerCallback, TrainingArguments

    from tasks.pretrain import model as models

    begun: list[tuple[float, float]] = []

    class Stopwatch(TrainerCallback):
        def on_step_begin(self, args, state, control, **_):
            if state.global_step == WARM:
                begun.append(clock())

    rows = numbers(settings.batch, settings.sequence)[:, :, :-1].flatten(0, 1)
    data = [{"input_ids": row, "labels": row} for row in rows]
    arguments = TrainingArguments(
        output_dir=str(home), per_device_train_batch_size=settings.batch, max_steps=STEPS + WARM, bf16=True,
        learning_rate=settings.rate, use_cpu=True, report_to=[], save_strategy="no", logging_strategy="no",
        disable_tqdm=True)
    Trainer(models.scratch(shape, VOCABULARY, 0), arguments, train_dataset=data, callbacks=[Stopwatch()]).train()
    return between(begun[0])


def main() -> None:
    """Run all contenders in turn, print the table, end with one JSON line."""
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 3
    found: dict[str, list[dict[str, float]]] = {name: [] for name in CONTENDERS}
    for _ in range(rounds):
        for name in CONTENDERS:
            with tempfile.TemporaryDirectory() as home:
                said = subprocess.run([sys.executable, "-m", "benchmarks.pretrain", "--one", name, home], check=True,
                                      text=True, stdout=subprocess.PIPE, env=os.environ).stdout
            found[name].append(json.loads(said.splitlines()[-1]))
    result = {"machine": platform.processor() or platform.machine(), "threads": params.runtime().threads,
              "rounds": rounds, "contenders": {}}
    print(f"{'':22}{'tokens/s':>10}{'tokens/CPU s':>14}{'to plain loop':>15}")
    for name, runs in found.items():
        row = {key: statistics.median(run[key] for run in runs) for key in runs[0]}
        row["ratio_to_plain_loop"] = statistics.median(
            run["tokens_per_second"] / other["tokens_per_second"] for run, other in zip(runs, found["plain loop"]))
        result["contenders"][name] = {key: round(value, 3) for key, value in row.items()}
        print(f"{name:22}{row['tokens_per_second']:10.0f}{row['tokens_per_cpu_second']:14.0f}"
              f"{row['ratio_to_plain_loop']:15.2f}")
    print(json.dumps(result, sort_keys=True))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--one"]:
        print(json.dumps(measure(sys.argv[2], Path(sys.argv[3]))))
    else:
        main()

"""Claim: training as the stage does it (tasks/pretrain) makes 1.3 times the tokens a second of a plain PyTorch loop and
of transformers' Trainer, on the same model, tokens, precision, threads and optimizer, or more.

    python -m benchmarks.pretrain [ROUNDS] [--steps N] [--threads N]
    python -m benchmarks.pretrain --quality SECONDS     held-out bits per byte at equal time (pretrain_quality.py)

Each round runs every contender in a process of its own, in turn, so that a busy machine hurts all alike. Shown are
medians over rounds; ratios are within a round, to the peer with the same optimizer, of tokens by the clock and by the
CPU second. The model and the batch are the default's (params.yaml). `catena` is the stage's engine, loss and
optimizers; `plain` is what one writes first (stock model, autocast, torch's fused AdamW, torch's Muon); `Trainer` has
its defaults. The GEMM ceiling is measured in catena's own process: bf16 and fp32 products of the model's shapes and of
a large square.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from tasks import params
from tasks.model import ModelParams
from tasks.pretrain import parallel, scaling
from tasks.pretrain.settings import PretrainParams

WARM, VOCABULARY = 3, 4096
CONTENDERS = [f"{name}, {optimizer}" for optimizer in ("adamw", "muon") for name in ("catena", "plain", "Trainer")]
LARGE = (2048, 2048, 2048)


def measure(name: str, steps: int, threads: int, home: Path) -> dict[str, float]:
    """Tokens a second and a CPU second of one contender, in this process, over `steps` steps after WARM."""
    runtime = params.runtime().model_copy(update={"threads": threads, "device": "cpu", "hostfile": None})
    parallel.environment(runtime)
    import torch

    torch.set_num_threads(threads)
    values, (who, optimizer) = params.load(), name.split(", ")
    shape = params.section(ModelParams, "model", values)
    settings = scaling.settle(params.section(PretrainParams, "tracks.scratch.pretrain", values), shape, VOCABULARY)
    settings = settings.model_copy(update={"optimizer": optimizer, "rate": 0.001, "zero_stage": 0})
    draw = torch.Generator().manual_seed(0)
    rows = torch.randint(VOCABULARY, (steps + WARM, settings.batch, settings.sequence + 1), generator=draw)
    run = {"catena": catena, "plain": plain, "Trainer": trainer}[who]
    found = run(settings, shape, runtime, rows, home)
    tokens = steps * settings.batch * settings.sequence
    return found | {"tokens_per_second": tokens / found.pop("wall"), "tokens_per_cpu_second": tokens / found.pop("cpu")}


def clock() -> tuple[float, float]:
    """(wall, CPU) seconds of this process so far."""
    return time.perf_counter(), time.process_time()


def since(begun: tuple[float, float]) -> dict[str, float]:
    """Wall and CPU seconds since `begun`."""
    return dict(zip(("wall", "cpu"), (now - then for now, then in zip(clock(), begun))))


def catena(settings: PretrainParams, shape: ModelParams, runtime: params.Runtime, data: Any, home: Path
           ) -> dict[str, float]:
    """The stage's own engine, optimizer, attention and loss; then the products' ceiling."""
    from tasks import memory
    from tasks.pretrain import fused, model as models, optimizer

    memory.keep_freed()
    model = models.scratch(shape, VOCABULARY, 0).train()
    models.use_products(model)
    fused.install(model)
    with parallel.ranks(runtime):
        engine = parallel.engine(model, optimizer.MuonAdamW(optimizer.groups(model, settings), settings.momentum),
                                 parallel.config(settings.batch, 1, settings.clip, settings.precision, 0))
        for step, rows in enumerate(data):
            if step == WARM:
                begun = clock()
            for group in engine.optimizer.param_groups:
                group["lr"] = group["peak"]
            engine.backward(fused.loss(engine, {"input_ids": rows[:, :-1]}, rows[:, 1:]))
            engine.step()
        found = since(begun)
    rows = settings.batch * settings.sequence
    found["flops_per_token"] = models.flops_per_token(model, settings.sequence)
    return found | ceiling([(rows, shape.hidden, 2 * shape.intermediate), (rows, shape.hidden, VOCABULARY)])


def ceiling(shapes: list[tuple[int, int, int]]) -> dict[str, float]:
    """FLOP a CPU second of products [m, k] @ [k, n], bf16 and fp32: the best of the model's own `shapes`, and LARGE."""
    import torch

    found = {}
    for dtype in (torch.bfloat16, torch.float32):
        for name, several in (("own", shapes), ("large", [LARGE])):
            best = 0.0
            for m, k, n in several:
                a, b = torch.randn(m, k).to(dtype), torch.randn(n, k).to(dtype).T
                a @ b
                times = max(1, int(2e10 / (2 * m * k * n)))
                for _ in range(3):
                    begun = time.process_time()
                    for _ in range(times):
                        a @ b
                    best = max(best, times * 2 * m * k * n / (time.process_time() - begun))
            found[f"ceiling_{str(dtype).split('.')[1]}_{name}"] = best
    return found


def steppers(model: Any, settings: PretrainParams) -> list[Any]:
    """torch's optimizers for `model`: fused AdamW, and its Muon for the matrices."""
    import torch

    from tasks.pretrain import optimizer

    if settings.optimizer == "adamw":
        return [torch.optim.AdamW(model.parameters(), lr=settings.rate, fused=True)]
    matrices, others = (group["params"] for group in optimizer.groups(model, settings))
    return [torch.optim.Muon(matrices, lr=settings.matrix_rate, momentum=settings.momentum, weight_decay=0.0),
            torch.optim.AdamW(others, lr=settings.rate, fused=True)]


def plain(settings: PretrainParams, shape: ModelParams, runtime: params.Runtime, data: Any, home: Path
          ) -> dict[str, float]:
    """What one writes first: the stock model, autocast, torch's optimizers."""
    import torch
    from torch import nn

    from tasks.pretrain import model as models

    model = models.scratch(shape, VOCABULARY, 0).train()
    several = steppers(model, settings)
    for step, rows in enumerate(data):
        if step == WARM:
            begun = clock()
        with torch.autocast("cpu", torch.bfloat16):
            logits = model(input_ids=rows[:, :-1], use_cache=False).logits
        nn.functional.cross_entropy(logits.flatten(0, 1).float(), rows[:, 1:].flatten()).backward()
        nn.utils.clip_grad_norm_(model.parameters(), settings.clip)
        for stepper in several:
            stepper.step()
            stepper.zero_grad()
    return since(begun)


def trainer(settings: PretrainParams, shape: ModelParams, runtime: params.Runtime, data: Any, home: Path
            ) -> dict[str, float]:
    """transformers' Trainer with its defaults but for the optimizer, bf16 and the number of steps."""
    import torch
    from transformers import Trainer, TrainerCallback, TrainingArguments

    from tasks.pretrain import model as models

    begun: list[tuple[float, float]] = []

    class Stopwatch(TrainerCallback):
        def on_step_begin(self, args, state, control, **_):
            if state.global_step == WARM:
                begun.append(clock())

    class Both(torch.optim.Optimizer):
        """Two optimizers as the one that Trainer takes."""

        def __init__(self, several: list[Any]):
            self.several = several
            super().__init__([group for one in several for group in one.param_groups], {})

        def step(self, closure: None = None) -> None:
            for one in self.several:
                one.step()

    model = models.scratch(shape, VOCABULARY, 0)
    given = {}
    if settings.optimizer == "muon":
        both = Both(steppers(model, settings))
        given["optimizers"] = (both, torch.optim.lr_scheduler.LambdaLR(both, lambda step: 1.0))
    rows = data[:, :, :-1].flatten(0, 1)
    arguments = TrainingArguments(
        output_dir=str(home), per_device_train_batch_size=settings.batch, max_steps=len(data), bf16=True,
        learning_rate=settings.rate, use_cpu=True, report_to=[], save_strategy="no", logging_strategy="no",
        disable_tqdm=True)
    Trainer(model, arguments, train_dataset=[{"input_ids": row, "labels": row} for row in rows],
            callbacks=[Stopwatch()], **given).train()
    return since(begun[0])


def main() -> None:
    """Run all contenders in turn, print the table, end with one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rounds", nargs="?", type=int, default=3)
    parser.add_argument("--steps", type=int, default=30, help="timed, of each contender")
    parser.add_argument("--threads", type=int, default=params.runtime().threads)
    parser.add_argument("--quality", type=float, metavar="SECONDS", help="of wall clock for each way of training")
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        print(json.dumps(measure(given.one[0], given.steps, given.threads, Path(given.one[1]))))
    elif given.quality:
        from benchmarks import pretrain_quality

        pretrain_quality.compare(given.quality)
    else:
        compare(given.rounds, given.steps, given.threads)


def compare(rounds: int, steps: int, threads: int) -> None:
    """The table, and its JSON."""
    found: dict[str, list[dict[str, float]]] = {name: [] for name in CONTENDERS}
    for number in range(rounds):
        for name in CONTENDERS:
            print(f"round {number + 1}/{rounds}: {name}", file=sys.stderr, flush=True)
            with tempfile.TemporaryDirectory() as home:
                said = subprocess.run(
                    [sys.executable, "-m", "benchmarks.pretrain", "--one", name, home, "--steps", str(steps),
                     "--threads", str(threads)], check=True, text=True, stdout=subprocess.PIPE, env=os.environ).stdout
            found[name].append(json.loads(said.splitlines()[-1]))
    result: dict[str, Any] = {"machine": platform.processor() or platform.machine(), "threads": threads,
                              "rounds": rounds, "steps": steps, "contenders": {}}
    print(f"{'':18}{'tokens/s':>10}{'catena is':>11}{'from':>7}{'to':>6}{'tokens/CPU s':>14}{'catena is':>11}"
          f"{'from':>7}{'to':>6}")
    for name, runs in found.items():
        ours, line = found[f"catena, {name.split(', ')[1]}"], f"{name:18}"
        result["contenders"][name] = row = {}
        for key, width in (("tokens_per_second", 10), ("tokens_per_cpu_second", 14)):
            middle = statistics.median(run[key] for run in runs)
            ratios = sorted(one[key] / other[key] for one, other in zip(ours, runs))
            row[key] = round(middle, 1)
            row[f"{key}_ratio"] = [round(one, 3) for one in (statistics.median(ratios), ratios[0], ratios[-1])]
            line += f"{middle:{width}.0f}{statistics.median(ratios):11.2f}{ratios[0]:7.2f}{ratios[-1]:6.2f}"
        print(line)
    for optimizer in ("adamw", "muon"):
        runs = found[f"catena, {optimizer}"]
        for key in (key for key in runs[0] if key.startswith("ceiling")):
            reached = statistics.median(
                run["tokens_per_cpu_second"] * run["flops_per_token"] / run[key] for run in runs)
            rate = statistics.median(run[key] for run in runs) / 1e9
            result[f"{optimizer}_of_{key}"] = round(reached, 3)
            if optimizer == "adamw":
                result[key] = round(rate, 1)
            print(f"{optimizer}: {reached:.1%} of {key} ({rate:.0f} GFLOP a CPU second)")
    print(json.dumps(result, sort_keys=True))


if __name__ == "__main__":
    main()

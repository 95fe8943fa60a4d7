"""Claim: one rank and two have the same loss curve, and a run that one began two go on with, and the other way round.

    python -m benchmarks.ranks

A small model on the text of Python's library, 60 steps, by DeepSpeed's launcher on this machine with one slot and with
two, as fp32 and bf16, at each ZeRO stage; then from the 1-rank run's checkpoint at step 30 on two ranks (1to2), and
back (2to1), and on two ranks that share each sequence (2shared). The table has the largest difference of the training
loss (nats a token, means over 6 steps) from the one rank's curve. Tolerance: 0.002 nats in fp32 (0.001 was the first
guess: Muon, which orthogonalizes in bf16, has 0.0014), 0.03 in bf16, where every sum is rounded to 8 bits. The last
line is one JSON document. Exit code 1 where a curve is further off.
"""

from __future__ import annotations

import argparse
import csv
import json
import shutil
import sys
import sysconfig
import tempfile
from pathlib import Path
from typing import Any

from tasks import params, stage
from tasks.model import ModelParams
from tasks.pretrain import parallel
from tasks.pretrain.settings import PretrainParams, Watch
from tasks.tokenizer import pack
from tasks.tokenizer.train import TokenizerParams, learn

ROOT = Path(__file__).resolve().parents[1]
TOLERANCE = {"fp32": 0.002, "bf16": 0.03}
CASES = [  # precision, ZeRO stage, optimizer
    ("fp32", 0, "muon"), ("fp32", 0, "adamw"), ("fp32", 1, "adamw"), ("fp32", 2, "adamw"), ("fp32", 3, "adamw"),
    ("bf16", 0, "muon"), ("bf16", 1, "adamw")]
MOVED = [("fp32", 0, "muon"), ("fp32", 1, "adamw"), ("fp32", 2, "adamw")]
STEPS, HALF, SEQUENCE, BATCH = 60, 30, 64, 4
SHAPE = ModelParams(base=None, hidden=64, intermediate=128, layers=2, heads=2, kv_heads=1, head_dim=32, positions=64,
                    rope_theta=10000.0)


def corpus(home: Path) -> None:
    """Tokenizer and packed text in `home`, by the chain's own functions."""
    library = Path(sysconfig.get_paths()["stdlib"])
    texts = [path.read_text(encoding="utf-8", errors="replace")[:20_000] for path in sorted(library.glob("[a-h]*.py"))]
    learn(texts, TokenizerParams(vocab=512, min_frequency=2, sample_characters=300_000), 64).save_pretrained(
        home / "tokenizer")
    (home / "corpus").mkdir()
    held_out = [text[:4000] for text in texts[-2:]]
    for path, part in ((home / "corpus/0.jsonl", texts[:-2]), (home / "held_out.jsonl", held_out)):
        path.write_text("".join(json.dumps({"text": text, "id": f"{i:03d}", "metadata": {}}) + "\n"
                                for i, text in enumerate(part)), encoding="utf-8")
    pack.pack(home / "corpus", home / "held_out.jsonl", home / "tokenizer", home / "packed", home / "pack.json",
              pack=pack.PackParams(batch_documents=64), seed=1)


def job(home: Path, name: str, precision: str, zero: int, optimizer: str, runtime: params.Runtime,
        split: int = 1) -> dict[str, Any]:
    """A run of loop.Job's fields, kept under `name`; `split` ranks share a sequence."""
    run = PretrainParams(
        tokens=STEPS * SEQUENCE * BATCH, sequence=SEQUENCE, batch=BATCH, optimizer=optimizer, matrix_rate=0.02,
        rate=0.005, momentum=0.95, weight_decay=0.0, clip=1.0, warmup=0.1, decay=0.5, precision=precision,
        zero_stage=zero, sequence_parallel=split, score_steps=6, score_tokens=2048, checkpoint_steps=HALF, must_beat=[],
        watch=Watch(spike=50.0, rollbacks=0))
    mine = home / name
    paths = {"packed": home / "packed", "tokenizer": home / "tokenizer", "directory": mine / "model",
             "curve": mine / "curve.csv", "result": mine / "result.json", "resume": mine / "resume"}
    mine.mkdir(exist_ok=True)
    return {"name": name, "pretrain": run.model_dump(), "model": SHAPE.model_dump(), "seed": 1,
            "runtime": runtime.model_dump()} | {key: str(path) for key, path in paths.items()}


def work(file: Path) -> None:
    """As a rank: all jobs of `file`, one after another."""
    jobs = json.loads(file.read_text(encoding="utf-8"))
    runtime = params.Runtime(**jobs[0]["runtime"])
    stage.die_with_parent()
    parallel.environment(runtime)
    from tasks.pretrain import loop

    with parallel.ranks(runtime) as (rank, world):
        for one in jobs:
            this = loop.Run(loop.Job(**one), rank, world)
            this.export(this.train())


def launched(home: Path, slots: int, jobs: list[dict[str, Any]]) -> None:
    """All `jobs` on so many ranks here."""
    (home / "hosts").write_text(f"localhost slots={slots}\n", encoding="utf-8")
    (home / "jobs.json").write_text(json.dumps(jobs), encoding="utf-8")
    parallel.launch(str(home / "hosts"), home / "jobs.json", "benchmarks.ranks")


def curve(home: Path, name: str) -> list[float]:
    """The training losses of a run's points."""
    with (home / name / "curve.csv").open(encoding="utf-8") as file:
        return [float(row["train_loss"]) for row in csv.DictReader(file)]


def halved(home: Path, name: str, source: str) -> None:
    """Give run `name` the checkpoint of `source` at HALF, and no later one."""
    (home / name).mkdir()
    shutil.copytree(home / source / "resume", home / name / "resume")
    stage.remove(home / name / f"resume/step-{STEPS:09d}")
    assert [path.name for path in (home / name / "resume").glob("step-*")] == [f"step-{HALF:09d}"]


def main() -> int:
    """The runs, the table and the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("jobs", nargs="?", type=Path, help=argparse.SUPPRESS)  # given by the launcher
    given = parser.parse_args()
    if given.jobs:
        work(given.jobs)
        return 0
    runtime = params.section(params.Runtime, "runtime", params.load(ROOT / "params.yaml"))
    runtime = runtime.model_copy(update={"threads": 1, "device": "cpu", "alert": None})
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(prefix="ranks-") as top:
        home = Path(top)
        corpus(home)
        for slots in (1, 2):
            launched(home, slots, [job(home, f"{slots}-{'-'.join(map(str, case))}", *case, runtime) for case in CASES])
        for first, then in ((1, 2), (2, 1)):
            for case in MOVED:
                end = "-".join(map(str, case))
                halved(home, f"{first}to{then}-{end}", f"{first}-{end}")
            launched(home, then, [job(home, f"{first}to{then}-{'-'.join(map(str, case))}", *case, runtime)
                                  for case in MOVED])
        case = MOVED[0]
        launched(home, 2, [job(home, f"2shared-{'-'.join(map(str, case))}", *case, runtime, split=2)])
        print(f"{'precision':<10}{'ZeRO':>5}{'optimizer':>11}{'ranks':>8}{'largest loss difference':>25}"
              f"{'final loss':>14}")
        ways = [(case, way) for case in CASES for way in (
            "1", "2", *(("1to2", "2to1") if case in MOVED else ()), *(["2shared"] if case == MOVED[0] else []))]
        for case, way in ways:
            end = "-".join(map(str, case))
            plain, mine = curve(home, f"1-{end}"), curve(home, f"{way}-{end}")
            apart = max(abs(a - b) for a, b in zip(plain, mine, strict=True))
            rows.append({"precision": case[0], "zero": case[1], "optimizer": case[2], "ranks": way,
                         "loss_difference": round(apart, 6), "final_loss": mine[-1]})
            print(f"{case[0]:<10}{case[1]:>5}{case[2]:>11}{way:>8}{apart:>25.6f}{mine[-1]:>14.4f}")
    bad = [row for row in rows if row["loss_difference"] > TOLERANCE[row["precision"]]]
    print(json.dumps({"benchmark": "ranks", "tolerance": TOLERANCE, "rows": rows, "beyond": len(bad)}))
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())

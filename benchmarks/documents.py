"""Question: does attention that stays inside the document pay in held-out bits per byte, at the same tokens and seeds?

    python -m benchmarks.documents [SEEDS] [--tokens 300000]

After the default's data stages: trains the default shape on data/packed with `within_documents` off and on, each run in
a process of its own, one thread each, in turn. Shown are bits per byte and CPU seconds of each run, and the mean
difference of the pairs; below zero, keeping documents apart wins.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from tasks import params
from tasks.model import ModelParams
from tasks.pretrain.settings import PretrainParams


def measure(within: bool, seed: int, tokens: int, out: Path) -> dict[str, float]:
    """Held-out bits per byte and CPU seconds of one run, in this process."""
    from tasks.pretrain import parallel

    values = params.load()
    runtime = params.runtime().model_copy(update={"threads": 1, "hostfile": None})
    parallel.environment(runtime)
    import numpy
    from tasks.pretrain import loop, scaling, scoring
    from tasks.tokenizer import shards

    packed, model = Path("data/packed"), params.section(ModelParams, "model", values)
    pretrain = scaling.settle(params.section(PretrainParams, "tracks.scratch.pretrain", values), model,
                              shards.meta(packed)["vocabulary"]).model_copy(update={
        "tokens": tokens, "within_documents": within, "score_steps": 10**6, "checkpoint_steps": 10**6})
    loop.run(loop.Job(packed=packed, tokenizer=Path("models/tokenizer"), directory=out / "base", curve=out / "x.csv",
                      result=out / "result.json", resume=out / "resume", name=f"within {within}", pretrain=pretrain,
                      model=model, seed=seed, runtime=runtime))
    told = json.loads((out / "result.json").read_text(encoding="utf-8"))
    bits, _ = scoring.bits_per_byte(numpy.array(told["nats"]), shards.open_stream(packed, "held_out").index[:, 1])
    return {"bits_per_byte": bits, "cpu_seconds": told["timing"]["cpu_seconds"]}


def main() -> None:
    """Train every pair, print the table and the JSON line; with --one, one run of it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("seeds", nargs="?", type=int, default=2)
    parser.add_argument("--tokens", type=int, default=300_000, help="of each run")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        with tempfile.TemporaryDirectory() as out:
            print(json.dumps(measure(given.one == "on", given.seeds, given.tokens, Path(out))))
        return
    if not Path("data/packed/meta.json").is_file():
        sys.exit("error: data/packed is not there: run the data stages first (dvc repro pack)")
    rows = []
    print(f"{'seed':>4}{'within':>8}{'bits per byte':>15}{'CPU s':>8}")
    for seed in range(1, given.seeds + 1):
        for one in ("off", "on"):
            done = subprocess.run([sys.executable, "-m", "benchmarks.documents", str(seed), "--tokens",
                                   str(given.tokens), "--one", one], stdout=subprocess.PIPE, text=True)
            if done.returncode:
                sys.exit(f"error: the run of seed {seed}, within_documents {one}, failed")
            found = json.loads(done.stdout.strip().splitlines()[-1])
            rows.append({"seed": seed, "within_documents": one == "on"} | found)
            print(f"{seed:>4}{one:>8}{found['bits_per_byte']:>15.4f}{found['cpu_seconds']:>8.1f}", flush=True)
    pairs = [on["bits_per_byte"] - off["bits_per_byte"] for off, on in zip(rows[::2], rows[1::2])]
    print(json.dumps({"tokens": given.tokens, "runs": rows, "mean_difference": statistics.fmean(pairs)}))


if __name__ == "__main__":
    main()

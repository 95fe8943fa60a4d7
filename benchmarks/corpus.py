"""Claim: the tiny model learns more from what the data stages leave than from what they were given, at equal tokens.

    python -m benchmarks.corpus [SEEDS]

The pool is the default corpora and two older snapshots of the largest one, fetched by sha256. Four corpora come of it:
`raw`, the whole text of every page; `filtered`, main content that passed language and quality rules; `deduplicated`;
`selected`, after safety and value too. All lose what evaluation holds (tasks/data/decontaminate.py), share a tokenizer
and are read for the same number of tokens by the same model; the score is held-out bits per byte over documents that
no arm trains on. Last stdout line: one JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import yaml
from datatrove.data import Document

ROOT = Path(__file__).resolve().parents[1]
OLDER = [("2.0.46", "sqlalchemy-2.0.46", "cf36851ee7219c170bb0793dbc3da3e80c582e04a5437bc601bfe8c85c9216d7", "20"),
         ("1.4.54", "sqlalchemy-1.4.54", "4470fbed088c35dc20b78a39aaf4ae54fe81790c783b3264872a0224f437c31a", "14")]
ARMS = {"raw": "raw", "filtered": "filtered", "deduplicated": "deduped", "selected": "valued"}
TOKENS, SHAPE = 400_000, {"hidden": 128, "intermediate": 384, "layers": 4, "heads": 2, "kv_heads": 1}


def settings(place: Path) -> dict[str, Any]:
    """The default params with the larger pool and the smaller model; written to place/params.yaml."""
    values = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    newest = next(entry for entry in values["sources"]["corpora"] if entry["name"] == "sqlalchemy")
    for version, stem, sha256, series in OLDER:
        values["sources"]["corpora"].append(newest | {
            "name": f"sqlalchemy{series}", "version": version, "file": f"{stem}.tar.gz", "sha256": sha256,
            "root": f"{stem}/doc/", "url": f"https://docs.sqlalchemy.org/en/{series}/"})
    values["decontaminate"] |= {"max_fraction": 1.0}
    values["model"] |= SHAPE
    values["tracks"]["scratch"]["pretrain"] |= {"tokens": TOKENS, "score_steps": 10_000, "checkpoint_steps": 10_000}
    (place / "params.yaml").write_text(yaml.safe_dump(values, allow_unicode=True), encoding="utf-8")
    return values


def stage(place: Path, module: str, *arguments: str) -> None:
    """One of the chain's stages in `place`; its error ends the run."""
    print(f"{module} {' '.join(arguments)}", file=sys.stderr, flush=True)
    done = subprocess.run([sys.executable, "-m", module, *arguments], cwd=place,
                          env=os.environ | {"PYTHONPATH": str(ROOT)}, stdout=subprocess.DEVNULL)
    if done.returncode:
        sys.exit(f"error: {module} failed")


def pool(place: Path) -> None:
    """Every stage from the sources to data/valued, the evaluation sets and the tokenizer."""
    def run(name: str, *paths: str) -> None:
        below = (path if path.startswith("models") else f"data/{path}" for path in paths)
        stage(place, f"tasks.data.{name}", *below, f"metrics/{name}.json")
    run("sources", "sources", "packages")
    run("crawl", "sources", "crawl")
    run("extract", "crawl", "sources", "extracted", "rejected/extract")
    run("filter", "extracted", "packages/lid", "filtered", "rejected/filter")
    run("dedup", "filtered", "deduped", "rejected/dedup")
    run("classifiers", "packages", "deduped", "models/classifiers")
    run("safety", "deduped", "models/classifiers", "safe", "rejected/safety")
    run("value", "safe", "models/classifiers", "valued", "rejected/value")
    run("evalsets", "valued", "evalsets")


def raw(place: Path) -> None:
    """data/raw: the whole text of every page that extraction read, under the ids that extraction gave."""
    from resiliparse.extract.html2text import extract_plain_text

    from tasks.data import documents
    from tasks.data.extract import inputs
    from tasks.data.pages import HTML, ReadPages, decode

    files = inputs(place / "data/crawl", place / "data/sources")
    reader = ReadPages(files, json.loads((place / "data/crawl/origins.json").read_text()), 1 << 24)
    for rank in range(len(files)):
        found = []
        for document in reader.run(rank=rank, world_size=len(files)):
            payload, text = document.metadata.pop("payload", None), document.text
            if payload and payload.kind in HTML:
                text = extract_plain_text(decode(payload.body, payload.charset), main_content=False)
            if text:
                found.append(Document(text=text, id=document.id, metadata=document.metadata))
        documents.write(place / f"data/raw/{rank:05d}.jsonl", found)


def train(place: Path, arm: str, seed: int) -> dict[str, float]:
    """Held-out bits per byte of the model trained on packed/<arm>, with its standard error over documents."""
    program = f"""
import json, numpy as np
from pathlib import Path
from tasks import params
from tasks.model import ModelParams
from tasks.pretrain import parallel
from tasks.pretrain.settings import PretrainParams
values, runtime = params.load(), params.runtime()
parallel.environment(runtime)
from tasks.pretrain import loop, scaling, scoring
from tasks.tokenizer import shards
model = params.section(ModelParams, "model", values)
packed, out = Path("packed/{arm}"), Path("runs/{arm}-{seed}")
out.mkdir(parents=True)
loop.run(loop.Job(packed=packed, tokenizer=Path("models/tokenizer"), directory=out / "base", curve=out / "curve.csv",
    result=out / "result.json", resume=out / "resume", name="{arm}", model=model,
    pretrain=scaling.settle(params.section(PretrainParams, "tracks.scratch.pretrain", values), model,
                            shards.meta(packed)["vocabulary"]), seed={seed}, runtime=runtime))
nats = np.array(json.loads((out / "result.json").read_text())["nats"])
bpb, error = scoring.bits_per_byte(nats, shards.open_stream(packed, "held_out").index[:, 1])
print(json.dumps({{"bpb": bpb, "stderr": error}}))
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=place, stdout=subprocess.PIPE, text=True,
                          env=os.environ | {"PYTHONPATH": str(ROOT)})
    if done.returncode:
        sys.exit(f"error: training on {arm} failed")
    return json.loads(done.stdout.strip().splitlines()[-1])


def main() -> None:
    """Make the pool, train every arm with every seed, print the table and the JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("seeds", nargs="?", type=int, default=2)
    seeds = range(parser.parse_args().seeds)
    with tempfile.TemporaryDirectory() as temporary:
        place = Path(temporary)
        settings(place)
        pool(place)
        raw(place)
        for arm, folder in ARMS.items():
            stage(place, "tasks.data.decontaminate", f"data/{folder}", "data/evalsets", f"clean/{arm}", f"cut/{arm}",
                  f"metrics/{arm}.json")
        stage(place, "tasks.tokenizer.train", "clean/selected", "models/tokenizer", "metrics/tokenizer.json")
        rows: dict[str, Any] = {}
        for arm in ARMS:
            stage(place, "tasks.tokenizer.pack", f"clean/{arm}", "data/evalsets/held_out.jsonl", "models/tokenizer",
                  f"packed/{arm}", f"metrics/pack-{arm}.json")
            kept = json.loads((place / f"metrics/{arm}.json").read_text())
            rows[arm] = {"documents": kept["kept"], "characters": kept["characters_out"], "bpb": []}
        for seed in seeds:
            for arm in ARMS:
                scored = train(place, arm, seed)
                rows[arm]["bpb"].append(round(scored["bpb"], 4))
                rows[arm]["stderr"] = round(scored["stderr"], 4)
    report(rows)


def report(rows: dict[str, Any]) -> None:
    """Print the table and the JSON line."""
    print(f"{TOKENS} tokens each, {SHAPE['hidden']} x {SHAPE['layers']}, held-out bits per byte by seed")
    print(f"{'corpus':14} {'documents':>9} {'characters':>12} {'mean':>7}  by seed; standard error over documents")
    for arm, row in rows.items():
        print(f"{arm:14} {row['documents']:9} {row['characters']:12} {statistics.mean(row['bpb']):7.3f}  "
              f"{' '.join(map(str, row['bpb']))}; {row['stderr']}")
    print(json.dumps({"tokens": TOKENS, "shape": SHAPE, "arms": rows}))


if __name__ == "__main__":
    main()

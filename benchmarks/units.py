"""Claim: each data stage costs a fixed part and a part in proportion to its input, so 1x and 3x the input foretell 10x.

    python -m benchmarks.units [--warcs data/crawl] [--timing .runtime/timing] [--out benchmarks/units.json]

The pages of benchmarks/data.py's growth (half of the default crawl's files, copies made unlike), each stage a process
of its own on two workers. What counts is CPU time, which other work on the machine hardly moves; seconds of the clock
stand beside it. `timing` adds the seconds of the last whole run's stages, as its flow kept them. The last line is one JSON
document, and `--out` the file that `./run simulate` reads its measured figures from.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import yaml

from benchmarks import data

ROOT = Path(__file__).resolve().parents[1]
OUT = ROOT / "benchmarks" / "units.json"
GROWTH = (1, 3, 10)
HASHED = 1 << 28  # bytes


def programs(place: Path) -> dict[str, tuple[str, list[str]]]:
    """stage -> (module, arguments), in the chain's order; what is not made from the pages is this checkout's."""
    made = {name: (f"tasks.data.{name}", arguments) for name, arguments in data.stages(place).items()}
    return made | {
        "value": ("tasks.data.value", ["safe", str(ROOT / "models/classifiers"), "valued", "rejected/value"]),
        "evalsets": ("tasks.data.evalsets", ["valued", "evalsets"]),
        "decontaminate": ("tasks.data.decontaminate", ["valued", "evalsets", "clean", "rejected/decontaminate"]),
        "mixture": ("tasks.data.mixture", ["clean", "corpus"]),
        "tokenizer": ("tasks.tokenizer.train", ["corpus", "tokenizer"]),
        "pack": ("tasks.tokenizer.pack", ["corpus", "evalsets/held_out.jsonl", "tokenizer", "packed"]),
    }


OUTPUT = {"extract": "extracted", "filter": "filtered", "dedup": "deduped", "safety": "safe", "value": "valued",
          "evalsets": "evalsets", "decontaminate": "clean", "mixture": "corpus", "tokenizer": "tokenizer",
          "pack": "packed"}


def size(folder: Path) -> int:
    """Bytes of all files below `folder`."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def grown(warcs: Path, times: int, place: Path) -> dict[str, Any]:
    """What each stage took of `times` the pages, in `place`: measures, bytes written, dedup's one-process part."""
    place.mkdir(parents=True)
    (place / "sources").mkdir()
    data.grown(warcs, times, place / "crawl")
    values = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    values["runtime"]["workers"] = data.WORKERS
    values["value"]["enrich"]["seeds"] = {"en": values["value"]["enrich"]["seeds"]["en"]}  # these pages are English
    values["evalsets"]["split"]["fraction"] = 0.2  # the smallest input must still fill every set
    values["decontaminate"]["max_fraction"] = 1.0  # copies of the held-out pages: nothing to judge here
    (place / "params.yaml").write_text(yaml.safe_dump(values, allow_unicode=True))
    found: dict[str, Any] = {"stages": {}}
    for name, (module, arguments) in programs(place).items():
        row = data.measured([sys.executable, "-m", module, *arguments, f"metrics/{name}.json"], place)
        timing = place / f".runtime/timing/{name}.json"
        if name == "dedup":
            row["one_process_seconds"] = json.loads(timing.read_text())["global_seconds"]
        found["stages"][name] = row | {"bytes_out": size(place / OUTPUT[name])}
    table = json.loads((place / "metrics/extract.json").read_text())
    deduped = json.loads((place / "metrics/dedup.json").read_text())
    return found | {"pages": table["read"], "megabytes": round(table["characters_in"] / 1e6, 3),
                    "crawl_bytes": size(place / "crawl"), "documents_deduped": deduped["read"],
                    "tokens": json.loads((place / "metrics/pack.json").read_text())["train"]["tokens"]}


def crawled(place: Path) -> dict[str, float]:
    """What the crawl of the sites kept here takes, serving them included."""
    place.mkdir(parents=True)
    (place / "params.yaml").write_text((ROOT / "params.yaml").read_text(encoding="utf-8"))
    row = data.measured([sys.executable, "-m", "tasks.data.crawl", str(ROOT / "data/sources"), "crawl", "crawl.json"],
                        place)
    pages = sum(site["pages"] for site in json.loads((place / "crawl.json").read_text()).values())
    return row | {"pages": pages}


def hashing() -> float:
    """Bytes a CPU second of MD5, what DVC names every file by."""
    block, begun = bytes(1 << 20), time.process_time()
    state = hashlib.md5(usedforsecurity=False)
    for _ in range(HASHED >> 20):
        state.update(block)
    return HASHED / (time.process_time() - begun)


def last_run(timing: Path) -> dict[str, Any]:
    """Of the last whole run: seconds of each stage as flows/chain.py kept them, megabytes of text extracted, FLOPs and
    seconds of pretraining, weights of each track. Ends where no run was here."""
    try:
        read = {path.stem: json.loads(path.read_text()) for path in
                [*sorted(timing.glob("*.json")), ROOT / "metrics/pretrain/scratch.json"]}
        extracted = json.loads((ROOT / "metrics/extract.json").read_text())["characters_out"]
        packaged = json.loads((ROOT / "metrics/evaluate/smollm2-chat.json").read_text())
        return {"extracted_megabytes": round(extracted / 1e6, 3),
                "last_run": {name.removeprefix("stage-"): found["seconds"] for name, found in read.items()
                             if name.startswith("stage-")},
                "training": {"flops": read["scratch"]["flops"], "seconds": read["pretrain-scratch"]["wall_seconds"]},
                "parameters": {"scratch": read["scratch"]["parameters"], "smollm2": packaged["parameters"]}}
    except (OSError, KeyError) as error:
        sys.exit(f"error: {timing} and metrics/ hold no whole run ({error}): ./run first, or give another --timing")


def main() -> None:
    """Measure, print the table, write `--out`, end with one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--warcs", type=Path, default=ROOT / "data/crawl", help="folder of WARC files")
    parser.add_argument("--timing", type=Path, default=ROOT / ".runtime/timing", help="timing of a whole run")
    parser.add_argument("--out", type=Path, default=OUT, help="file of figures to write")
    given = parser.parse_args()
    if not list(given.warcs.glob("*.warc.gz")):
        parser.error(f"{given.warcs} holds no .warc.gz: run the crawl (dvc repro crawl), or give another --warcs")
    whole = last_run(given.timing)
    with tempfile.TemporaryDirectory() as temporary:
        growth = {}
        for times in GROWTH:
            growth[str(times)] = grown(given.warcs, times, Path(temporary) / str(times))
            print(f"{times}x: {growth[str(times)]['pages']} pages", file=sys.stderr)
        crawl = crawled(Path(temporary) / "crawl")
    result = {"machine": f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores", "growth": growth,
              "crawl": crawl, "md5_bytes_per_cpu_second": round(hashing())} | whole
    print(f"{'stage':14}" + "".join(f"{f'{times}x, CPU s':>12}" for times in GROWTH) + f"{'10x MiB':>10}")
    for name in OUTPUT:
        rows = [growth[str(times)]["stages"][name] for times in GROWTH]
        print(f"{name:14}" + "".join(f"{row['cpu_seconds']:12.2f}" for row in rows) + f"{rows[-1]['peak_mib']:10.1f}")
    given.out.write_text(json.dumps(result, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    print(json.dumps(result, sort_keys=True))


if __name__ == "__main__":
    main()

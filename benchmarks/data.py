"""Claim: from the same WARC files to deduplicated, masked documents the chain is at least five times as fast as
datatrove's own blocks with trafilatura, on two cores, with most decisions alike, and its cost grows linearly.

    python -m benchmarks.data --peer PYTHON [--juicer PYTHON] [--warcs data/crawl] [ROUNDS]

PYTHON is the interpreter of an environment that has the peer: `pip install "datatrove[io,processing]" aiohttp
fasttext-numpy2-wheel`, `pip install py-data-juicer ray aiohttp`. Each round runs every contender in turn, each stage a
process of its own; ours are timed with Python's start and imports, the peer's steps without. Shown are medians over
rounds; ratios are within a round. data-juicer has no crawl reader: it gets the documents that we extracted, and is held
against our stages behind extraction. Growth: the pages of the smaller half of the files, the long words of each copy
exchanged among themselves, so that copies are as much work as new pages and no duplicates.
"""

from __future__ import annotations

import argparse
import collections
import json
import os
import platform
import random
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import yaml
from fastwarc.warc import ArchiveIterator, WarcRecordType

from tasks.data import warc

ROOT = Path(__file__).resolve().parents[1]
WORKERS = 2
GROWTH = (1, 3, 10)
# The peer's words count punctuation, its lines are trafilatura's: with our numbers it would drop pages that ours keep.
# These values make it keep what ours keep (the table shows how far), so that its later steps have the same work.
SAME_DECISIONS = {"min_alphabetic": 0.45, "min_punctuated_lines": 0.04, "max_mean_word": 14.0, "max_newlines": 1.0}
HEADERS = [("Content-Type", "text/html; charset=utf-8")]
LONG_WORD, TEXT = re.compile(r"\b[a-z]{6,}\b"), re.compile(r">[^<]+")


def stages(place: Path) -> dict[str, list[str]]:
    """name -> arguments of the chain's own stages, from place/crawl to place/safe."""
    return {
        "extract": ["crawl", "sources", "extracted", "rejected/extract"],
        "filter": ["extracted", str(ROOT / "data/packages/lid"), "filtered", "rejected/filter"],
        "dedup": ["filtered", "deduped", "rejected/dedup"],
        "safety": ["deduped", str(ROOT / "models/classifiers"), "safe", "rejected/safety"],
    }


def measured(command: list[str], place: Path) -> dict[str, float]:
    """Seconds of the clock and of all its processes' CPU, and the largest one's MiB; ends the run where it fails."""
    begun = time.perf_counter()
    child = subprocess.Popen(command, cwd=place, env=os.environ | {"PYTHONPATH": str(ROOT)},
                             stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    told = child.stderr.read()
    _, status, usage = os.wait4(child.pid, 0)
    if status:
        sys.exit(f"error: {' '.join(command[1:4])} failed: {told[-600:]}")
    return {"seconds": round(time.perf_counter() - begun, 2), "cpu_seconds": round(usage.ru_utime + usage.ru_stime, 2),
            "peak_mib": round(usage.ru_maxrss / 1024, 1)}


def ours(warcs: Path, place: Path) -> dict[str, Any]:
    """Wall seconds and peak MiB of each stage, documents and URLs kept, input MB, in an empty working directory."""
    place.mkdir(parents=True)
    (place / "sources").mkdir()
    (place / "crawl").symlink_to(warcs.resolve())
    values = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    values["runtime"]["workers"] = WORKERS
    (place / "params.yaml").write_text(yaml.safe_dump(values, allow_unicode=True))
    found: dict[str, Any] = {"seconds": {}, "peak": {}}
    for name, arguments in stages(place).items():
        took = measured([sys.executable, "-m", f"tasks.data.{name}", *arguments, f"metrics/{name}.json"], place)
        found["seconds"][name], found["peak"][name] = took["seconds"], took["peak_mib"]
    table = json.loads((place / "metrics/extract.json").read_text())
    found["documents"], found["megabytes"] = table["read"], table["characters_in"] / 1e6
    found["kept"] = [json.loads(line)["metadata"]["url"] for shard in sorted((place / "safe").glob("*.jsonl"))
                     for line in shard.open(encoding="utf-8")]
    return found


def stock(python: str, warcs: Path, place: Path) -> dict[str, Any]:
    """Wall seconds of each step of the stock pipeline, and the URLs that it kept."""
    values = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    rules = values["filter"]["languages"]["en"] | SAME_DECISIONS
    told = {"workers": WORKERS, "lid": str(ROOT / "data/packages/lid/lid.176.ftz"), "rules": rules,
            "min_language_score": values["filter"]["min_language_score"],
            "characters": values["extract"]["characters"]}
    place.mkdir(parents=True)
    (place / "told.json").write_text(json.dumps(told))
    return json.loads(peer([python, str(ROOT / "benchmarks/data_stock.py"), str(warcs.resolve()), str(place / "out"),
                            str(place / "told.json")], place)[-1])


JUICER = """
import pathlib, sys, time
from data_juicer.config import init_configs
from data_juicer.core.executor import DefaultExecutor
settings = init_configs(["--config", sys.argv[1], "--dataset_path", sys.argv[2], "--export_path", sys.argv[3]])
begun = time.perf_counter()
DefaultExecutor(settings).run()
pathlib.Path(sys.argv[4]).write_text(str(time.perf_counter() - begun))
"""


def juicer(python: str, extracted: Path, place: Path) -> float:
    """Wall seconds of data-juicer over the documents of `extracted`."""
    place.mkdir(parents=True)
    with (place / "in.jsonl").open("w", encoding="utf-8") as out:
        for shard in sorted(extracted.glob("*.jsonl")):
            out.write(shard.read_text(encoding="utf-8"))
    peer([python, "-c", JUICER, str(ROOT / "benchmarks/data_juicer.yaml"), str(place / "in.jsonl"),
          str(place / "out.jsonl"), str(place / "seconds")], place)
    return float((place / "seconds").read_text())


def peer(command: list[str], place: Path) -> list[str]:
    """The lines a peer printed; the run ends where it failed."""
    done = subprocess.run(command, cwd=place, capture_output=True, text=True, env=os.environ | {"HF_HUB_OFFLINE": "1"})
    if done.returncode:
        sys.exit(f"error: the peer {command[0]} failed: {done.stderr.strip()[-600:]}")
    return done.stdout.strip().splitlines()


def grown(warcs: Path, times: int, folder: Path) -> Path:
    """`folder`, filled with `times` copies of the smaller half of the files, long words exchanged among themselves."""
    folder.mkdir(parents=True)
    shutil.copy(warcs / "origins.json", folder)
    files = sorted(warcs.glob("*.warc.gz"), key=lambda path: (path.stat().st_size, path.name))
    pages = [(path, [(record.headers["WARC-Target-URI"], record.reader.read().decode("utf-8", "replace"))
                     for record in ArchiveIterator(path.open("rb"), record_types=WarcRecordType.response)])
             for path in sorted(files[:max(1, len(files) // 2)])]
    counted = collections.Counter(word for _, group in pages for _, html in group for word in LONG_WORD.findall(html))
    words = sorted(word for word, _ in counted.most_common(4000))
    for copy in range(times):
        shuffled = random.Random(copy).sample(words, len(words)) if copy else words
        exchange = dict(zip(words, shuffled))

        def swapped(text: re.Match[str]) -> str:
            return LONG_WORD.sub(lambda word: exchange.get(word[0], word[0]), text[0])

        for path, group in pages:
            with (folder / path.name.replace("-0", f"-{copy}0", 1)).open("wb") as out:
                for url, html in group:
                    host, _, rest = url.partition("//")
                    out.write(warc.page(f"{host}//copy{copy}.{rest}", 200, HEADERS, TEXT.sub(swapped, html).encode(),
                                        "text/html", "2026-01-01T00:00:00Z"))
    return folder


def spread(values: list[float]) -> dict[str, float]:
    """Median, least and greatest."""
    return {"median": round(statistics.median(values), 3), "min": round(min(values), 3), "max": round(max(values), 3)}


def main() -> None:
    """Run, print the tables, end with one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rounds", nargs="?", type=int, default=3)
    parser.add_argument("--peer", required=True, help="python that has datatrove[io,processing]")
    parser.add_argument("--juicer", help="python that has py-data-juicer")
    parser.add_argument("--warcs", type=Path, default=ROOT / "data/crawl", help="folder of WARC files")
    given = parser.parse_args()
    if not list(given.warcs.glob("*.warc.gz")):
        parser.error(f"{given.warcs} holds no .warc.gz: run the crawl (dvc repro crawl), or give another --warcs")
    rounds: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as temporary:
        for number in range(given.rounds):
            place = Path(temporary) / str(number)
            rounds.append({"ours": ours(given.warcs, place / "ours"),
                           "stock": stock(given.peer, given.warcs, place / "stock")})
            if given.juicer:
                rounds[-1]["juicer"] = juicer(given.juicer, place / "ours/extracted", place / "j")
            shutil.rmtree(place)
        growth = {}
        for times in GROWTH:
            place = Path(temporary) / f"grown-{times}"
            growth[times] = ours(grown(given.warcs, times, place / "warcs"), place / "ours")
            shutil.rmtree(place)
    report(rounds, growth)


def report(rounds: list[dict[str, Any]], growth: dict[int, dict[str, Any]]) -> None:
    """Print two tables and the JSON line."""
    first = rounds[0]["ours"]
    print(f"{first['documents']} pages, {first['megabytes']:.1f} MB of HTML, {WORKERS} workers, {len(rounds)} rounds")
    print(f"{'stage':10} {'documents/s':>12} {'MB/s':>8} {'stock documents/s':>18} {'ratio':>7}  (least, greatest)")
    rows = {}
    for name in [*first["seconds"], "whole"]:
        mine, theirs = ([sum(one[who]["seconds"].values()) if name == "whole" else one[who]["seconds"][name]
                         for one in rounds] for who in ("ours", "stock"))
        seconds = statistics.median(mine)
        rows[name] = {"documents_per_second": round(first["documents"] / seconds, 1),
                      "megabytes_per_second": round(first["megabytes"] / seconds, 2),
                      "stock_documents_per_second": round(first["documents"] / statistics.median(theirs), 1),
                      "ratio": spread([b / a for a, b in zip(mine, theirs)])}
        row, ratio = rows[name], rows[name]["ratio"]
        print(f"{name:10} {row['documents_per_second']:12.1f} {row['megabytes_per_second']:8.2f} "
              f"{row['stock_documents_per_second']:18.1f} {ratio['median']:7.2f}  "
              f"({ratio['min']:.2f}, {ratio['max']:.2f})")
    result: dict[str, Any] = {"machine": platform.processor() or platform.machine(), "cores": os.cpu_count(),
                              "pages": first["documents"], "megabytes": round(first["megabytes"], 1), "stages": rows}
    kept, theirs = set(first["kept"]), set(rounds[0]["stock"]["kept"])
    result["kept"] = {"ours": len(kept), "stock": len(theirs), "both": len(kept & theirs)}
    print(f"kept: {len(kept)} by ours, {len(theirs)} by the stock pipeline, {len(kept & theirs)} by both")
    if "juicer" in rounds[0]:
        result["juicer_ratio"] = spread([one["juicer"] / sum(seconds for name, seconds in one["ours"]["seconds"].items()
                                                              if name != "extract") for one in rounds])
        print(f"data-juicer behind extraction: {result['juicer_ratio']['median']:.2f} times our time")
    print(f"{'input':>6} {'MB':>8} {'seconds':>8} {'seconds/MB':>11}  peak MiB by stage")
    result["growth"] = {}
    for times, one in growth.items():
        seconds = sum(one["seconds"].values())
        result["growth"][times] = {"megabytes": round(one["megabytes"], 1), "seconds": round(seconds, 1),
                                   "peak_mib": {name: round(peak) for name, peak in one["peak"].items()}}
        print(f"{times:5}x {one['megabytes']:8.1f} {seconds:8.1f} {seconds / one['megabytes']:11.3f}  "
              + ", ".join(f"{name} {peak:.0f}" for name, peak in one["peak"].items()))
    print(json.dumps(result))


if __name__ == "__main__":
    main()

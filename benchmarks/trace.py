"""Claim: the documents behind an answer are found in milliseconds, by an index twice the corpus, built in seconds.

    python -m benchmarks.trace [--corpus data/corpus] [--held-out data/evalsets/held_out.jsonl] [--peer PYTHON]

Queries are passages of 800 characters: of documents held out of training, and of training documents with every
sixtieth word left out, which is what an answer that copies looks like. Peers, in an environment of their own (`pip
install infini-gram tantivy numpy`), get the same pieces: infini-gram 2.6 by `attribute`, tantivy by phrase
queries; their times hold the spans alone, ours the documents, URLs and snippets too. Spans of six words or more are
compared. Seconds are CPU's, one process; every query is asked twice and the second counts.
The last line is one JSON document.
"""

from __future__ import annotations

import argparse
import bisect
import json
import platform
import random
import statistics
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

from tasks.data import documents, trace_index
from tasks.data.trace import LEAST_WORDS, Index
from tasks.data.trace_text import END, Query

PASSAGE, QUERIES, LEFT_OUT = 800, 100, 60
PEERS = ("infini-gram", "tantivy")
Spans = set[tuple[int, int]]


def main() -> None:
    """Measure, print a table and one JSON document."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.trace", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", type=Path, default=Path("data/corpus"))
    parser.add_argument("--held-out", type=Path, default=Path("data/evalsets/held_out.jsonl"))
    parser.add_argument("--peer", type=Path, metavar="PYTHON", help="of an environment with infini-gram and tantivy")
    given = parser.parse_args()
    trained = [document.text for shard in documents.shards(given.corpus) for document in documents.read(shard)]
    held_out = [document.text for document in documents.read(given.held_out)]
    queries = passages(held_out, random.Random(0)) + [gaps(text) for text in passages(trained, random.Random(1))]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        rows, spans = {"ours": ours(given.corpus, queries, folder)}, {}
        spans["ours"] = rows["ours"].pop("spans")
        if given.peer:
            write_pieces(folder, trained, queries)
            for peer in PEERS:
                rows[peer] = ask(given.peer, peer, folder)
                spans[peer] = [kept(query, found) for query, found in zip(queries, rows[peer].pop("spans"))]
    for peer in spans:
        rows[peer]["queries_with_the_same_spans"] = sum(one == other for one, other in zip(spans["ours"], spans[peer]))
    size = sum(len(text.encode("utf-8", "surrogatepass")) for text in trained)
    print(f"{len(trained)} documents, {size / 1e6:.1f} MB, {len(queries)} queries")
    print(f"{'':12} {'index, CPU s':>13} {'bytes a byte':>13} {'held out p50, p99, ms':>24} "
          f"{'copied p50, p99, ms':>24} {'same spans':>11}")
    for name, row in rows.items():
        row["bytes_a_byte"] = round(row["index_bytes"] / size, 3)
        times = row.pop("seconds")
        row["held_out_ms"], row["copied_ms"] = (quantiles(part) for part in (times[:QUERIES], times[QUERIES:]))
        print(f"{name:12} {row['build_seconds']:13.2f} {row['bytes_a_byte']:13.2f} {shown(row['held_out_ms']):>24} "
              f"{shown(row['copied_ms']):>24} {row['queries_with_the_same_spans']:>7}/{len(queries)}")
    print(json.dumps({"benchmark": "trace", "corpus_bytes": size, "documents": len(trained), "queries": len(queries),
                      "machine": platform.processor() or platform.machine(), "rows": rows}))


def passages(texts: list[str], draw: random.Random) -> list[str]:
    """QUERIES passages of texts that are long enough."""
    long = [text for text in texts if len(text) > PASSAGE]
    return [text[at:at + PASSAGE] for text in draw.choices(long, k=QUERIES)
            for at in [draw.randrange(len(text) - PASSAGE)]]


def gaps(text: str) -> str:
    """`text` without every LEFT_OUT-th word."""
    query = Query.of(text)
    ends = dict.fromkeys(end for _, end in query.ends)
    for _, start in reversed(query.starts[LEFT_OUT::LEFT_OUT]):
        text = text[:start] + text[next((end for end in ends if end > start), len(text)):]
    return text


def ours(corpus: Path, queries: list[str], folder: Path) -> dict[str, Any]:
    """The stage and the query."""
    before = time.process_time()
    trace_index.index(corpus, folder / "index", folder / "metrics.json",
                      index=trace_index.IndexParams(part_megabytes=64))
    built = time.process_time() - before
    index = Index(folder / "index")
    seconds, spans = [], []
    for text in queries:
        index.trace(text)
        before = time.process_time()
        index.trace(text)
        seconds.append(time.process_time() - before)
        query = Query.of(text)
        spans.append(kept(text, [(query.starts[first][1], query.ends[last][1]) for first, last in index.maximal(query)],
                          characters=True))
    return {"build_seconds": built, "index_bytes": json.loads((folder / "metrics.json").read_text())["index_bytes"],
            "seconds": seconds, "spans": spans}


def pieces(text: str) -> list[tuple[str, int, int, bool]]:
    """(piece, start, end, is it a word) of a text, blanks left out."""
    query, at, found = Query.of(text), 0, []
    for byte, end in query.ends:
        word = query.form[byte - 1] == ord(END)
        start = query.starts[at][1] if word else end - 1
        at += word
        found.append((text[start:end], start, end, word))
    return found


def kept(text: str, spans: list[tuple[int, int]], characters: bool = False) -> Spans:
    """The spans of LEAST_WORDS words or more, in characters (peers count pieces)."""
    if not characters:
        row = pieces(text)
        spans = [(row[first][1], row[last - 1][2]) for first, last in spans]
    starts = [start for _, start in Query.of(text).starts]
    return {(start, end) for start, end in spans if bisect.bisect_left(starts, end) - bisect.bisect_left(
        starts, start) >= LEAST_WORDS}


def write_pieces(folder: Path, trained: list[str], queries: list[str]) -> None:
    """What the peers read."""
    words: dict[str, None] = {}
    for name, texts in (("documents", trained), ("queries", queries)):
        rows = [pieces(text) for text in texts]
        (folder / f"{name}.json").write_text(json.dumps([[piece for piece, *_ in row] for row in rows]))
        words |= {piece: None for row in rows for piece, *_, word in row if word}
    (folder / "words.json").write_text(json.dumps(list(words)))


def ask(python: Path, peer: str, folder: Path) -> dict[str, Any]:
    """What a peer's process measured."""
    done = subprocess.run([python, "benchmarks/trace_peer.py", peer, folder], capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"error: {peer} failed: {done.stderr.strip()[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def quantiles(seconds: list[float]) -> list[float]:
    """[p50, p99] in milliseconds."""
    return [round(statistics.quantiles(seconds, n=100, method="inclusive")[n] * 1e3, 2) for n in (49, 98)]


def shown(pair: list[float]) -> str:
    """Two figures for the table."""
    return f"{pair[0]:.1f}, {pair[1]:.1f}"


if __name__ == "__main__":
    main()

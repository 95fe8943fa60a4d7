"""Claim: fewer near-duplicates missed or wrongly dropped than by datatrove or datasketch, cheaper, in linear time.

    python -m benchmarks.dedup [--corpus data/filtered] [--documents 80] [--pieces 1500]

planted    copies of the corpus's documents, changed in eight ways, English and Chinese: recall of each
versions   the HTML documentation of three SQLAlchemy and two alembic releases, fetched by sha256, newest first
clusters   the same decisions by connected components instead of greedily
scale      CPU and memory of the global pass over 1x, 3x and 10x as many pieces of text

What is right is decided by exact Jaccard similarity of 5-word shingles of every pair. A drop is right where a page
that is kept is at least 0.7 alike; a page is missed where it is kept beside a newer one at least 0.7 alike. datatrove
0.10 (MinhashDedup*, 14 bands of 8; it wants xxhash below 4, spaCy and jieba) and datasketch (MinHashLSH, 128) are
measured where they can be imported, on the same pages in the same order, passages off. The last line is one JSON.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import tempfile
import time
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from datatrove.data import Document
from datatrove.pipeline.base import PipelineStep
from resiliparse.extract.html2text import extract_plain_text
from scipy import sparse

from tasks import params
from tasks.data import archive, documents, fetch, fingerprints, words
from tasks.data.dedup import DedupParams, judge

RELEASES = [  # newest first
    ("SQLAlchemy", "sqlalchemy-2.1.9", "d700a8b2edfb26282a470333d6bc4a454c4acda4d201a3bea7b72fa76c217d28", "doc"),
    ("SQLAlchemy", "sqlalchemy-2.0.58", "2acdcec9836b7c1514a9ad426e7731669a1186d96481a2e82c50bf2aebb49061", "doc"),
    ("SQLAlchemy", "sqlalchemy-1.4.54", "4470fbed088c35dc20b78a39aaf4ae54fe81790c783b3264872a0224f437c31a", "doc"),
    ("alembic", "alembic-1.20.1", "83490def1f723413db5096591f7609ac52544805be93849170088ed04f5a2e0b", "docs"),
    ("alembic", "alembic-1.13.3", "203503117415561e203aa14541740643a611f641517f0209fcae63e9fa09f1a2", "docs")]
SHINGLE, ALIKE, LONGEST = 5, 0.7, 30_000
NAVIGATION = {"en": "Home Products Documentation Search this site Log in Contact us Terms of service Privacy policy. ",
              "zh": "首页产品文档搜索本站登录注册联系我们服务条款隐私政策网站地图。"}
SEED = 7


def settings(**changes: object) -> DedupParams:
    return DedupParams.model_validate(params.section(DedupParams, "dedup", params.load()).model_dump() | changes)


def table(pages: list[Document], folder: str, given: DedupParams) -> fingerprints.Table:
    made = [fingerprints.fingerprint(page.text, "", given, SEED) for page in pages]
    fingerprints.write(Path(folder), 0, [(page.id, "") for page in pages], made, given)
    return fingerprints.Table(Path(folder))


def ours(pages: list[Document], language: str, repeat_words: int | None = None) -> set[str]:
    """Ids dropped; the pages' ids are in their order."""
    with tempfile.TemporaryDirectory() as folder:
        made = table(pages, folder, settings(repeat_words=repeat_words))
        found = judge(made, settings())
        return {made.names[number] for number, verdict in found.items() if "reason" in verdict}


def components(pages: list[Document], language: str) -> set[str]:
    """The same signatures, but a page goes with whatever it is linked to by a chain of near-duplicates."""
    with tempfile.TemporaryDirectory() as folder:
        signatures = np.array(table(pages, folder, settings(repeat_words=None)).index(ALIKE).signatures)
    alike = np.array([(signatures == own).mean(axis=1) >= ALIKE for own in signatures])
    _, label = sparse.csgraph.connected_components(sparse.csr_array(alike), directed=False)
    _, first = np.unique(label, return_index=True)
    return {page.id for number, page in enumerate(pages) if number not in set(first.tolist())}


class Given(PipelineStep):
    """Hands a list of documents to a datatrove pipeline."""

    type, name = "reader", "list"

    def __init__(self, pages: list[Document]):
        super().__init__()
        self.pages = pages

    def run(self, data=None, rank: int = 0, world_size: int = 1):  # noqa: ANN001, ANN201
        yield from self.pages


class Collect(PipelineStep):
    """Writes the ids that reach it."""

    type, name = "writer", "ids"

    def __init__(self, path: Path):
        super().__init__()
        self.path = path

    def run(self, data=None, rank: int = 0, world_size: int = 1):  # noqa: ANN001, ANN201
        self.path.write_text(json.dumps([page.id for page in data]))
        yield from ()


def datatrove(pages: list[Document], language: str) -> set[str]:
    """Its four steps, one file, one task each; words by spaCy, of jieba for Chinese."""
    from datatrove.executor import LocalPipelineExecutor
    from datatrove.pipeline.dedup.minhash import (MinhashConfig, MinhashDedupBuckets, MinhashDedupCluster,
                                                  MinhashDedupFilter, MinhashDedupSignature)
    from datatrove.utils.typeshelper import Languages

    config = MinhashConfig(n_grams=SHINGLE)
    tongue = {"en": Languages.english, "zh": Languages.mandarin_chinese}[language]
    with tempfile.TemporaryDirectory() as folder:
        for number, (steps, tasks) in enumerate((
                ([Given(pages), MinhashDedupSignature(f"{folder}/signatures", config, language=tongue)], 1),
                ([MinhashDedupBuckets(f"{folder}/signatures", f"{folder}/buckets", config=config)], config.num_buckets),
                ([MinhashDedupCluster(f"{folder}/buckets", f"{folder}/removed", config=config)], 1),
                ([Given(pages), MinhashDedupFilter(f"{folder}/removed"), Collect(Path(folder) / "kept.json")], 1))):
            LocalPipelineExecutor(steps, tasks=tasks, workers=1, logging_dir=f"{folder}/logs{number}").run()
        return {page.id for page in pages} - set(json.loads((Path(folder) / "kept.json").read_text()))


def datasketch(pages: list[Document], language: str) -> set[str]:
    """Its LSH at the same threshold, greedy in the pages' order, every candidate a duplicate; our words and shingles."""
    from datasketch import MinHash, MinHashLSH

    index, dropped = MinHashLSH(threshold=ALIKE, num_perm=128), set()
    for page in pages:
        sketch = MinHash(num_perm=128, seed=SEED)
        sketch.update_batch([run.encode() for run in words.ngrams(words.normal_words(page.text), SHINGLE)])
        if index.query(sketch):
            dropped.add(page.id)
        else:
            index.insert(page.id, sketch)
    return dropped


CONTENDERS: dict[str, Callable[[list[Document], str], set[str]]] = {
    "ours": ours, "components": components, "datatrove": datatrove, "datasketch": datasketch}


def jaccard(pages: list[Document]) -> np.ndarray:
    """float[n, n]: exact similarity of every pair."""
    numbers: dict[str, int] = {}
    runs = (words.ngrams(words.normal_words(page.text), SHINGLE) for page in pages)
    rows = [sorted({numbers.setdefault(run, len(numbers)) for run in own}) for own in runs]
    ends = np.cumsum([0] + [len(row) for row in rows])
    incidence = sparse.csr_array((np.ones(ends[-1], np.int32), np.concatenate(rows).astype(np.int64), ends),
                                 (len(rows), len(numbers)))
    shared = (incidence @ incidence.T).toarray()
    sizes = np.diff(ends)
    return shared / np.maximum(1, sizes[:, None] + sizes[None, :] - shared)


def scored(pages: list[Document], dropped: set[str], alike: np.ndarray) -> dict[str, float]:
    """Precision and recall of what was dropped, as the module's docstring says; `near` forgives 0.05."""
    gone = np.array([page.id in dropped for page in pages])
    best = np.where(~gone[None, :], alike, 0)
    closest = best.max(axis=1, where=~np.eye(len(pages), dtype=bool), initial=0)
    missed = (np.tril(best, -1).max(axis=1) >= ALIKE) & ~gone
    right = gone & (closest >= ALIKE)
    return {"dropped": int(gone.sum()), "right": int(right.sum()), "missed": int(missed.sum()),
            "precision": round(float(right.sum() / max(1, gone.sum())), 4),
            "precision_at_0.65": round(float((gone & (closest >= ALIKE - 0.05)).sum() / max(1, gone.sum())), 4),
            "recall": round(float(right.sum() / max(1, right.sum() + missed.sum())), 4)}


def compared(pages: list[Document], language: str, names: list[str]) -> tuple[dict, dict[str, set[str]], np.ndarray]:
    """Scores and CPU seconds of each contender that can be imported, with what it dropped."""
    alike, rows, found = jaccard(pages), {}, {}
    for name in names:
        started = time.process_time()
        try:
            found[name] = CONTENDERS[name](pages, language)
        except (ImportError, TypeError) as error:
            print(f"{name}: not measured ({error})")
            continue
        rows[name] = scored(pages, found[name], alike) | {"cpu_seconds": round(time.process_time() - started, 2)}
    return rows, found, alike


def changed(text: str, language: str, share: float, draw: random.Random) -> str:
    """`text` with a share of its words (Chinese: characters) replaced by others of it."""
    units = re.findall(r"\s+|\S+", text) if language == "en" else list(text)
    said = [unit for unit in units if unit.strip()]
    return "".join(draw.choice(said) if unit.strip() and draw.random() < share else unit for unit in units)


def shuffled(text: str, draw: random.Random) -> str:
    """Its sentences in another order."""
    parts = words.sentences(text)
    draw.shuffle(parts)
    return "\n".join(parts)


KINDS: dict[str, Callable[[str, str, random.Random], str]] = {
    "exact": lambda text, language, draw: text,
    "case, punctuation": lambda text, language, draw: re.sub(r"[,.;:，。；：]", " ; ", text.upper()),
    "1 % of words": lambda text, language, draw: changed(text, language, 0.01, draw),
    "3 % of words": lambda text, language, draw: changed(text, language, 0.03, draw),
    "5 % of words": lambda text, language, draw: changed(text, language, 0.05, draw),
    "shuffled": lambda text, language, draw: shuffled(text, draw),
    "cut to 85 %": lambda text, language, draw: text[:int(len(text) * 0.85)],
    "navigation added": lambda text, language, draw: NAVIGATION[language] * 2 + text + NAVIGATION[language]}


def planted(corpus: list[Document], language: str, count: int) -> dict:
    """One run over `count` documents and a copy of each of every kind."""
    draw = random.Random(SEED)
    fit = [page for page in corpus if page.metadata.get("language") == language and len(page.text) < LONGEST]
    originals = draw.sample(fit, min(count, len(fit)))
    pages = [Document(text=page.text, id=f"{number:05d}") for number, page in enumerate(originals)]
    for kind, change in KINDS.items():
        pages += [Document(text=change(page.text, language, draw), id=f"{len(pages) + n:05d}", metadata={"kind": kind})
                  for n, page in enumerate(originals)]
    rows, found, alike = compared(pages, language, ["ours", "datatrove", "datasketch"])
    kinds = {}
    for kind in KINDS:
        own = [n for n, page in enumerate(pages) if page.metadata.get("kind") == kind]
        true = [n for n in own if alike[n, n % len(originals)] >= ALIKE]
        kinds[kind] = {"copies": len(own), "alike": len(true)} | {
            name: round(sum(pages[n].id in dropped for n in true) / max(1, len(true)), 4)
            for name, dropped in found.items()}
    return {"originals": len(originals), "all": rows, "kinds": kinds}


def releases() -> Iterator[Document]:
    """The documentation pages of RELEASES as plain text, numbered newest first."""
    number = 0
    for package, stem, sha256, folder in RELEASES:
        path = fetch.pypi(package, f"{stem}.tar.gz", sha256)
        for name, body in archive.members(path, stem, ["*/" + folder + "/*.html"], []):
            text = extract_plain_text(body.decode("utf-8", "replace"), main_content=True)
            if 500 <= len(text) <= LONGEST:
                yield Document(text=text, id=f"{number:05d}", metadata={"release": stem, "page": name.split("/", 2)[2]})
                number += 1


def scale(corpus: list[Document], pieces: int) -> list[dict]:
    """The global pass over growing numbers of pieces, a tenth of them near-duplicates of others."""
    draw = random.Random(SEED)
    texts = [page.text[start:start + 2000] for page in corpus for start in range(0, len(page.text) - 1000, 2000)]
    draw.shuffle(texts)
    language = ["en" if " " in text else "zh" for text in texts]
    while len(texts) < 10 * pieces:
        n = draw.randrange(len(language))
        texts.append(changed(texts[n], language[n], draw.choice((0.01, 0.5, 0.5, 0.5, 0.5)), draw))
    draw.shuffle(texts)
    given, rows = settings(), []
    for times in (1, 3, 10):
        pages = [Document(text=text, id=f"{n:07d}") for n, text in enumerate(texts[:times * pieces])]
        with tempfile.TemporaryDirectory() as folder:
            started = time.process_time()
            table(pages, folder, given)
            made = time.process_time()
            found = judge(fingerprints.Table(Path(folder)), given)
            judged = time.process_time()
            disk = sum(file.stat().st_size for file in Path(folder).iterdir())
            tracemalloc.start()
            judge(fingerprints.Table(Path(folder)), given)
            _, peak = tracemalloc.get_traced_memory()
            tracemalloc.stop()
        rows.append({"documents": len(pages), "characters": sum(len(page.text) for page in pages),
                     "dropped": sum("reason" in verdict for verdict in found.values()),
                     "cut": sum("spans" in verdict for verdict in found.values()),
                     "fingerprint_ms": round(1e3 * (made - started) / len(pages), 3),
                     "global_ms": round(1e3 * (judged - made) / len(pages), 4),
                     "global_bytes": round(peak / len(pages)), "disk_bytes": round(disk / len(pages))})
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", type=Path, default=Path("data/filtered"))
    parser.add_argument("--documents", type=int, default=80)
    parser.add_argument("--pieces", type=int, default=1500)
    given = parser.parse_args()
    corpus = [page for shard in documents.shards(given.corpus) for page in documents.read(shard)]
    result: dict = {"planted": {}}
    for language in ("en", "zh"):
        found = result["planted"][language] = planted(corpus, language, given.documents)
        print(f"\nplanted, {language}: {found['originals']} originals, a copy of each kind; recall where truly >= 0.7")
        for kind, row in found["kinds"].items():
            print(f"{kind:>18} {row}")
        show(found["all"])
    pages = list(releases())
    result["versions"], _, alike = compared(pages, "en", list(CONTENDERS))
    result["pages"] = len(pages)
    result["pairs_alike"] = int((np.triu(alike, 1) >= ALIKE).sum())
    print(f"\nversions: {len(pages)} pages of {len(RELEASES)} releases, {result['pairs_alike']} pairs >= 0.7")
    show(result["versions"])
    result["scale"] = scale(corpus, given.pieces)
    print("\nscale")
    for row in result["scale"]:
        print(row)
    print(json.dumps(result))


def show(rows: dict[str, dict]) -> None:
    """One line a contender, with its CPU time as a multiple of ours."""
    for name, row in rows.items():
        print(f"{name:>18} {row} cpu x{row['cpu_seconds'] / max(0.01, rows['ours']['cpu_seconds']):.1f}")


if __name__ == "__main__":
    main()

"""Fits the block model of tasks/data/boilerplate.py, and says how well it does on pages it has not seen.

    python -m benchmarks.extract_fit BENCHMARK_DIR [CRAWL_DIR]

BENCHMARK_DIR is scrapinghub's article-extraction-benchmark (`ground-truth.json`, `html/ID.html.gz`); a block is content
where most of its words align with the gold text. CRAWL_DIR adds documentation pages of a crawl, whose own main element
says what content is; they are fitted to, never scored. Writes tasks/data/boilerplate.json.
"""

from __future__ import annotations

import difflib
import gzip
import hashlib
import json
import re
import sys
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np

from tasks.data import boilerplate
from tasks.data.blocks import BITS, Walk
from tasks.data.boilerplate import NUMBERS, WEIGHTS, Model

FOLDS, STRENGTH = 10, 0.001
MAIN = "[role=main], main, #docs-body, div.document"
FROM_SITE, MOST_BYTES = 12, 400_000
WORDS = re.compile(r"\w+")
Sample = tuple[np.ndarray, np.ndarray, np.ndarray]  # features [blocks, features], content [blocks], weight [blocks]


def benchmark(folder: Path) -> dict[str, tuple[str, str, str]]:
    """id -> (html, url, gold text). Raises SystemExit with one line where the folder is not the benchmark."""
    truth = folder / "ground-truth.json"
    if not truth.is_file() or not (folder / "html").is_dir():
        sys.exit(f"error: {folder} is not the article-extraction-benchmark (no ground-truth.json and html/ there): get "
                 "https://github.com/scrapinghub/article-extraction-benchmark and give its folder")
    gold = json.loads(truth.read_text(encoding="utf-8"))
    pages = {}
    for name, item in sorted(gold.items()):
        with gzip.open(folder / "html" / f"{name}.html.gz", "rt", encoding="utf-8") as file:
            pages[name] = (file.read(), item.get("url", ""), item.get("articleBody", ""))
    return pages


def labelled(html: str, gold: str) -> Sample | None:
    """One page of the benchmark: words aligned with the gold text, so that a repeated teaser is no content."""
    page = Walk(html)
    blocks = boilerplate.pruned(page.blocks)
    if not blocks:
        return None
    tokens = [WORDS.findall(block.text) for block in blocks]
    flat = [token for own in tokens for token in own]
    covered = np.zeros(len(flat))
    for at, _, size in difflib.SequenceMatcher(None, flat, WORDS.findall(gold), autojunk=False).get_matching_blocks():
        covered[at:at + size] = 1.0 if size > 1 else 0.5
    ends = np.cumsum([len(own) for own in tokens])
    content = np.array([covered[end - len(own):end].mean() >= 0.5 if own else False for own, end in zip(tokens, ends)])
    return features(blocks, page.title), content, weights(blocks)


def documentation(html: str) -> Sample | None:
    """One page of documentation: what its main element holds is content; the mark of that element is hidden."""
    from selectolax.lexbor import LexborHTMLParser

    main = LexborHTMLParser(html).css_first(MAIN)
    page = Walk(html)
    blocks = boilerplate.pruned(page.blocks)
    if main is None or not blocks:
        return None
    inside = {block.text for block in Walk(main.html).blocks}
    for block in blocks:
        block.path &= ~(BITS["role"] | BITS["main"])
        block.near &= ~(BITS["role"] | BITS["main"])
    content = np.array([block.text in inside for block in blocks])
    return features(blocks, page.title), content, weights(blocks) * min(1.0, 300 / len(blocks))


def weights(blocks: list) -> np.ndarray:
    """[blocks]: long blocks count more, by the root of their length."""
    return np.array([min(len(block.text) ** 0.5, 20) + 2 for block in blocks])


def features(blocks: list, title: str) -> np.ndarray:
    """[blocks, numbers + near bits + path bits]."""
    bits = [[[mask >> place & 1 for place in range(len(BITS))] for mask in chosen] for chosen in
            boilerplate.masks(blocks)]
    return np.concatenate([boilerplate.numbers(blocks, title), *map(np.array, bits)], 1)


def fit(samples: list[Sample]) -> dict:
    """The model's weights, standardization folded in."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    made, content, weight = (np.concatenate(parts) for parts in zip(*samples))
    scaler = StandardScaler().fit(made)
    model = LogisticRegression(C=STRENGTH, max_iter=1000).fit(scaler.transform(made), content, sample_weight=weight)
    slopes = model.coef_[0] / scaler.scale_
    names, count = list(BITS), len(NUMBERS)
    rounded = [round(float(slope), 6) for slope in slopes]
    return {"bias": round(float(model.intercept_[0] - (slopes * scaler.mean_).sum()), 6),
            "numbers": dict(zip(NUMBERS, rounded[:count])),
            "near": dict(zip(names, rounded[count:count + len(names)])),
            "path": dict(zip(names, rounded[count + len(names):]))}


def both(samples: list[Sample], docs: list[Sample]) -> dict[str, dict]:
    """The weights for prose, and those for technical pages, where documentation is fitted to as well."""
    return {"prose": fit(samples), "technical": fit(samples + docs)}


def held_out(pages: dict[str, tuple[str, str, str]], samples: dict[str, Sample],
             docs: list[Sample]) -> dict[str, Model]:
    """id -> a model fitted on no page of that page's site (ten folds of sites)."""
    models: dict[str, Model] = {}
    folds = {name: fold(url) for name, (_, url, _) in pages.items()}
    for number in range(FOLDS):
        model = Model(both([sample for name, sample in samples.items() if folds[name] != number], docs))
        models |= {name: model for name in pages if folds[name] == number}
    return models


def fold(url: str) -> int:
    """The fold of a page's site."""
    site = ".".join((urlsplit(url).hostname or "").split(".")[-2:])
    return int.from_bytes(hashlib.blake2b(site.encode(), digest_size=4).digest(), "big") % FOLDS


def crawled(folder: Path) -> list[Sample]:
    """Samples of the pages of each WARC file of a crawl, spread over it."""
    from fastwarc.warc import ArchiveIterator, WarcRecordType

    from tasks.data.pages import decode

    samples = []
    for path in sorted(folder.glob("*.warc.gz")):
        with path.open("rb") as stream:
            bodies = [record.reader.read() for record in ArchiveIterator(stream, record_types=WarcRecordType.response)]
        bodies = [body for body in bodies if len(body) <= MOST_BYTES]
        for body in bodies[::max(1, len(bodies) // FROM_SITE)][:FROM_SITE]:
            if (sample := documentation(decode(body, None))) is not None:
                samples.append(sample)
    return samples


def main() -> None:
    """Fit on all pages, write the weights."""
    if len(sys.argv) < 2:
        sys.exit(f"error: which folder?\n{__doc__}")
    pages = benchmark(Path(sys.argv[1]))
    samples = {name: sample for name, (html, _, gold) in pages.items() if (sample := labelled(html, gold)) is not None}
    docs = crawled(Path(sys.argv[2])) if len(sys.argv) > 2 else []
    WEIGHTS.write_text(json.dumps(both(list(samples.values()), docs), indent=1) + "\n", encoding="utf-8")
    print(json.dumps({"pages": len(samples), "documentation": len(docs), "weights": str(WEIGHTS)}))


if __name__ == "__main__":
    main()

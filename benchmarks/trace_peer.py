"""infini-gram's and tantivy's side of benchmarks/trace.py, run by the Python of an environment that holds them.

    PYTHON benchmarks/trace_peer.py infini-gram|tantivy FOLDER

FOLDER holds `documents.json` and `queries.json` (a list of texts, each a list of pieces, blanks left out) and
`words.json` (the pieces with which a span may begin). Both give the maximal spans: infini-gram by its own `attribute`
(what OLMoTrace asks), tantivy by phrase queries, as many as bisection needs. The last line is one JSON document.
"""

from __future__ import annotations

import bisect
import json
import resource
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

LEAST_WORDS = 6
RARE, ABSENT = 65_533, 0
Spans = list[tuple[int, int]]
Answer = Callable[[list[str]], Spans]


def spent() -> float:
    """CPU seconds of this process and its children."""
    return sum(use.ru_utime + use.ru_stime for use in map(resource.getrusage, (
        resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)))


def infini_gram(folder: Path, documents: list[list[str]], words: set[str]) -> Answer:
    """An index over 16-bit ids of pieces, and its `attribute` that begins spans at words only. For 32-bit ids its
    indexer asks for 34 GB of memory at once, so pieces beyond the most frequent 65,533 share one id."""
    import numpy as np
    from infini_gram import indexing
    from infini_gram.engine import InfiniGramEngine

    frequent = Counter(piece for document in documents for piece in document).most_common(RARE - 1)
    ids = {piece: number for number, (piece, _) in enumerate(frequent, 1)}
    place = folder / "infini-gram"
    place.mkdir()
    offset = 0
    with (place / "tokenized.0").open("wb") as tokens, (place / "offset.0").open("wb") as offsets:
        for document in documents:
            row = np.array([2**16 - 1, *(ids.get(piece, RARE) for piece in document)], np.uint16)
            tokens.write(row.tobytes())
            offsets.write(np.uint64(offset).tobytes())
            offset += row.nbytes
    (folder / "starts").write_text("\n".join(str(ids[piece]) for piece in words if piece in ids))
    subprocess.run([sys.executable, indexing.__file__, "--data_dir", str(place), "--save_dir", str(place),
                    "--token_dtype", "u16", "--cpus", "2", "--mem", "4", "--ulimit", "4096"], check=True,
                   stdout=subprocess.DEVNULL)
    engine = InfiniGramEngine(str(place), eos_token_id=RARE + 1, vocab_size=2**16 - 1, token_dtype="u16",
                              bow_ids_path=str(folder / "starts"))

    def answer(query: list[str]) -> Spans:
        found = engine.attribute([ids.get(piece, ABSENT) for piece in query], [], LEAST_WORDS, 10**9, True)
        return [(span["l"], span["r"]) for span in found["spans"]]

    return answer


def tantivy(folder: Path, documents: list[list[str]], words: set[str]) -> Answer:
    """An index of pieces with their positions, asked for phrases."""
    import tantivy as library

    builder = library.SchemaBuilder()
    builder.add_text_field("text", tokenizer_name="pieces")
    schema = builder.build()
    place = folder / "tantivy"
    place.mkdir()
    index = library.Index(schema, path=str(place))
    index.register_tokenizer("pieces", library.TextAnalyzerBuilder(library.Tokenizer.whitespace()).build())
    writer = index.writer(64_000_000, 1)
    for document in documents:
        writer.add_document(library.Document(text=" ".join(document)))
    writer.commit()
    writer.wait_merging_threads()
    index.reload()
    searcher = index.searcher()

    def holds(phrase: list[str]) -> bool:
        query = (library.Query.phrase_query(schema, "text", phrase) if len(phrase) > 1
                 else library.Query.term_query(schema, "text", phrase[0]))
        return bool(searcher.search(query, 1, count=False).hits)

    def answer(query: list[str]) -> Spans:
        found: Spans = []
        at = reach = 0
        while at < len(query):
            if query[at] not in words:
                at += 1
                continue
            step = 1
            low = max(at, reach)
            while low + step <= len(query) and holds(query[at:low + step]):
                low, step = low + step, step * 2
            end = low + bisect.bisect_left(range(min(step, len(query) - low + 1)), True, lo=1,
                                           key=lambda size: not holds(query[at:low + size])) - 1
            if end <= reach or end == at:
                at += 1
                continue
            found.append((at, end))
            reach, at = end, at + 1
        return found

    return answer


def main() -> None:
    """Build, ask every query twice, print spans and the second times."""
    name, folder = sys.argv[1], Path(sys.argv[2])
    documents, queries, words = (json.loads((folder / f"{what}.json").read_text(encoding="utf-8"))
                                 for what in ("documents", "queries", "words"))
    began = spent()
    answer = {"infini-gram": infini_gram, "tantivy": tantivy}[name](folder, documents, set(words))
    built = spent() - began
    spans, seconds = [], []
    for query in queries:
        answer(query)
        before = time.process_time()
        spans.append(answer(query))
        seconds.append(time.process_time() - before)
    size = sum(path.stat().st_size for path in (folder / name).rglob("*") if path.is_file())
    print(json.dumps({"build_seconds": built, "index_bytes": size, "seconds": seconds, "spans": spans}))


if __name__ == "__main__":
    main()

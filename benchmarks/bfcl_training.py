"""Claim: nothing of the Berkeley Function Calling Leaderboard is in what the models are tuned on.

    python -m benchmarks.bfcl_training DIR/bfcl_eval-2026.3.23-py3-none-any.whl data/corpus

Makes the conversations that `sft` of every tuned track makes from the corpus, and looks at all of the package's items
in the categories of benchmarks/bfcl.py: a function of the same name, eight words in a row of a question, a question
whose word triples are to four tenths the same (Jaccard), and, for the corpus itself, thirteen words in a row, the
chain's own rule (tasks/data/overlap.py). Exit code 1 where there is any. The last line is one JSON document.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks import bfcl
from tasks import params
from tasks.data import documents, words
from tasks.data.overlap import Protected
from tasks.data.shingles import Words
from tasks.finetune.conversations import Conversation, conversations
from tasks.finetune.settings import SftParams

RUN, LONG_RUN, TRIPLE, ALIKE = 8, 13, 3, 0.4
ASKED = ("simple_python", "multiple", "parallel", "irrelevance")


def triples(text: str) -> set[str]:
    """The runs of three words of a text."""
    return set(words.ngrams(words.normal_words(text), TRIPLE))


def found(learned: list[Conversation], items: list[dict[str, Any]]) -> Iterator[dict[str, str]]:
    """What of `learned` is also of an item: which rule says so, and both sides."""
    named = {function["name"]: item["id"] for item in items for function in item["function"]}
    protected, owners = Protected(RUN), {}
    for item in items:
        text = item["question"][0][0]["content"]
        protected.add(item["id"], [text])
        for triple in triples(text):
            owners.setdefault(triple, []).append(item["id"])
    sizes = {item["id"]: len(triples(item["question"][0][0]["content"])) for item in items}
    for each in learned:
        for tool in each.tools:
            if (name := tool["function"]["name"]) in named:
                yield {"rule": "name", "item": named[name], "learned": name}
        asked = next(message["content"] for message in each.messages if message["role"] == "user")
        for _, _, item, run in protected.shared(Words(words.normal_words(asked))):
            yield {"rule": f"{RUN} words", "item": item, "learned": run}
        own = triples(asked)
        shared: dict[str, int] = {}
        for triple in own:
            for item in owners.get(triple, ()):
                shared[item] = shared.get(item, 0) + 1
        for item, count in shared.items():
            if count / (len(own) + sizes[item] - count) >= ALIKE:
                yield {"rule": f"triples {ALIKE}", "item": item, "learned": asked}


def in_corpus(corpus: Path, items: list[dict[str, Any]]) -> Iterator[dict[str, str]]:
    """Runs of words that documents of the corpus share with questions."""
    protected = Protected(LONG_RUN)
    for item in items:
        protected.add(item["id"], [item["question"][0][0]["content"]])
    for shard in documents.shards(corpus):
        for document in documents.read(shard):
            for _, _, item, run in protected.shared(Words(words.normal_words(document.text))):
                yield {"rule": f"{LONG_RUN} words of the corpus", "item": item, "learned": f"{document.id}: {run}"}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.bfcl_training", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("wheel", type=Path)
    parser.add_argument("corpus", type=Path)
    given = parser.parse_args()
    items = [item for category in ASKED for item in bfcl.items(given.wheel, category)]
    values = params.load()
    hits, count = list(in_corpus(given.corpus, items)), 0
    for track in values["tuned"]:
        sft = params.section(SftParams, f"tracks.{track}.sft", values)
        learned = conversations(given.corpus, sft.conversations, values["seed"])
        count += len(learned)
        hits += found(learned, items)
    distinct = {(hit["rule"], hit["item"], hit["learned"]) for hit in hits}
    for rule, item, learned in sorted(distinct):
        print(f"{rule:26} {item:24} {learned[:160]}")
    print(json.dumps({"items": len(items), "conversations": count, "contaminated": len(distinct)}))
    return 1 if distinct else 0


if __name__ == "__main__":
    sys.exit(main())

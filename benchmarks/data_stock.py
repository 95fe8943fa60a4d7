"""The peer of benchmarks/data.py: datatrove's own blocks as its examples join them, thresholds set to ours.

    PEER_PYTHON benchmarks/data_stock.py WARC_FOLDER OUT_FOLDER SETTINGS.json

Runs in an environment of its own that has `datatrove[io,processing]`, aiohttp and fasttext-numpy2-wheel, and imports
nothing of this repository. SETTINGS: {"workers", "lid": path of lid.176.ftz, "rules": the thresholds of `filter.languages.en`,
"min_language_score", "threshold": of MinHash}. Prints one JSON: wall seconds of each step, documents kept.
"""

from __future__ import annotations

import json
import shutil
import sys
import time
from pathlib import Path

from datatrove.executor import LocalPipelineExecutor
from datatrove.io import strip_protocol
from datatrove.pipeline.dedup import MinhashDedupBuckets, MinhashDedupCluster, MinhashDedupFilter, MinhashDedupSignature
from datatrove.pipeline.dedup.minhash import MinhashConfig
from datatrove.pipeline.extractors import Trafilatura
from datatrove.pipeline.filters import (
    C4QualityFilter, FineWebQualityFilter, GopherQualityFilter, GopherRepetitionFilter, LambdaFilter, LanguageFilter)
from datatrove.pipeline.formatters import PIIFormatter
from datatrove.pipeline.readers import JsonlReader, WarcReader
from datatrove.pipeline.writers import JsonlWriter
from datatrove.utils.lid import FT176LID
from huggingface_hub import cached_assets_path

CONFIG = MinhashConfig(n_grams=5, num_buckets=16, hashes_per_bucket=8)  # 128 hashes


def steps(warcs: str, out: Path, told: dict) -> dict[str, list[list]]:
    """name -> pipelines to run one after another."""
    rules, folder = told["rules"], {name: str(out / name) for name in
                                    ("extracted", "filtered", "signatures", "buckets", "clusters", "deduped", "masked")}
    filters = [
        LanguageFilter(["en"], told["min_language_score"]),
        GopherRepetitionFilter(
            dup_line_frac=rules["max_duplicate_lines"], dup_para_frac=None, dup_para_char_frac=None,
            dup_line_char_frac=rules["max_duplicate_line_characters"],
            top_n_grams=tuple((n, rules[f"top_{n}_gram"]) for n in (2, 3, 4)),
            dup_n_grams=tuple((n, rules[f"duplicate_{n}_gram"]) for n in (5, 10))),
        GopherQualityFilter(
            min_doc_words=rules["min_words"], max_doc_words=rules["max_words"],
            min_avg_word_length=rules["min_mean_word"], max_avg_word_length=rules["max_mean_word"],
            max_symbol_word_ratio=rules["max_symbols"], max_bullet_lines_ratio=rules["max_bullet_lines"],
            max_ellipsis_lines_ratio=rules["max_ellipsis_lines"], max_non_alpha_words_ratio=rules["min_alphabetic"],
            min_stop_words=rules["min_stop_words"]),
        C4QualityFilter(filter_no_terminal_punct=False, min_num_sentences=rules["min_sentences"], min_words_per_line=-1,
                        max_word_length=-1, filter_javascript=False, filter_curly_bracket=False, filter_policy=False,
                        remove_citations=False),
        FineWebQualityFilter(line_punct_thr=rules["min_punctuated_lines"], short_line_thr=rules["max_short_lines"],
                             char_duplicates_ratio=1.0, new_line_ratio=rules["max_newlines"]),
    ]
    return {
        "extract": [[WarcReader(warcs, glob_pattern="*.warc*"), Trafilatura(timeout=60.0, deduplicate=False),
                     LambdaFilter(lambda document: len(document.text) >= told["characters"]),
                     JsonlWriter(folder["extracted"])]],
        "filter": [[JsonlReader(folder["extracted"]), *filters, JsonlWriter(folder["filtered"])]],
        "dedup": [
            [JsonlReader(folder["filtered"]), MinhashDedupSignature(folder["signatures"], CONFIG)],
            [MinhashDedupBuckets(folder["signatures"], folder["buckets"], config=CONFIG)],
            [MinhashDedupCluster(folder["buckets"], folder["clusters"], config=CONFIG)],
            [JsonlReader(folder["filtered"]), MinhashDedupFilter(folder["clusters"]), JsonlWriter(folder["deduped"])]],
        "safety": [[JsonlReader(folder["deduped"]), PIIFormatter(), JsonlWriter(folder["masked"])]],
    }


def main(warcs: str, out: Path, told: dict) -> None:
    """Run every step and print what it took."""
    model = cached_assets_path("datatrove", namespace="lid", subfolder="ft176")
    model /= strip_protocol(FT176LID.MODEL_URL).replace("/", "_")  # where its language filter looks before it downloads
    shutil.copyfile(told["lid"], model)
    Path(f"{model}.completed").touch()
    files, seconds = len(list(Path(warcs).glob("*.warc*"))), {}
    for name, pipelines in steps(warcs, out, told).items():
        begun = time.perf_counter()
        for number, pipeline in enumerate(pipelines):
            tasks = {("dedup", 1): CONFIG.num_buckets, ("dedup", 2): 1}.get((name, number), files)
            LocalPipelineExecutor(pipeline, tasks=tasks, workers=min(told["workers"], tasks),
                                  logging_dir=str(out / "logs" / f"{name}-{number}")).run()
        seconds[name] = time.perf_counter() - begun
    reader = JsonlReader(str(out / "masked"))
    urls = sorted(document.metadata.get("url", document.id) for document in reader())
    print(json.dumps({"seconds": seconds, "kept": urls}))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), json.loads(Path(sys.argv[3]).read_text()))

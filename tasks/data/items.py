"""Evaluation items made from text: cloze, minimal pairs, key-value recall, lookup. Pure functions, seeded.

Every item has a stable `id` (of its content), its `language`, and `document`, the id of the document it comes from
(null where it comes from none). Choices are shuffled; `gold` is the place of the right one.
"""

from __future__ import annotations

import hashlib
import json
import random
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from itertools import zip_longest
from typing import Any

from datatrove.data import Document

from tasks.data import words
from tasks.data.facts import Fact, facts

Item = dict[str, Any]
CHOICES = 4
# characters of the document shown before the gap, so that with a choice it fits 256 tokens of a small vocabulary
BEFORE = {"zh": 80}
BEFORE_ELSE = 240
PROSE = re.compile(r"[A-Z][^\n{}\[\]<>=|_•]{30,200}[.!?]")
PROSE_ZH = re.compile(rf"[{words.HAN}][{words.HAN}，、；：“”‘’]{{11,60}}[。！？]")
AGREEMENT = {"is": "are", "are": "is", "was": "were", "were": "was", "has": "have", "have": "has", "does": "do",
             "do": "does", "this": "these", "these": "this", "a": "an", "an": "a"}
THINGS = ("lamp", "kettle", "bridge", "engine", "garden", "ladder", "mirror", "window", "basket", "candle", "pillow",
          "hammer", "bottle", "wagon", "carpet", "barrel", "guitar", "saddle", "blanket", "bucket")
COLOURS = ("red", "blue", "green", "black", "white", "yellow", "brown", "grey", "pink", "orange", "purple", "gold")


def identified(family: str, item: Item) -> Item:
    """`item` with its id: the family and a hash of the content."""
    content = json.dumps(item, sort_keys=True, ensure_ascii=False).encode("utf-8", "surrogatepass")
    return {"id": f"{family}-{hashlib.sha256(content).hexdigest()[:16]}"} | item


def prose(document: Document) -> list[str]:
    """The sentences of a document that are plain prose, in order, each once."""
    pattern = PROSE_ZH if document.metadata.get("language") == "zh" else PROSE
    return list(dict.fromkeys(s for s in words.sentences(document.text) if pattern.fullmatch(s)))


def in_turn(groups: Iterable[Sequence[Any]]) -> list[Any]:
    """The first of every group, then the second of every group, ...: no long document fills the front."""
    absent = object()
    return [member for row in zip_longest(*groups, fillvalue=absent) for member in row if member is not absent]


def balanced(groups: Iterable[Sequence[Item]], n: int) -> list[Item]:
    """`n` of the items of `groups` (one a document): languages in turn, within a language documents in turn."""
    languages: dict[str, list[Sequence[Item]]] = defaultdict(list)
    for group in groups:
        if group:
            languages[group[0]["language"]].append(group)
    return in_turn([in_turn(languages[language]) for language in sorted(languages)])[:n]


def cloze(documents: Sequence[Document], n: int, seed: int) -> list[Item]:
    """Which of four ends a passage of a held-out document: first the facts stated there (`kind` fact), distractors
    being answers to facts of the same kind, then whole next sentences (`kind` sentence), distractors being sentences
    of the held-out documents in the same language."""
    stated = [[(document, fact) for fact in facts(document.text, document.metadata)] for document in documents]
    answers: dict[str, set[str]] = defaultdict(set)
    for _, fact in (pair for group in stated for pair in group):
        answers[fact.kind].add(fact.answer)
    made = balanced([[item for pair in group if (item := fact_cloze(*pair, answers, seed))] for group in stated], n)
    pools: dict[str, list[str]] = defaultdict(list)
    for document in documents:
        pools[document.metadata.get("language", "en")] += prose(document)
    following = balanced([list(sentence_cloze(document, pools, seed)) for document in documents], n - len(made))
    return made + following


def fact_cloze(document: Document, fact: Fact, answers: dict[str, set[str]], seed: int) -> Item | None:
    """A fact's statement with its answer left open, after the text before it; None where it cannot be asked."""
    lead = fact.statement[:fact.statement.find(fact.answer)].rstrip()
    others = sorted(answers[fact.kind] - {fact.answer})
    if not lead or len(others) < CHOICES - 1:
        return None
    place = document.text.find(fact.statement)
    before = opening(document.text, place, fact.language) if place > 0 else ""
    gap = "" if fact.language == "zh" else " "
    return choice_item("fact", document, before + lead, gap + fact.answer, [gap + other for other in others], seed)


def sentence_cloze(document: Document, pools: dict[str, list[str]], seed: int) -> Iterator[Item]:
    """For each two prose sentences that follow each other in a document: which sentence comes next?"""
    language = document.metadata.get("language", "en")
    gap = "" if language == "zh" else " "
    own = prose(document)
    for first, second in zip(own, own[1:]):
        place = document.text.find(first + gap + second)
        near = own[max(0, own.index(first) - 1):own.index(second) + 2]
        others = [s for s in pools[language] if s not in near and abs(len(s) - len(second)) <= 40]
        if place >= 0 and len(others) >= CHOICES - 1:
            before = opening(document.text, place, language)
            yield choice_item("sentence", document, before + first, gap + second, [gap + s for s in others], seed)


def choice_item(kind: str, document: Document, prompt: str, right: str, wrong: Sequence[str], seed: int) -> Item:
    """A cloze item of `right` and three of `wrong`, drawn and shuffled by the seed and the prompt."""
    draw = random.Random(f"{seed} {prompt} {right}")
    choices = draw.sample([right, *draw.sample(list(wrong), CHOICES - 1)], CHOICES)
    return identified("cloze", {
        "kind": kind, "language": document.metadata.get("language", "en"), "document": document.id, "prompt": prompt,
        "choices": choices, "gold": choices.index(right)})


def opening(text: str, end: int, language: str) -> str:
    """What stands in `text` before `end`, from its first whole line, else whole sentence, else whole word."""
    start = max(0, end - BEFORE.get(language, BEFORE_ELSE))
    window = text[start:end]
    if start:
        mark = next((mark for mark in ("\n", "。", " ") if mark in window), "")
        window = window.split(mark, 1)[1] if mark else window
    return window.lstrip()


def minimal_pairs(documents: Sequence[Document], n: int, seed: int) -> list[Item]:
    """A sentence of a held-out document and the same with two neighbouring words swapped (`kind` swap), or with one
    verb, article or demonstrative in the wrong form (`kind` agreement), in turn where both can be made."""
    groups = []
    for document in documents:
        group = []
        for sentence in prose(document):
            draw = random.Random(f"{seed} {sentence}")
            zh = document.metadata.get("language") == "zh"
            wrong = None if zh or len(group) % 2 == 0 else disagreed(sentence, draw)
            kind = "agreement" if wrong else "swap"
            if wrong := wrong or swapped(sentence, draw):
                group.append(identified("pairs", {"kind": kind, "language": "zh" if zh else "en",
                                                  "document": document.id, "good": sentence, "bad": wrong}))
        groups.append(group)
    return balanced(groups, n)


def swapped(sentence: str, draw: random.Random) -> str | None:
    """Two different neighbouring words inside the sentence swapped; None where there are none."""
    found = list(words.WORD.finditer(sentence))
    places = [i for i in range(1, len(found) - 2) if found[i][0].lower() != found[i + 1][0].lower()
              and sentence[found[i].end():found[i + 1].start()] in ("", " ")]
    if not places:
        return None
    place = draw.choice(places)
    a, b = found[place], found[place + 1]
    return sentence[:a.start()] + b[0] + sentence[a.end():b.start()] + a[0] + sentence[b.end():]


def disagreed(sentence: str, draw: random.Random) -> str | None:
    """One form of AGREEMENT inside the sentence put wrong; None where there is none."""
    found = [m for m in words.WORD.finditer(sentence) if m[0] in AGREEMENT]
    if not found:
        return None
    match = draw.choice(found)
    return sentence[:match.start()] + AGREEMENT[match[0]] + sentence[match.end():]


def recall(n: int, pairs: int, seed: int) -> list[Item]:
    """`pairs` statements `The kettle is blue.` and the question of one: the colours stated are the choices."""
    draw = random.Random(f"{seed} recall")
    made: dict[str, Item] = {}
    while len(made) < n:
        things, colours = draw.sample(THINGS, pairs), draw.sample(COLOURS, pairs)
        asked = draw.randrange(pairs)
        lines = [f"The {thing} is {colour}." for thing, colour in zip(things, colours)]
        item = identified("recall", {
            "language": "en", "document": None, "prompt": " ".join(lines) + f" So the {things[asked]} is",
            "choices": [f" {colour}" for colour in colours], "gold": asked})
        made[item["id"]] = item
    return list(made.values())


def lookup(documents: Sequence[Document], n: int) -> list[Item]:
    """Questions for search: facts of the evaluation's fifth that one document alone states.

    `documents` are those that stay in the corpus, as they stay. The answer stands in the document word for word.
    """
    stated = [[(document, fact) for fact in facts(document.text, document.metadata)] for document in documents]
    asked = Counter((fact.kind, fact.subject) for group in stated for _, fact in group)
    groups = []
    for group in stated:
        kinds: dict[str, list[Item]] = defaultdict(list)
        for document, fact in group:
            if usable(fact) and asked[fact.kind, fact.subject] == 1 and fact.answer in document.text:
                kinds[fact.kind].append(identified("lookup", {
                    "kind": fact.kind, "language": fact.language, "document": document.id, "question": fact.question,
                    "query": fact.subject, "answer": fact.answer, "statement": fact.statement}))
        groups.append(in_turn([kinds[kind] for kind in sorted(kinds)]))
    return balanced(groups, n)


def usable(fact: Fact) -> bool:
    """Whether a search can find the fact and a reader check its answer: kept for evaluation, a subject of its own
    (qualified, capitalised or Chinese), an answer of at most 80 characters."""
    qualified = "." in fact.subject and "__" not in fact.subject
    named = fact.kind == "definition" and fact.subject[:1].isupper()
    return fact.held_out and (fact.language == "zh" or qualified or named) and len(fact.answer) <= 80

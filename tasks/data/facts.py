"""Facts stated in documents, found by patterns and put as question and answer: for fine-tuning, cloze and lookup.

English API documentation gives what a function does and since which version it is there, prose gives definitions;
Chinese gives definitions and courtesy names. A fifth of the facts, by a hash of their question, are for evaluation:
fine-tuning leaves out every fact whose `held_out` is true.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

HELD_OUT = 0.2
MAX_ANSWER = 120  # characters; longer ones are no answer but a page

# `class a.b.C(x) -> y`, at the margin: indented ones are code
SIGNATURE = re.compile(r"(?:(?:async|class|function|method|attribute|classmethod|static|property|exception) )*"
                       r"([A-Za-z_][\w.]*)\([^\n]*\)(?: ?(?:->|→)? ?[\w.\[\]|, *]+)?[ ¶]*")
HEADING = re.compile(r"(?:class|function|method|attribute|classmethod|static|property|exception|async) [\w.]+")
SUMMARY = re.compile(r"([A-Z][a-z]+|[a-z]+s?) [^\n:=(){}<>]{10,100}?(?:\.(?=\s|$)|$)")
ADDED = re.compile(r"(?:Added|New) in (?:version|\w+) (\d+(?:\.\d+){1,2})\b")
DEFINITION = re.compile(r"(?:\A|(?<=\n)|(?<=[.!] ))(?:(?:The|A|An) )?([A-Z_a-z][\w.]*(?:\(\))?(?: [\w.()-]+){0,3}?)"
                        r" (is|are) ((?:a|an|the) [^.\n:;()“”\"]{12,110})\.(?=\s|$)")
COURTESY = re.compile(r"(?:姓([\u4e00-\u9fff]{1,2})，?名([\u4e00-\u9fff])"
                      r"|(?<![\u4e00-\u9fff])([\u4e00-\u9fff]{2,3})(?=，))，?字([\u4e00-\u9fff]{2})(?=[，。；、])")
ZH_DEFINITION = re.compile(r"(?:^|(?<=[\n。]))[ \u3000\t]*([\u4e00-\u9fffA-Za-z0-9]{2,10})是"
                           r"((?:一|指|用于|用来)[^，。\n；：“”]{5,50})。")
# what a definition's subject must not begin with or contain: it would name nothing outside its paragraph
VAGUE = frozenset("this that these those it its which there here what he she they we you one each such above below "
                  "following same other another both all some any if when where while note example result default "
                  "default usage also not as in on of for and or but so because since i".split())
VAGUE_ZH = re.compile("[这那此其他她它我你该某]|于是|可是|正是|只是|但是|都是|不是|若是|还是|乃是|便是|就是|如果|是否")

MARKS = re.compile(r"^#{1,6} |(?<!`)`(?!`)|^> ", re.M)  # Markdown's: of headings, of code in a line, of quotes

NO_SURNAME = frozenset("却那名其乃有即此子长次又小表是")
NEAR = 8  # lines: further below its signature a "New in version" speaks of something else


@dataclass(frozen=True)
class Fact:
    """`answer` to `question` is what `statement`, words of the document, says of `subject`; `kind` names the pattern.

    Answers of one kind are alike, so they serve as each other's distractors.
    """

    kind: str
    subject: str
    statement: str
    question: str
    answer: str
    language: str

    @property
    def held_out(self) -> bool:
        """Whether only evaluation may ask this: decided by the question's hash."""
        return int.from_bytes(hashlib.sha256(self.question.encode()).digest()[:8], "big") < HELD_OUT * 2**64


def facts(text: str, metadata: dict[str, Any]) -> list[Fact]:
    """The facts of a document, at most one a subject and kind, in the order of the text.

    `metadata["language"]` chooses the patterns (zh, anything else as English); it may be absent.
    """
    found = chinese(text) if metadata.get("language") == "zh" else english(text)
    first: dict[tuple[str, str], Fact] = {}
    for fact in found:
        if len(fact.answer) <= MAX_ANSWER:
            first.setdefault((fact.kind, fact.subject), fact)
    return list(first.values())


def english(text: str) -> Iterator[Fact]:
    """Purposes and versions of signatures, then definitions."""
    text = MARKS.sub("", text)
    yield from signatures(text)
    for match in DEFINITION.finditer(text):
        subject, verb, answer = match.groups()
        if not VAGUE & set(subject.lower().split()):
            yield Fact("definition", subject, " ".join(match[0].split()), f"What {verb} {subject}?", answer, "en")


def signatures(text: str) -> Iterator[Fact]:
    """What each function or class does, from the sentence right below its signature, and when it was added."""
    name = None
    below = 0
    for line in text.split("\n"):
        if match := SIGNATURE.fullmatch(line):
            parts = [part for part in match[1].split(".") if part]
            name, below = ".".join(parts[-2:]) if parts else None, 0
            continue
        if HEADING.match(line):
            name = None  # an attribute: what follows is no more the last signature's
        if name is None or not line.strip():
            continue
        below += 1
        if below == 1 and (match := SUMMARY.match(line)):
            said = match[0].rstrip(".")
            yield Fact("purpose", name, f"{name}() {said}.", f"What does {name}() do?", said, "en")
        elif below <= NEAR and (match := ADDED.match(line)):
            yield Fact("version", name, f"{name}() {match[0][0].lower()}{match[0][1:]}.",
                       f"In which version was {name}() added?", match[1], "en")


def chinese(text: str) -> Iterator[Fact]:
    """Courtesy names (`刘备，字玄德`) and definitions (`X是一种Y。`)."""
    for match in COURTESY.finditer(text):
        subject = f"{match[1]}{match[2]}" if match[1] else match[3]
        if subject[0] in NO_SURNAME:
            continue
        yield Fact("courtesy", subject, f"{subject}，字{match[4]}。", f"{subject}的字是什么？", match[4], "zh")
    for match in ZH_DEFINITION.finditer(text):
        if not VAGUE_ZH.search(match[1] + "是"):
            yield Fact("definition-zh", match[1], match[0].strip(), f"{match[1]}是什么？", match[2], "zh")

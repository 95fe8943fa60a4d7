"""Sets of example texts that classifiers learn from: files of pinned packages, one's own files, the corpus itself.

A set is named in params.yaml (`classifiers.sets`) and used as positive or negative by any classifier. Three kinds
are made, not found, so their labels are weak: `listed` takes the sentences of other sets that hold a listed word,
`templated` writes a listed word into a sentence beside one of other sets, `garbled` damages the texts of other sets.
"""

from __future__ import annotations

import codecs
import fnmatch
import hashlib
import json
import random
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator

from tasks import params
from tasks.data import documents, garble, words
from tasks.stage import StageError

MASK = "…"
Chosen = Annotated[dict[str, Annotated[int, Field(ge=1)]], Field(min_length=1)]  # name of a set -> texts at most
PIECE = 400  # characters from which on a piece of a document ends at the next paragraph
LONGEST = 20_000  # characters of an example; no classifier reads more


@dataclass(frozen=True)
class Example:
    """A text of a set. `key` tells what it was made from: examples of one key are never on both sides of a split."""

    text: str
    key: str

    @property
    def language(self) -> str:
        """zh where at least a third of the words are Han, else en."""
        tokens = words.words(self.text[:2000])
        return "zh" if 3 * len(re.findall(f"[{words.HAN}]", self.text[:2000])) >= max(len(tokens), 1) else "en"


class Lines(params.Section):
    """How a file holds texts."""

    form: Literal["lines", "fortunes", "pieces", "tsv", "jsonl"] = Field(description=(
        "a text a line; texts between lines of %; one text, cut at paragraphs; label, tab, text; objects with text"))
    where: str | None = Field(None, description="label of the texts taken, of tsv and jsonl")
    rot13: bool = Field(False, description="offensive fortunes are kept that way")


class PackageSet(Lines):
    """Texts of files of a package that the stage sources fetched."""

    kind: Literal["package"]
    package: str
    files: list[str] = Field(min_length=1, description="globs of file names")


class FileSet(Lines):
    """Texts of a file of one's own, such as an export of annotations. DVC does not watch it."""

    kind: Literal["file"]
    path: str


class CorpusSet(params.Section):
    """Pieces of the corpus's own documents."""

    kind: Literal["corpus"]
    sources: list[str] = Field([], description="globs; none takes every source")
    urls: list[str] = Field([], description="globs; none takes every page")


class WordList(params.Section):
    """Words given here, or a package's JSON list or lines of words, or both."""

    words: list[str] = []
    package: str | None = None
    file: str | None = None
    matching: str = Field(".", description="regular expression that the words of the file match somewhere")

    @field_validator("matching")
    @classmethod
    def compiles(cls, value: str) -> str:
        """Refuse what is no regular expression."""
        try:
            re.compile(value)
        except re.error as error:
            raise ValueError(f"is no regular expression ({error})") from None
        return value


class ListedSet(WordList):
    """Sentences of the sets `base` that hold a listed word, or, `holding: false`, that hold none."""

    kind: Literal["listed"]
    base: Chosen
    holding: bool = True
    masked: float = Field(0.5, ge=0, le=1, description="share with the words themselves taken out: context is learned")


class TemplatedSet(WordList):
    """Each listed word in each template, before or after a sentence of the sets `base`."""

    kind: Literal["templated"]
    base: Chosen
    templates: list[str] = Field(min_length=1, description="each with one {}")


class GarbledSet(params.Section):
    """Texts of the sets `base`, each with one of the faults (tasks/data/garble.py)."""

    kind: Literal["garbled"]
    base: Chosen
    faults: list[Literal["shuffled", "dropped", "scanned", "misread", "cluttered", "repeated"]] = Field(min_length=1)


AnySet = Annotated[PackageSet | FileSet | CorpusSet | ListedSet | TemplatedSet | GarbledSet,
                   Field(discriminator="kind")]
WEAK = ListedSet | TemplatedSet | GarbledSet


class Sets:
    """The named sets over a folder of packages and one of documents; each is read once.

    Raises StageError where a set is not there, holds no text, or is made from itself.
    """

    def __init__(self, sets: dict[str, AnySet], packages: Path, corpus: Path, seed: int):
        self.sets, self.packages, self.corpus, self.seed = sets, packages, corpus, seed
        self._made: dict[str, list[Example] | None] = {}

    def chosen(self, chosen: dict[str, int]) -> Iterator[tuple[str, Example]]:
        """(set, example) of these sets, of each as many as asked for, in the order of their hashes."""
        for name, limit in sorted(chosen.items()):
            yield from ((name, example) for example in self._all(name)[:limit])

    def _all(self, name: str) -> list[Example]:
        if name not in self.sets:
            raise StageError(f"classifiers: no set {name}; known: {', '.join(sorted(self.sets))}")
        if name not in self._made:
            self._made[name] = None
            found = {example.text: example for example in self._read(name, self.sets[name]) if example.text.strip()}
            self._made[name] = sorted(found.values(), key=lambda example: self.order(name, example.text))
        made = self._made[name]
        if not made:
            wrong = "is made from itself: correct its base" if made is None else "holds no text: correct it"
            raise StageError(f"classifiers: set {name} {wrong} in params.yaml")
        return made

    def order(self, *what: str) -> bytes:
        """A number for `what` that only the seed changes."""
        return hashlib.blake2b("\0".join([str(self.seed), *what]).encode("utf-8", "surrogatepass")).digest()

    def draw(self, *what: str) -> random.Random:
        """Random numbers for `what` that only the seed changes."""
        return random.Random(self.order(*what))

    def _read(self, name: str, of: AnySet) -> Iterator[Example]:
        if isinstance(of, PackageSet):
            return (plain(text) for path in self._files(of.package, of.files) for text in texts(path, of))
        if isinstance(of, FileSet):
            return (plain(text) for text in texts(Path(of.path), of))
        if isinstance(of, CorpusSet):
            return self._pages(of)
        if isinstance(of, GarbledSet):
            return self._garbled(name, of)
        listed = self._words(of)
        return self._listed(name, of, listed) if isinstance(of, ListedSet) else self._templated(name, of, listed)

    def _files(self, package: str, globs: list[str]) -> list[Path]:
        folder = self.packages / package
        found = sorted(p for p in folder.glob("*") if any(fnmatch.fnmatchcase(p.name, glob) for glob in globs))
        if not found:
            raise StageError(f"classifiers: {folder} holds no {', '.join(globs)}: add the package to sources.packages "
                             "and run the stage sources")
        return found

    def _pages(self, of: CorpusSet) -> Iterator[Example]:
        for shard in documents.shards(self.corpus):
            for document in documents.read(shard):
                source, url = str(document.metadata.get("source")), str(document.metadata.get("url"))
                if matches(source, of.sources) and matches(url, of.urls):
                    yield from (Example(piece, document.id) for piece in pieces(document.text))

    def _garbled(self, name: str, of: GarbledSet) -> Iterator[Example]:
        for _, example in self.chosen(of.base):
            draw = self.draw(name, example.text)
            fault = garble.FAULTS[draw.choice(of.faults)]
            made = fault(example.text, draw)
            if made != example.text:
                yield Example(made, example.key)

    def _listed(self, name: str, of: ListedSet, listed: list[str]) -> Iterator[Example]:
        pattern = any_of(listed)
        for _, example in self.chosen(of.base):
            for sentence in words.sentences(example.text):
                if bool(pattern.search(sentence)) == of.holding:
                    masked = of.holding and self.draw(name, sentence).random() < of.masked
                    yield Example(pattern.sub(MASK, sentence) if masked else sentence, example.key)

    def _templated(self, name: str, of: TemplatedSet, listed: list[str]) -> Iterator[Example]:
        around = [s for _, example in self.chosen(of.base) for s in words.sentences(example.text)[:3]]
        for word in listed:
            for template in of.templates:
                draw = self.draw(name, template, word)
                both = [template.replace("{}", word), draw.choice(around)]
                draw.shuffle(both)
                yield Example("\n".join(both), word)

    def _words(self, of: WordList) -> list[str]:
        found = set(of.words)
        if of.package and of.file:
            for path in self._files(of.package, [of.file]):
                content = decoded(path)
                listed = json_list(path, content) if path.suffix == ".json" else content.splitlines()
                found |= {word.strip() for word in listed if word.strip() and re.search(of.matching, word)}
        if not found:
            raise StageError("classifiers: a word list is empty: give words, or package and file")
        return sorted(found)


def fraction(*what: str) -> float:
    """A number in [0, 1) for `what`, by its hash."""
    digest = hashlib.blake2b("\0".join(what).encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64


def plain(text: str) -> Example:
    """An example made from nothing but itself."""
    return Example(text[:LONGEST], text[:LONGEST])


def matches(value: str, globs: list[str]) -> bool:
    """Whether a glob matches, or there is none."""
    return not globs or any(fnmatch.fnmatchcase(value, glob) for glob in globs)


def any_of(listed: Iterable[str]) -> re.Pattern[str]:
    """A pattern of any of these words, whole where they end in Latin letters, case aside."""
    def bounded(word: str) -> str:
        before, after = "(?<![A-Za-z])" * word[0].isascii(), "(?![A-Za-z])" * word[-1].isascii()
        return before + re.escape(word) + after

    return re.compile("|".join(map(bounded, sorted(listed, key=len, reverse=True))), re.IGNORECASE)


def texts(path: Path, how: Lines) -> Iterator[str]:
    """The texts of a file. Raises StageError naming file and line where it is not what `how` says."""
    content = decoded(path)
    if how.rot13:
        content = codecs.decode(content, "rot13")
    if how.form == "fortunes":
        yield from (part.strip() for part in re.split(r"^%.*$", content, flags=re.MULTILINE))
    elif how.form == "pieces":
        yield from pieces(content)
    else:
        for number, line in enumerate(content.split("\n"), 1):
            if line.strip():
                text = one(line, how, f"{path}:{number}")
                if text is not None:
                    yield text


def one(line: str, how: Lines, where: str) -> str | None:
    """The text of a line, None where its label is another than asked for. Raises StageError: it has no text."""
    if how.form == "lines":
        return line.strip()
    if how.form == "tsv":
        label, tab, text = line.partition("\t")
        if not tab:
            raise StageError(f"classifiers: {where} has no tab between label and text")
    else:
        try:
            item = json.loads(line)
            text, label = item["text"], item.get("label")
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise StageError(f"classifiers: {where} is no JSON object with text ({type(error).__name__})") from None
        if not isinstance(text, str):
            raise StageError(f"classifiers: {where}: text is {type(text).__name__}, not a string")
    return text.strip() if how.where is None or str(label) == how.where else None


def pieces(text: str) -> list[str]:
    """A document cut at paragraphs into pieces of 400 characters or more; what is left at the end joins the last."""
    made, part = [], ""
    for paragraph in re.split(r"\n\s*\n|\n(?=\S)", text):
        part = f"{part}\n{paragraph}" if part else paragraph
        if len(part) >= PIECE:
            made.append(part)
            part = ""
    if part.strip():
        made[-1:] = [f"{made[-1]}\n{part}"] if made else [part]
    return [piece[:LONGEST] for piece in made]


def decoded(path: Path) -> str:
    """A text file as UTF-8, one byte in a hundred broken at most. Raises StageError."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise StageError(f"classifiers: {path} cannot be read ({error.strerror}): correct the path") from None
    text = data.decode("utf-8-sig", "replace").replace("\r\n", "\n")
    if text.count("\ufffd") * 100 > len(text):
        raise StageError(f"classifiers: {path} is not UTF-8 text: convert it")
    return text


def json_list(path: Path, content: str) -> list[str]:
    """A JSON list of strings. Raises StageError."""
    try:
        listed: Any = json.loads(content)
    except (ValueError, RecursionError):
        listed = None
    if not isinstance(listed, list) or not all(isinstance(word, str) for word in listed):
        raise StageError(f"classifiers: {path} is not a JSON list of words")
    return listed

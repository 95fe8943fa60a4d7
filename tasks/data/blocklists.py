"""Lists of domains and of words whose pages are unwanted: small ones of our own, and public ones by their paths.

A list is a UTF-8 text file, an entry a line, taken literally; blank lines and lines that begin with # are left out. A
line of a word list may end in a tab and a weight (1 without). That is the form of UT1's categories (a folder with a
file `domains`) and of LDNOOBW (a phrase a line). One word rejects no page: its density does, so that medicine, the town of
Scunthorpe or a quarrel in a novel stays. Words are found in one pass, by Aho and Corasick's automaton (1975).
"""

from __future__ import annotations

import hashlib
import ipaddress
import re
import unicodedata
from collections.abc import Iterator, Sequence
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
from pydantic import Field

from tasks.data import words
from tasks.params import Section
from tasks.stage import StageError

IDEOGRAPH = re.compile(f"[{words.IDEOGRAPHS}]")
BARE_DOMAIN = re.compile("[a-z0-9.-]+")
OWN = Path(__file__).with_name("lists")
OWN_DOMAINS = ("domains.txt",)
OWN_WORDS = ("words.en.txt", "words.zh.txt")


class ListFile(Section):
    """A list of the user's, pinned: its content decides what is kept, so it belongs to the params."""

    path: str = Field(min_length=1, description="a list, or a folder with a file `domains`")
    sha256: str = Field(pattern="^[0-9a-f]{64}$")


def entries(path: Path, sha256: str | None = None) -> Iterator[tuple[int, str]]:
    """(number, line) of every entry of a list, stripped.

    Raises StageError: absent, not UTF-8 (the line is named), another content than `sha256`, no entry in it.
    """
    path = path / "domains" if path.is_dir() else path
    try:
        content = path.read_bytes()
    except OSError as error:
        raise StageError(f"safety: the list {path} cannot be read ({error.strerror}): correct its path, "
                         "or take it out of params.yaml") from None
    found = hashlib.sha256(content).hexdigest()
    if sha256 and found != sha256:
        raise StageError(f"safety: the list {path} has sha256 {found}, params.yaml pins {sha256}: "
                         "restore the file, or pin the new one")
    some = False
    for number, raw in enumerate(content.removeprefix(b"\xef\xbb\xbf").split(b"\n"), 1):
        try:
            line = raw.decode("utf-8").strip()
        except UnicodeDecodeError:
            raise StageError(f"safety: {path}:{number} is not UTF-8: convert the list (iconv -t utf-8)") from None
        if line and not line.startswith("#"):
            some = True
            yield number, line
    if not some:
        raise StageError(f"safety: the list {path} holds no entry: fill it, or take it out of params.yaml")


class Lists:
    """Our own files and the user's; a subclass builds what searches them, at first use, once a process."""

    def __init__(self, own: Sequence[str], given: Sequence[ListFile]):
        self.files = [(OWN / name, None) for name in own] + [(Path(g.path).absolute(), g.sha256) for g in given]
        self._built = None
        self.built()

    def __getstate__(self) -> dict:
        return self.__dict__ | {"_built": None}

    def built(self):
        """What searches the lists."""
        if self._built is None:
            self._built = self.build()
        return self._built


class Domains(Lists):
    """Whether an address lies at a listed domain or below one. Held as 8-byte hashes: 8 MB for a million domains."""

    def __init__(self, given: Sequence[ListFile] = ()):
        super().__init__(OWN_DOMAINS, given)

    def build(self) -> np.ndarray:
        """uint64[n], sorted: the hashes of all domains."""
        return np.unique(np.fromiter((digest(host(line) or line.lower()) for path, sha256 in self.files
                                      for _, line in entries(path, sha256)), dtype=np.uint64))

    def listed(self, url: str) -> str | None:
        """The listed domain that the host of `url` is or belongs to, the longest one; None where there is none."""
        name = host(url)
        while name:
            hashed = digest(name)
            place = int(np.searchsorted(self.built(), hashed))
            if place < len(self.built()) and self.built()[place] == hashed:
                return name
            name = "" if numeric(name) else name.partition(".")[2]
        return None


def host(url: str) -> str:
    """The host of an address or bare domain, lower case, international names in their ASCII form; "" for none."""
    if BARE_DOMAIN.fullmatch(url):
        return url.rstrip(".")
    try:
        name = urlsplit(url if "://" in url else f"//{url}").hostname or ""
    except ValueError:
        return ""
    name = name.rstrip(".").lower()
    if not name.isascii():
        try:
            name = name.encode("idna").decode("ascii")
        except UnicodeError:
            return name
    return name


def numeric(name: str) -> bool:
    """Whether a host is an IP address: it belongs to no domain."""
    try:
        return bool(ipaddress.ip_address(name))
    except ValueError:
        return False


def digest(name: str) -> np.uint64:
    """A stable hash of a domain; two of ten million names share one with probability 3e-6."""
    return np.uint64(int.from_bytes(hashlib.blake2b(name.encode("utf-8", "surrogatepass"), digest_size=8).digest()))


class Words(Lists):
    """How much of a text listed words are. Han, kana and hangul are found anywhere, other words between borders."""

    def __init__(self, given: Sequence[ListFile] = ()):
        super().__init__(OWN_WORDS, given)

    def build(self):
        """The automaton: normal form of a word -> (its length, its weight times its words)."""
        import ahocorasick

        automaton = ahocorasick.Automaton()
        for path, sha256 in self.files:
            for number, line in entries(path, sha256):
                word, tab, written = line.partition("\t")
                try:
                    weight = float(written) if tab else 1.0
                except ValueError:
                    weight = -1.0
                if not 0 < weight <= 100:
                    raise StageError(f"safety: {path}:{number} has the weight {written!r}: "
                                     "it must be a number above 0, 100 at most")
                if word := normal(word).strip():
                    automaton.add_word(word, (len(word), max(len(words.words(word)), 1) * weight))
        automaton.make_automaton()
        return automaton

    def density(self, text: str) -> tuple[float, int]:
        """(weight of the listed words in 1,000 words of `text`, how many different ones).

        The last list with a word sets its weight. A phrase weighs for each of its words, and a Han character is a word,
        so both languages have one measure. Where listed words overlap, the first and longest counts.
        """
        text = normal(text)
        found = []
        for last, (length, weight) in self.built().iter(text):
            start, end = last - length + 1, last + 1
            if not (joined(text, start) or joined(text, end)):
                found.append((start, -length, weight))
        total, covered, different = 0.0, 0, set()
        for start, negative, weight in sorted(found):
            if start >= covered:
                covered = start - negative
                total += weight
                different.add(text[start:covered])
        return (1000 * total / max(len(words.words(text)), 1), len(different)) if found else (0.0, 0)


def normal(text: str) -> str:
    """NFKC and lower case, so that width and case do not count."""
    return unicodedata.normalize("NFKC", text).lower()


def joined(text: str, border: int) -> bool:
    """Whether a word of a script with spaces goes on across position `border`."""
    if not 0 < border < len(text):
        return False
    left, right = text[border - 1], text[border]
    return (left.isalnum() or left == "_") and (right.isalnum() or right == "_") and not (
        IDEOGRAPH.match(left) or IDEOGRAPH.match(right))

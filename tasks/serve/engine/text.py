"""Tokens to text as it streams: bytes, so that a character split across tokens appears once, whole; stop strings."""

from __future__ import annotations

import codecs
import json
from pathlib import Path

from tokenizers import Tokenizer

from tasks.serve.engine.directory import ModelError


def byte_alphabet() -> dict[str, int]:
    """The character that byte-level BPE writes for each byte (GPT-2): printable ones themselves, others from 256."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + i): byte for i, byte in enumerate(others)}


class Vocabulary:
    """The tokenizer of a model directory, with the bytes of every token."""

    def __init__(self, directory: Path) -> None:
        path = directory / "tokenizer.json"
        try:
            self.json = path.read_bytes()  # as text it would take twice as much memory
            self.tokenizer = Tokenizer.from_buffer(self.json)
            decoder = (json.loads(self.json).get("decoder") or {}).get("type")
        except Exception as error:  # the tokenizers library raises bare Exception
            raise ModelError(f"{path} is no tokenizer: {' '.join(str(error).split())}") from None
        if decoder != "ByteLevel":
            raise ModelError(f"{path} is not byte-level BPE (its decoder is {decoder}): only that is served")
        alphabet = byte_alphabet()
        added = self.tokenizer.get_added_tokens_decoder()
        self.special = frozenset(token for token, content in added.items() if content.special)
        self.pieces: dict[int, bytes] = {}
        for text, token in self.tokenizer.get_vocab(with_added_tokens=True).items():
            literal = token in added or any(character not in alphabet for character in text)
            self.pieces[token] = text.encode() if literal else bytes(alphabet[character] for character in text)
        self.size = max(self.pieces) + 1

    def encode(self, text: str, *, special: bool) -> list[int]:
        """Token ids of `text`; `special` adds what the tokenizer puts around a plain text (a BOS, say)."""
        return self.tokenizer.encode(text, add_special_tokens=special).ids

    def piece(self, token: int) -> bytes:
        """The bytes of a token as they appear in text: none for a special one."""
        return b"" if token in self.special else self.pieces.get(token, b"")

    def name(self, token: int) -> str:
        """A token as a string that no other token shares: its text, or `bytes:\\xe4` where it is half a character."""
        piece = self.pieces.get(token, b"")
        try:
            return piece.decode()
        except UnicodeDecodeError:
            return "bytes:" + "".join(f"\\x{byte:02x}" for byte in piece)


def held_back(text: str, markers: tuple[str, ...]) -> int:
    """Length of the longest end of `text` that could be the beginning of a marker."""
    longest = max(map(len, markers), default=0) - 1
    return next((n for n in range(min(longest, len(text)), 0, -1)
                 if any(marker.startswith(text[-n:]) for marker in markers)), 0)


class TextStream:
    """Bytes of tokens in, text out; what might be the start of a stop string waits until it is known."""

    def __init__(self, stops: tuple[str, ...]) -> None:
        self.decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self.stops, self.pending, self.stopped = stops, "", False
        self.stop: str | None = None

    def feed(self, piece: bytes, *, last: bool = False) -> str:
        """Text that is now certain. Sets `stopped`, and `stop` to it, when a stop string is complete; it and the rest
        are dropped."""
        self.pending += self.decoder.decode(piece, final=last)
        if not self.stops:
            text, self.pending = self.pending, ""
            return text
        found, self.stop = min(((at, stop) for stop in self.stops if (at := self.pending.find(stop)) >= 0),
                               default=(-1, None))
        if found >= 0:
            self.stopped = True
            text, self.pending = self.pending[:found], ""
            return text
        keep = 0 if last else held_back(self.pending, self.stops)
        text, self.pending = self.pending[:len(self.pending) - keep], self.pending[len(self.pending) - keep:]
        return text

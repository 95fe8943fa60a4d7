"""Conversations of one's own: files in a known format (maps.py), pinned, read record by record, every fault counted.

    ./run conversations FILE FORMAT          what is in it: counts, faults, and the first conversation as it is learned

A file is JSON lines or one JSON array, UTF-8, plain or gzipped. Of its records some are kept, some are broken (the
line and what is wrong are said; more than the set allows end the stage), some hold nothing answered; which are longer
than training takes is counted later, with the tokenizer at hand. None is cut or mended.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import random
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from tasks import chat
from tasks.finetune.conversations import Conversation
from tasks.finetune.maps import FORMATS, trees
from tasks.finetune.settings import DataSet
from tasks.stage import StageError

LONGEST = 16 << 20  # bytes of a line; a longer one is broken, and is never held in memory whole
NAMED = 5           # broken records whose faults are printed and kept in the metrics


def read_all(sets: list[DataSet], seed: int) -> tuple[list[Conversation], dict[str, dict[str, Any]]]:
    """(the conversations of all sets, {name: counts}); a set is named for its file. Raises StageError as `read` does,
    and where a file is not what is pinned."""
    found: list[Conversation] = []
    table: dict[str, dict[str, Any]] = {}
    for number, given in enumerate(sets):
        path, where = Path(given.path), f"sft.data.{number}"
        name = f"{path.stem} ({given.format})"
        if name in table:
            raise StageError(f"{where}: {name} is there twice; give each file once")
        check_pin(path, given.sha256, where)
        made, counts = read(path, given.format, given.broken, name)
        if given.take is not None and given.take < len(made):
            made = random.Random(f"{seed} {name}").sample(made, given.take)
        table[name] = counts | {"taken": len(made)}
        found += made
    return found, table


def check_pin(path: Path, pinned: str, where: str) -> None:
    """Raise StageError where the file is absent or has another sha256."""
    try:
        with path.open("rb") as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise StageError(f"{where}: {path} cannot be read ({error.strerror})") from None
    if sha256 != pinned:
        raise StageError(f"{where}: {path} has sha256 {sha256}, params.yaml pins {pinned}: if the change is meant, put "
                         "the new one there")


def read(path: Path, form: str, broken: int, kind: str) -> tuple[list[Conversation], dict[str, Any]]:
    """(conversations of the file, {"records", "kept", "unanswered", "broken", "faults"}), faults as "line N: what".

    Raises StageError: an unknown format, an unreadable file, nothing in it, or more than `broken` broken records,
    naming the first.
    """
    if form not in FORMATS:
        raise StageError(f"no format is called {form!r}: there are {', '.join(sorted(FORMATS))}")
    made: list[Conversation] = []
    faults: list[str] = []
    records = unanswered = 0

    def objects() -> Iterator[tuple[int, dict[str, Any]]]:
        nonlocal records
        for number, record in rows(path):
            records += 1
            if isinstance(record, dict):
                yield number, record
            else:
                faults.append(f"line {number}: {record if isinstance(record, str) else 'no JSON object'}")

    for number, record in trees(objects()) if form == "oasst" else objects():
        try:
            turns = FORMATS[form](record)
            made += [sound(Conversation(kind, *one)) for one in turns]
            unanswered += not turns
        except (ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
            faults.append(f"line {number}: {error if type(error) is ValueError else f'{type(error).__name__} {error}'}")
    if len(faults) > broken:
        raise StageError(f"{path}, {faults[0]} ({len(faults)} of {records} records are broken as {form}, {broken} may "
                         "be: mend the file, correct the format, or allow more)")
    if not made:
        raise StageError(f"{path} holds no conversation: {records} records, none of them answered")
    for fault in faults[:NAMED]:
        print(f"{path}, {fault}: left out", file=sys.stderr)
    return made, {"records": records, "kept": len(made), "unanswered": unanswered, "broken": len(faults),
                  "faults": faults[:NAMED]}


def sound(conversation: Conversation) -> Conversation:
    """The conversation, where every turn can be learned from. Raises ValueError naming the first that cannot."""
    from tasks.finetune import masking

    try:
        masking.check(conversation)
    except StageError as error:
        raise ValueError(str(error)) from None
    for number, message in enumerate(conversation.messages):
        spelt = json.dumps(message, ensure_ascii=False)
        if marks := [mark for mark in chat.SPECIALS if mark in spelt]:
            raise ValueError(f"turn {number} spells {marks[0]}, which ends or opens a turn of the chat template")
    return conversation


def rows(path: Path) -> Iterator[tuple[int, Any]]:
    """(line, value) of each record: an object, or text saying why it is none. The records of an array are counted in
    place of lines. Raises StageError where the file as a whole cannot be read."""
    try:
        with opened(path) as file:
            start = file.peek(4)[:4]
            if start[:2] in (b"\xff\xfe", b"\xfe\xff"):
                raise StageError(f"{path} is UTF-16: convert it to UTF-8 (iconv -f UTF-16 -t UTF-8)")
            if start.removeprefix(b"\xef\xbb\xbf").lstrip()[:1] == b"[":
                yield from enumerate(array(path, file.read()), 1)
                return
            yield from lines(file)
    except (OSError, EOFError) as error:
        raise StageError(f"{path} cannot be read to its end ({error}): copy it again") from None


def opened(path: Path) -> Any:
    """The file's bytes, unzipped where it is gzipped, buffered."""
    with path.open("rb") as file:
        zipped = file.read(2) == b"\x1f\x8b"
    return gzip.open(path, "rb") if zipped else path.open("rb")


def lines(file: IO[bytes]) -> Iterator[tuple[int, Any]]:
    """The records of JSON lines; empty lines are none."""
    number = 0
    while piece := file.readline(LONGEST + 1):
        number += 1
        if len(piece) > LONGEST:
            while piece and not piece.endswith(b"\n"):
                piece = file.readline(LONGEST)
            yield number, f"longer than {LONGEST >> 20} MiB"
            continue
        if number == 1:
            piece = piece.removeprefix(b"\xef\xbb\xbf")
        if not piece.strip():
            continue
        try:
            yield number, json.loads(piece.decode("utf-8"))
        except UnicodeDecodeError as error:
            yield number, f"not UTF-8 at byte {error.start} (0x{piece[error.start]:02x})"
        except RecursionError:
            yield number, "nested too deeply"
        except ValueError as error:
            torn = "cut off: the file ends within it, and " if not piece.endswith(b"\n") else ""
            yield number, f"{torn}no JSON ({error})"


def array(path: Path, content: bytes) -> list[Any]:
    """The records of a JSON array. Raises StageError where it is none."""
    try:
        return json.loads(content.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise StageError(f"{path} opens a JSON array and is none, torn perhaps ({error}): copy it again, or give JSON "
                         "lines, of which only the broken ones are lost") from None


def main(arguments: list[str]) -> int:
    """The command line. Exit codes: 0 read, 1 it cannot be, 2 wrong use."""
    if len(arguments) != 2 or arguments[0] in ("-h", "--help"):
        print(__doc__, f"\nformats: {', '.join(sorted(FORMATS))}")
        return 0 if arguments[:1] in (["-h"], ["--help"]) else 2
    path = Path(arguments[0])
    if not path.is_file():
        print(f"error: {path} is not there", file=sys.stderr)
        return 1
    try:
        made, counts = read(path, arguments[1], sys.maxsize, path.stem)
    except StageError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    for name in ("records", "kept", "unanswered", "broken"):
        print(f"{name:>12}  {counts[name]}")
    print("\n" + aloud(made[0]))
    with path.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    broken = f", broken: {counts['broken']}" if counts["broken"] else ""
    print(f"\nin params.yaml, tracks.TRACK.sft:\n  data:\n"
          f"    - {{path: {path}, format: {arguments[1]}, sha256: {sha256}{broken}}}")
    return 0


def aloud(conversation: Conversation) -> str:
    """The conversation as the chat template renders it, what is learned between ⟦ and ⟧."""
    from transformers.utils.chat_template_utils import render_jinja_template

    rendered, spans = render_jinja_template([conversation.messages], tools=conversation.tools or None,
                                            chat_template=chat.TEMPLATE, return_assistant_tokens_mask=True)
    whole, at, parts = rendered[0], 0, []
    for begin, end in spans[0]:
        parts += [whole[at:begin], "⟦", whole[begin:end], "⟧"]
        at = end
    return "".join([*parts, whole[at:]])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

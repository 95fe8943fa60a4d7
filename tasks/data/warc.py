"""WARC files: pages written byte-stably, one gzip member a record, and ready files checked to be whole.

A record's id is derived from its URL and payload, its date is given, gzip keeps no time; so the same pages give the
same file (ISO 28500, the form of Common Crawl).
"""

from __future__ import annotations

import gzip
import io
import uuid
import zlib
from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path
from typing import IO

from fastwarc.warc import ArchiveIterator, WarcRecordType
from warcio.statusandheaders import StatusAndHeaders
from warcio.warcwriter import WARCWriter

from tasks.stage import StageError

SOFTWARE = "Catena/0.1"
BLOCK = 1 << 20
END = b"\r\n\r\n"  # of every record
UNPACKED = 16 << 30  # a small file can hold petabytes; Common Crawl's unpack to 5 GiB
LINE, HEADERS = 1 << 16, 1000  # bytes of one header line, lines of one header
# of one transfer or one moment, not of the page; the payload is kept decoded
PASSING = {"date", "age", "expires", "set-cookie", "connection", "keep-alive", "transfer-encoding",
           "content-encoding", "content-length", "alt-svc", "strict-transport-security"}


def page(url: str, status: int, headers: Iterable[tuple[str, str]], body: bytes, kind: str, date: str) -> bytes:
    """One gzipped response record. `kind` is the payload's media type, `date` the WARC-Date (ISO 8601, UTC)."""
    kept = [(name, value) for name, value in headers if name.lower() not in PASSING]
    kept.append(("Content-Length", str(len(body))))
    out = io.BytesIO()
    writer = WARCWriter(out, gzip=True)
    name = uuid.uuid5(uuid.NAMESPACE_URL, f"{url} {zlib.crc32(body):08x} {len(body)}")
    writer.write_record(writer.create_warc_record(
        url, "response", payload=io.BytesIO(body), length=len(body),
        http_headers=StatusAndHeaders(f"{status} {'OK' if status == 200 else 'Other'}", kept, protocol="HTTP/1.1"),
        warc_headers_dict={"WARC-Date": date, "WARC-Record-ID": f"<urn:uuid:{name}>",
                           "WARC-Identified-Payload-Type": kind},
    ))
    return out.getvalue()


def information(name: str, fields: dict[str, str], date: str) -> bytes:
    """The gzipped warcinfo record that opens the file `name`."""
    out = io.BytesIO()
    writer = WARCWriter(out, gzip=True)
    body = "".join(f"{key}: {value}\r\n" for key, value in
                   ({"software": SOFTWARE, "format": "WARC File Format 1.0"} | fields).items()).encode()
    writer.write_record(writer.create_warc_record(
        "", "warcinfo", payload=io.BytesIO(body), length=len(body), warc_content_type="application/warc-fields",
        warc_headers_dict={"WARC-Date": date, "WARC-Filename": name,
                           "WARC-Record-ID": f"<urn:uuid:{uuid.uuid5(uuid.NAMESPACE_URL, name + body.decode())}>"}))
    return out.getvalue()


def whole(path: Path) -> int:
    """Follow a WARC's frames from end to end in bounded memory; returns its number of response records.

    Raises StageError with the file and the place where it is cut off, damaged or no WARC, and where it unpacks to
    more than UNPACKED bytes. The WARC reader itself would stop at such a place, or step over it, in silence.
    """
    responses = records = place = 0
    try:
        with opened(path) as stream:
            while line := stream.readline(LINE):
                kind, length = head(stream, line)
                if place + length > UNPACKED:
                    raise ValueError(f"unpacks to more than {UNPACKED >> 30} GiB")
                while length and (block := stream.read(min(length, BLOCK))):
                    length -= len(block)
                if stream.read(len(END)) != END:
                    raise ValueError("a record ends in two empty lines")
                records, responses, place = records + 1, responses + (kind == b"response"), stream.tell()
    except (EOFError, zlib.error, gzip.BadGzipFile, ValueError) as error:
        raise cut(path, f"after {place} unpacked bytes ({error})") from None
    if not records:
        raise cut(path, "(it holds no record)")
    return responses


def opened(path: Path) -> IO[bytes]:
    """A plain or gzipped file as a stream of unpacked bytes."""
    with path.open("rb") as file:
        packed = file.read(2) == b"\x1f\x8b"
    return gzip.open(path) if packed else path.open("rb")


def head(stream: IO[bytes], line: bytes) -> tuple[bytes, int]:
    """(type, Content-Length) of the record whose first line is `line`. Raises ValueError where it is no record."""
    if not line.startswith(b"WARC/") or not line.endswith(b"\r\n"):
        raise ValueError("no record begins there")
    fields: dict[bytes, bytes] = {}
    for _ in range(HEADERS):
        line = stream.readline(LINE)
        if line == b"\r\n":
            break
        name, found, value = line.partition(b":")
        if not line.endswith(b"\r\n") or not (found or line[:1] in b" \t"):
            raise ValueError("a record's header is damaged")
        fields[name.strip().lower()] = value.strip()
    length = fields.get(b"content-length", b"")
    if not length.isdigit() or len(length) > 18:
        raise ValueError(f"a record's header is damaged: Content-Length {length[:40]!r}")
    return fields.get(b"warc-type", b"").lower(), int(length)


def decoded(body: bytes, encodings: str, limit: int) -> bytes:
    """At most `limit` bytes of a body packed by the codings of a Content-Encoding header, the last one first.

    Raises ValueError where it is damaged, cut off or of an unknown coding.
    """
    for coding in reversed([name.strip().lower() for name in encodings.split(",") if name.strip()]):
        if coding in ("gzip", "x-gzip", "deflate"):
            raw = coding == "deflate" and body[:1] and (body[0] & 15 != 8 or int.from_bytes(body[:2]) % 31)
            unpacker = zlib.decompressobj(-15 if raw else 47)
            try:
                body = unpacker.decompress(body, limit)
            except zlib.error as error:
                raise ValueError(str(error)) from None
            done = unpacker.eof
        elif coding == "br":
            import brotli

            unpacker = brotli.Decompressor()
            try:
                body = unpacker.process(body, output_buffer_limit=limit)
            except brotli.error as error:
                raise ValueError(str(error)) from None
            done = unpacker.is_finished()
        elif coding in ("identity", "none"):
            done = True
        else:
            raise ValueError(f"unknown Content-Encoding {coding!r}")
        if not done and len(body) < limit:
            raise ValueError("cut off")
    return body[:limit]


def take(path: Path, folder: Path, name: str, first: int, size: int) -> tuple[int, int]:
    """Copy a ready WARC into `folder` as files NAME-NNNNN.warc[.gz] from number `first`, of about `size` bytes each.

    The bytes are those of `path`, cut between records where its gzip members allow it. Returns (files, responses).
    Raises StageError: see `whole`; also where it holds no response.
    """
    responses = whole(path)
    if not responses:
        raise StageError(f"{path} holds no response record: not a WARC of pages; take it out of sources.corpora")
    with path.open("rb") as file:
        suffix = ".warc.gz" if file.read(2) == b"\x1f\x8b" else ".warc"
    folder.mkdir(parents=True, exist_ok=True)
    targets = []
    for number, (start, end) in enumerate(pieces(path, size), first):
        targets.append(folder / f"{name}-{number:05d}{suffix}")
        copy(path, targets[-1], start, end)
    if len(targets) > 1 and not parted(targets, responses):  # one gzip member of many records has no place to cut
        for target in targets[1:]:
            target.unlink()
        copy(path, targets[0], 0, path.stat().st_size)
        targets = targets[:1]
    return len(targets), responses


def names(path: Path) -> list[str]:
    """The addresses of the responses of a WARC."""
    with path.open("rb") as stream:
        return [record.headers.get("WARC-Target-URI") or "" for record in ArchiveIterator(
            stream, parse_http=False, record_types=WarcRecordType.response)]


def pieces(path: Path, size: int) -> list[tuple[int, int]]:
    """Byte ranges of about `size` that begin at records, in order, together the whole file."""
    end = path.stat().st_size
    cuts = [0]
    if end > size:
        with path.open("rb") as stream:
            for record in ArchiveIterator(stream, parse_http=False):
                if record.stream_pos - cuts[-1] >= size:
                    cuts.append(record.stream_pos)
    return list(pairwise([*cuts, end]))


def parted(files: list[Path], responses: int) -> bool:
    """Whether each of `files` is a whole WARC, together of so many responses."""
    try:
        return sum(map(whole, files)) == responses
    except StageError:
        return False


def copy(path: Path, target: Path, start: int, end: int) -> None:
    """Write bytes start to end of `path` to `target`."""
    with path.open("rb") as source, target.open("wb") as out:
        source.seek(start)
        while start < end and (block := source.read(min(BLOCK, end - start))):
            start += out.write(block)


def cut(path: Path, where: str) -> StageError:
    """The error of a file that is not whole."""
    return StageError(f"{path} is truncated or damaged {where}: fetch it again, or take it out of sources.corpora")

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
from pathlib import Path

from fastwarc.warc import ArchiveIterator, WarcRecordType
from warcio.statusandheaders import StatusAndHeaders
from warcio.warcwriter import WARCWriter

from tasks.stage import StageError

SOFTWARE = "Catena/0.1"
BLOCK = 1 << 20
END = b"\r\n\r\n"  # of every record
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


def check(path: Path) -> int:
    """Read a ready WARC from end to end; returns its number of responses.

    Raises StageError with the file and the place where it is cut off, or where it is no WARC of pages.
    """
    responses = 0
    whole(path)
    with path.open("rb") as stream:
        try:
            for record in ArchiveIterator(stream, parse_http=False):
                length = int(record.headers.get("Content-Length") or -1)
                if len(record.reader.read()) != length:
                    raise cut(path, f"in the record {record.record_id}")
                responses += record.record_type == WarcRecordType.response
        except (OSError, ValueError) as error:
            raise StageError(f"{path} is not a readable WARC ({error}): take it out of crawl.warcs") from None
    if not responses:
        raise StageError(f"{path} holds no response record: not a WARC of pages; take it out of crawl.warcs")
    return responses


def whole(path: Path) -> None:
    """Raise StageError where a file is cut off or damaged; the WARC reader itself would stop there in silence."""
    read, tail = 0, b""
    with path.open("rb") as file:
        packed = file.read(2) == b"\x1f\x8b"
    try:
        with gzip.open(path) if packed else path.open("rb") as stream:
            while block := stream.read(BLOCK):
                read, tail = read + len(block), (tail + block)[-len(END):]
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise cut(path, f"after {read} unpacked bytes ({error})") from None
    if tail != END:
        raise cut(path, f"after {read} bytes (a record ends in two empty lines)")


def cut(path: Path, where: str) -> StageError:
    """The error of a file that is not whole."""
    return StageError(f"{path} is truncated or damaged {where}: fetch it again, or take it out of crawl.warcs")

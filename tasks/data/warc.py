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

    Raises StageError with the file and the place where it is cut off, is no WARC, or a payload's digest is wrong.
    """
    responses = 0
    whole(path)
    with path.open("rb") as stream:
        try:
            for record in ArchiveIterator(stream, parse_http=False):
                if record.record_type == WarcRecordType.response:
                    length = int(record.headers.get("Content-Length") or -1)
                    if len(record.reader.read()) != length:
                        url = record.headers.get("WARC-Target-URI")
                        raise StageError(f"{path} is truncated in the record of {url}: "
                                         "fetch it again, or take it out of crawl.warcs")
                    responses += 1
        except (OSError, ValueError) as error:
            raise StageError(f"{path} is not a readable WARC ({error}): take it out of crawl.warcs") from None
    if not responses:
        raise StageError(f"{path} holds no response record: not a WARC of pages; take it out of crawl.warcs")
    return responses


def whole(path: Path) -> None:
    """Raise StageError where a gzipped file is cut off or damaged; the WARC reader itself would stop in silence."""
    with path.open("rb") as file:
        if file.read(2) != b"\x1f\x8b":
            return
    read = 0
    try:
        with gzip.open(path) as stream:
            while block := stream.read(BLOCK):
                read += len(block)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise StageError(f"{path} is truncated or damaged after {read} unpacked bytes ({error}): fetch it again, "
                         "or take it out of crawl.warcs") from None

"""Pages out of WARC files and text out of pages: the reader and the extractor of the extract stage.

Reading is fastwarc's; decoding goes by a byte order mark, the HTTP header, the page's own declaration, detection. Main
content is found by tasks/data/extractors.py; PDF and EPUB are read by tasks/data/payloads.py.
"""

from __future__ import annotations

import codecs
import hashlib
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datatrove.data import Document, DocumentsPipeline
from datatrove.pipeline.base import PipelineStep
from fastwarc.warc import ArchiveIterator, WarcRecord, WarcRecordType
from resiliparse.parse.encoding import bytes_to_str, detect_encoding, map_encoding_to_html5

from tasks.data import documents, extractors, payloads, warc
from tasks.stage import StageError

HTML = {"text/html", "application/xhtml+xml"}
REJECT_CHARACTERS = 2000
META = re.compile(rb"""<meta[^>]{0,200}charset\s*=\s*["']?\s*([A-Za-z0-9_:.-]{2,40})""", re.I)
META_BYTES = 4096
HTTP_HEADER = 1 << 16
WIDE_BYTES = 64
MARKS = ((codecs.BOM_UTF8, "utf-8"), (codecs.BOM_UTF32_LE, "utf-32"), (codecs.BOM_UTF16_LE, "utf-16-le"),
         (codecs.BOM_UTF16_BE, "utf-16-be"))
# as the WHATWG encoding standard reads these labels
SUPERSETS = {"gbk": "gb18030", "gb2312": "gb18030", "big5": "big5hkscs", "shift_jis": "cp932", "shift-jis": "cp932",
             "euc-kr": "cp949"}
# control, soft hyphen, zero-width (joiners stay: they spell), direction and private-use characters
CONTROL = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u00ad\u200b\u200e\u200f\u202a-\u202e\u2060-\u2064\ufeff\ue000-\uf8ff]")
EDGES, BLANKS = re.compile(r"[^\S\n]+$|\s*¶$", re.M), re.compile(r"\n{3,}")
SPACES = re.compile("[\u00a0\u2007\u202f]")


@dataclass(frozen=True)
class Payload:
    """What a server sent: its bytes, their media type, the header's charset, and where it stands."""

    body: bytes
    kind: str
    charset: str | None
    url: str


@dataclass(frozen=True)
class Extracted:
    """Text, why it is dropped (None where it is kept), and how many characters were read for it."""

    text: str
    reason: str | None
    read: int


class ReadPages(PipelineStep):
    """Yields the documents of file number `rank`: the payloads of a WARC, or the documents of a text shard.

    A larger payload than `page_bytes` carries `metadata["reason"]` too_large, one that cannot be unpacked damaged.
    Counts `read`.
    """

    type, name = "reader", "pages"

    def __init__(self, files: list[Path], origins: dict[str, dict[str, Any]], page_bytes: int):
        super().__init__()
        self.files, self.origins, self.page_bytes = [path.absolute() for path in files], origins, page_bytes

    def run(self, data: DocumentsPipeline = None, rank: int = 0, world_size: int = 1) -> DocumentsPipeline:
        """Files rank, rank + world_size, ..., document by document. Raises StageError where a file is damaged."""
        for path in self.files[rank::world_size]:
            for document in documents.read(path) if path.suffix == ".jsonl" else self.pages(path):
                self.stat_update("read")
                yield document

    def pages(self, path: Path) -> DocumentsPipeline:
        """The responses of one WARC file."""
        expected = warc.whole(path)
        source = path.name.rpartition("-")[0]
        seen: set[str] = set()
        with path.open("rb") as stream:
            try:
                for record in ArchiveIterator(stream, record_types=WarcRecordType.response, parse_http=False):
                    document = self.page(record, source)
                    if document.id in seen:
                        document.id += f"-{len(seen)}"
                    seen.add(document.id)
                    yield document
            except (OSError, ValueError) as error:
                raise StageError(f"{path} is damaged ({error}): run the crawl again") from None
        if len(seen) != expected:
            raise StageError(f"{path} is damaged: {expected} responses, of which {len(seen)} can be read")

    def page(self, record: WarcRecord, source: str) -> Document:
        """One response as a document without text yet: its payload stands in the metadata."""
        url = record.headers.get("WARC-Target-URI") or ""
        about = self.origins.get(source, {})
        too_large = record.content_length > self.page_bytes + HTTP_HEADER
        answer = WarcRecord()  # apart from the stream: a decoder that fails or stops early would lose its place
        answer.set_bytes_content(record.reader.read(HTTP_HEADER if too_large else record.content_length))
        answer.is_http = True
        body, reason = b"", "too_large" if too_large else None
        try:
            answer.parse_http(auto_decode="none" if too_large else "transfer")
            packed = (answer.http_headers or {}).get("Content-Encoding") or ""
            body = b"" if too_large else warc.decoded(answer.reader.read(), packed, self.page_bytes + 1)
        except (OSError, ValueError):
            reason = "damaged"
        declared = record.headers.get("WARC-Identified-Payload-Type") or answer.http_content_type or ""
        metadata = {"url": url, "source": source, "licence": about.get("licence") or "unknown",
                    "language": about.get("language") or "und", "snapshot": about.get("snapshot") or "",
                    "year": about.get("year"),
                    "payload": Payload(body, payloads.kind(declared, body), answer.http_charset, url)}
        if len(body) > self.page_bytes:
            reason = "too_large"
        if reason:
            metadata["reason"] = reason
        name = hashlib.sha256(f"{url}\n{record.record_id}".encode()).hexdigest()[:16]
        return Document(text="", id=f"{source}:{name}", metadata=metadata)


class Extract(PipelineStep):
    """Turns payloads into text; rejects what is empty or too short, counts what fails and `characters_in`."""

    type, name = "extractor", "pages"

    def __init__(self, method: str, characters: int, skip: list[str]):
        super().__init__()
        self.method, self.characters, self.skip = method, characters, skip

    def run(self, data: DocumentsPipeline, rank: int = 0, world_size: int = 1) -> DocumentsPipeline:
        """Every document with its text, and a reason where it is not to be kept."""
        for document in data:
            payload = document.metadata.pop("payload", None)
            if "reason" not in document.metadata:
                found = extracted(payload or document.text, self.method, self.characters, self.skip)
                document.text = found.text
                self.stat_update("characters_in", value=found.read)
                if found.reason:
                    document.metadata["reason"] = found.reason
            if "reason" in document.metadata:
                document.text = document.text[:REJECT_CHARACTERS]
            yield document


def extracted(payload: Payload | str, method: str, characters: int, skip: Sequence[str]) -> Extracted:
    """The text of one document, or why there is none: a pure function of its arguments.

    `payload` is a response, or text that needs no extraction; `method` one of extractors.METHODS, `characters` the
    least a document must have, `skip` CSS selectors of what is not content. Reasons: not_text (a type that is not
    read), empty, decode, too_short, failed (the parser gave up) and those of payloads.py.
    """
    read = 0
    try:
        if isinstance(payload, str):
            read, text = len(payload), payload
        elif not payload.body.strip():
            return Extracted("", "empty", 0)
        elif payload.kind in payloads.READERS:
            text = payloads.READERS[payload.kind](payload.body)
            read = len(text)
        elif payload.kind in HTML or payload.kind == "text/plain":
            text = decode(payload.body, payload.charset)
            read = len(text)
            if payload.kind in HTML:
                text = extractors.METHODS[method](text, payload.url, skip)
        else:
            return Extracted("", "not_text", 0)
        text = normal(text)
    except payloads.Refused as refused:
        return Extracted("", refused.reason, read)
    except (UnicodeError, LookupError):
        return Extracted("", "decode", read)
    except Exception:  # noqa: BLE001 - whatever a parser raises costs this page, not the run
        return Extracted("", "failed", read)
    reason = None if len(text) >= characters else "too_short" if text else "empty"
    return Extracted(text, reason, read)


def decode(body: bytes, charset: str | None) -> str:
    """A page's text. A byte order mark decides; then `charset`, the HTTP header's; where it is absent or wrong the
    page's own, UTF-8, detection.

    Windows-1252 (any Latin-1) in a header is the default of misconfigured servers and fits any bytes, so it comes
    after the page's own word and after UTF-8. Raises UnicodeError where more than one character in a hundred would
    be replaced.
    """
    if marked := next((name for mark, name in MARKS if body.startswith(mark)), wide(body)):
        text = body.decode(marked, "replace").removeprefix("\ufeff")
        return believable(text)
    found = META.search(body, 0, META_BYTES)
    declared, own = codec(charset), codec(found[1].decode("ascii")) if found else None
    default = codec("iso-8859-1")
    order = [own, "utf-8", declared] if declared == default else [declared, own, "utf-8"]
    for encoding in filter(None, order):
        try:
            return body.decode(encoding)
        except UnicodeError:
            continue
    detected = codec(detect_encoding(body))
    if detected and declared != default:
        try:
            return body.decode(detected)
        except UnicodeError:
            pass
    return believable(bytes_to_str(body, own or declared or "utf-8", errors="replace", fallback_encodings=()))


def codec(label: str | None) -> str | None:
    """Python's codec for a charset label, the superset that browsers use; None for no label, an unknown one, and
    UTF-16, which only a byte order mark or the bytes themselves can tell."""
    name = map_encoding_to_html5(label, fallback_utf8=False) if label else None
    if not name or name.lower().startswith(("utf-16", "utf-32")):
        return None
    name = SUPERSETS.get(name.lower(), name)
    try:
        return codecs.lookup(name).name
    except LookupError:
        return None


def wide(body: bytes) -> str | None:
    """UTF-16 without a mark: a page begins in markup, whose zero bytes stand at every other place."""
    head = body[:WIDE_BYTES]
    even, odd = head[::2].count(0), head[1::2].count(0)
    if max(even, odd) * 4 < len(head) or min(even, odd) * 8 > max(even, odd):
        return None
    return "utf-16-be" if even > odd else "utf-16-le"


def believable(text: str) -> str:
    """`text`. Raises UnicodeError where more than one character in a hundred had to be replaced."""
    if text.count("\ufffd") * 100 > len(text):
        raise UnicodeError("no encoding fits")
    return text


def normal(text: str) -> str:
    """NFC, plain spaces, no control characters, no trailing blanks or pilcrows, at most one empty line in a row."""
    text = SPACES.sub(" ", unicodedata.normalize("NFC", text.replace("\r\n", "\n").replace("\r", "\n")))
    return BLANKS.sub("\n\n", EDGES.sub("", CONTROL.sub("", text))).strip()

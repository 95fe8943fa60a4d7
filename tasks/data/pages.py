"""Pages out of WARC files and text out of pages: the reader and the extractor of the extract stage.

Reading is fastwarc's, decoding goes by the HTTP header, then the page's own declaration, then detection; the main
content is found by Resiliparse, ten times trafilatura's speed at .93 of its .96 F1 (docs/LOG.md).
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from pathlib import Path
from typing import Any

from datatrove.data import Document, DocumentsPipeline
from datatrove.pipeline.base import PipelineStep
from fastwarc.warc import ArchiveIterator, WarcRecord, WarcRecordType
from resiliparse.extract.html2text import extract_plain_text
from resiliparse.parse.encoding import bytes_to_str, detect_encoding, map_encoding_to_html5

from tasks.data import documents, warc
from tasks.stage import StageError

HTML = {"text/html", "application/xhtml+xml"}
REJECT_CHARACTERS = 2000
META = re.compile(rb"""<meta[^>]{0,200}charset\s*=\s*["']?\s*([A-Za-z0-9_:.-]{2,40})""", re.I)
META_BYTES = 4096
# control, soft hyphen, zero-width (joiners stay: they spell), direction and private-use characters
CONTROL = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u00ad\u200b\u200e\u200f\u202a-\u202e\u2060-\u2064\ufeff\ue000-\uf8ff]")
EDGES, BLANKS = re.compile(r"[^\S\n]+$|\s*¶$", re.M), re.compile(r"\n{3,}")
SPACES = re.compile("[\u00a0\u2007\u202f]")


class ReadPages(PipelineStep):
    """Yields the documents of file number `rank`: pages of a WARC as decoded HTML, or those of a text shard.

    What cannot be a page carries `metadata["reason"]`: not_html, too_large, decode, empty. Counts `read` and
    `characters_in`.
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
                self.stat_update("characters_in", value=len(document.text))
                yield document

    def pages(self, path: Path) -> DocumentsPipeline:
        """The responses of one WARC file."""
        warc.whole(path)
        source = path.name.rpartition("-")[0]
        with path.open("rb") as stream:
            try:
                for record in ArchiveIterator(stream, record_types=WarcRecordType.response, auto_decode="all"):
                    yield self.page(record, source)
            except (OSError, ValueError) as error:
                raise StageError(f"{path} is damaged ({error}): run the crawl again") from None

    def page(self, record: WarcRecord, source: str) -> Document:
        """One response as a document; its text is HTML still (or plain text)."""
        url = record.headers.get("WARC-Target-URI") or ""
        kind = record.headers.get("WARC-Identified-Payload-Type") or record.http_content_type or ""
        about = self.origins.get(source, {})
        metadata = {"url": url, "source": source, "licence": about.get("licence") or "unknown",
                    "language": about.get("language") or "und", "type": kind}
        body, text = record.reader.read(self.page_bytes + 1), ""
        if kind not in HTML and kind != "text/plain":
            metadata["reason"] = "not_html"
        elif len(body) > self.page_bytes:
            metadata["reason"] = "too_large"
        elif not body.strip():
            metadata["reason"] = "empty"
        else:
            try:
                text = decode(body, record.http_charset)
            except (UnicodeError, LookupError):
                metadata["reason"] = "decode"
        name = hashlib.sha256(f"{url}\n{record.record_id}".encode()).hexdigest()[:16]
        return Document(text=text, id=f"{source}:{name}", metadata=metadata)


class Extract(PipelineStep):
    """Turns HTML into its main content as plain text; rejects what is empty or too short, counts what fails."""

    type, name = "extractor", "resiliparse"

    def __init__(self, characters: int, skip: list[str]):
        super().__init__()
        self.characters, self.skip = characters, skip

    def run(self, data: DocumentsPipeline, rank: int = 0, world_size: int = 1) -> DocumentsPipeline:
        """Every document with its text made plain, and a reason where it is not to be kept."""
        for document in data:
            kind = document.metadata.pop("type", "text/plain")
            if "reason" not in document.metadata:
                try:
                    text = document.text
                    document.text = normal(content(text, self.skip) if kind in HTML else text)
                except Exception:  # noqa: BLE001 - whatever the parser raises costs this page, not the run
                    document.metadata["reason"] = "failed"
            if "reason" not in document.metadata and len(document.text) < self.characters:
                document.metadata["reason"] = "too_short" if document.text else "empty"
            if "reason" in document.metadata:
                document.text = document.text[:REJECT_CHARACTERS]
            yield document


def decode(body: bytes, charset: str | None) -> str:
    """A page's text. `charset` is the HTTP header's; where it is absent or wrong the page's own, then detection.

    Windows-1252 (any Latin-1) in a header is the default of misconfigured servers and fits any bytes, so it comes
    after the page's own word and after UTF-8. Raises UnicodeError where more than one character in a hundred would
    be replaced.
    """
    declared = map_encoding_to_html5(charset, fallback_utf8=False) if charset else None
    found = META.search(body, 0, META_BYTES)
    own = map_encoding_to_html5(found[1].decode("ascii"), fallback_utf8=False) if found else None
    default = map_encoding_to_html5("iso-8859-1")
    order = [own, "utf-8", declared] if declared == default else [declared, own, "utf-8", detect_encoding(body)]
    for encoding in order:
        if encoding:
            try:
                return body.decode(encoding).removeprefix("\ufeff")
            except (UnicodeError, LookupError):
                continue
    text = bytes_to_str(body, own or declared or "utf-8", errors="replace", fallback_encodings=())
    if text.count("\ufffd") * 100 > len(text):
        raise UnicodeError("no encoding fits")
    return text


def content(html: str, skip: list[str]) -> str:
    """The main content of a page, block structure kept, without the elements that match the selectors `skip`."""
    return extract_plain_text(html, main_content=True, alt_texts=False, links=False, form_fields=False,
                              skip_elements=skip or None)


def normal(text: str) -> str:
    """NFC, plain spaces, no control characters, no trailing blanks or pilcrows, at most one empty line in a row."""
    text = SPACES.sub(" ", unicodedata.normalize("NFC", text.replace("\r\n", "\n").replace("\r", "\n")))
    return BLANKS.sub("\n\n", EDGES.sub("", CONTROL.sub("", text))).strip()

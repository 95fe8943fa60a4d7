"""Payloads that are no web page: PDF and EPUB, as Markdown, bounded in pages, bytes and characters.

PDF text is read by PDFium (pypdfium2); an EPUB is a zip of XHTML read in the order of its spine, each chapter through
the same walk as a web page. What cannot be read raises `Refused` with the one reason that the rejects carry.
"""

from __future__ import annotations

import io
import posixpath
import re
import zipfile
import zlib
from urllib.parse import unquote
from xml.etree import ElementTree

from tasks.data.blocks import Walk, render

PDF, EPUB = "application/pdf", "application/epub+zip"
PDF_PAGES = 2000
EPUB_BYTES = 64 << 20  # unpacked, all chapters together
EPUB_MEMBERS = 5000
CHARACTERS = 16 << 20
CONTAINER, ENCRYPTION = "META-INF/container.xml", "META-INF/encryption.xml"
CHAPTERS = frozenset(("application/xhtml+xml", "text/html"))
HYPHEN = re.compile(r"\ufffe\n?|(?<=[a-z])[-\u00ad\u2010]\n(?=[a-z])")  # U+FFFE is PDFium's
# a line that goes on below: no sentence ends here; between Han characters without a blank
WRAPPED_HAN = re.compile(r"(?<=[\u3400-\u9fff，、；])\n(?=[\u3400-\u9fff])")
WRAPPED = re.compile(r"(?<=[^\s.!?:。！？：])\n(?=[a-z(])")


class Refused(ValueError):
    """A payload that is not read; `reason` is what the rejects are counted under."""

    def __init__(self, reason: str):
        super().__init__(reason)
        self.reason = reason


def kind(declared: str, body: bytes) -> str:
    """The media type of a payload: its first bytes where they tell, else what was declared."""
    if body.startswith(b"%PDF-"):
        return PDF
    if body.startswith(b"PK\x03\x04") and b"mimetypeapplication/epub+zip" in body[:100]:
        return EPUB
    return declared.partition(";")[0].strip().lower()


def pdf(body: bytes) -> str:
    """The text of a PDF, pages parted by empty lines. Raises Refused: pdf_encrypted, pdf_broken, pdf_too_long."""
    import pypdfium2

    try:
        document = pypdfium2.PdfDocument(body)
    except pypdfium2.PdfiumError as error:
        raise Refused("pdf_encrypted" if "password" in str(error).lower() else "pdf_broken") from None
    try:
        if len(document) > PDF_PAGES:
            raise Refused("pdf_too_long")
        parts: list[str] = []
        size = 0
        for number in range(len(document)):
            page = document[number]
            text = page.get_textpage()
            parts.append(unwrapped(text.get_text_range()))
            text.close()
            page.close()
            size += len(parts[-1])
            if size > CHARACTERS:
                raise Refused("pdf_too_long")
    except pypdfium2.PdfiumError:
        raise Refused("pdf_broken") from None
    finally:
        document.close()
    return "\n\n".join(part for part in parts if part)


def unwrapped(text: str) -> str:
    """Lines that a page's width broke, joined: words hyphenated at a line's end, sentences that go on."""
    text = HYPHEN.sub("", text.replace("\r\n", "\n"))
    return WRAPPED.sub(" ", WRAPPED_HAN.sub("", text)).strip()


def epub(body: bytes) -> str:
    """The chapters of an EPUB in reading order. Raises Refused: epub_broken, epub_encrypted, epub_too_large."""
    try:
        with zipfile.ZipFile(io.BytesIO(body)) as book:
            if len(book.infolist()) > EPUB_MEMBERS:
                raise Refused("epub_too_large")
            return read(book)
    except (zipfile.BadZipFile, zlib.error, KeyError, ElementTree.ParseError, EOFError, NotImplementedError, ValueError,
            RuntimeError) as error:
        if isinstance(error, Refused):
            raise
        encrypted = isinstance(error, RuntimeError) and "encrypted" in str(error)
        raise Refused("epub_encrypted" if encrypted else "epub_broken") from None


def read(book: zipfile.ZipFile) -> str:
    """The text of an open EPUB."""
    left = [EPUB_BYTES]
    if ENCRYPTION in book.namelist() and b"EncryptedKey" in member(book, ENCRYPTION, left):
        raise Refused("epub_encrypted")
    container = tree(member(book, CONTAINER, left))
    package = next((node.get("full-path") for node in container.iter() if local(node) == "rootfile"), None)
    if not package:
        raise Refused("epub_broken")
    opf = tree(member(book, package, left))
    items = {node.get("id"): node for node in opf.iter() if local(node) == "item"}
    chapters = []
    for reference in (node.get("idref") for node in opf.iter() if local(node) == "itemref"):
        item = items.get(reference)
        if item is None or item.get("media-type") not in CHAPTERS or "nav" in (item.get("properties") or "").split():
            continue
        path = posixpath.normpath(posixpath.join(posixpath.dirname(package), unquote(item.get("href") or "")))
        chapters.append(render(Walk(member(book, path, left).decode("utf-8", "replace")).blocks))
    return "\n\n".join(chapter for chapter in chapters if chapter)


def member(book: zipfile.ZipFile, name: str, left: list[int]) -> bytes:
    """One file of a zip, unpacked no further than what is `left` (bytes) of the book's allowance."""
    with book.open(name) as file:
        found = file.read(left[0] + 1)
    left[0] -= len(found)
    if left[0] < 0:
        raise Refused("epub_too_large")
    return found


def tree(xml: bytes) -> ElementTree.Element:
    """An XML file's root; one that declares entities is refused before it can expand them."""
    if b"<!ENTITY" in xml or "<!ENTITY".encode("utf-16-le") in xml or "<!ENTITY".encode("utf-16-be") in xml:
        raise Refused("epub_broken")
    return ElementTree.fromstring(xml)


def local(node: ElementTree.Element) -> str:
    """An element's name without its namespace."""
    return node.tag.rpartition("}")[2]


READERS = {PDF: pdf, EPUB: epub}

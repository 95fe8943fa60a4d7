"""PDF and EPUB: text in order, both languages; broken, encrypted, bombs: one reason each."""

from __future__ import annotations

import io
import zipfile

import pytest

from tasks.data import pages, payloads, texts

EN = "The old bridge over the river was rebuilt after the flood."
ZH = "春天来了，河边的柳树发了新芽。"
CONTAINER = '<container><rootfiles><rootfile full-path="OPS/book.opf"/></rootfiles></container>'


def pdf(lines: list[str], count: int = 1) -> bytes:
    """A PDF written by hand (ISO 32000): `count` pages of `lines` in Helvetica."""
    stream = "BT /F1 12 Tf 72 720 Td 14 TL " + " ".join(f"({line}) Tj T*" for line in lines) + " ET"
    kids = " ".join(f"{5 + n} 0 R" for n in range(count))
    objects = ["<</Type/Catalog/Pages 2 0 R>>", f"<</Type/Pages/Kids[{kids}]/Count {count}>>",
               "<</Type/Font/Subtype/Type1/BaseFont/Helvetica>>",
               f"<</Length {len(stream)}>>stream\n{stream}\nendstream"]
    objects += ["<</Type/Page/Parent 2 0 R/MediaBox[0 0 612 792]/Contents 4 0 R/Resources<</Font<</F1 3 0 R>>>>>>"
                ] * count
    out, places = b"%PDF-1.4\n", []
    for number, item in enumerate(objects, 1):
        places.append(len(out))
        out += f"{number} 0 obj{item}endobj\n".encode()
    table = "".join(f"{place:010d} 00000 n \n" for place in places)
    size = len(objects) + 1
    return out + (f"xref\n0 {size}\n0000000000 65535 f \n{table}trailer<</Size {size}/Root 1 0 R>>\n"
                  f"startxref\n{len(out)}\n%%EOF").encode()


def epub(chapters: dict[str, str], **extra: str) -> bytes:
    """An EPUB of `chapters` in reverse order of the zip, and `extra` members (name with _ for /)."""
    items = "".join(f'<item id="{name}" href="{name}.xhtml" media-type="application/xhtml+xml"/>' for name in chapters)
    spine = "".join(f'<itemref idref="{name}"/>' for name in chapters)
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as book:
        book.writestr(zipfile.ZipInfo("mimetype"), payloads.EPUB)
        book.writestr("META-INF/container.xml", CONTAINER)
        book.writestr("OPS/book.opf", f"<package><manifest>{items}</manifest><spine>{spine}</spine></package>")
        for name, body in reversed(chapters.items()):
            book.writestr(f"OPS/{name}.xhtml", f"<html><body>{body}</body></html>")
        for name, body in extra.items():
            book.writestr(name.replace("_", "/", 1), body)
    return out.getvalue()


def reason(body: bytes) -> str:
    """Why a payload is refused, through the stage's own function."""
    kind = payloads.kind("application/octet-stream", body)
    return pages.extracted(pages.Payload(body, kind, None, "u"), "auto", 1, []).reason


def test_pdf_text_and_its_wrapped_lines():
    """A word broken at a line's end is joined, a sentence that goes on too; pages are parted."""
    body = pdf(["The old bridge over the riv-", "er was rebuilt", "after the flood.", "A second line."], 2)
    text = "The old bridge over the river was rebuilt after the flood.\nA second line."
    assert payloads.pdf(body) == f"{text}\n\n{text}"
    assert payloads.unwrapped("春天来了，河边的\n柳树发了新芽。") == ZH


def test_epub_in_the_order_of_its_spine():
    """Chapters as Markdown, Chinese too."""
    body = epub({"b": f"<h1>One</h1><p>{EN}</p>", "a": f"<p>{ZH}</p>"})
    assert payloads.kind("application/zip", body) == payloads.EPUB
    assert payloads.epub(body) == f"# One\n\n{EN}\n\n{ZH}"


def test_local_files_are_read_too():
    """A text corpus may hold PDF and EPUB."""
    assert list(texts.texts("a.pdf", pdf([EN]), [])) == [EN]
    assert list(texts.texts("a.epub", epub({"a": ZH}), [])) == [ZH]


def marked(book: bytes, local: int, central: int, value: int) -> bytes:
    """`book` with a 16-bit field of every member's local and central header set (APPNOTE 4.3.7, 4.3.12)."""
    with zipfile.ZipFile(io.BytesIO(book)) as members:
        headers = [member.header_offset + local for member in members.infolist()]
        place = members.start_dir
    while (place := book.find(b"PK\x01\x02", place)) >= 0:
        headers.append(place + central)
        place += 4
    out = bytearray(book)
    for place in headers:
        out[place:place + 2] = value.to_bytes(2, "little")
    return bytes(out)


def test_each_fault_has_its_reason(monkeypatch):
    """Truncated, encrypted, too long, bombs, entities, missing members."""
    assert reason(pdf([EN])[:60]) == "pdf_broken"
    monkeypatch.setattr(payloads, "PDF_PAGES", 2)
    assert reason(pdf([EN], 3)) == "pdf_too_long"
    whole = epub({"a": "x"})
    assert reason(whole[:len(whole) // 2]) == "epub_broken"
    assert reason(whole.replace(b"OPS/a.xhtml", b"OPS/z.xhtml")) == "epub_broken"
    locked = epub({"a": "x"}, **{"META-INF_encryption.xml": "<encryption><EncryptedKey/></encryption>"})
    assert reason(locked) == "epub_encrypted"
    assert reason(marked(whole, 8, 10, 99)) == "epub_broken"          # a compression zipfile raises NotImplementedError on
    assert reason(marked(whole, 6, 8, 1)) == "epub_encrypted"         # RuntimeError: a password
    monkeypatch.setattr(payloads, "EPUB_BYTES", 1 << 20)
    bomb = epub({"a": "x" * (4 << 20)})
    assert len(bomb) < 10_000 and reason(bomb) == "epub_too_large"
    monkeypatch.setattr(payloads, "EPUB_MEMBERS", 3)
    assert reason(whole) == "epub_too_large"
    with pytest.raises(payloads.Refused, match="epub_broken"):
        payloads.tree(b'<!DOCTYPE a [<!ENTITY b "c">]><a>&b;</a>')
    with pytest.raises(payloads.Refused, match="epub_broken"):
        payloads.tree('<?xml version="1.0"?><!DOCTYPE a [<!ENTITY b "c">]><a/>'.encode("utf-16"))


def test_types_that_are_not_read():
    """A picture or a zip that is no book."""
    assert reason(b"\x89PNG\r\n\x1a\n" + b"0" * 50) == "not_text"
    assert payloads.kind("Text/HTML; charset=x", b"<p>") == "text/html"

"""Parts of a page as Markdown: code fences, tables, formulas as TeX.

Formulas come as MathML (with TeX beside it or not), as KaTeX's and MathJax's own elements, as scripts of type
`math/tex`, or as pictures whose alt text is TeX; all become `$...$` or `$$...$$`.
"""

from __future__ import annotations

import re

from selectolax.lexbor import LexborNode

SPACE = re.compile(r"\s+")
LANGUAGE = re.compile(r"(?:^|\s)(?:highlight-|language-|lang-|brush:\s*)([A-Za-z0-9+#]{1,20})")
PLAIN = frozenset(("default", "none", "text", "plain", "notranslate", "source"))
TICKS = re.compile(r"^\s*(`{3,})", re.M)
STYLED = re.compile(r"^\{\s*\\(?:displaystyle|textstyle)\s*(.*)\}$", re.S)
WRAPPERS = (("\\(", "\\)"), ("\\[", "\\]"), ("$$", "$$"), ("$", "$"))
CELLS = frozenset(("td", "th"))
BLOCKY = "table, p + p, ul, ol, pre, form, h1, h2, h3, h4, article, section, iframe"
CELL_CHARACTERS, MOST_CELLS = 400, 20_000
MATH_CLASS = re.compile(r"\b(?:math|latex|tex|equation|formula)\b", re.I)


def fence(text: str, names: str) -> str:
    """`text` as a code block; `names` are the classes around it, which may tell the programming language."""
    text = text.replace("\r\n", "\n").strip("\n").rstrip()
    found = LANGUAGE.search(names)
    language = found[1] if found and found[1] not in PLAIN else ""
    ticks = max([3, *(len(run) + 1 for run in TICKS.findall(text))]) * "`"
    return f"{ticks}{language}\n{text}\n{ticks}" if text.strip() else ""


def table(node: LexborNode) -> list[list[str]] | None:
    """Rows of cells of a table that holds data; None where it lays out a page, or where it has but one column."""
    if node.css_first(BLOCKY) is not None:
        inner = [found for found in node.css(BLOCKY) if found.mem_id != node.mem_id]
        if inner:
            return None
    rows: list[list[str]] = []
    count = 0
    for row in node.css("tr"):
        cells = []
        cell = row.child
        while cell is not None:
            if cell.tag in CELLS:
                cells.append(SPACE.sub(" ", cell.text()).strip().replace("|", "\\|"))
                if len(cells[-1]) > CELL_CHARACTERS:
                    return None
            cell = cell.next
        count += len(cells)
        if count > MOST_CELLS:
            return None
        if any(cells):
            rows.append(cells)
    return rows if len(rows) > 1 and max(map(len, rows)) > 1 else None


def pipes(rows: list[list[str]]) -> str:
    """Rows as a Markdown table; the first row heads it."""
    width = max(map(len, rows))
    lines = ["| " + " | ".join(row + [""] * (width - len(row))) + " |" for row in rows]
    return "\n".join([lines[0], "|" + " --- |" * width, *lines[1:]])


def dollars(tex: str, display: bool) -> str:
    """TeX between dollars, without the delimiters it may come with."""
    tex = SPACE.sub(" ", tex).strip()
    for begin, end in WRAPPERS:
        if tex.startswith(begin) and tex.endswith(end) and len(tex) > len(begin) + len(end):
            tex = tex[len(begin):-len(end)].strip()
            break
    if styled := STYLED.match(tex):
        tex = styled[1].strip()
    if not tex:
        return ""
    return f"$${tex}$$" if display else f"${tex}$"


def picture(attributes: dict[str, str | None]) -> str:
    """The TeX of a formula that is a picture; nothing for any other picture (its alt text is no text of the page)."""
    names = attributes.get("class") or ""
    if not MATH_CLASS.search(names) or "mwe-math-fallback" in names:
        return ""
    return dollars(attributes.get("alt") or "", False)


def formula(node: LexborNode) -> str:
    """A `math` element as TeX: its annotation, its alttext, or its presentation read."""
    display = node.attributes.get("display") == "block"
    for note in node.css("annotation"):
        if "tex" in (note.attributes.get("encoding") or "").lower():
            return dollars(note.text(), display)
    return dollars(node.attributes.get("alttext") or presentation(node), display)


def presentation(node: LexborNode, depth: int = 0) -> str:
    """Presentation MathML as TeX: scripts, fractions, roots; what has no rule is its text."""
    if node.tag == "-text":
        return SPACE.sub(" ", node.text_content or "").strip()
    if node.tag in ("annotation", "annotation-xml") or depth > 60:
        return ""
    parts = []
    child = node.child
    while child is not None:
        if (part := presentation(child, depth + 1)) or child.tag not in ("-text", "-comment"):
            parts.append(part)
        child = child.next
    match node.tag, parts:
        case "mfrac", [above, below]:
            return f"\\frac{{{above}}}{{{below}}}"
        case "msup" | "mover", [base, upper]:
            return f"{base}^{{{upper}}}"
        case "msub" | "munder", [base, lower]:
            return f"{base}_{{{lower}}}"
        case "msubsup" | "munderover", [base, lower, upper]:
            return f"{base}_{{{lower}}}^{{{upper}}}"
        case "msqrt", _:
            return f"\\sqrt{{{' '.join(parts)}}}"
        case "mroot", [base, index]:
            return f"\\sqrt[{index}]{{{base}}}"
        case "mtext", _:
            return f"\\text{{{' '.join(parts)}}}" if any(parts) else ""
    return " ".join(part for part in parts if part)

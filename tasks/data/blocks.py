"""A page as a row of blocks: each piece of text between two block boundaries, as Markdown, with what surrounds it.

One walk over lexbor's tree. Headings, lists, code, data tables and formulas become Markdown here, whichever extractor
then chooses the blocks to keep; what hints at boilerplate (tags, class names, links) is kept as bits.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable

from selectolax.lexbor import LexborHTMLParser, LexborNode

from tasks.data import markup

DROPPED = frozenset("head style noscript template iframe object embed select option textarea canvas video audio svg "
                    "input source track map datalist dialog -comment !doctype title link meta nav footer rt rp "
                    "frameset".split())
BREAKS = frozenset("p div section article main header footer aside nav ul ol li dl dt dd table tr td th thead tbody "
                   "tfoot caption h1 h2 h3 h4 h5 h6 blockquote figure figcaption form fieldset legend hr address "
                   "details summary body center menu button label".split())
HEADINGS = {f"h{level}": "#" * level + " " for level in range(1, 7)}
MARKED = frozenset(("li", "ul", "ol", "blockquote", "article", *HEADINGS))
CODE = frozenset(("code", "tt", "kbd", "samp"))
TAGS = ("header", "aside", "article", "main", "form", "figure", "table", "li", "ul", "ol", "p", "dl", "blockquote",
        "section", "button", "figcaption", "h1", "h2", "h3", "h4", "h5", "h6", "pre", "td", "label", "address", "dd",
        "dt", "div", "caption", "details", "summary")
# groups of words in class, id and role: what an element's author says that it is
WORDS = {
    "navigation": r"nav|menu|breadcrumb|toc\b|paginat|pager|\btabs?\b|skip|directory|sitemap|language|toolbar",
    "sidebar": r"side|aside|rail|column|widget|right|left|secondary|complementary",
    "social": r"share|sharing|social|follow|tweet|twitter|facebook|instagram|whatsapp|addthis",
    "related": r"relat|recommend|more|popular|trend|latest|teaser|promo|outbrain|taboola|next|prev|also|card|carousel"
               r"|headline-?list|river|feed|list|grid|\bmost|recirc|suggest|similar|inline-?link",
    "advert": r"\bad[-_s]?\b|\bads?[-_]|[-_]ads?\b|advert|sponsor|dfp|banner|commercial|partner|shop|product|buy|deal",
    "subscribe": r"newsletter|subscri|sign-?up|signin|log-?in|register|cookie|consent|gdpr|modal|popup|overlay"
                 r"|paywall|alert|notice|donat|disclaimer",
    "comment": r"\bcomments?\b|[-_]comments?\b|\bcomment[-_]?(?:s|list|area|section|body|text|content|thread)|disqus"
               r"|\breplies\b|\brespond\b|\bresponses?\b|livefyre",
    "byline": r"byline|author|\bbio\b|contributor|writer|profile|avatar",
    "meta": r"date|time|meta|tags?\b|categor|topic|keyword|label|kicker|eyebrow|info",
    "caption": r"caption|credit|copyright|photo|image|media|gallery|video|figure|slide",
    "foot": r"foot|bottom|legal|colophon",
    "head": r"head|masthead|top\b|title|hero|lede|deck|dek|subtitle|summary|intro|standfirst",
    "story": r"article|story|post|entry|news|blog",
    "content": r"content|body|text|main|prose|markdown|document|paragraph|copy|wrapper|inner",
    "quote": r"quote|pull|box|factbox|sidenote|embed|tip",
    "hidden": r"hidden|hide|invisible|print|sr-only|screen-reader|collapse|mobile",
    "role": r"role=(?:main|article)|articlebody",
}
BITS = {name: 1 << place for place, name in enumerate((*TAGS, *WORDS))}
TAG_BITS = {tag: BITS[tag] for tag in TAGS}
ARTICLE = BITS["article"]
PATTERNS = [(re.compile(pattern), BITS[name]) for name, pattern in WORDS.items()]
LINE = "\0"  # a br; no text node can hold it
BREAK = re.compile(r" ?\0[\0 ]*")
HIDDEN = re.compile(r"display\s*:\s*none", re.I)
DEEPEST = 400  # levels: hostile nesting below it is read as one level
RENDERERS = frozenset(("span", "mjx-container"))
RENDERED = re.compile(r"katex-html|MathJax_Preview|MathJax_Display|\bMathJax\b|MathJax_CHTML|MathJax_SVG|mjx-math")
REFERENCE = "reference"  # a footnote's mark


class Block:
    """A piece of text and its place.

    `text` is Markdown without its `mark` (heading, bullet); `size` counts bytes of UTF-8, as a Han character says as
    much as three letters; `linked` of them stand in links.
    """

    __slots__ = ("text", "mark", "indent", "kind", "linked", "tag", "near", "path", "parents", "depth",
                 "article", "size")

    text: str
    mark: str
    indent: str
    kind: str          # "text", "code" or "table"
    size: int
    linked: float
    tag: str           # the nearest block element
    near: int          # bits of it and of its two parents
    path: int          # bits of all ancestors
    parents: list[int]  # numbers of the ancestors, nearest first
    depth: int
    article: int       # which of the page's article elements it stands in, from 1; 0 for none


@functools.lru_cache(maxsize=50_000)
def hints(names: str) -> int:
    """The bits of the word groups found in an element's class, id and role."""
    names = names.lower()
    return sum(bit for pattern, bit in PATTERNS if pattern.search(names))


def named(attributes: dict[str, str | None], own: int, tag: str) -> tuple[int, bool]:
    """(bits, shown) of an element by its attributes."""
    if "hidden" in attributes or (attributes.get("style") and HIDDEN.search(attributes["style"])):
        return own, False
    names = attributes.get("class") or ""
    if name := attributes.get("id"):
        names += " " + name
    if role := attributes.get("role"):
        names += " role=" + role
    if name := attributes.get("itemprop"):
        names += " " + name
    return own | hints(names) if names and tag != "body" else own, True



class Walk:
    """One walk over a page; `blocks` holds what it found, `title` the page's own."""

    def __init__(self, html: str, skip: Iterable[str] = ()):
        parser = LexborHTMLParser(html)
        for selector in skip:
            for node in parser.css(selector):
                node.decompose()
        self.title = ""
        self.blocks: list[Block] = []
        self.buffer: list[str] = []     # of the block that is being read
        self.linked = 0
        # (tag, own bits, path bits above, number, is block, is link, closing text)
        self.stack: list[tuple[str, int, int, int, bool, bool, str]] = []
        self.path = 0
        self.lists: list[list] = []     # [tag, number of items]
        self.mark = ""                  # of the next block
        self.article = self.articles = 0
        if parser.head is not None and (title := parser.head.css_first("title")) is not None:
            self.title = " ".join(title.text().split())
        if parser.body is not None:
            self.walk(parser.body)

    def walk(self, node: LexborNode | None) -> None:
        """Depth first, without recursion: a page may nest ten thousand deep."""
        stack, buffer = self.stack, self.buffer
        links = number = 0
        while node is not None:
            tag = node.tag
            down = None
            if tag == "-text":
                text = node.text_content
                if not text.isspace():
                    buffer.append(text)
                    if links:
                        self.linked += len(text)
                elif buffer:
                    buffer.append(" ")
            elif tag in DROPPED:
                pass
            elif tag in UNITS:
                down = UNITS[tag](self, node)
            else:
                down = node.child
            if down is not None and len(stack) < DEEPEST:
                block = tag in BREAKS
                own, shown = TAG_BITS.get(tag, 0), True
                if block:
                    attributes = node.attributes
                    if attributes:
                        own, shown = named(attributes, own, tag)
                elif tag in RENDERERS:
                    shown = not RENDERED.search(node.attributes.get("class") or "")
                if shown:
                    closing = ""
                    if block:
                        if buffer:
                            self.flush()
                        if tag in MARKED:
                            self.enter(tag)
                    elif tag in CODE:
                        buffer.append("`")
                        closing = "`"
                    number += 1
                    link = tag == "a"
                    links += link
                    stack.append((tag, own, self.path, number, block, link, closing))
                    self.path |= own
                    node = down
                    continue
            elif buffer and tag in BREAKS:
                self.flush()
            while stack:
                after = node.next
                if after is not None:
                    node = after
                    break
                node = node.parent
                tag, _, path, _, block, link, closing = stack[-1]
                if block:
                    if buffer:
                        self.flush()
                    if tag in MARKED:
                        self.leave(tag, path)
                elif closing:
                    buffer.append(closing)
                stack.pop()
                self.path = path
                links -= link
            else:
                break

    def enter(self, tag: str) -> None:
        """Note what the next block's mark is to be."""
        if tag == "li":
            inner = self.lists[-1] if self.lists else ["ul", 0]
            inner[1] += 1
            self.mark = f"{inner[1]}. " if inner[0] == "ol" else "- "
        elif tag in HEADINGS:
            self.mark = HEADINGS[tag]
        elif tag in ("ul", "ol"):
            self.lists.append([tag, 0])
        elif tag == "blockquote":
            self.mark = "> "
        elif tag == "article" and not self.article:
            self.articles += 1
            self.article = self.articles

    def leave(self, tag: str, path: int) -> None:
        """Undo what `enter` noted."""
        if tag in ("ul", "ol"):
            self.lists.pop()
        elif tag == "article" and not path & ARTICLE:
            self.article = 0
        self.mark = ""

    def flush(self) -> None:
        """End the block that is being read."""
        text = " ".join("".join(self.buffer).split())
        self.buffer.clear()
        if LINE in text:
            text = BREAK.sub("\n", text).strip("\n")
        if text and text != "``":
            self.add(text, "text")
        self.linked = 0

    def add(self, text: str, kind: str) -> None:
        """Append a block with its place in the tree."""
        block = Block()
        stack = self.stack
        top = len(stack) - 1
        while top > 0 and not stack[top][4]:
            top -= 1
        block.text, block.kind = text, kind
        block.size = len(text.encode("utf-8", "replace"))
        block.linked = min(self.linked / len(text), 1.0) * block.size
        block.tag = stack[top][0] if stack else "body"
        block.mark = self.mark
        block.indent = "  " * (len(self.lists) - 1) + ("" if self.mark else "  ") if self.lists else ""
        self.mark = "> " if self.mark == "> " else ""
        block.path, block.depth = self.path, top
        block.article, block.near = self.article, 0
        for entry in stack[max(0, top - 2):]:
            block.near |= entry[1]
        block.parents = [entry[3] for entry in stack[max(0, top - 5):top + 1]][::-1]
        self.blocks.append(block)

    def line(self, node: LexborNode) -> None:
        """A line break within a block."""
        if self.buffer:
            self.buffer.append(LINE)

    def script(self, node: LexborNode) -> None:
        """A script is no text but where it holds a formula."""
        kind = node.attributes.get("type") or ""
        if kind.startswith("math/tex"):
            self.buffer.append(markup.dollars(node.text(), "display" in kind))

    def math(self, node: LexborNode) -> None:
        """A formula as TeX."""
        self.buffer.append(markup.formula(node))

    def image(self, node: LexborNode) -> None:
        """A picture of a formula as TeX."""
        self.buffer.append(markup.picture(node.attributes))

    def superscript(self, node: LexborNode) -> LexborNode | None:
        """A footnote's mark is dropped."""
        return None if REFERENCE in (node.attributes.get("class") or "") else node.child

    def code(self, node: LexborNode) -> None:
        """Preformatted text as one block."""
        self.flush()
        names, above = "", node
        for _ in range(3):
            if above is not None:
                names += " " + (above.attributes.get("class") or "")
                above = above.parent
        inner = node.css_first("code")
        if inner is not None:
            names += " " + (inner.attributes.get("class") or "")
        if text := markup.fence(node.text(), names):
            self.add(text, "code")

    def data(self, node: LexborNode) -> LexborNode | None:
        """A table of data as one block; one that lays out the page is walked."""
        rows = markup.table(node)
        if rows is None:
            return node.child
        self.flush()
        self.linked = sum(len(link.text().strip()) for link in node.css("a"))
        self.add(markup.pipes(rows), "table")
        self.linked = 0
        return None


UNITS = {"br": Walk.line, "script": Walk.script, "math": Walk.math, "img": Walk.image, "sup": Walk.superscript,
         "pre": Walk.code, "table": Walk.data}


def render(blocks: Iterable[Block]) -> str:
    """Blocks as Markdown: an empty line between two, none between the items of a list."""
    parts: list[str] = []
    listed = False
    for block in blocks:
        item = bool(block.indent) or block.mark.endswith((". ", "- "))
        text = block.mark + block.text
        if block.indent:
            text = block.indent + text.replace("\n", "\n" + block.indent)
        if parts:
            parts.append("\n" if item and listed and block.kind == "text" else "\n\n")
        parts.append(text)
        listed = item and block.kind == "text"
    return "".join(parts)

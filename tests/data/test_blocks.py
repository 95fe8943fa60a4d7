"""Blocks and markup: Markdown of headings, lists, code, tables and formulas; hostile and broken pages."""

from __future__ import annotations

import time

import pytest
from hypothesis import given, settings, strategies as st

from tasks.data.blocks import BITS, Walk, render

PARTS = ["<div class='nav'>", "</div>", "<p>", "</p>", "<ul>", "</ul>", "<li>", "<ol>", "</ol>", "<table>", "<tr>",
         "<td>", "</table>", "<pre>", "</pre>", "<code>", "</code>", "<a href=x>", "</a>", "<math>", "<msup>",
         "</math>", "<br>",
         "<article>", "</article>", "<script>", "</script>", "<!--", "-->", "<h2>", "</h2>", "<blockquote>", "&amp;",
         "\0", "字", "text ", "\u202e", "😀", "<", ">", "\ud800"]


def markdown(body: str) -> str:
    """All blocks of a page."""
    return render(Walk(f"<html><body>{body}</body></html>").blocks)


def test_headings_lists_and_quotes():
    """By hand from the CommonMark specification."""
    body = """<h2>Head <a href=x>ing</a></h2><p>One<br>two</p><ul><li>a<ul><li>b</li></ul></li><li>c</li></ul>
        <ol><li>x</li><li>y</li></ol><blockquote><p>q</p></blockquote>"""
    assert markdown(body) == "## Head ing\n\nOne\ntwo\n\n- a\n  - b\n- c\n1. x\n2. y\n\n> q"


def test_code_keeps_its_lines_and_language():
    """Indentation stays, the class tells the language, a fence inside gets a longer one."""
    body = ('<div class="highlight-python"><pre><span>def</span> f():\n    return 1\n</pre></div>'
            '<p>Use <code>f()</code>.</p>')
    assert markdown(body) == "```python\ndef f():\n    return 1\n```\n\nUse `f()`."
    assert markdown("<pre>```\nx\n```</pre>") == "````\n```\nx\n```\n````"


def test_data_tables_are_pipes_and_layout_tables_are_not():
    """A cell's bar is escaped; ragged rows are filled up."""
    body = "<table><tr><th>k</th><th>v|w</th></tr><tr><td>1</td><td>2</td></tr><tr><td>3</td></tr></table>"
    assert markdown(body) == "| k | v\\|w |\n| --- | --- |\n| 1 | 2 |\n| 3 |  |"
    assert markdown("<table><tr><td><h1>T</h1><p>a</p><p>b</p></td><td>c</td></tr><tr><td>d</td></tr></table>") == (
        "# T\n\na\n\nb\n\nc\n\nd")


@pytest.mark.parametrize(("html", "tex"), [
    ('<math><semantics><mi>x</mi><annotation encoding="application/x-tex">x^2</annotation></semantics></math>',
     "$x^2$"),
    ('<math display="block" alttext="\\alpha"><mi>a</mi></math>', "$$\\alpha$$"),
    ("<math><mfrac><mi>a</mi><msup><mi>b</mi><mn>2</mn></msup></mfrac></math>", "$\\frac{a}{b^{2}}$"),
    ('<script type="math/tex; mode=display">\\sum_i i</script>', "$$\\sum_i i$$"),
    ('<span class="katex"><span class="katex-mathml"><math><semantics><mi>y</mi><annotation '
     'encoding="application/x-tex">y</annotation></semantics></math></span><span class="katex-html">y</span></span>',
     "$y$"),
    ('<img class="math" alt="\\(z_1\\)">', "$z_1$"),
    ('<img class="photo" alt="a dog">', "dropped"),
    ('<span class="MathJax_Preview">q</span><span class="MathJax">q</span><script type="math/tex">q</script>', "$q$"),
])
def test_formulas_are_tex(html, tex):
    """Each of the forms in which pages hold formulas, once."""
    assert markdown(f"<p>See {html} here.</p>") == ("See here." if tex == "dropped" else f"See {tex} here.")


def test_what_is_never_shown_is_never_read():
    """Scripts, navigation, hidden elements, footnote marks."""
    body = """<nav>n</nav><footer>f</footer><script>s</script><p hidden>h</p><div style="display: none">d</div>
        <p>kept<sup class="reference">[1]</sup></p><noscript>x</noscript>"""
    assert markdown(body) == "kept"


def test_links_and_hints():
    """Linked bytes and the author's words are noted."""
    block = Walk('<div class="Sidebar"><p>ab <a href=x>cd</a></p></div>').blocks[0]
    assert block.size == 5 and block.linked == 2 and block.path & BITS["sidebar"] and block.tag == "p"
    assert Walk("<p>汉字</p>").blocks[0].size == 6


@settings(max_examples=150, deadline=None)
@given(st.lists(st.sampled_from(PARTS), max_size=60))
def test_any_soup_is_read(parts):
    """Never an exception; never a blank block; deterministic."""
    html = "".join(parts).encode("utf-8", "replace").decode()
    page = Walk(html)
    assert all(block.text.strip() and 0 <= block.linked <= block.size for block in page.blocks)
    assert render(page.blocks) == render(Walk(html).blocks)


def test_deep_and_wide_pages_cost_seconds_at_most():
    """Twenty thousand nested elements, fifty thousand siblings."""
    begun = time.process_time()
    deep = Walk("<div>" * 20_000 + "deep" + "</div>" * 20_000)
    assert len(deep.blocks) <= 1
    assert len(Walk("<p>x</p>" * 50_000).blocks) == 50_000
    assert time.process_time() - begun < 8

"""The page's Markdown in the browser: what it makes of good text, and that hostile text makes nothing but text."""

from __future__ import annotations

import json
import time

import pytest

HOSTILE = [
    "<script>window.owned = 1</script>", "<img src=x onerror='window.owned = 1'>", "<svg onload=window.owned=1>",
    "[x](javascript:window.owned=1)", "[x](JaVaScRiPt:window.owned=1)", "[x](java\tscript:window.owned=1)",
    "[x](\u0001javascript:window.owned=1)", "[x](data:text/html,<script>window.owned=1</script>)",
    "[x](vbscript:window.owned=1)", "![x](javascript:window.owned=1)", "![x](http://127.0.0.1:9/track.png)",
    "[x](<javascript:window.owned=1>)", "[<img src=x onerror=window.owned=1>](http://a.example)",
    "`<b>` **<img src=x onerror=window.owned=1>**", "```html\n<script>window.owned = 1</script>\n```",
    "```\"><script>window.owned=1</script>\ncode",
    "| <img src=x onerror=window.owned=1> | b |\n|---|---|\n| <b> | x |",
    "# <iframe srcdoc='<script>parent.owned=1</script>'>", "> <style>*{display:none}</style>", "- <form><button>x",
    "&lt;script&gt; &#60;script&#62;", "[x](http://a.example\" onmouseover=\"window.owned=1)",
    "http://a.example/\"onmouseover=\"window.owned=1", "<http://a.example/><base href=//evil.example>",
    "[x]: javascript:window.owned=1\n[x]", "a\u202egnp.exe\u200b", "__proto__ constructor [a](__proto__)",
    "[x](//evil.example) [y](file:///etc/passwd) [z](blob:http://a.example) [w](/admin)", "\u0000<b>\ufeff",
    "${window.owned = 1}",
]
ENDLESS = ["*" * 100_000, "`" * 99_999 + "x", "[" * 100_000, "![" * 50_000, "> " * 50_000, "- " * 50_000, "a_" * 50_000,
           "**a " * 30_000, "*a **b " * 15_000, "`a``" * 25_000, "#" + " " * 100_000 + "a", "# " + " #" * 50_000 + "a",
           "~" * 50_000 + "`", "|" + "-|" * 50_000 + "\n" + "|" + "-|" * 50_000, "-" + " " * 100_000 + "x",
           "[a](" * 30_000, "[a](" + "b" * 100_000, "[a](" + "(" * 100_000,
           "http://" * 15_000, "http://a" + "." * 100_000,
           "`" + "a" * 100_000 + " " * 10 + "`", "\n".join("  " * n + "- x" for n in range(300)), "\\" * 100_000,
           "1. " * 30_000, "| a " * 30_000 + "\n" + "|---" * 30_000, "` " + " " * 100_000 + "a`", "\t" * 100_000 + "x",
           "~~" * 50_000, "***a" * 25_000, "<" * 100_000, "\u202e" * 20_000, "a\n" * 50_000, "a  \n" * 30_000]


@pytest.fixture(scope="module")
def draw(tab, server):
    """Turns Markdown into the HTML that the page would show, in the page itself under its own policy."""
    tab.goto(server[1].removesuffix("v1"))
    tab.js("import('/web/markdown.js').then((made) => { window.made = made; })")
    tab.errors.clear()

    def html(text):
        return tab.js("(() => { const place = document.createElement('div'); document.querySelector('#main')"
                      f".replaceChildren(place); made.render(place, {json.dumps(text)}); return place.innerHTML; }})()")
    return html


def link(url, text):
    """A link as it must be."""
    return f'<a href="{url}" title="{url}" target="_blank" rel="noopener noreferrer nofollow">{text}</a>'


def code(text, language=""):
    """A code block without its copy button."""
    return (f'<div class="code"><div class="over"><span>{language}</span></div>'
            f'<pre tabindex="0"><code>{text}</code></pre></div>')


def p(text):
    return f'<p dir="auto">{text}</p>'


@pytest.mark.parametrize(("text", "wanted"), [
    ("", ""), ("plain", p("plain")), ("a\nb", p("a<br>b")), ("a\n\nb", p("a") + p("b")),
    ("a\r\n\r\nb", p("a") + p("b")),
    ("**a** *b* ***c*** ~~d~~ `e`",
     p("<strong>a</strong> <em>b</em> <strong><em>c</em></strong> <s>d</s> <code>e</code>")),
    ("snake_case_name 3 * 4 * 5 2**3", p("snake_case_name 3 * 4 * 5 2**3")),
    ("_a_ __b__", p("<em>a</em> <strong>b</strong>")),
    ("**a *b* c**", p("<strong>a <em>b</em> c</strong>")), ("**open", p("**open")), (r"\*a\* \\", p("*a* \\")),
    ("这是**重点**。", p("这是<strong>重点</strong>。")), ("`` a ` b ``", p("<code>a ` b</code>")),
    ("`a **b**`", p("<code>a **b**</code>")),
    ("# A\n### B #\n####### C", "<h3>A</h3><h5>B</h5>" + p("####### C")), ("---\n***", "<hr><hr>"), ("#tag", p("#tag")),
    ("> a\n> > b", f"<blockquote>{p('a')}<blockquote>{p('b')}</blockquote></blockquote>"),
    ("```py\na < b\n```\nafter", code("a &lt; b", "py") + p("after")), ("```\n\n  x", code("\n  x")),
    ("~~~\n```\n~~~", code("```")), ("````\n```\n````", code("```")),
    ("- a\n- b", '<ul><li dir="auto">a</li><li dir="auto">b</li></ul>'),
    ("3. a\n4. b", '<ol start="3"><li dir="auto">a</li><li dir="auto">b</li></ol>'),
    ("- a\n  - b\n- c", '<ul><li dir="auto">a<ul><li dir="auto">b</li></ul></li><li dir="auto">c</li></ul>'),
    ("1. a\n   ```\n   x\n   ```\n2. b", f'<ol><li dir="auto">a{code("x")}</li><li dir="auto">b</li></ol>'),
    ("1. a\n\n2. b\n\nafter", f'<ol><li dir="auto">a</li><li dir="auto">b</li></ol>{p("after")}'),
    ("text\n- a", p("text") + '<ul><li dir="auto">a</li></ul>'),
    ("[a](http://b.example/c?d=e)", p(link("http://b.example/c?d=e", "a"))),
    ("[a](https://b.example/c_(d) \"t\")", p(link("https://b.example/c_(d)", "a"))),
    ("See https://b.example/x_y. 见https://b.example/z。",
     p(f"See {link('https://b.example/x_y', 'https://b.example/x_y')}. "
       f"见{link('https://b.example/z', 'https://b.example/z')}。")),
    ("![cat](https://b.example/c.png)", p(link("https://b.example/c.png", "cat"))),
    ("a | b\n--|--\n1 | `x`\n2 \\| 3 | *y* | z",
     '<div class="scroll" tabindex="0"><table><thead><tr><th dir="auto">a</th><th dir="auto">b</th></tr></thead><tbody>'
     '<tr><td dir="auto">1</td><td dir="auto"><code>x</code></td></tr>'
     '<tr><td dir="auto">2 | 3</td><td dir="auto"><em>y</em></td></tr></tbody></table></div>'),
])
def test_what_it_makes(draw, text, wanted):
    assert draw(text) == wanted


def test_hostile_text_stays_text(draw, tab):
    allowed = {"P", "BR", "CODE", "PRE", "DIV", "SPAN", "STRONG", "EM", "S", "A", "H3", "UL", "LI", "OL", "BLOCKQUOTE",
               "TABLE", "THEAD", "TBODY", "TR", "TH", "TD"}
    inert = {"href", "title", "target", "rel", "dir", "class", "tabindex", "start"}
    for text in HOSTILE:
        draw(text)
        found = tab.js("[...document.querySelectorAll('#main > div *')].map((n) => [n.tagName, n.href ?? '', "
                       "n.getAttributeNames()])")
        assert {tag for tag, *_ in found} <= allowed, text
        assert all(set(names) <= inert for *_, names in found), text
        links = [href for _, href, _ in found if href]
        assert all(href.startswith(("http://a.example", "http://127.0.0.1:9")) for href in links), text
        assert tab.js("[...document.querySelectorAll('#main a')].every((a) => a.rel.includes('noopener'))")
    draw("a\u202eb\u200b \U0001f468\u200d\U0001f469")
    assert tab.text("#main") == "aU+202EbU+200B \U0001f468\u200d\U0001f469"
    assert tab.js("window.owned") is None and tab.errors == []  # nothing ran, nothing was even tried


def test_the_policy_would_stop_markup_that_came_through(tab, draw):
    """The second wall: had a text become HTML, the browser itself refuses it."""
    assert tab.js("(() => { try { document.createElement('div').innerHTML = '<b>x</b>'; return 'made'; } "
                  "catch (error) { return error.name; } })()") == "TypeError"
    assert tab.js("(() => { try { document.createElement('a').setAttribute('onclick', 'window.owned = 1'); "
                  "return 'made'; } catch (error) { return error.name; } })()") == "TypeError"
    assert tab.js("fetch('http://127.0.0.1:9/x').catch(() => 'refused')") == "refused"
    assert any("Content Security Policy" in error for error in tab.errors)
    tab.errors.clear()


def test_time_is_linear(draw, tab):
    slow = {}
    for text in ENDLESS:
        for _ in range(3):  # the machine has other work
            started = time.monotonic()
            tab.js(f"made.markdown({json.dumps(text)}).childNodes.length")
            slow[text[:12]] = time.monotonic() - started
            if slow[text[:12]] < 4:
                break
    assert max(slow.values()) < 4, sorted(slow.items(), key=lambda one: -one[1])[:3]


def test_streamed_text_ends_as_whole_text_and_keeps_its_nodes(draw, tab):
    text = ("# T\n\nA **b** c\n\n- x\n  - y\n\n```py\nz = 1\n\n\n```\n\n| a | b |\n|---|---|\n| 1 | 2 |\n\n"
            "end [l](http://a.example)")
    whole = draw(text)
    streamed = tab.js(f"""(() => {{ const text = {json.dumps(text)}; const place = document.createElement('div');
        for (let n = 1; n <= 12; n += 1) made.render(place, text.slice(0, n)); window.heading = place.firstChild;
        for (let n = 13; n <= text.length; n += 1) made.render(place, text.slice(0, n));
        return [place.innerHTML, place.firstChild === window.heading]; }})()""")
    assert streamed == [whole, True]

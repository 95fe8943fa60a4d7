"""Extractors: content kept, furniture dropped, in both languages; the benchmark's metric by hand; the vote."""

from __future__ import annotations

import pytest

from benchmarks import extract as benchmark, extract_fit
from tasks.data import boilerplate, extractors
from tasks.data.blocks import Walk

EN = ["The old bridge over the river was rebuilt after the flood, and the market returned to its banks in the spring.",
      "Engineers said that the new arches, which were cast in a yard upstream, should stand for at least a century.",
      "Residents had waited four years for the work to end, and many of them walked across on the first evening."]
ZH = ["春天来了，河边的柳树发了新芽，孩子们在草地上放风筝。市政府表示，今年将继续改善公园的设施，并增加停车位。",
      "据介绍，这座公园建成于一九九八年，占地约三十公顷，每年接待游客超过两百万人次，四季都有花可看。",
      "专家认为，城市绿地的建设不仅能够改善空气质量，还可以为居民提供休闲和锻炼的场所，对生活很有意义。"]


def page(paragraphs: list[str], menu: list[str], furniture: str) -> str:
    """A page of news without semantic elements."""
    links = "".join(f"<li><a href=/{n}>{word}</a></li>" for n, word in enumerate(menu * 4))
    return (f"<html><head><title>t</title></head><body><div class=top><ul>{links}</ul></div><div class=main>"
            f"<div class=txt>{''.join(f'<p>{text}</p>' for text in paragraphs)}</div></div>"
            f"<div class=bottom>{furniture}</div></body></html>")


@pytest.mark.parametrize("method", sorted(extractors.METHODS))
@pytest.mark.parametrize(("paragraphs", "menu", "furniture"), [
    (EN, ["Home", "Sports", "Business"], "Copyright 2024. All rights reserved. Privacy policy"),
    (ZH, ["首页", "体育", "财经"], "版权所有 京ICP备010042号 联系我们 免责声明"),
])
def test_content_stays_and_furniture_goes(method, paragraphs, menu, furniture):
    """The same in both languages, by every method."""
    assert extractors.METHODS[method](page(paragraphs, menu, furniture), "", ()) == "\n\n".join(paragraphs)


@pytest.mark.parametrize("html", ["", " ", "<html></html>", "<p></p>", "plain", "\0", "<frameset><frame></frameset>"])
@pytest.mark.parametrize("method", sorted(extractors.METHODS))
def test_pages_without_content(method, html):
    """Nothing, or the little there is."""
    assert extractors.METHODS[method](html, "", ()) in ("", "plain", "\ufffd")


def test_comments_go_where_there_is_an_article():
    """Readers' comments are dropped beside an article, and kept where they are the page."""
    talk = "".join(f"<div class=comment><p>{text}</p></div>" for text in EN)
    body = "".join(f"<p>{text.replace('bridge', 'tower')}</p>" for text in EN * 2)
    with_article = f"<article>{body}</article><div id=comments>{talk}</div>"
    assert all(not block.path & boilerplate.KILLED[0] for block in boilerplate.pruned(Walk(with_article).blocks))
    assert len(boilerplate.pruned(Walk(f"<div id=comments>{talk}</div>").blocks)) == 3


def test_careful_only_where_in_doubt(monkeypatch):
    """`auto` asks trafilatura for the page in doubt, not for the clear one, not for a page of code."""
    asked = []
    monkeypatch.setattr(extractors, "voted", lambda html, url, blocks, chances: asked.append(url) or chances)
    for url, chance in (("clear", 0.99), ("doubtful", 0.3)):
        monkeypatch.setattr(boilerplate.Model, "probabilities", lambda self, blocks, title, c=chance: (
            boilerplate.np.full(len(blocks), c)))
        extractors.auto(page(EN, ["Home"], "x"), url)
        extractors.auto(page(EN, ["Home"], "<pre>a = 1</pre><pre>b = 2</pre>"), f"{url}, code")
    assert asked == ["doubtful"]


def test_vote_goes_by_shared_text():
    """A block in trafilatura's text gains, one that is not loses."""
    blocks = Walk(f"<p>{EN[0]}</p><p>{EN[1]}</p><p>{ZH[0]}</p>").blocks
    assert extractors.shared(blocks, f"{EN[0]}\n{ZH[0]}").tolist() == [1.0, 0.0, 1.0]


def test_weights_of_other_features_are_refused():
    """The committed weights and the code must be of one fit."""
    weights = {"numbers": {"length": 1.0}, "bias": 0.0, "near": {}, "path": {}}
    with pytest.raises(ValueError, match="extract_fit"):
        boilerplate.Linear(weights)


def test_metric_by_hand():
    """Shingles of four words: gold a-e has two, found b-f has two, one shared; short texts are one shingle."""
    assert benchmark.compare("a b c d e", "b c d e f") == pytest.approx((1 / 3, 1 / 3, 1 / 3))
    assert benchmark.compare("a b", "a b") == (1.0, 0.0, 0.0)
    assert benchmark.compare("a", "") == (0.0, 0.0, 1.0)
    assert benchmark.compare("", "") == (0.0, 0.0, 0.0)
    found = benchmark.scores([(1 / 3, 1 / 3, 1 / 3), (1.0, 0.0, 0.0)])
    assert found == pytest.approx({"f1": 0.75, "precision": 0.75, "recall": 0.75})


def test_benchmark_says_what_is_missing(tmp_path):
    """A wrong folder is one line."""
    with pytest.raises(SystemExit, match="article-extraction-benchmark"):
        extract_fit.benchmark(tmp_path)


def test_fit_learns_and_scores_only_unseen_sites():
    """A model fitted on pages of this kind finds their content; a site's pages share a fold."""
    htmls = [page(EN[n % 3:] + EN[:n % 3], ["Home", "News"], "Copyright") for n in range(6)]
    weights = extract_fit.fit([extract_fit.labelled(html, "\n".join(EN)) for html in htmls])
    chances = boilerplate.Model({kind: weights for kind in boilerplate.KINDS}).probabilities(Walk(htmls[0]).blocks, "t")
    assert [p > 0.5 for p in chances][-4:] == [True, True, True, False] and chances[0] < 0.5
    assert extract_fit.fold("https://a.site.example/x") == extract_fit.fold("http://b.site.example/y")

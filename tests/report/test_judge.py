"""The judge's section: figures as they are in the metrics file, refusals in red, text that stays text."""

from __future__ import annotations

from pathlib import Path

import jinja2

from tasks.report import judge

HOSTILE = "<img src=x onerror=alert(1)>"
METHOD = {"n": 24, "kappa": 0.76, "interval": [0.49, 1.0], "right": 21, "wrong": 2, "tie": 1, "p": 3.3e-05,
          "above_chance": True, "kinds": {}, "unreadable": 0, "swap": None, "lean": None, "said_twice": [6, 8],
          "first": {"value": 1.0, "low": 0.94, "high": 1.0, "stderr": 0.0, "n": 64},
          "itself": {"n": 4, "share": 1.0, "kappa": None}}
PLACE = {"rank_low": 1, "rank_high": 2, "n": 3, "won": 2, "tied": 1, "lost": 0}
FOUND = {
    "judge": {"model": HOSTILE, "own": [HOSTILE], "digest": "x"},
    "calibration": {"en": {"methods": {"likelihood": METHOD, "logits": {"unsupported": True}}, "longer": METHOD | {
        "kappa": None, "interval": None, "itself": None, "said_twice": None, "first": None}, "chosen": "likelihood"}},
    "ranking": {"en": {"method": "likelihood", "questions": 10, "barred": [HOSTILE], "in_order": False,
                       "longer_won": [3, 7], "swap": None, "first": None, "lean": None,
                       "models": {"a": PLACE | {"rank": 2, "strength": -0.5, "low": -1.0, "high": 0.1},
                                  HOSTILE: PLACE | {"rank": 1, "strength": 0.5, "low": -0.1, "high": 1.0}}},
                "zh": {"refused": f"no method agrees {HOSTILE}"}},
}


def test_tables_say_the_figures_with_their_source():
    made = judge.tables(FOUND)
    longer, likelihood, logits = made["calibration"]["rows"]
    assert longer[:2] == ["en: the longer answer", "undefined"] and longer[4:] == [""] * 5
    assert likelihood == ["en: likelihood", "0.76 (0.49 to 1.00)", "21 / 2 / 1 of 24", "3.3e-05", "yes", "",
                          "100% (94% to 100%)", "6 of 8", "100% of 4"]
    assert logits[1] == "not offered by the endpoint"
    assert made["calibration"]["from"][1] == "judge.json calibration.en.methods.likelihood"
    assert [row[0] for row in made["ranking"]["rows"]] == [f"en: {HOSTILE}", "en: a"], "by rank"
    assert made["ranking"]["rows"][1][1:] == ["-0.50 (-1.00 to +0.10)", "2 (1 to 2)", "2 / 1 / 0"]
    assert made["people"]["rows"] == []


def test_refusals_and_broken_anchors_are_in_red_and_text_stays_text():
    environment = jinja2.Environment(loader=jinja2.FileSystemLoader(Path(judge.__file__).parent), autoescape=True,
                                     undefined=jinja2.StrictUndefined)
    page = environment.from_string('{% macro table(t) %}{{ t.rows }}{% endmacro %}{% include "judge.html.j2" %}').render(
        judge=judge.section(FOUND))
    assert '<p class="minus"><b>zh</b>: not ranked: no method agrees' in page
    assert f'<p class="minus"><b>en</b>: {judge.OUT_OF_ORDER.replace(chr(39), "&#39;")}' in page
    assert "the longer answer won 3 of 7" in page and "left out, because the judge has their weights" in page
    assert "<img" not in page and page.count("<svg") == 1

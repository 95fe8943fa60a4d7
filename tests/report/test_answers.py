"""Every item and answer is on the page, nothing in them can run, and what the filters leave is what they say."""

import base64
import hashlib
import json
import re
from pathlib import Path

import jinja2
import pytest

from tasks.report import answers
from tasks.stage import StageError
from tests import browser

HOSTILE = "</script><script>document.title='run'</script><img src=x onerror=document.title='run'> ‮ {{ 7 * 7 }}"
MODELS = {"base": "models/s/base", "chat": "models/s/chat", "other": "models/o/chat"}


def lines(name, rights, nats):
    """Answers of a model: six pairs of two documents, one text, one call with a prompt of its own template."""
    return [*({"task": "pairs", "id": f"p{n}", "prompt": "", "choices": ["good", HOSTILE], "target": 0, "right": right,
               "answer": 1 - right, "scores": [-1.0, -2.0], "document": f"d{n % 2}", "language": "en", "overlap": n / 5,
               "min_k": -4.5} for n, right in enumerate(rights)),
            {"task": "held_out", "id": "h0", "prompt": "some text", "answer": nats, "bytes": 9, "overlap": None},
            {"task": "tools", "id": "t0", "prompt": f"<{name}> ask", "answer": HOSTILE, "target": "x", "right": 0}]


@pytest.fixture
def kept(tmp_path):
    made = {"base": lines("base", [0, 0, 0, 1, 1, 0], -9.0), "chat": lines("chat", [1, 1, 1, 1, 0, 1], -6.0)}
    for name, of in made.items():
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in of))
    return tmp_path


def written(folder, monkeypatch):
    monkeypatch.chdir(folder)
    answers.write(answers.read(folder, MODELS), jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(answers.__file__).parent), autoescape=True,
        undefined=jinja2.StrictUndefined, trim_blocks=True))
    return (folder / "report/answers.html").read_text("utf-8")


def test_every_item_is_there_and_only_the_pages_own_script_may_run(kept, monkeypatch):
    page = written(kept, monkeypatch)
    data, script = re.findall(r"<script[^>]*>(.*?)</script>", page, re.S)
    assert f"sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}" in page
    assert page.count("<script") == 2 and "<img" not in page
    found = json.loads(data)
    assert found["models"] == ["base", "chat"] and {t: len(of) for t, of in found["tasks"].items()} == {
        "pairs": 6, "held_out": 1, "tools": 1}
    assert found["tasks"]["pairs"][0]["choices"][1] == HOSTILE
    assert found["tasks"]["tools"][0]["p"] == {"base": "<base> ask", "chat": "<chat> ask"}
    assert found["differences"]["pairs"]["base|chat"]["value"] == 0.5
    assert found["differences"]["held_out"]["base|chat"]["low"] is None, "one document has no error to tell"


def test_neighbours_are_compared_and_their_differences_told(kept):
    said = answers.read(kept, MODELS)
    assert answers.neighbours(MODELS, said | {"other": said["chat"]}) == [("base", "chat"), ("chat", "other")]
    table = answers.differences(MODELS, said)
    by_score = {row[0]: row for row in table["rows"]}
    # 4 gained, 1 lost of 6: shrunken (4.5 - 1.5) / 8
    assert by_score["minimal pairs"][1:3] == ["base → chat", "+0.500"] and by_score["minimal pairs"][6] == "6"
    assert by_score["minimal pairs"][4] == "cannot tell"
    assert by_score["held-out bits per byte, bits per byte saved"][2:4] == ["+0.481", "unknown to unknown"]
    assert len(table["from"]) == len(table["rows"])


@pytest.mark.parametrize("line", ["{", "[]", '{"id": "x"}'])
def test_a_torn_line_is_named(kept, line):
    with (kept / "chat.jsonl").open("a") as file:
        file.write(line + "\n")
    with pytest.raises(StageError, match=r"chat\.jsonl:9 is no answer: run evaluate@chat again"):
        answers.read(kept, MODELS)


@pytest.mark.skipif(browser.found() is None, reason="no Chromium here")
def test_filters_in_chromium(kept, monkeypatch, tmp_path):
    written(kept, monkeypatch)
    with browser.tab(tmp_path / "profile") as page:
        def choose(name, value):
            page.js(f"{{const s = document.getElementById('{name}'); s.value = '{value}'; "
                    "s.dispatchEvent(new Event('change'));}")
            return page.js("document.querySelectorAll('article').length")

        page.goto((tmp_path / "report/answers.html").as_uri() + "#task=pairs&model=base")
        page.until("document.querySelectorAll('article').length === 6")
        assert choose("outcome", "wrong") == 4 and choose("outcome", "dirty") == 5
        assert choose("model", "chat") == 5 and choose("outcome", "right") == 5
        choose("outcome", "all")
        assert choose("beside", "base") == 6 and choose("outcome", "differ") == 5 and choose("outcome", "first") == 4
        told = page.text("#told")
        assert "4 of 6 items" in told and "difference −0.500" in told
        assert choose("task", "tools") == 0 and choose("outcome", "wrong") == 1
        assert HOSTILE[:20] in page.text("article") and page.js("document.title") == "Catena: every item and answer"
        assert page.errors == []

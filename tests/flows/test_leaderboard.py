"""The leaderboard: every run of a real repository, DVC's own experiments among them, and the page in a real browser."""

from __future__ import annotations

import hashlib
import json
import subprocess
import time

import pytest
from dvc.repo import Repo

from flows import compare, history, leaderboard
from flows.lineage import LineageError
from tasks.evaluate import statistics
from tasks.stage import StageError
from tests import browser

HOSTILE = '</script><script>document.title="owned"</script><img src=x onerror="document.title=\'owned\'">'
ITEMS = 30


def git(root, *words):
    name = ["-c", "user.name=t", "-c", "user.email=t@t", "-c", "commit.gpgsign=false", "-c", "tag.gpgsign=false"]
    return subprocess.run(["git", *name, *words], cwd=root, check=True, capture_output=True, text=True).stdout.strip()


def metrics(value, n=ITEMS):
    return {"scores": {"pairs": {"acc": statistics.proportion([1] * value + [0] * (n - value)).as_dict() | {
        "baselines": {"majority": 0.6, "chance": 0.5}}}, "held_out": {"bits_per_byte": {
            "value": 3.0 - value / n, "stderr": 0.1, "low": 2.8 - value / n, "high": 3.2 - value / n, "n": 4,
            "baselines": {"xz": 3.3, "uniform": 6.0}}}}, "dimensions": {"language": {"pairs": {"en": {
                "value": 0.1, "stderr": 0.1}}}}, "parameters": 3}


def answers(right, text):
    return "".join(json.dumps({"task": "pairs", "id": f"i{n}", "prompt": f"{text} {n}", "target": 1,
                               "choices": ["no", HOSTILE], "answer": int(n < right), "right": int(n < right)}) + "\n"
                   for n in range(ITEMS))


def commit(root, subject, models, cached=True):
    """A commit with these models' metrics (name -> items right) and their answers in dvc.lock."""
    outs = []
    for name, right in models.items():
        path = root / "metrics/evaluate" / f"{name}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(metrics(right)))
        text = answers(right, HOSTILE).encode()
        md5 = hashlib.md5(text).hexdigest()
        place = root / ".dvc/cache/files/md5" / md5[:2] / md5[2:]
        place.parent.mkdir(parents=True, exist_ok=True)
        if cached:
            place.write_bytes(text)
        outs.append(f"    - path: data/answers/{name}.jsonl\n      hash: md5\n      md5: {md5}\n      size: 1\n")
    (root / "dvc.lock").write_text("schema: '2.0'\nstages:\n  evaluate:\n    cmd: x\n    outs:\n" + "".join(outs))
    git(root, "add", "-A")
    git(root, "commit", "-qm", subject)
    return git(root, "rev-parse", "HEAD")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A repository: four commits, one of them without a change of scores, a release, an experiment, uncommitted work.
    """
    root = tmp_path_factory.mktemp("history")
    git(root, "init", "-qb", "main")
    git(root, "config", "user.name", "t")
    git(root, "config", "user.email", "t@t")
    Repo.init(str(root)).close()
    (root / "dvc.yaml").write_text("metrics:\n  - metrics/evaluate/one.json\n")
    first = commit(root, "first", {"one": 10, "two": 12}, cached=False)
    commit(root, HOSTILE, {"one": 20, "two": 12})
    git(root, "tag", "-am", "promoted", "release/1")
    (root / "notes").write_text("x")
    git(root, "add", "-A")
    git(root, "commit", "-qm", "no scores")
    last = commit(root, "last", {"one": 25, "two": 12, "three": 3})
    (root / "metrics/evaluate/one.json").write_text(json.dumps(metrics(28)))
    with Repo(str(root)) as repo:
        saved = repo.experiments.save(name="wider")
    git(root, "checkout", "-q", "--", ".")
    (root / "metrics/evaluate/two.json").write_text(json.dumps(metrics(1)))
    return root, first, last, saved


@pytest.fixture
def found(made, monkeypatch):
    monkeypatch.chdir(made[0])
    return leaderboard.board(made[0])


def test_a_row_is_a_model_at_the_run_that_changed_it(made, found):
    _, first, last, saved = made
    rows = [(row["model"], row["run"], row["kind"], row["scores"]["pairs.acc"][0]) for row in found["rows"]]
    assert ("one", first[:8], "commit", pytest.approx(10 / 30, abs=1e-6)) in rows
    assert [run for model, run, *_ in rows if model == "two"] == [first[:8], history.WORKTREE], "not said again"
    assert [run for model, run, *_ in rows if model == "three"] == [last[:8]]
    assert ("one", saved[:8], "experiment", pytest.approx(28 / 30, abs=1e-6)) in rows and len(rows) == 7
    assert [row["experiment"] for row in found["rows"] if row["kind"] == "experiment"] == ["wider"]
    released = {(row["model"], round(row["scores"]["pairs.acc"][0], 3)) for row in found["rows"]
                if row["releases"] == ["release/1"]}
    assert released == {("one", 0.667), ("two", 0.4)}, "also what an earlier commit had made"


def test_experiments_are_those_of_dvc(made, found):
    root, _, last, saved = made
    with Repo(str(root)) as repo:
        listed = repo.experiments.ls(all_commits=True)
        shown = repo.metrics.show(revs=[saved])
    assert [name for names in listed.values() for name, _ in names] == ["wider"]
    theirs = shown[saved]["data"]["metrics/evaluate/one.json"]["data"]["scores"]["pairs"]["acc"]["value"]
    ours = next(row for row in found["rows"] if row["kind"] == "experiment")["scores"]["pairs.acc"][0]
    assert theirs == ours


def test_scores_have_interval_items_and_the_best_trivial_answerer(found):
    one = next(row for row in found["rows"] if row["model"] == "one")["scores"]
    wilson = statistics.proportion([1] * 10 + [0] * 20)
    assert one["pairs.acc"] == [pytest.approx(x, abs=1e-6) for x in (wilson.value, wilson.low, wilson.high, 30, 0.6)]
    assert one["held_out.bits_per_byte"][3:] == [4, 3.3], "lower is better: the least baseline"
    assert set(one) == {"pairs.acc", "held_out.bits_per_byte"}, "dimensions say the same again"
    theirs = dict(compare.estimates(metrics(10)))
    assert theirs["scores.pairs.acc"][0] == one["pairs.acc"][0]


def test_answers_come_from_dvcs_cache_or_it_is_said(made, found):
    _, first, last, _ = made
    of = {(row["model"], row["run"]): row["answers"] for row in found["rows"]}
    assert of["one", first[:8]] == "not in DVC's cache: dvc fetch --all-commits, then again"
    index = of["one", last[:8]]
    assert [right for _, right in found["files"][index].values()].count(1) == 25
    assert len(found["questions"]) == ITEMS, "a question asked of many is kept once"
    assert found["questions"][0][3] == HOSTILE, "a place among choices is shown as the choice"


def test_a_second_look_reads_no_blob_again(made, found, monkeypatch):
    root = made[0]
    asked, objects = [], history.objects

    def told(root, names, bodies=True):
        asked.extend(name for name in names if name in blobs)
        return objects(root, names, bodies)

    blobs = {blob for run in history.runs(root) for blob in run.files.values()}
    monkeypatch.setattr(history, "objects", told)
    again = leaderboard.board(root)
    assert again["rows"] == found["rows"] and not asked
    (root / history.KEPT / "blobs.json").write_text("{torn")
    leaderboard.board(root)
    assert asked, "a torn cache is made again"


@pytest.mark.parametrize("text", [
    "{torn", "[]", '{"value": "x", "stderr": 1}', '{"scores": {"a": {"value": 1e999, "stderr": 0}}}',
    '{"scores": {"a": {"value": true, "stderr": 1, "baselines": []}}}', '{"a": ' * 2000])
def test_a_metrics_file_that_is_none_shows_nothing(tmp_path, monkeypatch, text):
    git(tmp_path, "init", "-qb", "main")
    (tmp_path / "metrics/evaluate").mkdir(parents=True)
    (tmp_path / "metrics/evaluate/m.json").write_text(text)
    assert leaderboard.board(tmp_path)["rows"] == [], "no commit yet, and no score"


def test_places_that_are_none_are_one_line(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert leaderboard.main([]) == 1
    assert capsys.readouterr().err.startswith("error: git ")
    with pytest.raises(LineageError):
        history.runs(tmp_path)
    git(tmp_path, "init", "-qb", "main")
    with pytest.raises(StageError, match="no commit holds a file below metrics/"):
        leaderboard.board(tmp_path)


def test_hundreds_of_commits_cost_seconds(tmp_path):
    """By git's fast-import, 300 commits that each change two models; processor time, not the clock."""
    git(tmp_path, "init", "-qb", "main")
    stream = []
    for n in range(300):
        stream.append(f"commit refs/heads/main\ncommitter t <t@t> {1_700_000_000 + n} +0000\ndata 1\nx\n")
        for name in ("a", "b"):
            text = json.dumps(metrics(n % 30) | {"seed": f"{name}{n}"})
            stream.append(f"M 100644 inline metrics/evaluate/{name}.json\ndata {len(text)}\n{text}\n")
    subprocess.run(["git", "fast-import", "--quiet"], cwd=tmp_path, input="".join(stream), text=True, check=True)
    git(tmp_path, "checkout", "-q", "main")
    begun = time.process_time()
    assert len(leaderboard.board(tmp_path)["rows"]) == 600
    assert time.process_time() - begun < 5


@pytest.mark.skipif(browser.found() is None, reason="no Chromium here: install one (Debian: chromium)")
def test_the_page_in_a_browser(made, found, tmp_path):
    root, first, last, _ = made
    path = tmp_path / "leaderboard.html"
    path.write_text(leaderboard.page(found, "abc"), encoding="utf-8")
    cells = ("[...document.querySelectorAll('#table tbody tr')].map(row => row.querySelector('b').textContent + ' ' + "
             "row.querySelector('.run').innerText.split(/\\s/)[0])")

    def choose(name, value):
        page.js(f"(() => {{ const it = document.getElementById('{name}'); it.value = {json.dumps(value)};"
                " it.dispatchEvent(new Event(it.type === 'search' ? 'input' : 'change')); })()")

    def sort(name):
        page.js("[...document.querySelectorAll('thead button')]"
                f".find(it => it.textContent.startsWith('{name}')).click()")

    def tick(model, run):
        page.js("[...document.querySelectorAll('#table input')].find(box => box.getAttribute('aria-label') === "
                f"{json.dumps(f'compare {model} at {run}')}).click()")

    with browser.tab(tmp_path / "profile") as page:
        page.size(1280, 900)
        page.goto(path.as_uri())
        assert page.js("document.title") == "Catena leaderboard" and page.js("document.images.length") == 0
        assert HOSTILE in page.text("#table"), "shown as text"
        assert page.js(cells)[0] == "two working"
        sort("pairs")
        assert page.js(cells)[0].startswith("one ") and page.js(cells)[-1].startswith("two working")
        sort("held")
        assert page.js(cells)[0].startswith("one "), "bits per byte: the least first"
        for name, value, rows in (("kind", "release", 2), ("kind", "experiment", 1), ("kind", "", 7),
                                  ("model", "two", 2), ("model", "", 7), ("words", first[:8].upper(), 2),
                                  ("words", "", 7)):
            choose(name, value)
            assert page.js("document.querySelectorAll('#table tbody tr').length") == rows, (name, value)
        page.js("document.getElementById('newest').click()")
        assert page.js("document.querySelectorAll('#table tbody tr').length") == 3
        page.js("document.getElementById('newest').click()")
        assert page.js("document.querySelectorAll('#chart circle').length") == 7
        assert "release/1" in page.js("document.querySelector('#chart svg').textContent")
        tick("one", last[:8])
        tick("three", last[:8])
        told = statistics.paired_difference([1] * 25 + [0] * 5, [1] * 3 + [0] * 27)
        assert f"A +{told.value:.3f} ({told.low:.3f} to {told.high:.3f}), n=30" in page.text("#verdicts")
        assert page.js("document.querySelectorAll('#items article').length") == 22
        choose("which", "")
        assert page.js("document.querySelectorAll('#items article').length") == 30
        assert HOSTILE in page.text("#items article pre") and page.js("document.title") == "Catena leaderboard"
        tick("one", last[:8])
        tick("one", first[:8])
        assert "not in DVC's cache" in page.text("#items")
        for width, dark in ((390, False), (390, True), (1280, True)):
            page.size(width, 844, dark)
            assert page.js("document.documentElement.scrollWidth <= innerWidth"), "nothing sticks out"
        ground = page.js("getComputedStyle(document.body).backgroundColor")
        cell = page.js("getComputedStyle(document.querySelector('td')).backgroundColor")
        assert ground == "rgb(18, 22, 28)" and cell in (ground, "rgb(29, 47, 71)")
        assert not page.errors

"""The memory of steps: the bytes of a run without it, only new or changed documents computed, nothing stale."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from datatrove.pipeline.base import PipelineStep
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tasks.data import documents, executor, remembered
from tests.data.test_executor import runtime


class Shout(PipelineStep):
    """Upper case; notes every document that it really saw, drops those that hold `drop`, counts letters."""

    type, name = "filter", "shout"

    def __init__(self, seen: Path):
        super().__init__()
        self.seen = seen.absolute()

    def run(self, data, rank=0, world_size=1):
        """Every document, shouted."""
        for document in data:
            with self.seen.open("a", encoding="utf-8") as out:
                out.write(document.id + "\n")
            if "drop" in document.text:
                document.metadata["reason"] = "told"
            document.text = document.text.upper()
            self.stat_update("letters", value=len(document.text))
            yield document


@pytest.fixture
def place(tmp_path, monkeypatch):
    """An empty working directory."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(texts: dict[str, str], *deciding: str, snapshot: str = "1", memory: bool = True, workers: int = 1,
        shards: int = 3):
    """(counts, ids really computed, files written) of one run over `texts` in three shards."""
    for folder in ("in", "out", "rejected"):
        shutil.rmtree(folder, ignore_errors=True)
    Path("seen").unlink(missing_ok=True)
    names = sorted(texts)
    for shard in range(shards):
        documents.write(Path(f"in/{shard:05d}.jsonl"), [
            documents.Document(text=texts[name], id=name, metadata={"n": len(texts[name]), "snapshot": snapshot})
            for name in names[shard::shards]])
    step = Shout(Path("seen"))
    steps = [documents.ReadShards(Path("in")), remembered.Remembered(step, "shout", *deciding) if memory else step,
             documents.WriteShards(Path("out"), Path("rejected"))]
    counts = executor.run("shout", steps, shards, runtime(workers=workers))
    seen = sorted(Path("seen").read_text(encoding="utf-8").split()) if Path("seen").exists() else []
    return counts, seen, {str(path): path.read_bytes() for folder in ("out", "rejected")
                          for path in sorted(Path(folder).iterdir())}


TEXTS = {"a": "alpha", "b": "drop me", "c": "三国", "d": "", "e": "echo"}


@pytest.mark.parametrize("workers", [1, 2])
def test_a_second_snapshot_computes_only_what_changed_and_gives_the_bytes_of_a_full_run(place, workers):
    counts, seen, first = run(TEXTS, "p", workers=workers)
    assert seen == sorted(TEXTS) and "remembered" not in counts and counts["letters"] == sum(map(len, TEXTS.values()))
    grown = TEXTS | {"c": "三国演义", "f": "new"}
    del grown["a"]
    again, seen, second = run(grown, "p", workers=workers)
    assert seen == ["c", "f"] and again["remembered"] == 3
    full, everything, whole = run(grown, "p", memory=False, workers=workers)
    assert second == whole and everything == sorted(grown)
    assert {key: value for key, value in again.items() if key != "remembered"} == dict(full)
    shutil.rmtree("in")
    _, seen, _ = run(TEXTS, "p", workers=workers)
    assert seen == ["a", "c"], "what the last run did not hold is forgotten"


def test_the_same_record_in_a_newer_snapshot_is_not_new(place):
    run(TEXTS, "p")
    renamed = {f"{name}-2": text for name, text in TEXTS.items()}
    _, seen, newer = run(renamed, "p", snapshot="2")
    assert seen == []
    assert newer == run(renamed, "p", snapshot="2", memory=False)[2]


def test_other_parameters_files_or_code_remember_nothing(place, monkeypatch):
    model = place / "model"
    model.mkdir()
    (model / "weights").write_text("1")
    run(TEXTS, "p", model)
    assert run(TEXTS, "p", model)[1] == []
    assert run(TEXTS, "q", model)[1] == sorted(TEXTS)
    run(TEXTS, "p", model)
    (model / "weights").write_text("2")
    assert run(TEXTS, "p", model)[1] == sorted(TEXTS)
    monkeypatch.setattr(remembered, "surroundings", lambda: b"other code")
    assert run(TEXTS, "p", model)[1] == sorted(TEXTS)


@pytest.mark.parametrize("damage", [b"", b"SQLite format 3\0", b"rubbish " * 999])
def test_a_damaged_memory_is_no_memory(place, damage):
    _, _, whole = run(TEXTS, "p")
    past = Path(".runtime/records/shout/records.sqlite")
    past.write_bytes(damage or past.read_bytes()[:3000])
    _, _, again = run(TEXTS, "p")
    assert again == whole
    assert run(TEXTS, "p")[1] == []


def test_a_run_that_failed_leaves_the_old_memory(place, monkeypatch):
    run(TEXTS, "p")
    monkeypatch.setattr(Shout, "run", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        run(TEXTS | {"z": "new"}, "p")
    monkeypatch.undo()
    monkeypatch.chdir(place)
    assert run(TEXTS, "p")[1] == []


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.dictionaries(st.sampled_from("abcdef"), st.text(max_size=20), min_size=1), min_size=2, max_size=3))
def test_any_snapshots_give_the_bytes_of_full_runs(place, snapshots):
    shutil.rmtree(".runtime", ignore_errors=True)
    for texts in snapshots:
        assert run(texts, "p", shards=2)[2] == run(texts, "p", memory=False, shards=2)[2]


def test_answers_hold_bytes_and_arrays():
    runs = np.array([(1, 2), (3, 4)], np.dtype([("hash", "<u8"), ("start", "<i4")]))
    answer = {"bytes": b"\0\xff", "runs": runs, "none": np.empty((0, 3), np.uint32), "text": "三\ud800"}
    again = remembered.unpack(remembered.pack(answer))
    assert again["bytes"] == answer["bytes"] and again["text"] == answer["text"]
    for name in ("runs", "none"):
        np.testing.assert_array_equal(again[name], answer[name])
        assert again[name].dtype == answer[name].dtype

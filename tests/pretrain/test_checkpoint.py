"""Resume checkpoints: sealed whole, the newest whole one is found, broken ones are passed over and named."""

import pytest

from tasks.pretrain.checkpoint import Checkpoints, fingerprint
from tasks.stage import StageError


def seal(store, step, content):
    store.path(step).mkdir(parents=True)
    (store.path(step) / "weights").write_bytes(content)
    store.seal(step, {"step": step})


def test_the_newest_two_are_kept_and_the_newest_is_found(tmp_path):
    store = Checkpoints(tmp_path / "run")
    assert store.latest(print) is None
    for step in (5, 10, 15):
        seal(store, step, b"x" * step)
    assert [p.name for p in sorted((tmp_path / "run").iterdir())] == ["step-000000010", "step-000000015"]
    folder, progress = store.latest(print)
    assert progress == {"step": 15} and (folder / "weights").read_bytes() == b"x" * 15


@pytest.mark.parametrize("harm", ["flip", "cut", "remove", "manifest"])
def test_a_broken_one_gives_way_to_the_one_before(tmp_path, harm):
    store, said = Checkpoints(tmp_path), []
    for step in (5, 10):
        seal(store, step, b"content")
    victim = tmp_path / "step-000000010" / ("manifest.json" if harm == "manifest" else "weights")
    {"flip": lambda: victim.write_bytes(b"contenu"), "cut": lambda: victim.write_bytes(b"con"),
     "remove": victim.unlink, "manifest": lambda: victim.write_text("{")}[harm]()
    folder, progress = store.latest(said.append)
    assert progress == {"step": 5} and "step-000000010 is passed over" in said[0]


def test_what_was_not_sealed_is_never_found(tmp_path):
    store = Checkpoints(tmp_path)
    store.path(5).mkdir(parents=True)
    (store.path(5) / "weights").write_bytes(b"half")
    assert store.latest(print) is None


def test_values_and_inputs_decide_the_fingerprint(tmp_path):
    file = tmp_path / "tokenizer.json"
    file.write_text("one")
    first = fingerprint({"rate": 1}, [file])
    assert first == fingerprint({"rate": 1}, [file]) and len(first) == 16
    assert first != fingerprint({"rate": 2}, [file])
    file.write_text("two")
    assert first != fingerprint({"rate": 1}, [file])


def test_one_process_at_a_time_trains_a_run(tmp_path):
    with Checkpoints(tmp_path).claim(), pytest.raises(StageError, match="another process is training this run"):
        Checkpoints(tmp_path).claim()
    Checkpoints(tmp_path).claim().close()

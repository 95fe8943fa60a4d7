"""The evalsets stage on real pages: held-out documents alone feed the closed sets, external sets are pinned."""

import hashlib
import json

import pytest

from tasks import exercises
from tasks.data import evalsets as module
from tasks.data.evalsets import EvalsetsParams, evalsets
from tasks.stage import StageError

SMALL = {"cloze": 30, "pairs": 30, "safety": 12, "recall": 10, "tools": 24, "arithmetic": 10, "lookup": 20,
         "split": {"fraction": 0.4, "max_documents": 100, "max_characters": 10**7, "max_document_characters": 10**6}}


def corpus(data):
    """Real pages and thirty that describe functions, each of its own."""
    towns = {"fetch": "Oslo", "drop": "Rome", "count": "Lima"}
    api = "\n\n".join(f"method shop#.Store.{verb}(key) Value\n\n{verb.title()} the value of one key in shop number # of "
                      f"the town of {town}." for verb, town in towns.items())
    return data.pages() + [data.document(f"api{n:02d}", api.replace("#", str(n)).replace("Store", f"Store{n}"))
                           for n in range(30)]


def run(data, workspace, made=None, name="out", **changes):
    source = workspace / "in"
    if made is not None or not source.exists():
        data.write_shards(source, corpus(data) if made is None else made)
    out = workspace / name
    out.mkdir(exist_ok=True)
    given = data.section(EvalsetsParams, "evalsets", **SMALL | changes)
    evalsets(source, out / "sets", out / "m.json", evalsets=given, seed=1)
    return json.loads((out / "m.json").read_text())


def lines(workspace, name, out="out"):
    return [json.loads(line) for line in (workspace / out / f"sets/{name}.jsonl").read_text("utf-8").splitlines()]


def test_the_sets(data, workspace):
    metrics = run(data, workspace)
    held = {item["id"]: item["text"] for item in lines(workspace, "held_out")}
    assert 0 < len(held) == metrics["held_out_documents"] < metrics["documents"] == len(corpus(data))
    assert set(metrics["held_out_languages"]) == {"en", "zh"}
    for name in ("cloze", "pairs"):
        made = lines(workspace, name)
        assert {item["document"] for item in made} <= set(held) and metrics["sets"][name]["items"] == len(made) == 30
    assert all(item["document"] not in held for item in lines(workspace, "lookup"))
    for name in ("tools", "arithmetic"):
        for item in lines(workspace, name):
            assert exercises.is_held_out(item["tool"], item["arguments"]) and 0 <= item["chance"] < 1
            properties = exercises.TOOLS[item["tool"]]["function"]["parameters"]["properties"]
            assert list(item["arguments"]) == list(properties) and item["tool"] in item["tools"]
    for name in ("held_out", "cloze", "pairs", "recall", "tools", "arithmetic", "lookup"):
        ids = [item["id"] for item in lines(workspace, name)]
        assert ids == sorted(set(ids)) and ids
    assert lines(workspace, "external") == []


def test_two_runs_write_the_same_bytes_whatever_the_sharding(data, workspace):
    run(data, workspace, name="a")
    made = corpus(data)
    for path in (workspace / "in").glob("*"):
        path.unlink()
    data.write_shards(workspace / "in", made[::-1], 2)
    run(data, workspace, name="b")
    assert data.tree(workspace / "a") == data.tree(workspace / "b")


def test_external_sets_are_pinned_and_kept(data, workspace):
    content = '{"question": "Which harbour?", "choices": ["Oslo", "Lima"]}\n'
    (workspace / "mine.jsonl").write_text(content)
    pin = {"path": "mine.jsonl", "sha256": hashlib.sha256(content.encode()).hexdigest()}
    run(data, workspace, external=[pin])
    texts = ["Which harbour?", "Oslo", "Lima"]
    assert lines(workspace, "external") == [{"id": "external-mine-000001", "texts": texts}]
    (workspace / "mine.jsonl").write_text(content + "{broken\n")
    with pytest.raises(StageError, match="mine.jsonl has sha256 .*, params.yaml pins"):
        run(data, workspace, external=[pin])
    pin["sha256"] = hashlib.sha256((content + "{broken\n").encode()).hexdigest()
    with pytest.raises(StageError, match="mine.jsonl:2 is not JSON"):
        run(data, workspace, external=[pin])
    with pytest.raises(StageError, match="absent.jsonl cannot be read"):
        run(data, workspace, external=[pin | {"path": "absent.jsonl"}])


def test_what_gives_no_items_is_refused_with_the_remedy(data, workspace):
    none = SMALL["split"] | {"fraction": 0.0}
    with pytest.raises(StageError, match="none of 66 documents falls into the held-out 0.0%"):
        run(data, workspace, split=none)
    numbers = [data.document(f"n{n}", " ".join(map(str, range(n, n + 300)))) for n in range(20)]
    with pytest.raises(StageError, match="give no item of cloze, pairs, lookup"):
        run(data, workspace, numbers)
    assert not (workspace / "out/sets").exists()


def test_no_question_of_lookup_is_learnt_from(data, workspace):
    """Fine-tuning leaves out the facts whose question is in evaluation's fifth; lookup asks only those."""
    run(data, workspace)
    from tasks.data.facts import Fact
    for item in lines(workspace, "lookup"):
        assert Fact(item["kind"], item["query"], item["statement"], item["question"], item["answer"], "en").held_out
    assert module.summary([], [], {"x": [{"language": "en"}]})["sets"]["x"] == {"items": 1, "groups": {"en": 1}}

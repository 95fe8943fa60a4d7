"""The mixture: epochs are bounded products of weights, sums are exact, each document stands once, copies as decided."""

import json
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.data.epochs import copies
from tasks.data.mixture import MixtureParams, mixture
from tasks.stage import StageError

WEIGHTS = {"source": {"novel": 2.0, "noise": 0.0}, "language": {"zh": 1.5}, "domain": {"code": 0.5}}


def run(data, made, out, workers=1, shards=3, **changes):
    source = data.write_shards(out / "in", made, shards)
    mixture(source, out / "corpus", out / "m.json", runtime=data.runtime(workers),
            mixture=data.section(MixtureParams, "mixture", **changes))
    return json.loads((out / "m.json").read_text())


def some(data):
    return [data.document(f"{source}:{domain}:{n:03d}", f"{text} {n}", language, source=source, domain=domain)
            for source, language, domain, text in (
                ("novel", "zh", "knowledge", "话说天下大势"), ("docs", "en", "code", "x = 1"),
                ("docs", "en", "knowledge", "A manual"), ("noise", "en", "code", "??"))
            for n in range(40 if domain == "code" else 0, 80)]


def test_weights_multiply_are_bounded_and_documents_of_weight_0_leave(data, workspace):
    made = some(data)
    table = run(data, made, workspace, max_epochs=2.5, **WEIGHTS)
    kept = data.read_all(workspace / "corpus")
    assert {(d.metadata["source"], d.metadata["domain"]): d.metadata["epochs"] for d in kept.values()} == {
        ("novel", "knowledge"): 2.5, ("docs", "code"): 0.5, ("docs", "knowledge"): 1.0}  # 2 * 1.5 is above 2.5
    assert sorted(kept) == sorted(d.id for d in made if d.metadata["source"] != "noise")
    assert table["dropped"] == {"weight": 40} and table["read"] == 240 == table["kept"] + 40
    for row, epochs, many in (("novel", 2.5, 80), ("noise", 0.0, 40)):
        found = table["source"][row]
        assert found["documents"] == many and abs(found["epochs"] - epochs) <= 0.2
    novel = table["source"]["novel"]
    assert novel["copies"] == sum(copies(f"novel:knowledge:{n:03d}", 2.5) for n in range(80))
    text = [d.text for d in made if d.metadata["source"] == "novel"]
    assert novel["characters"] == sum(map(len, text)) and novel["share_after"] > novel["share_before"]
    trained = sum(len(d.text.encode()) * copies(d.id, d.metadata["epochs"]) for d in kept.values()
                  if d.metadata["source"] == "novel")
    assert novel["tokens_estimate"] == round(trained / data.values["mixture"]["bytes_per_token"])
    assert [path.name for path in workspace.iterdir() if path.name.startswith(".") and path.name != ".resume"
            and path.name != ".runtime"] == []


@settings(max_examples=40, deadline=None)
@given(st.dictionaries(st.sampled_from(["a", "b"]), st.floats(0, 9)), st.dictionaries(st.just("en"), st.floats(0, 9)),
       st.dictionaries(st.sampled_from(["code", "mathematics"]), st.floats(0, 9)), st.floats(0.1, 100))
def test_epochs_are_bounded_and_grow_with_every_weight(source, language, domain, most):
    params = MixtureParams(max_epochs=most, source=source, language=language, domain=domain, bytes_per_token=3.0)
    for metadata in ({"source": "a", "language": "en", "domain": "code"}, {"source": "c"}, {}):
        epochs = params.epochs(metadata)
        plain = math.prod(table.get(metadata.get(key), 1.0) for key, table in
                          (("source", source), ("language", language), ("domain", domain)))
        assert 0 <= epochs <= most + 1e-6 and epochs == pytest.approx(min(plain, most), abs=1e-6)


def test_shares_add_up_in_every_grouping_and_a_neutral_mixture_changes_none(data, workspace):
    for number, weights in enumerate((WEIGHTS, {"source": {}, "language": {}, "domain": {}})):
        (workspace / str(number)).mkdir()
        table = run(data, some(data), workspace / str(number), **weights)
        for group in ("all", "source", "language", "domain"):
            for share in ("share_before", "share_after"):
                assert sum(row[share] for row in table[group].values()) == pytest.approx(1, abs=1e-5)
    assert all(row["epochs"] == 1 and row["share_before"] == row["share_after"] and row["copies"] == row["documents"]
               for group in ("all", "source", "language", "domain") for row in table[group].values())


@settings(max_examples=60)
@given(st.text(max_size=20), st.floats(0, 20))
def test_copies_are_the_whole_epochs_and_at_most_one_more(name, epochs):
    made = copies(name, epochs)
    assert made in (math.floor(epochs), math.ceil(epochs)) and made == copies(name, epochs)
    assert copies(name, math.floor(epochs)) == math.floor(epochs)


def test_fractions_come_out_on_average_and_grow_one_set():
    names = [f"docs:{n:05d}" for n in range(4000)]
    for epochs in (0.1, 0.5, 1.25, 3.9):
        error = abs(sum(copies(name, epochs) for name in names) / 4000 - epochs)
        assert error < 4 * (0.25 / 4000) ** 0.5
    assert all(copies(name, 0.3) <= copies(name, 0.6) for name in names)  # more weight takes no document away


@pytest.mark.parametrize("epochs", [-1, math.inf, math.nan, "2", None, True])
def test_what_is_no_number_of_epochs_is_refused(epochs):
    with pytest.raises(StageError, match="document d has epochs"):
        copies("d", epochs)


def test_one_two_and_four_workers_write_the_same_bytes(data, workspace):
    for workers in (1, 2, 4):
        (workspace / str(workers)).mkdir()
        run(data, some(data), workspace / str(workers), workers, **WEIGHTS)
    trees = [data.tree(workspace / str(workers)) for workers in (1, 2, 4)]
    assert trees[0] == trees[1] == trees[2]


def test_bad_input(data, workspace):
    made = some(data)[:5]
    with pytest.raises(StageError, match=r"mixture\.source weighs nvel, .* \(there are novel\)"):
        run(data, made, workspace, source={"nvel": 2.0})
    with pytest.raises(StageError, match="leaves nothing of 5 documents"):
        run(data, made, workspace, source={"novel": 0.0})
    for change in ({"source": {"novel": -1.0}}, {"source": {"novel": math.inf}}, {"max_epochs": 0.0}, {"topic": {}}):
        with pytest.raises(ValueError):
            data.section(MixtureParams, "mixture", **change)
    (workspace / "in/00000.jsonl").write_text('{"text": 1}\n')
    with pytest.raises(StageError, match=r"00000\.jsonl:1 is not a document"):
        mixture(workspace / "in", workspace / "corpus", workspace / "m.json", runtime=data.runtime(),
                mixture=data.section(MixtureParams, "mixture"))

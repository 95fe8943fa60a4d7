"""The filter stage on real pages: counts, languages, reasons, the same bytes whatever the workers, bad input."""

import json
import time

import pytest

from tasks.data.filter import FilterParams, filter
from tasks.stage import StageError


def run(data, scripts, source, out, workers=1, **changes):
    filter(source, scripts, out / "kept", out / "rejected", out / "m.json",
           filter=data.section(FilterParams, "filter", **changes), runtime=data.runtime(workers))
    return json.loads((out / "m.json").read_text())


def test_counts_languages_and_reasons(data, scripts, workspace):
    made = data.pages() + [data.document("ru", "Это текст на русском языке. " * 20, ""),
                           data.document("blank", " \n ", ""), data.document("short", "Too short a text.", "")]
    table = run(data, scripts, data.write_shards(workspace / "in", made), workspace / "out")
    assert table["read"] == len(made) == table["kept"] + sum(table["dropped"].values()) + table["failed"]
    assert {"language": 1, "empty": 1, "too_short": 1}.items() <= table["dropped"].items()
    kept, rejected = data.read_all(workspace / "out/kept"), data.read_all(workspace / "out/rejected")
    assert {k for k in kept if k.startswith("zh")} == {d.id for d in made if d.id.startswith("zh")}
    assert rejected["ru"].metadata["language"] == "ru" and rejected["ru"].metadata["reason"] == "language"
    assert all("reason" not in d.metadata for d in kept.values())
    assert table["characters_out"] == sum(len(d.text) for d in kept.values())


def test_one_two_and_four_workers_write_the_same_bytes(data, scripts, workspace):
    source = data.write_shards(workspace / "in", data.pages())
    for workers in (1, 2, 4):
        data.forget()
        run(data, scripts, source, workspace / f"out{workers}", workers)
    assert data.tree(workspace / "out1") == data.tree(workspace / "out2") == data.tree(workspace / "out4")


def test_a_huge_document_is_judged_in_bounded_time(data, scripts, workspace):
    huge = data.document("huge", "The lamp of the house is a thing that stands in the garden. " * 100_000)  # 6 MB
    table = run(data, scripts, data.write_shards(workspace / "in", [huge, *data.pages()[:4]], 2), workspace / "out")
    assert data.read_all(workspace / "out/rejected")["huge"].metadata["reason"] == "too_long"
    assert table["read"] == 5


def test_foreign_paragraphs_are_cut_counted_and_too_little_left_is_mixed(data, scripts, workspace):
    russian = "Это длинный абзац на русском языке, который не нужен в этом корпусе, и потому его надо вырезать отсюда."
    page = next(d.text for d in data.pages() if d.id == "zh:00")
    little = "The lamp of the house is a thing that stands in the garden where nobody has ever been."
    made = [data.document("a", f"{page}\n\n{russian}", ""),
            data.document("b", "\n\n".join([little, *[russian] * 9]), ""),
            data.document("c", f"{page}\n本站使用 cookie。", "")]
    table = run(data, scripts, data.write_shards(workspace / "in", made, 1), workspace / "out")
    kept, rejected = data.read_all(workspace / "out/kept"), data.read_all(workspace / "out/rejected")
    assert kept["a"].text == kept["c"].text == page and kept["a"].metadata["language"] == "zh"
    assert kept["a"].metadata["cut"] == {"foreign_paragraphs": 1, "foreign_characters": len(russian)}
    assert table["cut"] == {"foreign_characters": len(russian), "foreign_paragraphs": 1, "line_characters": 12,
                            "lines": 1}
    assert rejected["b"].metadata["reason"] == "mixed" and rejected["b"].text == made[1].text
    assert rejected["b"].metadata["rule"] == {"value": pytest.approx(len(little) / len(made[1].text), abs=1e-4),
                                              "limit": 0.5}


HOSTILE = {"nulls": "\0" * 100_000, "right to left": "\u202eשלום עולם, " * 20_000, "emoji": "😀👩‍👩‍👧 " * 50_000,
           "word": "a" * 10_000_000, "Chinese": "字" * 1_000_000, "lines": "\n" * 1_000_000,
           "surrogates": "\ud800 lone " * 20_000, "one surrogate": "\udfff", "nothing": "", "blank": " \u3000\n"}


def test_hostile_documents_are_dropped_with_a_reason_or_kept_and_never_crash(data, scripts, workspace):
    made = [data.document(name, text, "") for name, text in HOSTILE.items()] + data.pages()[-2:]
    started = time.process_time()
    table = run(data, scripts, data.write_shards(workspace / "in", made, 1), workspace / "out")
    assert time.process_time() - started < 15
    assert table["read"] == len(made) and table["kept"] == 2
    rejected = data.read_all(workspace / "out/rejected")
    assert set(rejected) == set(HOSTILE) and all(d.metadata["rule"].keys() == {"value", "limit"}
                                                 for d in rejected.values())
    assert not any("\ud800" <= c <= "\udfff" for d in rejected.values() for c in d.text[:100])


def test_bad_input_is_one_line(data, scripts, workspace):
    source = data.write_shards(workspace / "in", data.pages()[:3], 1)
    with (source / "00000.jsonl").open("a") as out:
        out.write('{"text": "cut o')
    with pytest.raises(StageError, match=r"in/00000\.jsonl:4 is not a document"):
        run(data, scripts, source, workspace / "out")
    (workspace / "empty").mkdir()
    with pytest.raises(StageError, match="holds no .jsonl shard"):
        run(data, scripts, workspace / "empty", workspace / "out")
    (workspace / "nothing").mkdir()
    (workspace / "nothing/00000.jsonl").write_text("")
    with pytest.raises(StageError, match="dropped all 0 documents"):
        run(data, scripts, workspace / "nothing", workspace / "out")
    with pytest.raises(StageError, match="neither lid.176.ftz nor scripts.json"):
        filter(source, workspace / "empty", workspace / "k", workspace / "r", workspace / "m.json",
               filter=data.section(FilterParams, "filter"), runtime=data.runtime())

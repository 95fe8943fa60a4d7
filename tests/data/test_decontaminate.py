"""Decontamination: planted leaks are found and named, the gate holds, boilerplate costs its lines and no page."""

import json

import pytest

from tasks.data.decontaminate import DecontaminateParams, decontaminate, protect
from tasks.data.documents import write
from tasks.data.evalsets import write as write_items
from tasks.stage import StageError

HELD = ("The harbour of the old town was built in three years by a company of masons from the north.\n"
        "Ships of every size came in with the morning tide and left again before the evening bell rang twice.\n"
        "A lamp on the eastern wall has shown the way ever since to those who come late from the sea.")
ITEM = {"id": "pairs-1", "document": "held", 
        "good": "Seven grey geese went over the frozen lake in the early light of day."}


@pytest.fixture
def world(data, workspace):
    """A folder of shards and evaluation sets, and a function that runs the stage on them."""
    sets = workspace / "sets"
    write(sets / "held_out.jsonl", [data.document("held", HELD)])
    write_items(sets / "pairs.jsonl", [ITEM])
    write_items(sets / "lookup.jsonl", [{"id": "lookup-1", "statement": data.pages()[0].text[:400]}])

    def run(made, workers=1, out="out", **changes):
        protect.cache_clear()
        data.write_shards(workspace / "in", made)
        (workspace / out).mkdir(exist_ok=True)
        decontaminate(workspace / "in", sets, workspace / out / "kept", workspace / out / "rejected",
                      workspace / out / "m.json", runtime=data.runtime(workers),
                      decontaminate=data.section(DecontaminateParams, "decontaminate", **changes))
        return json.loads((workspace / out / "m.json").read_text())

    return run


def test_planted_leaks_go_with_their_pair_recorded(data, workspace, world):
    pages = data.pages()[:8]
    line = HELD.split("\n")[1]
    quoting = data.document("quoting", pages[1].text + "\n" + line.upper() + "\nAnd more of it.")
    leaking = data.document("leaking", "Some words before it. " + HELD.replace("\n", " ") + data.chinese(5))
    asking = data.document("asking", pages[2].text + f"\nHe wrote: {ITEM['good']}")
    table = world(pages + [data.document("held", HELD), quoting, leaking, asking], max_fraction=0.5)
    kept, rejected = (data.read_all(workspace / "out" / name) for name in ("kept", "rejected"))
    assert table["dropped"] == {"contaminated": 1, "held_out": 1} and table["overlapping_after"] == 0
    assert table["read"] == table["kept"] + 2 and table["documents_cut"] == 2
    assert rejected["leaking"].metadata["overlaps"] == ["held"]
    assert rejected["leaking"].metadata["direction"] == "ngram" and rejected["leaking"].metadata["similarity"] == 1.0
    assert rejected["leaking"].metadata["excerpt"]["item"].startswith("The harbour of the old town")
    assert rejected["leaking"].metadata["excerpt"]["document"].startswith("The harbour of the old town")
    assert rejected["leaking"].metadata["ngram"] in " ".join(HELD.lower().replace(".", "").split())
    assert kept["quoting"].text == pages[1].text + "\nAnd more of it."
    assert ITEM["good"] not in kept["asking"].text
    passages = {d.id: d for d in map(lambda l: data.document(**l), (
        {"name": i["id"], "text": i["text"], **i["metadata"]} for i in map(
            json.loads, (workspace / "out/rejected/passages.jsonl").read_text("utf-8").splitlines())))}
    assert passages["quoting"].text == line.upper() and passages["quoting"].metadata["reason"] == "passage"
    assert passages["asking"].metadata["overlaps"] == ["pairs-1"]
    for page in pages:  # nothing else is touched: lookup is open-book
        assert kept[page.id].text == page.text
    assert table["contaminated_characters"] == table["characters_cut"] + len(leaking.text)
    assert table["directions"]["ngram"] == {"documents": 3, "pairs": 3}


def test_boilerplate_shared_by_all_costs_its_lines_not_the_pages(data, workspace, world):
    notice = HELD.split("\n")[0]
    pages = [data.document(d.id, f"{d.text.strip()}\n{notice}", d.metadata["language"]) for d in data.pages()]
    table = world(pages)
    kept = data.read_all(workspace / "out/kept")
    assert set(kept) == {d.id for d in pages} and table["documents_cut"] == len(pages)
    assert all(d.text == kept[d.id].text + "\n" + notice for d in pages) and table["contaminated_fraction"] < 0.01


def reworded(text, every):
    """`text` with every so many-th word, or Chinese character, another: no run of `every` words is left."""
    gap = " " if " " in text else ""
    units = text.split(" ") if gap else list(text)
    return gap.join(("other" if gap else "另") if n % every == every - 1 else unit for n, unit in enumerate(units))


def test_near_duplicates_and_containment_go_in_both_directions(data, workspace, world):
    question = {"id": "external-1", "texts": ["在城市的中心图书馆的作用变得越来越大人们每天都会用到它去年建成的博物馆已经接待了上万名访客"
                                              "为了保护它大家制定了严格的规定"]}
    write_items(workspace / "sets/external.jsonl", [question])
    held = HELD + "\n" + " ".join(f"Then {n} more ships came from harbour {n * n} with grain." for n in range(40))
    write(workspace / "sets/held_out.jsonl", [data.document("held", held)])
    pages = data.pages()[:8]
    twin = data.document("twin", reworded(held, 12))
    inside = data.document("inside", reworded(held[400:1000], 12))
    retelling = data.document("retelling", f"{pages[3].text}\n{reworded(question['texts'][0], 20)}\nThe end.")
    table = world(pages + [twin, inside, retelling], max_fraction=0.5)
    kept, rejected = (data.read_all(workspace / "out" / name) for name in ("kept", "rejected"))
    assert table["dropped"] == {"document_in_item": 1, "near_duplicate": 1} and table["overlapping_after"] == 0
    assert {n: d["documents"] for n, d in table["directions"].items()} == {
        "ngram": 0, "near_duplicate": 1, "document_in_item": 1, "item_in_document": 1}
    for document, direction in ((twin, "near_duplicate"), (inside, "document_in_item")):
        found = rejected[document.id].metadata
        assert found["overlaps"] == ["held"] and found["direction"] == found["reason"] == direction
        assert found["similarity"] >= 0.4 and found["excerpt"]["item"][:20] in held
        assert found["excerpt"]["document"][:20] in document.text
    assert kept["retelling"].text == f"{pages[3].text}\nThe end."
    passage = rejected["retelling"]  # in passages.jsonl
    assert passage.text == reworded(question["texts"][0], 20) and passage.metadata["overlaps"] == ["external-1"]
    assert passage.metadata["direction"] == "item_in_document" and 0.5 <= passage.metadata["similarity"] < 1
    assert passage.metadata["excerpt"]["item"].startswith(question["texts"][0][:10])
    for page in pages:
        assert kept[page.id].text == page.text
    off = world(pages + [twin, inside, retelling], out="off",
                resemblance=data.values["decontaminate"]["resemblance"] | dict.fromkeys(
                    ("near_duplicate", "document_in_item", "item_in_document")))
    assert off["kept"] == off["read"] and off["contaminated_characters"] == 0  # no run of 13 words: all of it is new


def test_the_gate_names_number_and_limit(data, world):
    leaks = [data.document(f"leak{n}", f"Copy {n}. {HELD}") for n in range(3)]
    with pytest.raises(StageError, match=r"100\.00% of the training text \(\d+ of \d+ characters\) overlaps "
                                         r"evaluation, the limit decontaminate\.max_fraction is 10\.00%"):
        world(leaks)
    with pytest.raises(StageError, match="no training document is left of 3"):
        world(leaks, max_fraction=1.0)


def test_any_number_of_workers_writes_the_same_bytes(data, workspace, world):
    pages = [data.document(d.id, d.text + "\n" + HELD.split("\n")[n % 3]) for n, d in enumerate(data.pages()[:9])]
    pages += [data.document("twin", reworded(HELD, 14))]
    for workers in (1, 2, 4):
        world(pages, workers, f"out{workers}")
    assert data.tree(workspace / "out1") == data.tree(workspace / "out2") == data.tree(workspace / "out4")


def test_bad_input_names_file_and_line(data, workspace, world):
    with (workspace / "sets/pairs.jsonl").open("a") as out:
        out.write('{"good": "no id"}\n')
    with pytest.raises(StageError, match=r"pairs\.jsonl:2 is no evaluation item \(KeyError"):
        world(data.pages()[:2])
    (workspace / "sets/pairs.jsonl").write_text("[1, 2]\n")
    with pytest.raises(StageError, match=r"pairs\.jsonl:1 is no evaluation item"):
        world(data.pages()[:2])
    (workspace / "sets/pairs.jsonl").write_bytes(b"\xff\xfe{}\n")
    with pytest.raises(StageError, match=r"pairs\.jsonl:1 is no evaluation item"):
        world(data.pages()[:2])

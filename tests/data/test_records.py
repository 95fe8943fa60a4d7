"""JSON lines, Parquet and Hugging Face data sets as corpora: good, odd, damaged and large ones."""

from __future__ import annotations

import gzip
import hashlib
import http.server
import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from tasks import params, stage
from tasks.data import documents, fetch, records, sources

ROOT = Path(__file__).resolve().parents[2]
ROWS = [{"id": f"W{n}", "title": f"第{n}章", "content": f"正文第{n}段，讲的是江河与桥梁。" * 3} for n in range(6)]


def lines(rows: list) -> bytes:
    """Rows as JSON lines; bytes stay as they are."""
    return b"".join((row if isinstance(row, bytes) else json.dumps(row, ensure_ascii=False).encode()) + b"\n"
                    for row in rows)


def corpus(path: Path | str, kind: str = "jsonl", **changes: object) -> dict:
    """An entry of the registry; its sha256 is that of the file where there is one."""
    pin = hashlib.sha256(Path(path).read_bytes()).hexdigest() if Path(path).is_file() else "0" * 64
    return {"name": "wj", "kind": kind, "path": str(path), "snapshot": "1.0", "sha256": pin, "licence": "CC-BY-4.0",
            "language": "zh", "year": 2023} | changes


def run(out: Path, entry: dict, shard: int = 1 << 20) -> dict:
    """The sources stage with this one corpus; returns its metrics row."""
    section = params.section(sources.SourcesParams, "sources",
                             {"sources": {"shard": shard, "corpora": [entry], "packages": []}})
    paths = {"sources_out": out / "sources", "packages": out / "packages", "metrics": out / "metrics.json"}
    stage.execute(sources.sources, {key: ("output", path) for key, path in paths.items()}, {"sources": section})
    return json.loads(paths["metrics"].read_text())[entry["name"]]


def read(out: Path) -> list:
    """All documents of the corpus."""
    return [item for shard in documents.shards(out / "sources/wj/text") for item in documents.read(shard)]


@pytest.mark.parametrize("suffix", [".jsonl", ".jsonl.gz", ".jsonl.zst"])
def test_wanjuan_lines_become_documents(tmp_path, suffix):
    """Title above text, ids in the address, all that is known of the source in the metadata; packed or not."""
    path = tmp_path / f"part{suffix}"
    data = lines(ROWS)
    path.write_bytes({".jsonl": data, ".jsonl.gz": gzip.compress(data[:200]) + gzip.compress(data[200:]),
                      ".jsonl.zst": pyarrow.compress(data, "zstd", asbytes=True)}[suffix])
    assert run(tmp_path, corpus(path))["records"] == 6
    found = sorted(read(tmp_path), key=lambda item: item.metadata["url"])
    assert found[2].text == "第2章\n\n" + ROWS[2]["content"]
    assert found[2].metadata == {"source": "wj", "licence": "CC-BY-4.0", "language": "zh", "snapshot": "1.0",
                                 "year": 2023, "url": "jsonl:wj/W2"}
    assert len({item.id for item in found}) == 6


def test_keys_map_other_forms(tmp_path):
    """Text, address and year by other names; the first key that is there."""
    path = tmp_path / "a.jsonl"
    path.write_bytes(lines([{"body": "words", "link": "https://a.example/", "when": 2019},
                            {"raw": "more", "when": "x"}]))
    keys = {"text": ["body", "raw"], "id": None, "title": None, "url": "link", "year": "when"}
    run(tmp_path, corpus(path, keys=keys))
    found = {item.text: item.metadata for item in read(tmp_path)}
    assert (found["words"]["url"], found["words"]["year"]) == ("https://a.example/", 2019)
    assert (found["more"]["url"], found["more"]["year"]) == ("jsonl:wj/1.0/a.jsonl#2", 2023)


def test_what_is_no_record_is_counted(tmp_path, monkeypatch):
    """Not JSON, not UTF-8, not an object, without text, nested without end, too long; lone surrogates are mended."""
    monkeypatch.setattr(records, "RECORD", 5000)
    path = tmp_path / "a.jsonl"
    path.write_bytes(lines([
        ROWS[0], b"{not json", b'{"content": "\xff\xfe"}', [1], {"id": 1}, {"content": 7}, {"content": "  "},
        b"[" * 4000, {"content": "x" * 20_000}, b"",
        b'{"content": "a\\ud83d\\ude00\\ud800b\\u0000c \xd7\xa9 \\u202e"}', ROWS[1]])[:-1])
    row = run(tmp_path, corpus(path))
    assert row["records"] == 3
    assert row["skipped"] == {"no_text": 3, "not_json": 4, "too_large": 1}
    assert "a😀\ufffdb\0c ש \u202e" in {item.text for item in read(tmp_path)}


def test_shards_are_bounded_and_memory_is_flat(tmp_path):
    """24 MB of lines from a packed file in shards of a megabyte, a tenth of it in the same memory."""
    code = ("import sys, resource; from tests_records import *\n"
            "print(run(Path(sys.argv[1]), corpus(sys.argv[2]))['records'])\n"
            "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)")
    (tmp_path / "tests_records.py").write_bytes(Path(__file__).read_bytes())
    peaks = []
    for times in (2, 24):
        path = tmp_path / f"{times}.jsonl.gz"
        with gzip.open(path, "wb", compresslevel=1) as out:
            for number in range(times):
                out.write(lines([{"id": f"{number}.{n}", "content": f"{number}.{n} " + "words and " * 100}
                                 for n in range(1000)]))
        done = subprocess.run([sys.executable, "-c", code, str(tmp_path / str(times)), str(path)], text=True,
                              capture_output=True, env=os.environ | {"PYTHONPATH": f"{ROOT}:{tmp_path}"}, timeout=100)
        assert done.returncode == 0, done.stderr
        count, peak = map(int, done.stdout.split())
        assert count == 1000 * times
        peaks.append(peak)
    sizes = [path.stat().st_size for path in (tmp_path / "24/sources/wj/text").iterdir()]
    assert len(sizes) > 20 and max(sizes) < 1.5 * (1 << 20)
    assert peaks[1] - peaks[0] < 15, peaks


def test_damaged_files_are_one_error(tmp_path):
    """Cut off, or not what the suffix says."""
    for name, kind, data in (("a.jsonl.gz", "jsonl", gzip.compress(lines(ROWS) * 50)[:-30]),
                             ("a.jsonl.zst", "jsonl", pyarrow.compress(lines(ROWS) * 50, "zstd", asbytes=True)[:-9]),
                             ("a.parquet", "parquet", b"PAR1 not really"), ("b.parquet", "parquet", b"")):
        path = tmp_path / name
        path.write_bytes(data)
        with pytest.raises(stage.StageError, match=f"{name}.*(truncated|damaged|no whole)"):
            run(tmp_path / "out", corpus(path, kind))
    assert not (tmp_path / "out/sources").exists()


def test_globs_are_pinned_as_one_and_sorted(tmp_path):
    """A digest of all files, the same wherever they lie; a changed file is one error with the new digest."""
    for number in (2, 0, 1):
        (tmp_path / "in" / str(number)).mkdir(parents=True)
        (tmp_path / "in" / str(number) / "part.jsonl").write_bytes(lines(ROWS[2 * number:2 * number + 2]))
    entry = corpus(f"{tmp_path}/in/**/*.jsonl")
    files = sorted((tmp_path / "in").rglob("*.jsonl"))
    listed = "".join(f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.relative_to(tmp_path / 'in')}\n"
                     for path in files)
    pin = hashlib.sha256("".join(sorted(listed.splitlines(True))).encode()).hexdigest()
    with pytest.raises(stage.StageError, match=f"wj has sha256 {pin}, params.yaml pins {'0' * 64}"):
        run(tmp_path / "out", entry)
    assert run(tmp_path / "out", entry | {"sha256": pin})["records"] == 6
    with pytest.raises(stage.StageError, match="is no file here"):
        run(tmp_path / "out", corpus(f"{tmp_path}/none/*.jsonl"))


def test_parquet_rows_become_documents(tmp_path):
    """Columns by key, in row groups; a row that is no UTF-8 is counted, a missing column named."""
    path = tmp_path / "a.parquet"
    table = pyarrow.table({"id": [row["id"] for row in ROWS], "content": [row["content"] for row in ROWS],
                           "other": [None] * 6})
    pyarrow.parquet.write_table(table, path, row_group_size=2)
    assert run(tmp_path, corpus(path, "parquet"))["records"] == 6
    assert {item.metadata["url"] for item in read(tmp_path)} == {f"parquet:wj/W{n}" for n in range(6)}
    assert {item.text for item in read(tmp_path)} == {row["content"] for row in ROWS}
    bad = pyarrow.Array.from_buffers(pyarrow.string(), 2, [None, pyarrow.py_buffer(b"\0\0\0\0\2\0\0\0\4\0\0\0"),
                                                           pyarrow.py_buffer(b"\xff\xfeok")])
    pyarrow.parquet.write_table(pyarrow.table({"content": bad}), path)
    row = run(tmp_path, corpus(path, "parquet"))
    assert (row["records"], row["skipped"]) == (1, {"encoding": 1})
    with pytest.raises(stage.StageError, match="no column words .*content.*keys.text"):
        run(tmp_path, corpus(path, "parquet", keys={"text": ["words"]}))


def hub(path: Path | str, **changes: object) -> dict:
    """A Hugging Face entry."""
    return {"name": "wj", "kind": "huggingface", "path": str(path), "revision": "main", "licence": "MIT",
            "language": "zh", "keys": {"text": ["content"]}} | changes


def test_huggingface_directories(tmp_path):
    """Saved by the library, or plain files in a directory; the digest of what was taken is recorded and pinned."""
    import datasets

    datasets.Dataset.from_list(ROWS).save_to_disk(str(tmp_path / "saved"))
    (tmp_path / "plain").mkdir()
    (tmp_path / "plain/train.jsonl").write_bytes(lines(ROWS))
    for folder in ("saved", "plain"):
        row = run(tmp_path / f"out-{folder}", hub(tmp_path / folder))
        assert row["records"] == 6
        [text] = [item.text for item in read(tmp_path / f"out-{folder}") if item.metadata["url"].endswith("/W3")]
        assert text == "第3章\n\n" + ROWS[3]["content"]
        assert run(tmp_path / "again", hub(tmp_path / folder, sha256=row["sha256"])) == row
    with pytest.raises(stage.StageError, match="split test.*check path"):
        run(tmp_path / "out", hub(tmp_path / "plain", split="test"))


def test_no_hub_is_one_line_with_the_remedy(tmp_path):
    """As a process: an id where no hub answers."""
    import yaml

    entry = hub("nobody/nothing")
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(
        {"sources": {"shard": 1 << 20, "corpora": [entry], "packages": []}}))
    done = subprocess.run(
        [sys.executable, "-m", "tasks.data.sources", "data/sources", "data/packages", "metrics/sources.json"],
        cwd=tmp_path, capture_output=True, text=True, timeout=100, env=os.environ | {
            "PYTHONPATH": str(ROOT), "HF_ENDPOINT": "http://127.0.0.1:9", "HF_HOME": str(tmp_path / "hf"),
            "HF_HUB_OFFLINE": "1"})
    assert done.returncode == 1 and "Traceback" not in done.stderr
    [line] = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert "nobody/nothing" in line and "give its directory as `path`" in line


def test_a_url_is_fetched_once_and_pinned(tmp_path, monkeypatch):
    """JSON lines over HTTP; kept by their digest; another digest is refused."""
    (tmp_path / "web").mkdir()
    (tmp_path / "web/a.jsonl").write_bytes(lines(ROWS))
    monkeypatch.setenv("CATENA_DOWNLOADS", str(tmp_path / "downloads"))
    handler = type("Handler", (http.server.SimpleHTTPRequestHandler,), {
        "__init__": lambda self, *given: http.server.SimpleHTTPRequestHandler.__init__(
            self, *given, directory=str(tmp_path / "web"))})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
    entry = corpus(tmp_path / "web/a.jsonl") | {
        "path": None, "url": f"http://127.0.0.1:{server.server_address[1]}/a.jsonl"}
    try:
        assert run(tmp_path, entry)["records"] == 6
        with pytest.raises(stage.StageError, match="has sha256"):
            run(tmp_path, entry | {"sha256": "0" * 64})
    finally:
        server.shutdown()
        server.server_close()
    assert run(tmp_path, entry)["records"] == 6


def test_entries_must_be_whole(tmp_path):
    """Neither path nor url, both, no pin, no snapshot."""
    good = corpus(tmp_path / "a.jsonl")
    for bad in (good | {"path": None}, good | {"url": "https://a.example/x"}, {**good, "sha256": None},
                {key: value for key, value in good.items() if key != "snapshot"}, good | {"kind": "warcs"}):
        with pytest.raises(params.ParamsError, match="sources.corpora.0"):
            params.section(sources.SourcesParams, "sources",
                           {"sources": {"shard": 1 << 20, "corpora": [bad], "packages": []}})


def test_a_local_directory_that_changes_is_noticed_by_its_pin(tmp_path):
    """Its digest is recorded; pinned, a change of it is one error with the new digest."""
    (tmp_path / "own").mkdir()
    (tmp_path / "own/a.txt").write_text("words enough")
    entry = {"name": "wj", "kind": "local", "as": "text", "path": str(tmp_path / "own"), "snapshot": "1",
             "language": "en", "licence": "mine"}
    pin = run(tmp_path, entry)["sha256"]
    assert pin == fetch.tree(tmp_path / "own", [tmp_path / "own/a.txt"])
    assert run(tmp_path, entry | {"sha256": pin})["sha256"] == pin
    (tmp_path / "own/a.txt").write_text("other words")
    with pytest.raises(stage.StageError, match=fetch.tree(tmp_path / "own", [tmp_path / "own/a.txt"])):
        run(tmp_path, entry | {"sha256": pin})

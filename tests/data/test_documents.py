"""Shards: written whole or not at all, read with the fault named, in memory that does not grow with them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from tasks.data import documents
from tasks.stage import StageError

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("line", ['{"text": "x"}', '{"text": 1, "id": "a", "metadata": {}}', "[]", '{"text": "x', "",
                                  '{"text": "x", "id": "a", "metadata": []}', "\xff\xfe"])
def test_a_line_that_is_no_document_names_file_and_line(tmp_path, line):
    path = tmp_path / "00000.jsonl"
    documents.write(path, [documents.Document(text="whole", id="a", metadata={})])
    with path.open("ab") as out:
        out.write(line.encode("latin-1") + b"\n")
    with pytest.raises(StageError, match=r"00000\.jsonl:2 is not a document"):
        list(documents.read(path))


def test_what_fails_while_writing_leaves_the_old_shard(tmp_path):
    path = tmp_path / "00000.jsonl"
    documents.write(path, [documents.Document(text="old", id="a", metadata={})])
    with pytest.raises(ZeroDivisionError), documents.written(path) as put:
        put(documents.Document(text="new", id="b", metadata={}))
        raise ZeroDivisionError
    assert [one.text for one in documents.read(path)] == ["old"]


def test_peak_memory_is_flat_over_ten_times_the_shard(tmp_path):
    """The reader, a remembered step and the writer, one process: 6 MB and 60 MB in one shard."""
    program = """
        import resource, sys
        from pathlib import Path
        from tests.data.test_executor import runtime
        from tests.data.test_remembered import Shout
        from tasks.data import documents, executor, remembered
        step = remembered.Remembered(Shout(Path("seen")), "shout")
        executor.run("flat", [documents.ReadShards(Path("in")), step,
                              documents.WriteShards(Path("out"), Path("rejected"))], 1, runtime(workers=1))
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
    """
    peaks = []
    for count in (300, 3000):
        place = tmp_path / str(count)
        (place / "in").mkdir(parents=True)
        with (place / "in/00000.jsonl").open("w") as out:
            for number in range(count):
                out.write(json.dumps({"text": f"{number} " * 4000, "id": str(number), "metadata": {}}) + "\n")
        done = subprocess.run([sys.executable, "-c", textwrap.dedent(program)], cwd=place, capture_output=True, text=True,
                              env=os.environ | {"PYTHONPATH": str(ROOT)}, check=True)
        peaks.append(int(done.stdout.split()[-1]) / 1024)
        assert len(list(documents.read(place / "out/00000.jsonl"))) == count
    assert peaks[1] - peaks[0] < 12, f"peak MiB {peaks}"

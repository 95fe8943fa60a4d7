"""The packed weights' cache: made once, made again where it is damaged, bounded, safe beside another server."""

from __future__ import annotations

import os
import shutil
import time

import numpy as np
import pytest

from kernels import build
from tasks.serve.engine import backend, packed
from tasks.serve.engine.directory import ModelError

try:
    build.library()
except build.CompilerMissing as missing:
    pytest.skip(str(missing), allow_module_level=True)

from tasks.serve.engine.backend_cpu import CpuBackend  # noqa: E402

TOKENS = np.arange(20, 40)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setattr(packed, "CACHE", tmp_path / "packed")
    return tmp_path / "packed"


def opened(directory):
    return CpuBackend(backend.read_files(directory), threads=1, slots=1)


def logits(runner):
    every = np.arange(len(TOKENS))
    return runner.step(TOKENS, every, np.zeros_like(every), np.arange(runner.blocks, dtype=np.int32)[None], every)


def test_packed_once(tiny, cache, capfd):
    first = logits(opened(tiny / "int4"))
    (path,) = cache.iterdir()
    made = path.stat().st_mtime_ns
    assert np.array_equal(logits(opened(tiny / "int4")), first)
    assert list(cache.iterdir()) == [path] and path.stat().st_mtime_ns == made and capfd.readouterr().err == ""


@pytest.mark.parametrize("harm, said", [
    (lambda data: b"", "cut short"), (lambda data: data[:7], "cut short"), (lambda data: data[:-5], "cut short|index"),
    (lambda data: data[:len(data) // 2], "cut short|index"), (lambda data: os.urandom(len(data)), "cut short|index"),
    (lambda data: data[:100] + bytes([data[100] ^ 1]) + data[101:], "checksum"),       # the embedding
    (lambda data: data[:-6000] + bytes([data[-6000] ^ 64]) + data[-5999:], "checksum|index"),
    (lambda data: data.replace(b'"group": 64', b'"group": 32', 1), "checksum"),
    (lambda data: data[:-1] + bytes([data[-1] ^ 1]), "checksum")])
def test_what_is_damaged_is_packed_again(tiny, cache, capfd, harm, said):
    wanted = logits(opened(tiny / "int4"))
    (path,) = cache.iterdir()
    whole = path.read_bytes()
    path.write_bytes(harm(whole))
    assert path.read_bytes() != whole
    assert np.array_equal(logits(opened(tiny / "int4")), wanted)
    lines = capfd.readouterr().err.splitlines()
    assert len(lines) == 1 and "packing the weights again" in lines[0] and any(word in lines[0]
                                                                               for word in said.split("|"))
    assert path.read_bytes() == whole


def test_a_file_cut_while_it_is_served_is_an_error_not_a_crash(tiny, cache):
    runner = opened(tiny / "int4")
    (path,) = cache.iterdir()
    os.truncate(path, 64)
    with pytest.raises(OSError, match="cut short since it was opened"):
        logits(runner)


def test_the_cache_is_bounded_and_serves_on_what_is_removed(tiny, cache, monkeypatch):
    """What was used longest ago goes; the server that runs on it does not notice, and opens it anew."""
    one, wanted = opened(tiny / "int4"), logits(opened(tiny / "int4"))
    (oldest,) = cache.iterdir()
    for name, age in (("a", 50), ("b", 100), (".c.partial-1", 2 * packed.ABANDONED), (".d.partial-2", 0)):
        (cache / name).write_bytes(b"x" * 1000)
        os.utime(cache / name, (time.time() - age,) * 2)
    os.utime(oldest, (time.time() - 200,) * 2)
    monkeypatch.setattr(packed, "MOST_FILES", 3)
    opened(tiny / "chat")
    names = {path.name for path in cache.iterdir()}
    assert {"a", "b", ".d.partial-2"} < names and len(names) == 4 and oldest.name not in names
    assert np.array_equal(logits(one), wanted)
    monkeypatch.setattr(packed, "MOST_BYTES", 10)
    assert np.array_equal(logits(opened(tiny / "int4")), wanted)
    assert {path.name for path in cache.iterdir()} == {oldest.name, ".d.partial-2"}


def test_use_counts_not_age(tiny, cache):
    opened(tiny / "int4")
    (path,) = cache.iterdir()
    os.utime(path, (1, 1))
    opened(tiny / "int4")
    assert path.stat().st_atime > time.time() - 3600 and path.stat().st_mtime == 1


def test_a_folder_that_cannot_be_written_is_one_line(tiny, cache):
    cache.parent.mkdir(exist_ok=True)
    cache.write_text("a file where the folder should be")
    with pytest.raises(ModelError, match="cannot be written: .*: free space or make .runtime writable"):
        opened(tiny / "int4")


def test_torn_weights_are_refused(tiny, tmp_path, cache):
    shutil.copytree(tiny / "int4", tmp_path / "model")
    path = tmp_path / "model" / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ModelError, match="cut short: restore it"):
        opened(tmp_path / "model")
    assert not cache.exists() or not list(cache.iterdir())

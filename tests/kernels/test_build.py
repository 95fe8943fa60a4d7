"""The build: once, whole or not at all, and one clear line where it cannot be."""

from __future__ import annotations

import ctypes
import shutil

import pytest

from kernels import build

CODE = 'extern "C" int answer() { return 42; }\n'


@pytest.fixture
def small(tmp_path, monkeypatch):
    """A source tree of one function, and a cache of its own."""
    if not shutil.which("g++"):
        pytest.skip("no g++ here")
    monkeypatch.setattr(build, "KERNELS", tmp_path / "kernels")
    monkeypatch.setattr(build, "CACHE", tmp_path / "cache")
    monkeypatch.setattr(build, "units", lambda: {"one": ("one.cpp", "-DSOME")})
    monkeypatch.setenv("CXX", "g++")
    (tmp_path / "kernels").mkdir()
    (tmp_path / "kernels" / "one.cpp").write_text(CODE)
    return tmp_path


def test_built_once_and_again_where_a_source_changed(small):
    first = build.build()
    assert ctypes.CDLL(str(first)).answer() == 42
    made = first.stat().st_mtime_ns
    assert build.build() == first and first.stat().st_mtime_ns == made
    (small / "kernels" / "one.cpp").write_text(CODE.replace("42", "7"))
    second = build.build()
    assert second != first and ctypes.CDLL(str(second)).answer() == 7


def test_a_failed_build_leaves_nothing_and_says_why(small):
    (small / "kernels" / "one.cpp").write_text("int broken(\n")
    with pytest.raises(build.CompilerMissing, match="g.. cannot build the kernels .*error.*set CXX"):
        build.build()
    assert not list((small / "cache").iterdir())


def test_no_compiler(monkeypatch):
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(build.CompilerMissing, match="no C.. compiler: install g.., or `pip install ziglang`"):
        build.compiler()
    monkeypatch.setenv("CXX", "no-such-compiler -O9")
    with pytest.raises(build.CompilerMissing, match="CXX=no-such-compiler is not on PATH"):
        build.compiler()


def test_every_source_is_in_the_key():
    names = {path.relative_to(build.KERNELS).as_posix() for path in build.sources()}
    assert {"threads.h", "step/isa.cpp", "step/abi.cpp", "linear/integer.h", "simd/avx2.h"} <= names

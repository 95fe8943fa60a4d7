"""The registry of sources: every kind tells which state of the source it is, or asks for `snapshot`."""

from __future__ import annotations

import platform
import typing

import pytest
from pydantic import TypeAdapter, ValidationError

from tasks.data.registry import AnyCorpus

PIN = "0" * 64
COMMON = {"name": "x", "licence": "MIT", "language": "en"}
PACKAGE = {"as": "text", "package": "demo", "version": "1.10", "sha256": PIN, "take": ["*"]}
KINDS = {  # kind -> its own keys, and the state told where `snapshot` is not given (None: it must be)
    "pypi": (PACKAGE | {"file": "demo-1.10.tar.gz"}, "1.10"),
    "npm": (PACKAGE, "1.10"),
    "pydoc": ({"as": "site", "modules": ["json"]}, platform.python_version()),
    "local": ({"as": "text", "path": "own"}, None),
    "seed": ({"url": "https://docs.example.org/"}, None),
    "warc": ({"path": "a.warc.gz", "sha256": PIN}, None),
    "jsonl": ({"path": "a.jsonl", "sha256": PIN}, None),
    "parquet": ({"path": "a.parquet", "sha256": PIN}, None),
    "huggingface": ({"path": "a/b", "revision": "v2"}, "v2"),
    "commoncrawl": ({"crawl": "CC-MAIN-2024-10", "url": "example.org/*", "records": 3}, "CC-MAIN-2024-10"),
}


def corpus(kind: str, **more: object):
    """An entry of that kind, validated."""
    return TypeAdapter(AnyCorpus).validate_python(COMMON | {"kind": kind} | KINDS[kind][0] | more)


def test_every_kind_is_here():
    union, _ = typing.get_args(AnyCorpus)
    assert {typing.get_args(one.model_fields["kind"].annotation)[0] for one in typing.get_args(union)} == set(KINDS)


@pytest.mark.parametrize("kind", KINDS)
def test_a_given_snapshot_is_the_state_else_the_version(kind):
    assert corpus(kind, snapshot="2026-11").about()["snapshot"] == "2026-11"
    if KINDS[kind][1] is None:
        with pytest.raises(ValidationError, match="snapshot"):
            corpus(kind)
    else:
        assert corpus(kind).about()["snapshot"] == KINDS[kind][1]

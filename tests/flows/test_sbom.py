"""The bill of what goes in: licences as SPDX names, the standard's own schema, the same bytes, and what is flagged."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from email.message import Message
from importlib.metadata import distribution, version
from pathlib import Path

import pytest
import yaml
from packageurl import PackageURL

from flows import licences, sbom
from tests.flows.conftest import ROOT


class Package:
    """An installed package with such metadata, and such a licence file."""

    def __init__(self, place: Path, text: str = "", **fields: str | list[str]) -> None:
        self.metadata = Message()
        for key, values in fields.items():
            for value in [values] if isinstance(values, str) else values:
                self.metadata[key.replace("_", "-")] = value
        self.files = []
        if text:
            (place / "LICENSE.txt").write_text(text)
            self.files = [File(place / "LICENSE.txt")]


class File:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __str__(self) -> str:
        return f"x-1.dist-info/{self.path.name}"

    def locate(self) -> Path:
        return self.path


BSD = "Redistribution and use in source and binary forms, with or without modification, are permitted"


@pytest.mark.parametrize("given, spdx, family", [
    ({"License_Expression": "MIT OR Apache-2.0"}, "MIT OR Apache-2.0", "Permissive"),
    ({"License_Expression": "Apache-2.0 OR GPL-2.0-or-later"}, "Apache-2.0 OR GPL-2.0-or-later", "Permissive"),
    ({"License_Expression": "MIT AND GPL-3.0-only"}, "MIT AND GPL-3.0-only", "Copyleft"),
    ({"License": "BSD-3-Clause"}, "BSD-3-Clause", "Permissive"),
    ({"License": "Apache Software License 2.0"}, "Apache-2.0", "Permissive"),
    ({"License": "MIT License\n\nCopyright (c) 2022"}, "MIT", "Permissive"),
    ({"License": "LGPL", "Classifier": ["License :: OSI Approved :: GNU Lesser General Public License v2 or later "
                                        "(LGPLv2+)"]}, "LGPL-2.0-or-later", "Copyleft Limited"),
    ({"Classifier": ["License :: OSI Approved :: Mozilla Public License 2.0 (MPL 2.0)"]}, "MPL-2.0",
     "Copyleft Limited"),
    ({"License": "BSD", "Classifier": ["License :: OSI Approved :: BSD License"], "text": BSD}, "BSD-2-Clause",
     "Permissive"),
    ({"License": "BSD", "text": BSD + "\nNeither the name of the X nor"}, "BSD-3-Clause", "Permissive"),
    ({"text": "Permission is hereby granted, free of charge, to any person"}, "MIT", "Permissive"),
    ({"License": "UNKNOWN"}, None, "unknown"),
    ({"License": "Ask Bob"}, None, "unknown"),
    ({}, None, "unknown"),
])
def test_licences_of_packages_come_as_spdx(tmp_path, given, spdx, family):
    found = licences.of_package(Package(tmp_path, **given))
    assert (found.spdx, found.family) == (spdx, family)


@pytest.mark.parametrize("words, spdx, family", [
    ("CC-BY-SA-3.0", "CC-BY-SA-3.0", "Copyleft Limited"), ("GPL-3.0 (package), CC-BY-4.0 (texts)", None, "Copyleft"),
    ("see each page", None, "unknown"), ("", None, "unknown"), ("CC0-1.0", "CC0-1.0", "Public Domain"),
    ("GPL-2.0-only WITH Classpath-exception-2.0", "GPL-2.0-only WITH Classpath-exception-2.0", "Copyleft"),
    ("CC-BY-NC-4.0", "CC-BY-NC-4.0", "Source-available"),
])
def test_licences_that_people_write_down(words, spdx, family):
    found = licences.of_words(words)
    assert (found.spdx, found.family) == (spdx, family)


SOURCES = {"corpora": [
    {"name": "web", "kind": "warc", "path": "x.warc", "snapshot": "2026", "licence": "see each page",
     "sha256": "a" * 64},
    {"name": "novel", "kind": "pypi", "package": "Some_Text", "version": "1.0", "file": "some_text-1.0.tar.gz",
     "licence": "GPL-3.0-only", "sha256": "b" * 64}],
    "packages": [{"name": "lid", "kind": "npm", "package": "@a/lid", "version": "2", "licence": "MIT",
                  "sha256": "c" * 64},
                 {"name": "base", "kind": "pypi", "package": "base", "version": "3", "file": "base-3.whl",
                  "licence": "Apache-2.0", "sha256": "d" * 64}]}


def entry(cmd: str, deps: list[str], out: str) -> dict[str, object]:
    return {"cmd": cmd, "deps": [{"path": path, "md5": "1"} for path in deps],
            "outs": [{"path": out, "md5": hashlib.md5(out.encode()).hexdigest()}]}


@pytest.fixture
def checkout(tmp_path, monkeypatch) -> Path:
    """A git repository with sources, a lock of three stages, and two models."""
    lock = {"stages": {
        "extract": entry("x", ["data/sources", "data/packages/lid"], "data/text"),
        "pretrain": entry("x", ["data/text"], "models/own/base"),
        "adopt": entry("x", ["data/packages/base"], "models/base/chat")}}
    (tmp_path / "dvc.lock").write_text(yaml.safe_dump(lock))
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(
        {"sources": SOURCES, "models": {"own": "models/own/base", "adopted": "models/base/chat"}}))
    (tmp_path / "constraints.txt").write_text(f"torch=={version('torch').split('+')[0]}\npyyaml==0.0\n")
    for command in (["init", "-q"], ["add", "-A"],
                    ["-c", "user.name=t", "-c", "user.email=t@localhost", "commit", "-qm", "x"]):
        subprocess.run(["git", *command], cwd=tmp_path, check=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_bill_holds_packages_data_and_models_and_what_each_model_read(checkout, monkeypatch):
    monkeypatch.setattr(sbom, "distributions", lambda: [distribution("torch"), distribution("PyYAML")])
    given = list(sbom.sources(sbom.params.load()))
    parts = [*sbom.packages(Path("constraints.txt")), *given, *sbom.models(sbom.params.load(), given)]
    text = sbom.bill(parts)
    bill = json.loads(text)
    by = {one["bom-ref"]: one for one in bill["components"]}
    assert bill["specVersion"] == "1.6" and len(by) == len(parts)
    assert by["package:torch"]["version"] == version("torch")
    assert by["package:torch"]["purl"].startswith("pkg:pypi/torch@")
    novel = by["corpus:novel"]
    assert novel["hashes"] == [{"alg": "SHA-256", "content": "b" * 64}] and novel["type"] == "data"
    assert PackageURL.from_string(novel["purl"]) == PackageURL(
        "pypi", None, "some-text", "1.0", {"file_name": "some_text-1.0.tar.gz"})
    assert novel["licenses"] == [{"license": {"id": "GPL-3.0-only"}}]
    assert by["corpus:web"]["licenses"] == [{"license": {"name": "see each page"}}]
    assert by["data:lid"]["purl"] == "pkg:npm/%40a/lid@2"
    needs = {one["ref"]: set(one.get("dependsOn", ())) for one in bill["dependencies"]}
    assert needs["model:own"] == {"corpus:web", "corpus:novel", "data:lid"} and needs["model:adopted"] == {"data:base"}
    assert by["model:own"]["version"] == hashlib.md5(b"models/own/base").hexdigest()
    assert "licenses" not in by["model:own"]
    assert by["model:adopted"]["licenses"] == [{"license": {"id": "Apache-2.0"}}]
    assert sbom.bill(parts[::-1]) == text  # the same bytes, whatever the order
    stamp = subprocess.run(["git", "log", "-1", "--format=%cI"], capture_output=True, text=True).stdout.strip()
    assert sbom.datetime.fromisoformat(bill["metadata"]["timestamp"]) == sbom.datetime.fromisoformat(stamp)
    assert sbom.flags(parts) == [
        "unknown licence: web (training text): it says 'see each page', no SPDX name",
        "not one SPDX expression: web (training text): 'see each page'",
        "copyleft or share-alike in data: novel (training text): GPL-3.0-only: a model trained on it has read it",
        "not as constraints.txt pins: 1 packages: pyyaml"]


def test_the_command_writes_it_for_the_real_chain_and_errors_are_one_line(checkout, monkeypatch, capsys):
    def ask(root: Path, code: int = 0) -> list[str]:
        monkeypatch.chdir(root)
        monkeypatch.setattr(sys, "argv", ["sbom", "--out", str(checkout / "bill.json")])
        assert sbom.main() == code
        told = capsys.readouterr()
        return (told.out + told.err).splitlines()

    lines = ask(ROOT)
    assert lines[-1].endswith("CycloneDX 1.6, valid by its schema")
    sms = "GPL-3.0 (package), CC-BY-4.0 (texts)"
    assert any(sms in line and line.startswith("look at: copyleft") for line in lines)
    assert "model:smollm2-int4" in (checkout / "bill.json").read_text()
    (checkout / "dvc.lock").unlink()
    assert ask(checkout, 1) == ["error: dvc.lock cannot be read (FileNotFoundError): ./run makes it"]
    (checkout / "params.yaml").write_text("sources: []\n")
    assert ask(checkout, 1)[0].startswith("error: params.yaml: sources or models are not as expected")

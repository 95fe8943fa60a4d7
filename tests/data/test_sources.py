"""Sources against a package index of our own on loopback, and against archives made to do harm."""

from __future__ import annotations

import hashlib
import io
import json
import os
import subprocess
import sys
import tarfile
import threading
import zipfile
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import yaml

from tasks import params, stage
from tasks.data import archive, documents, fetch, pydocs, sources, texts

ROOT = Path(__file__).resolve().parents[2]
SHARD = 1 << 23
PAGE = b"<html><body><p>hello</p></body></html>"


def wheel(files: dict[str, bytes]) -> bytes:
    """A zip of these files."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archived:
        for name, data in files.items():
            archived.writestr(name, data)
    return out.getvalue()


def tarball(files: dict[str, bytes], link: str | None = None) -> bytes:
    """A tar.gz of these files, and a symbolic link of that name to /etc/passwd."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as archived:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archived.addfile(info, io.BytesIO(data))
        if link:
            info = tarfile.TarInfo(link)
            info.type, info.linkname = tarfile.SYMTYPE, "/etc/passwd"
            archived.addfile(info)
    return out.getvalue()


SDIST = tarball({"demo-1.0/doc/index.html": PAGE, "demo-1.0/doc/sub/a.html": PAGE, "demo-1.0/LICENSE": b"MIT",
                 "demo-1.0/x.py": b"1"})
VERSE = [{"title": "静夜思", "lines": ["床前明月光", "疑是地上霜"]}]
NPM = tarball({"package/texts.json": json.dumps(VERSE).encode()})


class Index:
    """A simple index with demo-1.0.tar.gz and an npm registry with verse@2.0.0; counts requests."""

    def __init__(self, folder: Path):
        (folder / "simple/demo").mkdir(parents=True)
        (folder / "simple/demo/index.html").write_text('<a href="../../files/demo-1.0.tar.gz">demo-1.0.tar.gz</a>')
        for path, data in (("files/demo-1.0.tar.gz", SDIST), ("verse/-/verse-2.0.0.tgz", NPM)):
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_bytes(data)
        self.asked = asked = []

        class Handler(SimpleHTTPRequestHandler):
            def __init__(self, *args: object) -> None:
                super().__init__(*args, directory=str(folder))

            def log_message(self, *_: object) -> None:
                asked.append(self.path)

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port = self.server.server_address[1]
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()


@pytest.fixture
def index(tmp_path, monkeypatch):
    """The index as the user's pip and npm are configured to use it; the working directory is a fresh one."""
    served = Index(tmp_path / "index")
    for key in [key for key in os.environ if key.startswith(("PIP_", "npm_config_"))]:
        monkeypatch.delenv(key)
    monkeypatch.delenv("CATENA_DOWNLOADS", raising=False)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_INDEX_URL", f"http://user:hunter2@127.0.0.1:{served.port}/simple/")
    monkeypatch.setenv("npm_config_registry", f"http://127.0.0.1:{served.port}/")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    yield served
    served.server.shutdown()
    served.server.server_close()


def pypi(**changes: object) -> dict:
    """A corpus out of the demo package."""
    return {"name": "demo", "kind": "pypi", "package": "demo", "version": "1.0", "file": "demo-1.0.tar.gz",
            "sha256": hashlib.sha256(SDIST).hexdigest(), "root": "demo-1.0/doc/", "take": ["*.html"], "as": "site",
            "url": "https://demo.example/", "language": "en", "licence": "MIT"} | changes


def npm(**changes: object) -> dict:
    """A corpus out of the npm package."""
    return {"name": "verse", "kind": "npm", "package": "verse", "version": "2.0.0", "root": "package/", "as": "text",
            "sha256": hashlib.sha256(NPM).hexdigest(), "take": ["*.json"], "fields": ["title", "lines"],
            "language": "zh", "licence": "MIT"} | changes


def run(out: Path, corpora: list[dict], packages: list[dict] | None = None) -> dict:
    """The stage's function as the stage runs it; returns the metrics."""
    values = {"sources": {"shard": SHARD, "corpora": corpora, "packages": packages or []}}
    section = params.section(sources.SourcesParams, "sources", values)
    paths = {"sources_out": out / "sources", "packages": out / "packages", "metrics": out / "metrics.json"}
    stage.execute(sources.sources, {key: ("output", path) for key, path in paths.items()}, {"sources": section})
    return json.loads(paths["metrics"].read_text())


def tree(folder: Path) -> dict[str, bytes]:
    """Every file below a folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_fetch_by_the_configured_index_then_never_again(index, tmp_path):
    """pip's index-url with credentials, npm's registry; the second run asks for nothing and gives the same bytes."""
    package = {key: value for key, value in pypi(name="model", take=["*/x.py"], root="").items()
               if key not in ("as", "url", "language")}
    row = run(tmp_path / "one", [pypi(), npm()], [package])
    assert row["demo"] == {"bytes": 2 * len(PAGE), "files": 2, "licence": "MIT"}
    assert len(index.asked) == 3
    run(tmp_path / "two", [pypi(), npm()], [package])
    assert len(index.asked) == 3
    first = tree(tmp_path / "one")
    assert first == tree(tmp_path / "two")
    assert {"sources/demo/site/index.html", "sources/demo/site/sub/a.html", "sources/demo/licence/demo-1.0/LICENSE",
            "sources/demo/origin.json", "packages/model/x.py", "sources/verse/text/00000.jsonl"} <= set(first)
    verse = list(documents.read(tmp_path / "one/sources/verse/text/00000.jsonl"))
    assert [item.text for item in verse] == ["静夜思\n床前明月光\n疑是地上霜"]
    assert verse[0].metadata == {
        "language": "zh", "licence": "MIT", "source": "verse", "url": "npm:verse/2.0.0/texts.json#0",
        "snapshot": "2.0.0", "year": None}


def test_wrong_hash_names_both_and_keeps_nothing(index, tmp_path):
    """The file is not kept, the old output stays."""
    (tmp_path / "out/sources").mkdir(parents=True)
    (tmp_path / "out/sources/old").write_text("old")
    with pytest.raises(stage.StageError, match=f"{hashlib.sha256(SDIST).hexdigest()}.*{'0' * 64}"):
        run(tmp_path / "out", [pypi(sha256="0" * 64)])
    assert tree(tmp_path / "out") == {"sources/old": b"old"}
    assert not list(fetch.downloads().iterdir())


@pytest.mark.parametrize("down", [True, False])
def test_failed_fetch_says_what_from_where_and_what_to_do(index, tmp_path, down):
    """No server, or no such file: one line, without the credentials."""
    if down:
        index.server.shutdown()
        index.server.server_close()
    with pytest.raises(stage.StageError) as failed:
        run(tmp_path / "out", [pypi(file="demo-2.0.tar.gz")])
    line = str(failed.value)
    assert "demo-2.0.tar.gz" in line and f"http://127.0.0.1:{index.port}/simple/" in line and "kind: local" in line
    assert "hunter2" not in line and "\n" not in line


def test_a_file_put_there_by_hand_needs_no_index(index, tmp_path):
    """The remedy of the error line works; a damaged one is fetched anew."""
    kept = fetch.downloads() / hashlib.sha256(SDIST).hexdigest()
    kept.parent.mkdir(parents=True)
    kept.write_bytes(SDIST)
    run(tmp_path / "out", [pypi()])
    assert not index.asked
    kept.write_bytes(SDIST[:-5])
    run(tmp_path / "again", [pypi()])
    assert index.asked and kept.read_bytes() == SDIST


def test_find_links_and_no_index(index, tmp_path, monkeypatch):
    """A directory of files in place of an index, as pip has it."""
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "index/files"))
    run(tmp_path / "out", [pypi()])
    assert not index.asked


@pytest.mark.parametrize("name", ["../../evil.html", "/tmp/evil.html", "a/../../evil.html", "a\\..\\evil.html"])
@pytest.mark.parametrize("make", [wheel, tarball])
def test_paths_that_leave_the_folder_are_refused(tmp_path, name, make):
    """zip and tar; no file is given out."""
    path = tmp_path / "bad"
    path.write_bytes(make({name: PAGE}))
    with pytest.raises(stage.StageError, match="refused"):
        list(archive.members(path, "bad", ["*"], []))


def test_links_are_refused(tmp_path):
    """A symbolic link out of the archive, in tar and zip."""
    path = tmp_path / "bad"
    path.write_bytes(tarball({}, link="doc/passwd.html"))
    with pytest.raises(stage.StageError, match="link"):
        list(archive.members(path, "bad", ["*.html"], []))
    assert list(archive.members(path, "bad", ["*.txt"], ["*.html"])) == []
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archived:
        info = zipfile.ZipInfo("doc/passwd.html")
        info.external_attr = 0o120777 << 16
        archived.writestr(info, "/etc/passwd")
    path.write_bytes(out.getvalue())
    with pytest.raises(stage.StageError, match="link"):
        list(archive.members(path, "bad", ["*.html"], []))


def test_bombs_are_bounded(tmp_path, monkeypatch):
    """A small file that unpacks to much: bounded a file and in all."""
    path = tmp_path / "bomb"
    path.write_bytes(wheel({f"{n}.html": b"0" * 50_000 for n in range(10)}))
    assert path.stat().st_size < 5000
    monkeypatch.setattr(archive, "FILE_LIMIT", 10_000)
    with pytest.raises(stage.StageError, match="larger than"):
        list(archive.members(path, "bomb", ["*"], []))
    monkeypatch.setattr(archive, "FILE_LIMIT", 60_000)
    monkeypatch.setattr(archive, "TOTAL_LIMIT", 120_000)
    with pytest.raises(stage.StageError, match="unpacks to more"):
        list(archive.members(path, "bomb", ["*"], []))


def test_damaged_archives_are_one_line(tmp_path):
    """Cut off, and no archive at all."""
    path = tmp_path / "bad"
    for data in (SDIST[:len(SDIST) // 2], b"no archive", wheel({"a.html": PAGE * 50})[:-30]):
        path.write_bytes(data)
        with pytest.raises(stage.StageError, match="archive"):
            list(archive.members(path, "bad", ["*"], []))


def test_take_that_matches_nothing(index, tmp_path):
    """Says which corpus and which keys."""
    with pytest.raises(stage.StageError, match="demo: `take` matches nothing"):
        run(tmp_path / "out", [pypi(take=["*.pdf"])])


def test_local_directory_and_links_out_of_it(index, tmp_path):
    """One's own pages; a link to elsewhere is refused, a missing folder named."""
    own = tmp_path / "own"
    own.mkdir()
    (own / "index.html").write_bytes(PAGE)
    corpus = {"name": "own", "kind": "local", "path": str(own), "as": "site", "language": "en", "licence": "mine",
              "snapshot": "1"}
    assert run(tmp_path / "out", [corpus])["own"]["files"] == 1
    assert "path" not in json.loads((tmp_path / "out/sources/own/origin.json").read_text())
    (own / "secret.html").symlink_to("/etc/passwd")
    with pytest.raises(stage.StageError, match="leads out"):
        run(tmp_path / "out", [corpus])
    with pytest.raises(stage.StageError, match="not a directory"):
        run(tmp_path / "out", [corpus | {"path": str(tmp_path / "none")}])


def test_names_must_differ(index, tmp_path):
    """Two corpora cannot share a folder."""
    with pytest.raises(stage.StageError, match="demo is there twice"):
        run(tmp_path / "out", [pypi(), pypi()])


@pytest.mark.parametrize("changes", [{"sha256": "zz"}, {"kind": "git"}, {"name": "../up"}, {"tkae": []}, {"cap": 0}])
def test_bad_values_name_their_key(changes):
    """params.yaml is refused before anything is fetched."""
    values = {"sources": {"shard": SHARD, "corpora": [pypi(**changes)], "packages": []}}
    with pytest.raises(params.ParamsError, match="sources.corpora.0"):
        params.section(sources.SourcesParams, "sources", values)


def test_pydoc_site_is_linked_and_free_of_this_machine():
    """Index and module pages, no address of an object, no path, sorted and stable."""
    site = dict(pydocs.pages(["textwrap", "json"]))
    assert list(site) == ["index.html", "json.html", "textwrap.html"]
    assert site == dict(pydocs.pages(["json", "textwrap"]))
    text = b"".join(site.values()).decode()
    assert "Serialize" in text and "textwrap.wrap(" in text and 'href="json.html"' in text
    assert " at 0x" not in text and sys.prefix not in text and os.__file__ not in text
    with pytest.raises(stage.StageError, match="no_such_module"):
        list(pydocs.pages(["no_such_module"]))


def test_docstrings_become_prose():
    """Sphinx's marks and HTML go, accessors do not repeat their field."""
    source = b'''class Disk:
    """\xe7\xa3\x81\xe7\x9b\x98"""
    def __init__(self):
        """
        :param _Zone: where it <b>is</b>.<br>One of <li>a</li><li>b</li>
        :type Zone: str
        """
    @property
    def Zone(self):
        """where it is again"""
'''
    assert list(texts.texts("m.py", source, [])) == ["Disk\n磁盘\nZone: where it is.\nOne of\na\nb"]


def test_cap_is_a_fixed_sample(index, tmp_path):
    """Not over the cap, the same on every run, from several files."""
    own = tmp_path / "own"
    own.mkdir()
    for number in range(40):
        (own / f"{number:02d}.txt").write_text(f"{number} " + "word " * 60)
    corpus = {"name": "own", "kind": "local", "path": str(own), "as": "text", "language": "en", "licence": "mine",
              "cap": 8000, "snapshot": "1"}
    run(tmp_path / "one", [corpus])
    run(tmp_path / "two", [corpus])
    assert tree(tmp_path / "one") == tree(tmp_path / "two")
    taken = list(documents.read(tmp_path / "one/sources/own/text/00000.jsonl"))
    assert 6000 < sum(len(item.text) for item in taken) <= 8000
    assert [item.id for item in taken] == sorted(item.id for item in taken)


def test_command_line_ends_in_one_line(index, tmp_path):
    """The stage as a process: unreachable index, exit 1, no traceback, no output."""
    index.server.shutdown()
    index.server.server_close()
    (tmp_path / "work/params.yaml").write_text(yaml.safe_dump(
        {"sources": {"shard": SHARD, "corpora": [pypi()], "packages": []}}))
    done = subprocess.run(
        [sys.executable, "-m", "tasks.data.sources", "data/sources", "data/packages", "metrics/sources.json"],
        env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert "error: cannot fetch demo-1.0.tar.gz" in done.stderr and "Traceback" not in done.stderr
    assert not Path("data/sources").exists()


def test_full_disk_while_unpacking(index, tmp_path, monkeypatch):
    """No space left: the error names it, nothing is published."""
    def full(path: Path, data: bytes) -> int:
        raise OSError(28, "No space left on device", str(path))

    run(tmp_path / "out", [pypi()])
    before = tree(tmp_path / "out")
    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError, match="No space left") as failed:
        run(tmp_path / "out", [npm(), pypi()])
    monkeypatch.undo()
    assert "the disk is full" in stage.one_line(failed.value)
    assert tree(tmp_path / "out") == before

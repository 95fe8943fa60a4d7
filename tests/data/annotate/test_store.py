"""Answers are never lost: cut anywhere, killed while writing, a full disk, two writers on one file."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.data.annotate.store import Answer, AnswerLog, write_whole
from tasks.stage import StageError

ROOT = Path(__file__).resolve().parents[3]
LABELS = ("good", "ads")
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
EVENTS = st.lists(st.one_of(
    st.builds(Answer, st.sampled_from("abc"), st.sampled_from([*LABELS, None]), TEXT, st.booleans(),
              st.none() | st.just("bob")),
    st.just("undo")), min_size=1, max_size=12)


def model(events):
    """What must be known after `events`: a plain stack."""
    standing = []
    for event in events:
        if event != "undo":
            standing.append(event)
        elif standing:
            standing.pop()
    return {answer.item: answer for answer in standing}


def play(log, events):
    for event in events:
        log.undo() if event == "undo" else log.append(event)


@settings(max_examples=60, deadline=None)
@given(events=EVENTS, cut=st.floats(0, 1), more=EVENTS)
def test_cut_anywhere_it_keeps_every_whole_line_and_goes_on(events, cut, more):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "ann.jsonl"
        path.touch()
        play(AnswerLog(path, LABELS), events)
        assert AnswerLog(path, LABELS).answers() == model(events)
        whole = path.read_bytes()
        path.write_bytes(whole[:int(cut * len(whole))])
        left = path.read_bytes()
        lines = left.count(b"\n")
        kept = survivors(events, lines + complete(left))
        log = AnswerLog(path, LABELS)
        play(log, more)
        assert log.answers() == AnswerLog(path, LABELS).answers() == model(kept + more)
        torn = left.rpartition(b"\n")[2]
        if torn and not complete(left):
            assert (Path(folder) / "ann.jsonl.fragment").read_bytes() == torn + b"\n"
            assert "cut short" in log.notices[0]
        assert all(json.loads(line) for line in path.read_bytes().splitlines())


def survivors(events, lines):
    """The events of the first `lines` lines; an undo with nothing to take back wrote none."""
    kept, depth = [], 0
    for event in events:
        if event == "undo" and depth == 0:
            continue
        depth += -1 if event == "undo" else 1
        kept.append(event)
    return kept[:lines]


def complete(left):
    """1 where the last line lacks only its end."""
    try:
        return int(isinstance(json.loads(left.rpartition(b"\n")[2]), dict))
    except ValueError:
        return 0


def test_later_answers_win_and_undo_walks_back(tmp_path):
    log = AnswerLog(tmp_path / "a.jsonl", LABELS)
    assert log.answers() == {} and log.undo() is None
    log.append(Answer("x", "good"))
    log.append(Answer("y", None, "要再看"))
    log.append(Answer("x", "ads"))
    assert [a.label for a in log.answers().values()] == [None, "ads"]
    assert log.undo() == Answer("x", "ads") and log.answers()["x"].label == "good"
    log.undo()
    log.undo()
    assert log.answers() == {} and log.undo() is None
    assert (tmp_path / "a.jsonl").read_text("utf-8").count("\n") == 6  # history is kept


def test_two_writers_on_one_file_merge(tmp_path):
    path = tmp_path / "a.jsonl"
    logs = [AnswerLog(path, LABELS) for _ in range(4)]

    def write(number):
        for turn in range(25):
            logs[number].append(Answer(f"{number}-{turn}", "good"))

    threads = [threading.Thread(target=write, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(len(log.answers()) == 100 for log in logs)
    logs[0].append(Answer("0-0", "ads"))
    assert logs[1].answers()["0-0"].label == "ads"
    assert logs[2].undo() == Answer("0-0", "ads") and logs[3].answers()["0-0"].label == "good"


WRITER = """
import sys
from pathlib import Path
from tasks.data.annotate.store import Answer, AnswerLog
log = AnswerLog(Path(sys.argv[1]), ("good",))
for n in range(10**6):
    log.append(Answer(str(n), "good", "长注释" * 200))
    print(n, flush=True)
"""


def test_what_was_acknowledged_survives_kill_9(tmp_path):
    path = tmp_path / "a.jsonl"
    for wanted in (5, 17, 40):
        path.unlink(missing_ok=True)
        writer = subprocess.Popen([sys.executable, "-c", WRITER, str(path)], cwd=ROOT, stdout=subprocess.PIPE, text=True)
        for _ in range(wanted):
            last = int(writer.stdout.readline())
        os.kill(writer.pid, signal.SIGKILL)
        last = max([last, *map(int, writer.stdout.read().split())])
        writer.wait()
        assert set(map(str, range(last + 1))) <= AnswerLog(path, LABELS).answers().keys()


def test_a_full_disk_is_an_error_and_leaves_the_file_as_it_was(tmp_path):
    path = tmp_path / "a.jsonl"
    log = AnswerLog(path, LABELS)
    log.append(Answer("x", "good"))
    before = path.read_bytes()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) + 20, hard))  # room for a part of the line
        with pytest.raises(OSError):
            log.append(Answer("y", "good", "long enough to be cut"))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, ignored)
    assert path.read_bytes() == before and log.answers().keys() == {"x"}
    log.append(Answer("y", "ads"))
    assert AnswerLog(path, LABELS).answers().keys() == {"x", "y"}


@pytest.mark.parametrize("line", [
    "not json", "[]", "7", '{"action": "answer"}', '{"action": "fly", "item": "x"}', "\0\0\0",
    '{"action":"answer","item":"x","label":"gut","comment":"","suggested":false,"by":null}',
    '{"action":"answer","item":"x","label":null,"comment":"","suggested":false,"by":null}',
    '{"action":"answer","item":["x"],"label":"good","comment":"","suggested":false,"by":null}'])
def test_a_whole_line_that_is_no_answer_is_named_and_left(tmp_path, line):
    path = tmp_path / "a.jsonl"
    log = AnswerLog(path, LABELS)
    log.append(Answer("x", "good"))
    path.write_text(path.read_text() + line + "\n")
    before = path.read_bytes()
    for act in (log.answers, AnswerLog(path, LABELS).answers, lambda: log.append(Answer("y", "good"))):
        with pytest.raises(StageError, match=r"a\.jsonl:2 is no answer .*mend that line"):
            act()
    assert path.read_bytes() == before


def test_a_file_replaced_or_removed_under_a_running_page_is_read_anew(tmp_path):
    path = tmp_path / "a.jsonl"
    log, other = AnswerLog(path, LABELS), AnswerLog(tmp_path / "b.jsonl", LABELS)
    log.append(Answer("x", "good"))
    other.append(Answer("z", "ads"))
    (tmp_path / "b.jsonl").rename(path)
    assert log.answers().keys() == {"z"}
    path.unlink()
    assert log.answers() == {}
    log.append(Answer("y", "good"))
    assert AnswerLog(path, LABELS).answers().keys() == {"y"}


def test_write_whole_leaves_the_old_file_where_it_fails(tmp_path):
    path = tmp_path / "deep" / "out.jsonl"
    write_whole(path, "旧\n")
    with pytest.raises(UnicodeEncodeError):
        write_whole(path, "new \ud800")
    assert path.read_text("utf-8") == "旧\n" and list(path.parent.iterdir()) == [path]

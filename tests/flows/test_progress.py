"""Which lines are a bar's, read from bars that tqdm drew."""

import io

import pytest
from tqdm import tqdm

from flows import progress


def drawn(**options):
    """The lines of a bar at 0, 50 and 100 percent."""
    sink = io.StringIO()
    with tqdm(total=2000, file=sink, mininterval=0, **options) as bar:
        bar.update(1000)
        bar.set_postfix(loss="4.250", grad="0.512")
        bar.update(1000)
    return [line for line in sink.getvalue().replace("\n", "\r").split("\r") if line.strip()]


def test_a_bar_is_its_share_and_its_own_numbers(monkeypatch):
    shown = []
    monkeypatch.setattr(progress.Progress, "show", lambda self, percent, text: shown.append((percent, text)))
    bar = progress.Progress("pretrain@my_track")
    assert bar.key == "progress-pretrain-my-track"
    for line in drawn(desc="pretrain my: track", unit="tok", unit_scale=True):
        bar.look(line)
    assert [percent for percent, _ in shown][0] == 0 and shown[-1][0] == 100
    halfway = [text for percent, text in shown if percent == 50][-1]
    assert halfway.startswith("pretrain my: track: 1.00k/2.00k [") and halfway.endswith("grad=0.512, loss=4.250]")


@pytest.mark.parametrize("line", ["making out/b.txt", "resumed at step 6", "watchman: 50% of them", "", "a: 12 files"])
def test_other_lines_are_no_bar(line, monkeypatch):
    monkeypatch.setattr(progress.Progress, "show", lambda self, percent, text: pytest.fail(line))
    progress.Progress("a").look(line)


def test_a_stage_without_a_bar_ends_without_an_artifact(monkeypatch):
    monkeypatch.setattr(progress, "create_progress_artifact", lambda *given, **named: pytest.fail("made one"))
    progress.Progress("a").end("ran in 1.0 s")

"""A picture that holds what was asked."""

import json

import pytest

from tasks.agents.actions import plot
from tasks.agents.tools import Action, ActionError


def test_draws(tmp_path):
    from matplotlib.image import imread

    action = Action.of(plot.action(tmp_path))
    told = [action.call(json.dumps({"x": [1, 2, 3], "y": [2.5, 1, 4], "kind": kind, "title": "sales in $ 销量"}))
            for kind in ("line", "bar", "scatter")]
    assert told == ["drawn: plot-1.png", "drawn: plot-2.png", "drawn: plot-3.png"]
    picture = imread(tmp_path / "plot-2.png")
    assert picture.shape[:2] == (400, 600)
    assert picture[..., :3].std() > 0.05, "not blank"


def test_a_picture_takes_a_free_name_and_follows_no_link(tmp_path):
    (tmp_path / "workspace").mkdir()
    (tmp_path / "workspace/plot-1.png").symlink_to(tmp_path / "outside.png")
    (tmp_path / "workspace/plot-3.png").write_text("mine")
    drawn = [Action.of(plot.action(tmp_path / "workspace")).call('{"x": [1], "y": [1]}') for _ in range(2)]
    assert drawn == ["drawn: plot-2.png", "drawn: plot-4.png"]
    assert drawn[1].path.read_bytes().startswith(b"\x89PNG")
    assert (tmp_path / "workspace/plot-3.png").read_text() == "mine" and not (tmp_path / "outside.png").exists()


@pytest.mark.parametrize("arguments", [
    {"x": [1, 2], "y": [1]}, {"x": [], "y": []}, {"x": ["a"], "y": [1]}, {"x": [1], "y": [1], "kind": "pie"},
    {"x": [0] * 2000, "y": [0] * 2000}, {"x": "1,2", "y": [1]},
])
def test_refusals(tmp_path, arguments):
    with pytest.raises(ActionError):
        Action.of(plot.action(tmp_path)).call(json.dumps(arguments))
    with pytest.raises(ActionError):
        Action.of(plot.action(tmp_path)).call('{"x": [NaN], "y": [1]}')
    assert not list(tmp_path.iterdir())

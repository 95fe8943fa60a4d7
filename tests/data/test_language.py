"""Languages told by their scripts; a folder without a detector and a broken one are refused in one line."""

from __future__ import annotations

import pytest

from tasks.data.language import detector
from tasks.stage import StageError


def test_scripts(tmp_path):
    (tmp_path / "scripts.json").write_text('{"en": "A-Za-z", "zh": "一-鿿", "ru": "А-я"}', "utf-8")
    found = detector(tmp_path)
    assert found.detect("The cat sat on the mat.") == ("en", 1.0)
    assert found.detect("小城在两条河的中间。") == ("zh", 1.0)
    assert found.detect("Съешь ещё этих мягких булок")[0] == "ru"
    code, share = found.detect("在 Python 里")
    assert code == "en" and share == pytest.approx(6 / 8)
    assert found.detect(" 12 \n") == ("", 0.0)


@pytest.mark.parametrize("text", ["[1]", "{", '{"en": "z-a"}', '{"en": 3}'])
def test_broken_scripts_are_refused(tmp_path, text):
    (tmp_path / "scripts.json").write_text(text, "utf-8")
    with pytest.raises(StageError, match="does not map language codes"):
        detector(tmp_path)


def test_empty_folder_is_refused(tmp_path):
    with pytest.raises(StageError, match="neither lid.176.ftz nor scripts.json"):
        detector(tmp_path)

"""Languages told by their scripts; a folder without a detector and a broken one are refused in one line."""

from __future__ import annotations

import pickle

import fasttext
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


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder with a fastText model of two languages, trained here on a few lines."""
    folder = tmp_path_factory.mktemp("lid")
    english = "the cat and the dog sat on that mat".split()
    german = "die Katze und der Hund sind auf dem Teppich".split()
    lines = [f"__label__{code} {' '.join(words[n % 5:] + words[:n % 7])}" for n in range(400)
             for code, words in (("en", english), ("de", german))]
    (folder / "lines.txt").write_text("\n".join(lines), "utf-8")
    # each thread gives first values to a tenth of the matrix: fewer than eleven leave a rest as memory was, maybe NaN
    model = fasttext.train_supervised(str(folder / "lines.txt"), dim=8, epoch=50, thread=12, verbose=0)
    model.save_model(str(folder / "lid.176.ftz"))
    return folder


def test_a_fasttext_model_is_loaded_at_first_use_and_pickled_without_its_weights(trained):
    found = detector(trained)
    assert len(pickle.dumps(found)) < 1000
    found = pickle.loads(pickle.dumps(found))
    for text, code in (("the dog and\nthe cat", "en"), ("der Hund und\tdie Katze", "de"), ("the \ud800 dog sat", "en")):
        language, score = found.detect(text)
        assert language == code and 0.5 < score <= 1
    assert found.detect(" \n\t") == ("", 0.0)


def test_a_file_that_is_no_model_is_refused(tmp_path):
    (tmp_path / "lid.176.ftz").write_bytes(b"not a model")
    with pytest.raises(StageError, match="lid.176.ftz is not a fastText model"):
        detector(tmp_path).detect("some text")

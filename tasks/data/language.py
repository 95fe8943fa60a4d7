"""Language identification with fastText's lid.176 (Joulin et al. 2016), the compressed model: 176 languages, 1 MB.

A folder may hold scripts.json in its place: then languages are told by their scripts alone, which needs no model.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

import fasttext

from tasks.data.words import HAN
from tasks.stage import StageError

FILE, SCRIPTS = "lid.176.ftz", "scripts.json"
CHINESE = ("yue", "wuu")  # Cantonese and Wu: written, they are what ISO 639 calls zh
HAN_ONLY, OTHER_HAN = re.compile(f"[{HAN}]"), re.compile("[぀-ヿｦ-ﾟ가-힣]")  # no Japanese page lacks kana, no Korean hangul
SAMPLE = 3000  # characters read of a page: accuracy is 1.0 well below that, and the time stays bounded


class Detector:
    """The model of `folder`/lid.176.ftz, loaded at first use, once a process: a pickled or forked one loads its own.

    Raises StageError where the file is absent or not a fastText model.
    """

    def __init__(self, folder: Path):
        self.path = folder.absolute() / FILE
        self._model = None
        if not self.path.is_file():
            raise StageError(f"{folder} holds neither {FILE} nor {SCRIPTS}: run the stage sources (dvc repro)")

    def __getstate__(self) -> dict:
        return {"path": self.path, "_model": None}

    def detect(self, text: str) -> tuple[str, float]:
        """(ISO 639 code, probability in [0, 1]) of the first 3,000 characters; ("", 0.0) for blank text.

        Text with a Han character in four (one says as much as three letters), without kana or hangul, is Chinese by
        its script alone: the model takes terse Chinese for Japanese or Serbian now and then.
        """
        if self._model is None:
            try:
                self._model = fasttext.load_model(str(self.path))
            except ValueError as error:
                raise StageError(f"{self.path} is not a fastText model ({error}): run sources again") from None
        sample = " ".join(text[:SAMPLE].encode("utf-8", "replace").decode().replace("\0", " ").split())
        if not sample:
            return "", 0.0
        if not sample.isascii() and not OTHER_HAN.search(sample):
            if 4 * len(HAN_ONLY.findall(sample)) >= len(sample) - sample.count(" "):
                return "zh", 1.0
        labels, scores = self._model.predict(sample)
        language, score = labels[0].removeprefix("__label__"), min(float(scores[0]), 1.0)
        return "zh" if language in CHINESE else language, score


class ScriptDetector:
    """Languages by script: `folder`/scripts.json maps an ISO 639 code to the inside of a regular expression's [...].

    Right where no two languages of a corpus share a script, wrong for every other: English and French are one to it.
    Raises StageError where the file is no such mapping.
    """

    def __init__(self, folder: Path):
        path = folder / SCRIPTS
        try:
            ranges = json.loads(path.read_text("utf-8")).items()
            self.scripts = {code: re.compile("[" + letters + "]") for code, letters in ranges}
        except (OSError, ValueError, AttributeError, TypeError, re.error) as error:
            raise StageError(f"{path} does not map language codes to character ranges ({error})") from None

    def detect(self, text: str) -> tuple[str, float]:
        """(code, its share of the letters of these scripts) in the first 3,000 characters; ("", 0.0) without any."""
        counts = {code: len(letters.findall(text[:SAMPLE])) for code, letters in self.scripts.items()}
        code = max(counts, key=lambda c: (counts[c], c), default="")
        return (code, counts[code] / sum(counts.values())) if counts.get(code) else ("", 0.0)


def detector(folder: Path) -> Detector | ScriptDetector:
    """The detector that `folder` holds. Raises StageError where it holds none."""
    return ScriptDetector(folder) if (folder / SCRIPTS).is_file() else Detector(folder)

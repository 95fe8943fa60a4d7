"""Language identification with fastText's lid.176 (Joulin et al. 2016), the compressed model: 176 languages, 1 MB."""

from __future__ import annotations

from pathlib import Path

import fasttext

from tasks.stage import StageError

FILE = "lid.176.ftz"
SAMPLE = 3000  # characters read of a page: accuracy is 1.0 well below that, and the time stays bounded


class Detector:
    """The model of `folder`/lid.176.ftz, loaded at first use, once a process: a pickled or forked one loads its own.

    Raises StageError where the file is absent or not a fastText model.
    """

    def __init__(self, folder: Path):
        self.path = folder.absolute() / FILE
        self._model = None
        if not self.path.is_file():
            raise StageError(f"{folder} holds no {FILE}: run the sources stage (dvc repro sources)")

    def __getstate__(self) -> dict:
        return {"path": self.path, "_model": None}

    def detect(self, text: str) -> tuple[str, float]:
        """(ISO 639 code, probability in [0, 1]) of the first 3,000 characters; ("", 0.0) for blank text."""
        if self._model is None:
            try:
                self._model = fasttext.load_model(str(self.path))
            except ValueError as error:
                raise StageError(f"{self.path} is not a fastText model ({error}): remove it and run sources") from None
        sample = " ".join(text[:SAMPLE].encode("utf-8", "replace").decode().split())
        if not sample:
            return "", 0.0
        labels, scores = self._model.predict(sample)
        return labels[0].removeprefix("__label__"), min(float(scores[0]), 1.0)

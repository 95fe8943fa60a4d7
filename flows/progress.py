"""A stage's progress bar as a Prefect progress artifact, moved while the stage runs.

Every stage draws its bars by tasks/progress.py, a line every ten seconds where no terminal reads it; the line holds
what the artifact shows: the share done and, behind it, the bar's own numbers (the loss and gradient norm of training).
"""

from __future__ import annotations

import re
from uuid import UUID

from httpx import HTTPError
from prefect import get_run_logger
from prefect.artifacts import create_progress_artifact, update_progress_artifact
from prefect.exceptions import PrefectHTTPStatusError

BAR = re.compile(r"(?P<what>\S.*?):\s+(?P<percent>\d{1,3})%\|[^|]*\|\s*(?P<rest>.*)")


class Progress:
    """The artifact of one stage, made at its first bar; a server that does not take it holds nothing up."""

    def __init__(self, stage: str):
        self.stage, self.key = stage, "progress-" + re.sub(r"[^a-z0-9]+", "-", stage.lower()).strip("-")
        self.made: UUID | None = None
        self.refused = False

    def look(self, line: str) -> None:
        """Show `line` where it is a bar's; any other is passed over."""
        if found := BAR.fullmatch(line.strip()):
            self.show(float(found["percent"]), f"{found['what']}: {found['rest']}")

    def end(self, message: str) -> None:
        """The stage has ended well: what was shown is whole."""
        if self.made:
            self.show(100.0, message)

    def show(self, percent: float, text: str) -> None:
        """Make or move the artifact of this task run."""
        if self.refused:
            return
        try:
            if self.made is None:
                self.made = create_progress_artifact(percent, key=self.key, description=text)
            else:
                update_progress_artifact(self.made, percent, description=text)
        except (HTTPError, PrefectHTTPStatusError) as error:
            self.refused = True
            get_run_logger().warning("progress is not shown: %s", type(error).__name__)

"""Which tool fits what was asked, and whether one does: by how much each makes the question likelier.

A tool's gain is log p(question | it alone) - log p(question) in nats, both behind whatever was said before: the pointwise
mutual information (Church and Hanks 1990) of question and tool, by the very model that answers, read backwards as a noisy
channel (Min et al. 2022, arXiv:2108.04106). A small model writes a call well before it knows which, or when none is due,
and an untuned one never calls; but either finds a question about tides likelier behind a function about tides. It takes
no training and a reading of the question for each tool and one without (docs/LOG.md has the figures).
Where arguments are copied from the question, one that states fewer numbers than a call must take fits no tool either.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tasks.serve import said

NUMERIC = ("integer", "number")


def parted(rendered: str, question: str) -> tuple[str, str]:
    """(what stands before the question, the question) in a rendered chat whose last message it is.

    Raises ValueError where the template does not render it as it stands.
    """
    at = rendered.rindex(question)
    return rendered[:at], question


def gain(offered: Sequence[float], bare: Sequence[float]) -> float:
    """Nats by which a tool makes a question likelier, of its tokens' log-probabilities with and without it."""
    return float(sum(offered) - sum(bare))


def best(gains: Sequence[float], stated: Sequence[bool]) -> int:
    """The place of the tool that gains most, among those whose numbers are stated where there are any."""
    return max(range(len(gains)), key=lambda at: (stated[at], gains[at]))


def stated(parameters: dict[str, Any], text: str) -> bool:
    """Whether `text` states as many numbers as the required arguments of a JSON schema take, a list of numbers one."""
    properties = parameters.get("properties") or {}
    required = [properties.get(name) for name in parameters.get("required") or ()]
    numeric = [each for each in required if isinstance(each, dict) and not {"enum", "const"} & each.keys()
               and (each.get("type") in NUMERIC or each.get("type") == "array"
                    and isinstance(each.get("items"), dict) and each["items"].get("type") in NUMERIC)]
    return len(said.numbers(text)) >= len(numeric)

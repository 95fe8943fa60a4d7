"""Whether the tools on offer fit what was asked: by how much they make the question likelier.

The gain is log p(question | tools) - log p(question) in nats, both behind whatever was said before: the pointwise mutual
information (Church and Hanks 1990) of question and tools, by the very model that answers. A small model learns what a
refusal sounds like and not when one is due, and an untuned one never calls; but either has read enough to find a question
about tides likelier behind a function about tides. No training, two readings of the question (docs/LOG.md has the figures).
"""

from __future__ import annotations

from collections.abc import Sequence


def parted(rendered: str, question: str) -> tuple[str, str]:
    """(what stands before the question, the question) in a rendered chat whose last message it is.

    Raises ValueError where the template does not render it as it stands.
    """
    at = rendered.rindex(question)
    return rendered[:at], question


def gain(offered: Sequence[float], bare: Sequence[float]) -> float:
    """Nats by which tools make a question likelier, of its tokens' log-probabilities with and without them."""
    return sum(offered) - sum(bare)

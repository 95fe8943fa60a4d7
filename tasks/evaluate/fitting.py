"""Which items are longer than what the model reads. Their beginnings are cut, as in lm-eval's own models, and they are
scored; that is counted and said of each, so that no score rests on a text that was silently shortened."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from tasks.evaluate.model import LIMIT


def mark(samples: Iterable[dict[str, Any]], encode: Callable[[str], Sequence[int]], context: int) -> int:
    """Set `cut` of every sample (lm-eval's) of which a prompt with its continuation, or with the tokens its answer may
    take, has more than `context` tokens; returns how many. Whole texts are scored window by window: none is cut."""
    count = 0
    for sample in samples:
        sample["cut"] = any(size(arguments, encode) > context for arguments in sample["arguments"])
        count += sample["cut"]
    return count


def size(arguments: Sequence[Any], encode: Callable[[str], Sequence[int]]) -> int:
    """Tokens that a request of lm-eval needs; 0 for a whole text."""
    if len(arguments) < 2:
        return 0
    prompt, rest = arguments
    if isinstance(rest, str):       # what a continuation ends in is never read, the document mark stands for no prompt
        return len(encode(prompt + rest)) - bool(prompt)
    return len(encode(prompt)) + int(rest.get("max_gen_toks", rest.get("max_new_tokens", LIMIT)))

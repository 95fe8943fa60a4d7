"""What of a conversation is shown to the model: what was asked, always; of what came of it, the latest that fits.

The loop keeps every message; only the copy that is sent is cut. The oldest tool results go first (their calls stay:
the model sees what it has done), then the oldest exchanges whole. Tokens are estimated from bytes at the rate that the
server's own counts have shown so far.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from openai import OpenAI, OpenAIError

RATE = 2.5      # UTF-8 bytes a token before the server has counted any: few, so that too much is cut, not too little
FORGOTTEN = "(forgotten: {n} characters)"

Message = dict[str, Any]


def shown(messages: Sequence[Message], limit: int | None, rate: float = RATE) -> list[Message]:
    """The messages that are sent: all of them, or what is left when about `limit` tokens are kept to.

    What stands up to the last user's message is never cut, nor is the last exchange.
    """
    kept = list(messages)
    if limit is None:
        return kept
    start = 1 + max((at for at, message in enumerate(kept) if message["role"] == "user"), default=-1)
    last = max((at for at, message in enumerate(kept) if message["role"] == "assistant"), default=start)
    for at in range(start, last):
        if fits(kept, limit, rate):
            return kept
        if kept[at]["role"] == "tool" and len(kept[at]["content"]) > len(FORGOTTEN):
            kept[at] = kept[at] | {"content": FORGOTTEN.format(n=len(kept[at]["content"]))}
    while last > start and not fits(kept, limit, rate):
        end = next(at for at in range(start + 1, last + 1) if kept[at]["role"] == "assistant")
        last -= end - start
        del kept[start:end]
    return kept


def fits(messages: Sequence[Message], limit: int, rate: float) -> bool:
    """Whether the messages are estimated at `limit` tokens or fewer."""
    return size(messages) <= limit * rate


def size(messages: Sequence[Message]) -> int:
    """UTF-8 bytes of the messages as JSON."""
    return len(json.dumps(messages, ensure_ascii=False).encode("utf-8", errors="replace"))


def room(client: OpenAI, model: str, turn: int) -> int | None:
    """Tokens of the model's context that are left beside an answer of `turn`, where the server tells its context (ours
    and vLLM do, as `max_model_len`); None where it does not."""
    try:
        cards = client.with_options(max_retries=0).models.list().data
        card = next((card for card in cards if card.id == model), cards[0])
        return max(1, int(card.max_model_len) - turn)
    except (OpenAIError, AttributeError, IndexError, TypeError, ValueError):
        return None

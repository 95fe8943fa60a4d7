"""Conversations as token ids with the mask of what is learned: the assistant's own tokens and nothing else.

The mask comes from the `{% generation %}` marks of the chat template (tasks/chat.py), so what is learned is exactly
what a server later generates: the turn's text and the `<|im_end|>` that ends it, not the roles, not tool results.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from transformers import PreTrainedTokenizerBase

from tasks import chat
from tasks.finetune.conversations import Conversation
from tasks.stage import StageError

ROLES = ("system", "user", "assistant", "tool")


@dataclass(frozen=True)
class Example:
    """Token ids and, of the same length, 1 where the token is learned. The first `head` are the system turn, which
    conversations of the same tools have alike."""

    kind: str
    ids: list[int]
    learned: list[int]
    head: int = 0


def encode(conversation: Conversation, tokenizer: PreTrainedTokenizerBase) -> Example:
    """The conversation as an Example. Raises StageError naming a turn without role or content, or one without any
    assistant's turn to learn."""
    check(conversation)
    encoded = tokenizer.apply_chat_template(conversation.messages, tools=conversation.tools or None, return_dict=True,
                                            return_assistant_tokens_mask=True)
    ids, start = list(encoded["input_ids"]), tokenizer.convert_tokens_to_ids(chat.START)
    turns = [at for at, token in enumerate(ids) if token == start]
    opened = conversation.tools or conversation.messages[0]["role"] == "system"
    return Example(conversation.kind, ids, list(encoded["assistant_masks"]), turns[1] if opened and turns[1:] else 0)


def check(conversation: Conversation) -> None:
    """Raise StageError for the first turn that cannot be rendered."""
    for number, message in enumerate(conversation.messages):
        if not isinstance(message.get("content") or "", str):
            raise StageError(f"turn {number} of a {conversation.kind!r} conversation has content of type "
                             f"{type(message['content']).__name__}, not text")
        where = f"turn {number} of a {conversation.kind!r} conversation"
        if message.get("role") not in ROLES:
            raise StageError(f"{where} has role {message.get('role')!r}; known are {', '.join(ROLES)}")
        if not message.get("content") and not message.get("tool_calls"):
            raise StageError(f"{where} ({message['role']}) is empty")
    if not any(message["role"] == "assistant" for message in conversation.messages):
        raise StageError(f"a {conversation.kind!r} conversation has no assistant's turn: nothing to learn")


def fitting(examples: list[Example], length: int) -> tuple[list[Example], int]:
    """(examples of at most `length` tokens, how many were longer): left out whole, none is cut."""
    kept = [example for example in examples if len(example.ids) <= length]
    return kept, len(examples) - len(kept)


def batch(examples: list[Example], pad: int) -> tuple[torch.Tensor, torch.Tensor]:
    """(ids, labels) int64 [B, longest]: right-padded with `pad`; labels are -100 where nothing is learned."""
    longest = max(len(example.ids) for example in examples)
    ids = torch.full((len(examples), longest), pad)
    labels = torch.full((len(examples), longest), -100)
    for row, example in enumerate(examples):
        tokens = torch.tensor(example.ids)
        ids[row, :len(tokens)] = tokens
        labels[row, :len(tokens)] = tokens.where(torch.tensor(example.learned, dtype=torch.bool), -100)
    return ids, labels

"""What lm-eval calls on each generated answer (`process_results` of lm_tasks/*.yaml): 0 or 1 for each metric."""

from __future__ import annotations

import json
import re
from typing import Any

from tasks import chat, exercises

NUMBER = re.compile(r"-?\d[\d,]*(?:\.\d+)?")


def tool_call(document: dict[str, Any], results: list[str]) -> dict[str, int]:
    """Whether the answer is a whole call of an offered tool, of the right one, and with the right arguments.

    `document` carries `tool`, `arguments` (as JSON text) and `offered`, the names that were shown.
    """
    call = chat.parse_call(results[0])
    valid = call is not None and call[0] in document["offered"] and fits(*call)
    right = bool(call) and call[0] == document["tool"]
    return {"valid": int(valid), "right_tool": int(right),
            "exact_match": int(right and call[1] == json.loads(document["arguments"]))}


def number(document: dict[str, Any], results: list[str]) -> dict[str, int]:
    """Whether the last number in the answer is the target (thousands separators do not count)."""
    found = NUMBER.findall(results[0])
    return {"exact_match": int(bool(found) and found[-1].replace(",", "") == document["target"])}


def fits(tool: str, arguments: dict[str, Any]) -> bool:
    """Whether `arguments` satisfy the JSON schema of `tool` in tasks/exercises.py."""
    from jsonschema import Draft202012Validator

    return Draft202012Validator(exercises.TOOLS[tool]["function"]["parameters"]).is_valid(arguments)

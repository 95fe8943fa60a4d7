"""Keys and tokens in a text: those with a form of their own, private key blocks, and random strings called a secret.

A string counts as random by the Shannon entropy of its characters; what documentation writes for a key (the word
EXAMPLE, placeholders, paths, names of settings) stays, as do the hashes of commits and files, which no secret's name
precedes.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator

# prefix and length are published by the issuers: AWS, GitHub, GitLab, Slack, Google, Stripe, OpenAI and Anthropic,
# Hugging Face, npm, PyPI, SendGrid, Tencent Cloud, Alibaba Cloud
ISSUED = re.compile(
    r"(?:A(?:KIA|SIA|GPA|IDA|ROA)[0-9A-Z]{16}|gh[pousr]_[0-9A-Za-z]{36,255}|github_pat_[0-9A-Za-z_]{60,255}|"
    r"gl(?:pat|dt|rt)-[0-9A-Za-z_-]{20,255}|xox[abeoprs]-(?<![0-9A-Za-z_-]xox.-)[0-9A-Za-z-]{12,255}|"
    r"AIza[0-9A-Za-z_-]{35}|"
    r"[rs]k_live_[0-9A-Za-z]{20,255}|sk-(?<![0-9A-Za-z_-]sk-)(?:[a-z]{2,8}[0-9]{0,2}-){0,2}[0-9A-Za-z_-]{32,255}|"
    r"hf_[0-9A-Za-z]{34}|"
    r"npm_[0-9A-Za-z]{36}|pypi-AgEI[0-9A-Za-z_-]{50,500}|SG\.[0-9A-Za-z_-]{22}\.[0-9A-Za-z_-]{43}|"
    r"AKID[0-9A-Za-z]{32}|LTAI[0-9A-Za-z]{12,26})(?![0-9A-Za-z_-])")
PREFIXES = ("AKIA", "ASIA", "AGPA", "AIDA", "AROA", "ghp_", "gho_", "ghu_", "ghs_", "ghr_", "github_pat_", "glpat-",
            "gldt-", "glrt-", "xox", "AIza", "k_live_", "sk-", "hf_", "npm_", "pypi-", "SG.", "AKID", "LTAI")
INSIDE = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-")
JWT = re.compile(r"(?<![0-9A-Za-z_.-])eyJ[0-9A-Za-z_-]{8,4000}\.eyJ[0-9A-Za-z_-]{8,8000}\.[0-9A-Za-z_-]{0,1000}")
WEBHOOK = re.compile(r"hooks\.slack\.com/services/(T[0-9A-Z]{7,12}/B[0-9A-Z]{7,12}/[0-9A-Za-z]{20,28})")
PEM = re.compile(r"-----(BEGIN|END) (?:[A-Z0-9]{1,12} ){0,3}PRIVATE KEY(?: BLOCK)?-----")
QUOTED = re.compile(r"""["'“]([0-9A-Za-z+/=_.~!@#$%^&*-]{16,512})["'”]""")
ASSIGNED = re.compile(r"""["']?\]?\s{0,3}(?::=|=>|[:=,(：])\s{0,3}$""")
BARE = re.compile(r"[=:：] {0,2}([0-9A-Za-z+/_-]{20,512}={0,2})(?![0-9A-Za-z+/_.(\[-])")
BEARER = re.compile(r"(?:Bearer|Basic|token) ([0-9A-Za-z+/_.~-]{20,2000}={0,2})(?![0-9A-Za-z+/_.~=-])")
SECRET = re.compile(r"(?:api[_-]?key|access[_-]?key(?:[_-]?id)?|secret(?:[_-]?(?:key|id|access[_-]?key))?|"
                    r"private[_-]?key|auth[_-]?token|token|passw(?:or)?d|passwd|pwd|credentials?|signature|密钥|密码|"
                    r"口令|令牌)$", re.IGNORECASE)
MADE_UP = re.compile(r"example|your|placeholder|changeme|dummy|sample|redacted|secret|password|token|xxxx|\*\*\*|"
                     r"\.\.\.|1234567|abcdef|test", re.IGNORECASE)
LONGEST_PEM = 65536
LOOK_BACK = 28


def keys(text: str) -> Iterator[tuple[int, int]]:
    """Keys, tokens and private key blocks."""
    yield from private_keys(text)
    if any(prefix in text for prefix in PREFIXES):
        for match in ISSUED.finditer(text):
            begins = match.start() == 0 or text[match.start() - 1] not in INSIDE
            if begins and not MADE_UP.search(match[0]) and entropy(match[0]) > 2.5:
                yield match.span()
    if "eyJ" in text:
        yield from (match.span() for match in JWT.finditer(text))
    if "hooks.slack" in text:
        yield from (match.span(1) for match in WEBHOOK.finditer(text) if entropy(match[1]) > 3)
    for match in QUOTED.finditer(text):
        before = text[max(0, match.start() - LOOK_BACK):match.start()]
        if random(match[1]) and (sign := ASSIGNED.search(before)) and SECRET.search(before[:sign.start()]):
            yield match.span(1)
    for match in BARE.finditer(text):
        if random(match[1]) and SECRET.search(text[max(0, match.start() - LOOK_BACK):match.start()]):
            yield match.span(1)
    if "Bearer " in text or "Basic " in text or "token " in text:
        yield from (match.span(1) for match in BEARER.finditer(text) if random(match[1]))


def private_keys(text: str) -> Iterator[tuple[int, int]]:
    """Blocks from -----BEGIN ... PRIVATE KEY----- to their END; one cut short ends with its lines of base64."""
    begun = None
    for match in PEM.finditer(text):
        if match[1] == "BEGIN":
            begun = match
        elif begun and match.end() - begun.start() <= LONGEST_PEM and "..." not in text[begun.end():match.start()]:
            yield begun.start(), match.end()
            begun = None
        else:
            begun = None


def entropy(text: str) -> float:
    """Shannon entropy of the characters of `text`, in bits a character."""
    return -sum(n / len(text) * math.log2(n / len(text)) for n in Counter(text).values())


def random(value: str) -> bool:
    """Whether `value` reads like chance: digits among letters, entropy high for its alphabet, no stand-in."""
    digits = sum(map(str.isdigit, value))
    if not digits or digits == len(value) or MADE_UP.search(value):
        return False
    if re.fullmatch("[0-9A-Fa-f-]+", value):
        return len(value) >= 24 and entropy(value) > 2.8
    letters = [sign.isupper() for sign in value if sign.isalpha()]
    mixed = any(letters) and not all(letters) or digits >= len(value) // 6
    return mixed and not re.search(r"[a-z]{9}|[A-Za-z]+[_.-][A-Za-z]+[_.-]", value) and entropy(value) > 3.3

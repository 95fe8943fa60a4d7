"""Pages of Common Crawl without its petabytes: captures found by the CDX index server, fetched one by one by Range.

A capture is one gzip member of a WARC file in the bucket, so a range of bytes is a whole record. Closed crawls do
not change: answers and ranges once fetched are kept in the folder of downloads, and a rerun needs no network.
https://index.commoncrawl.org/ describes the index, https://pywb.readthedocs.io/ its query language.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import requests

from tasks import progress
from tasks.data import fetch, warc
from tasks.data.registry import CommonCrawlCorpus
from tasks.stage import StageError

ANSWER, RANGE = 256 << 20, 64 << 20  # bytes at most
ATTEMPTS, PAUSE, DEADLINE = 5, 1.0, 300.0
FILE = re.compile(r"^(?!.*\.\.)[A-Za-z0-9_./-]+\.warc\.gz$")
FILTERS = ["=status:200", "~mime:(text/html|application/xhtml.xml|text/plain)"]


def take(corpus: CommonCrawlCorpus, folder: Path, size: int) -> dict[str, Any]:
    """Write the captures of a corpus to WARC files of about `size` bytes in `folder`, in the order of the index.

    Returns {"records", "skipped": {reason: n}}: `missing` ranges, `damaged` records, `index` lines that are none.
    Raises StageError: index or data cannot be reached, nothing captured.
    """
    folder.mkdir(parents=True, exist_ok=True)
    skipped: Counter[str] = Counter()
    captures = found(corpus, skipped)
    records = room = number = 0
    session = fetch.pip_settings().session()
    for capture in progress.track(captures, what=corpus.name, unit="record"):
        data = ranged(session, corpus, capture)
        why = "missing" if data is None else None if whole(data, capture, folder) else "damaged"
        if why:
            skipped[why] += 1
            continue
        if room and room + len(data) > size:
            room, number = 0, number + 1
        with (folder / f"{corpus.name}-{number:05d}.warc.gz").open("ab") as out:
            out.write(data)
        room, records = room + len(data), records + 1
    if not records:
        why = ", ".join(f"{reason} x{count}" for reason, count in sorted(skipped.items())) or "no capture"
        raise StageError(f"sources: {corpus.name}: {corpus.crawl} holds no page of {corpus.url} ({why}): correct "
                         "crawl and url")
    return {"records": records, "skipped": dict(sorted(skipped.items()))}


def found(corpus: CommonCrawlCorpus, skipped: Counter[str]) -> list[dict[str, Any]]:
    """The first `corpus.records` captures of the index, sorted by address and time."""
    taken: dict[tuple[str, int], dict[str, Any]] = {}
    for line in lines(corpus):
        capture = parsed(line)
        if capture is None:
            skipped["index"] += 1
            continue
        taken.setdefault((capture["filename"], capture["offset"]), capture)
        if len(taken) == corpus.records:
            break
    return sorted(taken.values(), key=lambda one: (one["urlkey"], one["timestamp"], one["filename"], one["offset"]))


def lines(corpus: CommonCrawlCorpus) -> Iterator[bytes]:
    """The lines of the index for the corpus's pattern, page by page."""
    session = fetch.pip_settings().session()
    query = {"url": corpus.url, "output": "json", "filter": FILTERS}
    base = f"{corpus.index}{corpus.crawl}-index?"
    count = got(session, base + urlencode(query | {"showNumPages": "true"}, doseq=True), {}, ANSWER)
    try:
        pages = json.loads(count)["pages"] if count else 0
        if not isinstance(pages, int):
            raise TypeError(f"pages = {pages!r}")
    except (ValueError, KeyError, TypeError) as error:
        raise StageError(f"sources: {corpus.name}: {corpus.index} does not answer as an index server does ({error}): "
                         "correct `index`") from None
    for page in range(pages):
        yield from (got(session, base + urlencode(query | {"page": page}, doseq=True), {}, ANSWER) or b"").splitlines()


def parsed(line: bytes) -> dict[str, Any] | None:
    """A line of the index with its numbers as int, or None where it names no range of a WARC file."""
    try:
        one = json.loads(line)
        capture = {key: str(one.get(key, "")) for key in ("urlkey", "timestamp", "url", "digest")} | {
            "filename": str(one["filename"]), "offset": int(one["offset"]), "length": int(one["length"])}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None
    good = FILE.match(capture["filename"]) and capture["offset"] >= 0 and 0 < capture["length"] <= RANGE
    return capture if good else None


def ranged(session: requests.Session, corpus: CommonCrawlCorpus, capture: dict[str, Any]) -> bytes | None:
    """The bytes of a capture, or None where the file is not there or shorter."""
    last = capture["offset"] + capture["length"] - 1
    data = got(session, corpus.data + capture["filename"], {"Range": f"bytes={capture['offset']}-{last}"},
               capture["length"])
    return data if data is not None and len(data) == capture["length"] else None


def got(session: requests.Session, url: str, headers: dict[str, str], limit: int) -> bytes | None:
    """The kept or fetched answer to a request; None for 404 and 416. Raises StageError: no answer, or over `limit`."""
    name = hashlib.sha256(f"{url}\n{headers.get('Range', '')}".encode()).hexdigest()
    path = fetch.downloads() / f"answer-{name}"
    if path.exists():
        return path.read_bytes()
    for attempt in range(1, ATTEMPTS + 1):
        try:
            data = asked(session, url, headers, limit)
            break
        except requests.RequestException as error:
            status = error.response.status_code if isinstance(error, requests.HTTPError) else None
            if status in (404, 416):
                return None
            if attempt == ATTEMPTS or (status is not None and status < 500 and status not in (403, 429)):
                raise StageError(f"sources: cannot fetch {fetch.public(url)} ({fetch.reason(error)}): check the "
                                 "network, `index` and `data`, and run again: what was fetched is kept") from None
            time.sleep(PAUSE * 2 ** (attempt - 1))  # the servers ask for patience by 403, 429 and 503
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial-{os.getpid()}")
    partial.write_bytes(data)
    partial.rename(path)
    return data


def asked(session: requests.Session, url: str, headers: dict[str, str], limit: int) -> bytes:
    """One answer, bounded in bytes and in time. Raises requests.RequestException, StageError where it is larger."""
    until = time.monotonic() + DEADLINE
    data = bytearray()
    with session.get(url, headers={"Accept-Encoding": "identity"} | headers, stream=True, timeout=30) as answer:
        answer.raise_for_status()
        if headers and answer.status_code != 206:
            raise StageError(f"sources: {fetch.public(url)} does not serve ranges (HTTP {answer.status_code}): "
                             "correct `data`")
        for block in answer.iter_content(1 << 16):
            data += block
            if len(data) > limit:
                raise StageError(f"sources: {fetch.public(url)} answers with more than {limit} bytes: refused")
            if time.monotonic() > until:
                raise requests.Timeout(f"longer than {DEADLINE} s")
    return bytes(data)


def whole(data: bytes, capture: dict[str, Any], folder: Path) -> bool:
    """Whether a range is one whole response of the page that the index names."""
    path = folder / ".range"
    path.write_bytes(data)
    try:
        return warc.whole(path) == 1 and warc.names(path) == [capture["url"]]
    except StageError:
        return False
    finally:
        path.unlink()

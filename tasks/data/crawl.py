"""Crawls sites over HTTP into WARC files, or takes ready WARC files; the chain's pages come from here.

`python -m tasks.data.crawl data/sources data/crawl metrics/crawl.json` serves the unpacked sites of data/sources on
loopback and crawls them under the addresses they have in the world; `crawl.seeds` in params.yaml adds public sites,
`crawl.warcs` ready WARC files (Common Crawl's). A killed crawl resumes from .resume/crawl and gives the same bytes.
"""

from __future__ import annotations

import hashlib
import ipaddress
import json
import shutil
import socket
import time
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from pydantic import Field
from scrapy.crawler import CrawlerProcess
from w3lib.url import canonicalize_url

from tasks import params, stage
from tasks.data import site, warc
from tasks.data.spider import PageSpider, Site
from tasks.stage import Input, Output, StageError

RESUME = Path(".resume/crawl")
NAME = Field(pattern=r"^[a-z0-9][a-z0-9_.-]*$", description="names the site's WARC files")


class Seed(params.Section):
    """A public site; its pages are those below the folder of `url`."""

    name: str = NAME
    url: str = Field(pattern="^https?://")
    licence: str
    language: str | None = None


class Ready(params.Section):
    """A WARC file that is already there, plain or gzipped."""

    name: str = NAME
    path: str
    licence: str
    language: str | None = None


class CrawlParams(params.Section):
    """`crawl:` of params.yaml."""

    seeds: list[Seed]
    warcs: list[Ready]
    depth: int = Field(ge=0, le=1000, description="links followed from a seed")
    pages: int = Field(ge=1, description="pages asked of one site at most")
    page_bytes: int = Field(ge=1024, le=1 << 30, description="a larger page is dropped")
    delay: float = Field(ge=0, le=3600, description="seconds between requests to one public host")
    concurrency: int = Field(ge=1, le=64, description="requests to one host at once")
    retries: int = Field(ge=0, le=20)
    timeout: float = Field(gt=0, le=3600, description="seconds for one request")
    user_agent: str = Field(min_length=1)
    allow_private: bool = Field(description="whether seeds may lie on private or loopback addresses")
    shard: int = Field(ge=1, description="pages in one WARC file at most")
    date: str = Field(pattern=r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ$", description="WARC-Date of every record")


def crawl(sources: Input, pages: Output, metrics: Output, *, crawl: CrawlParams) -> None:
    """Crawl and collect; where all corpora are text, there is nothing to collect.

    Raises StageError: unreachable or private seed, damaged WARC, nothing to crawl and no text either.
    """
    started = time.monotonic()
    origins = unpacked(sources)
    known: dict[str, dict[str, Any]] = {name: about for name, (about, _) in origins.items()}
    for entry in [*crawl.seeds, *crawl.warcs]:
        if entry.name in known:
            raise StageError(f"crawl: two sites are named {entry.name}; names must differ")
        known[entry.name] = {"url": getattr(entry, "url", None), "licence": entry.licence, "language": entry.language}
    if not known and not list(sources.glob("*/text")):
        raise StageError("crawl: nothing to crawl: give sources.corpora, crawl.seeds or crawl.warcs")
    for seed in crawl.seeds:
        if not crawl.allow_private:
            refuse_private(seed.url)
    pages.mkdir()
    table = {ready.name: take(ready, pages) for ready in crawl.warcs}
    sites = [Site(name, known[name]["url"]) for name in sorted(origins)] + [
        Site(seed.name, canonicalize_url(seed.url)) for seed in crawl.seeds]
    traffic = {"requests": 0, "retries": 0}
    if sites:
        resume = RESUME / fingerprint(sources, crawl)
        traffic = walk(sites, {about["url"]: folder for about, folder in origins.values()}, crawl, resume)
        for one in sites:
            write(one, known[one.name], pages, crawl)
            dropped = dict(sorted(one.dropped.items()))
            table[one.name] = {"pages": len(one.pages), "bytes": one.bytes, "dropped": dropped}
        shutil.rmtree(RESUME)
    stage.write_json(pages / "origins.json", {
        name: {"licence": about["licence"], "language": about["language"]} for name, about in known.items()})
    stage.write_json(metrics, table)
    stage.write_timing("crawl", {"seconds": round(time.monotonic() - started, 2)} | traffic)


def unpacked(sources: Path) -> dict[str, tuple[dict[str, Any], Path]]:
    """name -> (origin, folder) of the sites among the sources."""
    found = {}
    for path in sorted(sources.glob("*/origin.json")):
        about = json.loads(path.read_text(encoding="utf-8"))
        if about["as"] == "site":
            found[path.parent.name] = (about, path.parent / "site")
    return found


def refuse_private(url: str) -> None:
    """Raise StageError where a seed's host does not resolve, or resolves to an address that is not public."""
    host = urlsplit(url).hostname or ""
    try:
        addresses = {info[4][0] for info in socket.getaddrinfo(host, None)}
    except OSError as error:
        raise StageError(f"crawl: seed {url} is unreachable: its host does not resolve ({error}); "
                         "correct crawl.seeds or check the network") from None
    for address in sorted(addresses):
        if not ipaddress.ip_address(address).is_global:
            raise StageError(f"crawl: seed {url} is at {address}, which is not a public address; "
                             "set crawl.allow_private if that is meant")


def take(ready: Ready, pages: Path) -> dict[str, Any]:
    """Check a ready WARC and copy it; returns its metrics row."""
    path = Path(ready.path)
    if not path.is_file():
        raise StageError(f"crawl: {ready.path} (crawl.warcs, {ready.name}) is not a file here")
    responses = warc.check(path)
    with path.open("rb") as file:
        suffix = ".warc.gz" if file.read(2) == b"\x1f\x8b" else ".warc"
    shutil.copyfile(path, pages / f"{ready.name}-00000{suffix}")
    return {"pages": responses, "bytes": path.stat().st_size, "dropped": {}}


def fingerprint(sources: Path, crawl: CrawlParams) -> str:
    """What the crawl's answers depend on: its params and the sites' files."""
    state = hashlib.sha256(crawl.model_dump_json().encode())
    for path in sorted(found for found in sources.rglob("*") if found.is_file()):
        state.update(f"\n{path.relative_to(sources)}\n".encode())
        state.update(path.read_bytes())
    return state.hexdigest()[:16]


def walk(sites: list[Site], folders: dict[str, Path], crawl: CrawlParams, resume: Path) -> dict[str, int]:
    """Crawl `sites`, filling in their pages; returns how many requests and retries it took.

    Raises StageError where a seed gave no page, OSError on a full disk.
    """
    records = resume / "records"
    records.mkdir(parents=True, exist_ok=True)
    served = {urlsplit(url).netloc for url in folders}
    for one in sites:
        if one.url not in folders and urlsplit(one.url).netloc in served:
            raise StageError(f"crawl: seed {one.url} has the host of an unpacked site; take one of them out")
    with site.served(folders) as port:
        process = CrawlerProcess(settings(crawl, served, resume))
        crawler = process.create_crawler(PageSpider)
        process.crawl(crawler, sites=sites, depth=crawl.depth, limit=crawl.pages, date=crawl.date,
                      folder=records, ports=dict.fromkeys(served, port))
        process.start()
    if crawler.spider is None:
        raise StageError(f"crawl: the crawler did not start: see {resume}/crawl.log")
    if crawler.spider.failure:
        raise crawler.spider.failure
    if crawler.stats.get_value("finish_reason") != "finished":
        raise StageError(f"crawl: stopped ({crawler.stats.get_value('finish_reason')}); run again to resume")
    if wrong := crawler.stats.get_value("spider_exceptions/count", 0):
        raise StageError(f"crawl: {wrong} pages could not be read by the spider: see {resume}/crawl.log")
    for one in sites:
        if not one.pages:
            if one.left:
                raise StageError(f"crawl: seed {one.url} redirects to {one.left}, out of its scope: "
                                 "make that the seed")
            why = ", ".join(f"{reason} x{count}" for reason, count in sorted(one.dropped.items()))
            raise StageError(f"crawl: seed {one.url} is unreachable: no page was fetched ({why}); "
                             "correct crawl.seeds or check the network")
    counts = crawler.stats.get_stats()
    return {"requests": counts.get("downloader/request_count", 0), "retries": counts.get("retry/count", 0)}


def settings(crawl: CrawlParams, served: set[str], resume: Path) -> dict[str, Any]:
    """Scrapy's settings: polite to public hosts, no delay for what is served here, nothing listens or calls home."""
    slot = {"concurrency": crawl.concurrency, "delay": 0, "randomize_delay": False}
    return {
        "USER_AGENT": crawl.user_agent, "ROBOTSTXT_OBEY": True, "COOKIES_ENABLED": False, "REFERER_ENABLED": False,
        "DOWNLOAD_DELAY": crawl.delay, "DOWNLOAD_TIMEOUT": crawl.timeout, "DOWNLOAD_MAXSIZE": crawl.page_bytes,
        "DOWNLOAD_WARNSIZE": 0, "CONCURRENT_REQUESTS": max(16, crawl.concurrency),
        "CONCURRENT_REQUESTS_PER_DOMAIN": crawl.concurrency, "RETRY_TIMES": crawl.retries,
        "DOWNLOAD_SLOTS": {host.partition(":")[0]: slot for host in served},
        "DOWNLOAD_HANDLERS": dict.fromkeys(("http", "https"), "tasks.data.spider.Handler"),
        "DOWNLOADER_MIDDLEWARES": {"tasks.data.spider.Scope": 50},
        "HTTPCACHE_ENABLED": True, "HTTPCACHE_STORAGE": "tasks.data.spider.Kept",
        "HTTPCACHE_DIR": str((resume / "answers").absolute()),
        "HTTPCACHE_IGNORE_HTTP_CODES": [408, 429, *range(500, 600)],
        "TELNETCONSOLE_ENABLED": False, "REMOTE_CONTROL_ENABLED": False,
        "LOG_LEVEL": "INFO", "LOG_FILE": str(resume / "crawl.log"), "LOG_FILE_APPEND": True,
    }


def write(one: Site, about: dict[str, Any], pages: Path, crawl: CrawlParams) -> None:
    """A site's records, sorted by URL, as WARC files of at most `crawl.shard` pages."""
    urls = sorted(one.pages)
    fields = {"isPartOf": one.name, "rights": about["licence"], "robots": "obey"}
    for number, start in enumerate(range(0, len(urls), crawl.shard)):
        name = f"{one.name}-{number:05d}.warc.gz"
        with (pages / name).open("wb") as out:
            out.write(warc.information(name, fields, crawl.date))
            for url in urls[start:start + crawl.shard]:
                out.write(one.pages[url].read_bytes())


if __name__ == "__main__":
    stage.run(crawl)

"""Crawls sites over HTTP into WARC files; the chain's pages come from here, but for those of ready WARC files.

`python -m tasks.data.crawl data/sources data/crawl metrics/crawl.json` serves the unpacked sites of data/sources on
loopback and crawls them under the addresses they have in the world, then the public sites (`kind: seed`). What is
known of every source of pages goes to origins.json. A killed crawl resumes from .resume/crawl and gives the same bytes.
"""

from __future__ import annotations

import hashlib
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
from tasks.data import addresses, site, warc
from tasks.data.spider import PageSpider, Site
from tasks.stage import Input, Output, StageError

RESUME = Path(".resume/crawl")
ABOUT = ("licence", "language", "snapshot", "year")


class CrawlParams(params.Section):
    """`crawl:` of params.yaml."""

    depth: int = Field(ge=0, le=1000, description="links followed from a seed")
    pages: int = Field(ge=1, description="pages asked of one site at most")
    page_bytes: int = Field(ge=1024, le=1 << 30, description="a larger page is dropped")
    delay: float = Field(ge=0, le=3600, description="seconds between requests to one public host")
    concurrency: int = Field(ge=1, le=64, description="requests to one host at once")
    retries: int = Field(ge=0, le=20)
    timeout: float = Field(gt=0, le=3600, description="seconds for one page, to its last byte")
    user_agent: str = Field(min_length=1)
    allow_private: bool = Field(description="whether private and loopback addresses may be asked")
    shard: int = Field(ge=1, description="pages in one WARC file at most")
    date: str = Field(pattern=r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ$", description="WARC-Date of every record")


def crawl(sources: Input, pages: Output, metrics: Output, *, crawl: CrawlParams) -> None:
    """Crawl what is a site or a seed; where all corpora are text or ready pages, there is nothing to crawl.

    Raises StageError: unreachable or private seed, nothing to crawl and nothing else either.
    """
    started = time.monotonic()
    known = origins(sources)
    if not known:
        raise StageError("crawl: nothing to crawl: give sources.corpora")
    served = {about["url"]: sources / name / "site" for name, about in known.items() if about["as"] == "site"}
    seeds = {name: canonicalize_url(about["url"]) for name, about in known.items() if about["as"] == "seed"}
    for url in seeds.values():
        if not crawl.allow_private:
            refuse_private(url)
    pages.mkdir()
    table: dict[str, Any] = {}
    sites = [Site(name, about["url"]) for name, about in known.items() if about["as"] == "site"] + [
        Site(name, url) for name, url in seeds.items()]
    traffic = {"requests": 0, "retries": 0}
    if sites:
        resume = RESUME / fingerprint(sources, known, crawl)
        traffic = walk(sites, served, crawl, resume)
        for one in sites:
            write(one, known[one.name], pages, crawl)
            dropped = dict(sorted(one.dropped.items()))
            table[one.name] = {"pages": len(one.pages), "bytes": one.bytes, "dropped": dropped}
        shutil.rmtree(RESUME)
    stage.write_json(pages / "origins.json", {name: {key: about.get(key) for key in ABOUT}
                                              for name, about in known.items() if about["as"] != "text"})
    stage.write_json(metrics, table)
    stage.write_timing("crawl", {"seconds": round(time.monotonic() - started, 2)} | traffic)


def origins(sources: Path) -> dict[str, dict[str, Any]]:
    """name -> origin of every corpus, in order."""
    return {path.parent.name: json.loads(path.read_text(encoding="utf-8"))
            for path in sorted(sources.glob("*/origin.json"))}


def refuse_private(url: str) -> None:
    """Raise StageError where a seed's host does not resolve, or resolves to an address that is not public."""
    host = urlsplit(url).hostname or ""
    try:
        found = {info[4][0] for info in socket.getaddrinfo(host, None)}
    except (OSError, UnicodeError) as error:
        raise StageError(f"crawl: seed {url} is unreachable: its host does not resolve ({error}); "
                         "correct sources.corpora or check the network") from None
    for address in sorted(found):
        if not addresses.public(address):
            raise StageError(f"crawl: seed {url} is at {address}, which is not a public address; "
                             "set crawl.allow_private if that is meant")


def fingerprint(sources: Path, known: dict[str, dict[str, Any]], crawl: CrawlParams) -> str:
    """What the crawl's answers depend on: its params, the seeds and the sites' files."""
    state = hashlib.sha256(crawl.model_dump_json().encode() + json.dumps(known, sort_keys=True).encode())
    for path in sorted(found for found in sources.glob("*/site/**/*") if found.is_file()):
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
                                 "make that its url")
            why = ", ".join(f"{reason} x{count}" for reason, count in sorted(one.dropped.items()))
            raise StageError(f"crawl: seed {one.url} is unreachable: no page was fetched ({why}); "
                             "correct sources.corpora or check the network")
    counts = crawler.stats.get_stats()
    return {"requests": counts.get("downloader/request_count", 0), "retries": counts.get("retry/count", 0)}


def settings(crawl: CrawlParams, served: set[str], resume: Path) -> dict[str, Any]:
    """Scrapy's settings: polite to public hosts, no delay for what is served here, nothing listens or calls home."""
    slot = {"concurrency": crawl.concurrency, "delay": 0}
    return {
        "USER_AGENT": crawl.user_agent, "ROBOTSTXT_OBEY": True, "COOKIES_ENABLED": False, "REFERER_ENABLED": False,
        "DOWNLOAD_DELAY": crawl.delay, "DOWNLOAD_TIMEOUT": crawl.timeout, "DOWNLOAD_MAXSIZE": crawl.page_bytes,
        "DOWNLOAD_WARNSIZE": 0, "CONCURRENT_REQUESTS": max(16, crawl.concurrency),
        "CONCURRENT_REQUESTS_PER_DOMAIN": crawl.concurrency, "RETRY_TIMES": crawl.retries,
        "TWISTED_DNS_RESOLVER": "tasks.data.addresses.Resolver", "CATENA_ALLOW_PRIVATE": crawl.allow_private,
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

"""The spider: walks sites level by level over Scrapy's scheduler, so the same sites give the same pages.

Scrapy brings robots.txt, delays, concurrency, retries, redirects, decompression and encodings. What differs here:
a level's links are gathered, sorted and cut to the bounds before the next level starts, so depth and page limits do
not depend on which answer came first; and every answer is kept on disk, so a killed crawl walks the same way again
without asking twice.
"""

from __future__ import annotations

import errno
import hashlib
import os
import pickle
from collections import Counter
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urldefrag, urljoin, urlsplit

import scrapy
from scrapy import signals
from scrapy.core.downloader.handlers.http11 import HTTP11DownloadHandler
from scrapy.exceptions import (
    CannotResolveHostError, CloseSpider, DontCloseSpider, DownloadTimeoutError, IgnoreRequest,
)
from scrapy.http import Request, Response
from scrapy.linkextractors import IGNORED_EXTENSIONS
from scrapy.spidermiddlewares.httperror import HttpError
from selectolax.lexbor import LexborHTMLParser
from w3lib.url import safe_url_string

from tasks import progress
from tasks.data import addresses, warc

PAGES = {"text/html", "application/xhtml+xml", "text/plain"}
IGNORED = {"out of scope": "out_of_scope", "robots.txt": "robots", "max redirections": "redirect_loop",
           "DOWNLOAD_MAXSIZE": "too_large", "private address": "private_address", "gave up": "gave_up"}
FAILED = {"DownloadCancelledError": "too_large", "DownloadTimeoutError": "timeout", "ResponseDataLossError": "cut_off",
          "CannotResolveHostError": "unresolved", "DownloadConnectionRefusedError": "refused",
          "DownloadFailedError": "broken_answer", "BadGzipFile": "broken_answer",
          "error": "broken_answer"}  # zlib's and brotli's name
PATIENCE = 20  # pages of one site that ran into the time limit; the rest is not asked for
SKIPPED = tuple(f".{suffix}" for suffix in IGNORED_EXTENSIONS)


@dataclass
class Site:
    """A site to crawl, and what became of it."""

    name: str
    url: str
    pages: dict[str, Path] = field(default_factory=dict)
    bytes: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    asked: int = 0
    timeouts: int = 0
    left: str | None = None  # where a redirect would have led out of the site

    def holds(self, url: str) -> bool:
        """Whether `url` is in scope: same host and port, below the folder of the seed."""
        own, other = urlsplit(self.url), urlsplit(url)
        return own.netloc == other.netloc and (other.path or "/").startswith(own.path.rpartition("/")[0] + "/")


class PageSpider(scrapy.Spider):
    """Fetches the pages of `sites`; each page becomes a gzipped WARC record, a file in `folder`."""

    name = "pages"

    def __init__(self, sites: list[Site], depth: int, limit: int, date: str, folder: Path, ports: dict[str, int]):
        super().__init__()
        self.sites, self.depth, self.limit, self.date, self.folder = sites, depth, limit, date, folder
        self.ports = ports
        self.level = 0
        self.seen: set[str] = set()
        self.found: dict[str, Site] = {site.url: site for site in sites}
        self.failure: Exception | None = None
        self.bar = progress.track(total=0, what="crawl", unit="page")

    @classmethod
    def from_crawler(cls, crawler: Any, *args: Any, **kwargs: Any) -> PageSpider:
        """Scrapy's constructor; also asks to be told when a level is done."""
        spider = super().from_crawler(crawler, *args, **kwargs)
        crawler.signals.connect(spider.next_level, signals.spider_idle)
        crawler.signals.connect(spider.slow_down, signals.robots_parsed)
        return spider

    async def start(self) -> AsyncIterator[Request]:
        """The seeds."""
        for request in self.requests():
            yield request

    def next_level(self) -> None:
        """When all of a level has been answered: ask for the next, within depth."""
        self.level += 1
        if self.failure is None and self.level <= self.depth:
            requests = self.requests()
            for request in requests:
                self.crawler.engine.crawl(request)
            if requests:
                raise DontCloseSpider
        self.bar.close()

    def slow_down(self, robotparser: Any, request: Request) -> None:
        """Keep the Crawl-delay of a public host's robots.txt where it is longer than ours; Scrapy does not."""
        asked = robotparser.crawl_delay(self.settings["USER_AGENT"]) or 0
        if urlsplit(request.url).netloc not in self.ports and asked > self.settings.getfloat("DOWNLOAD_DELAY"):
            downloader = self.crawler.engine.downloader
            key = downloader.get_slot_key(request)
            downloader.per_slot_settings[key] = {"delay": asked, "concurrency": 1}
            if key in downloader.slots:
                downloader.slots[key].delay = asked

    def requests(self) -> list[Request]:
        """Requests for the links found and not yet asked for, sorted, within each site's page limit."""
        asked = []
        for url in sorted(self.found.keys() - self.seen):
            site = self.found[url]
            self.seen.add(url)
            if site.asked < self.limit:
                site.asked += 1
                asked.append(Request(url, self.parse, errback=self.failed, cb_kwargs={"site": site},
                                     dont_filter=True))
            else:
                site.dropped["over_page_limit"] += 1
        self.found = {}
        self.bar.total += len(asked)
        return asked

    def parse(self, response: Response, site: Site) -> None:
        """Keep a page's record and its links."""
        self.bar.update()
        kind = response.headers.get(b"Content-Type", b"").decode("latin-1").partition(";")[0].strip().lower()
        kind = kind or ("text/html" if isinstance(response, scrapy.http.HtmlResponse) else "unknown")
        if kind not in PAGES:
            site.dropped["not_a_page"] += 1
        elif response.url in site.pages:
            site.dropped["same_after_redirect"] += 1
        else:
            headers = [(name.decode("latin-1"), value.decode("latin-1"))
                       for name, values in sorted(response.headers.items()) for value in values]
            record = warc.page(response.url, response.status, headers, response.body, kind, self.date)
            path = self.folder / hashlib.sha256(response.url.encode()).hexdigest()
            try:
                path.write_bytes(record)
            except OSError as error:
                self.stop(error)
            site.pages[response.url] = path
            site.bytes += len(response.body)
            if self.level < self.depth and isinstance(response, scrapy.http.HtmlResponse):
                self.found.update((url, site) for url in links(response) if site.holds(url))

    def failed(self, failure: Any) -> None:
        """Count a page that could not be had under its reason."""
        self.bar.update()
        error, site = failure.value, failure.request.cb_kwargs["site"]
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            self.stop(error)
        site.timeouts += isinstance(error, DownloadTimeoutError)
        site.dropped[reason(error)] += 1

    def stop(self, error: Exception) -> None:
        """End the crawl by this error. Raises CloseSpider."""
        self.failure = error
        raise CloseSpider("failed")


def reason(error: Exception) -> str:
    """Why a page could not be had, as it is counted."""
    if isinstance(error, HttpError):
        return f"http_{error.response.status}"
    if isinstance(error, IgnoreRequest):
        return next((why for words, why in IGNORED.items() if words in str(error)), "ignored")
    return FAILED.get(type(error).__name__, type(error).__name__)


def links(response: scrapy.http.HtmlResponse) -> Iterable[str]:
    """The absolute http(s) addresses a page links to, without fragments and files that are no pages."""
    tree = LexborHTMLParser(response.text)
    base = tree.css_first("base[href]")
    top = urljoin(response.url, base.attributes["href"] or "") if base else response.url
    for node in tree.css("a[href], area[href], frame[src], iframe[src]"):
        target = node.attributes.get("href") or node.attributes.get("src")
        if not target or "nofollow" in (node.attributes.get("rel") or ""):
            continue
        try:
            url = urldefrag(safe_url_string(urljoin(top, target.strip()), response.encoding)).url
            parts = urlsplit(url)
        except ValueError:
            continue
        if parts.scheme in ("http", "https") and not parts.path.lower().endswith(SKIPPED):
            yield url


class Scope:
    """Downloader middleware: a redirect must not lead out of its site, and a site must answer in time."""

    def process_request(self, request: Request) -> None:
        """Let requests in scope pass. Raises IgnoreRequest for others, and where the site was too slow too often."""
        site = request.cb_kwargs.get("site")
        if site is not None and not site.holds(request.url):
            site.left = request.url
            raise IgnoreRequest("out of scope")
        if site is not None and site.timeouts >= PATIENCE:
            raise IgnoreRequest("gave up")


class Handler(HTTP11DownloadHandler):
    """Download handler: sites that the stage serves itself are asked for on loopback, under their own names."""

    async def download_request(self, request: Request) -> Response:
        """The response to `request`, with its URL as asked."""
        parts = urlsplit(request.url)
        port = self.crawler.spider.ports.get(parts.netloc)
        if port is None:
            from twisted.internet import reactor  # not before Scrapy has chosen it

            if request.meta.get("proxy"):
                await reactor.resolver.behind_proxy(request)
            try:
                return await super().download_request(request)
            except CannotResolveHostError as error:
                raise reactor.resolver.explain(error, request) from None
        headers = request.headers.copy()
        headers["Host"] = parts.netloc
        headers.pop("Proxy-Authorization", None)
        direct = {**request.meta, "proxy": None}  # a proxy of the environment is for the world outside
        local = parts._replace(scheme="http", netloc=f"{addresses.SERVED}:{port}").geturl()
        answer = await super().download_request(request.replace(url=local, headers=headers, meta=direct))
        return answer.replace(url=request.url)


class Kept:
    """HTTP cache storage: one file an answer, written aside and renamed, so a kill leaves no half answer."""

    def __init__(self, settings: Any):
        self.folder = Path(settings["HTTPCACHE_DIR"])
        self.folder.mkdir(parents=True, exist_ok=True)

    def open_spider(self, spider: PageSpider) -> None:
        """Learn how requests are told apart."""
        self.fingerprint = spider.crawler.request_fingerprinter.fingerprint

    def close_spider(self, spider: PageSpider) -> None:
        """Nothing is open."""

    def retrieve_response(self, spider: PageSpider, request: Request) -> Response | None:
        """The kept answer, or None."""
        path = self.folder / self.fingerprint(request).hex()
        if not path.exists():
            return None
        kind, values = pickle.loads(path.read_bytes())
        return kind(**values)

    def store_response(self, spider: PageSpider, request: Request, response: Response) -> None:
        """Keep an answer."""
        path = self.folder / self.fingerprint(request).hex()
        partial = path.with_suffix(f".{os.getpid()}")
        values = {"url": response.url, "status": response.status, "headers": dict(response.headers),
                  "body": response.body}
        partial.write_bytes(pickle.dumps((type(response), values)))
        partial.rename(path)

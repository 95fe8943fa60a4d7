"""Who may be asked: names are resolved once, and an address that is not public is refused as the connection is made.

A check of the seed alone would not do: a redirect, robots.txt or a name whose answer changes (DNS rebinding) can
point to the machine's own network later. Here the very answer that is connected to is what is judged.
"""

from __future__ import annotations

import ipaddress
import socket
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies

from scrapy.exceptions import CannotResolveHostError, IgnoreRequest
from scrapy.http import Request
from scrapy.resolver import CachingThreadedResolver
from twisted.internet.defer import Deferred
from twisted.internet.error import DNSLookupError
from twisted.internet.threads import deferToThread

SERVED = "served.catena.invalid"  # stands for the loopback server of the stage's own sites
NAT64 = ipaddress.ip_network("64:ff9b::/96")


def public(address: str) -> bool:
    """Whether an IP address is of the public internet, and of a host; what it embeds is judged in its place."""
    ip = ipaddress.ip_address(address)
    if isinstance(ip, ipaddress.IPv6Address):
        inner = ip.ipv4_mapped or ip.sixtofour or (ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF) if ip in NAT64 else None)
        ip = inner or ip
    return ip.is_global and not ip.is_multicast and not ip.is_reserved


class Resolver(CachingThreadedResolver):
    """Scrapy's resolver, which gives no address that is not public; proxies of the environment may be anywhere."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.refused: set[str] = set()
        self.trusted = {urlsplit(url if "//" in url else f"//{url}").hostname for url in getproxies().values()}
        self.allowed = False

    @classmethod
    def from_crawler(cls, crawler: Any, reactor: Any) -> Resolver:
        """The resolver of a crawl, as reactor.resolver."""
        resolver = super().from_crawler(crawler, reactor)
        resolver.allowed = crawler.settings.getbool("CATENA_ALLOW_PRIVATE")
        return resolver

    def getHostByName(self, name: str, timeout: Any = ()) -> Deferred[str]:
        """The address of a name. Fails with DNSLookupError where it has none, or one that may not be asked."""
        if name == SERVED:
            name = "127.0.0.1"
            return super().getHostByName(name, timeout)
        return super().getHostByName(name, timeout).addCallback(self.judge, name)

    def judge(self, address: str, name: str) -> str:
        """`address` where it may be asked. Raises DNSLookupError."""
        if self.allowed or name in self.trusted or public(address):
            return address
        self.refused.add(name)
        raise DNSLookupError(f"{name} is at {address}, not a public address")

    async def behind_proxy(self, request: Request) -> None:
        """What a proxy will resolve is judged here as well as it can be. Raises IgnoreRequest."""
        name = urlsplit(request.url).hostname or ""
        if not self.allowed:
            try:
                address = await deferToThread(socket.gethostbyname, name)
            except (OSError, UnicodeError):
                return  # the proxy may know it, this machine does not
            if not public(address):
                raise IgnoreRequest("private address")

    def explain(self, error: CannotResolveHostError, request: Request) -> Exception:
        """The error of a request whose host gave no address: refused, or not found."""
        refused = (urlsplit(request.url).hostname or "") in self.refused
        return IgnoreRequest("private address") if refused else error

"""Where a person is reached: e-mail addresses, telephone numbers, public IP addresses. Positions of each in a text.

Technical text is full of things that look like them: `scott:tiger@localhost`, `git@github.com:a/b`, `W@x.mean()`,
version 1.2.3.4, row counts. An address must end in a public suffix, a number must be one its country has assigned
(libphonenumber's metadata), and forms without a mark of their own need a word such as "phone" or 电话 before them.
"""

from __future__ import annotations

import functools
import ipaddress
import re
from collections.abc import Iterator

LOCAL = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._%+-"
LABEL = "[A-Za-z0-9-]{1,63}"
AT = re.compile(rf"@((?:{LABEL}\.){{1,8}}[A-Za-z]{{2,24}})(?![\w(-])", re.ASCII)
SPELT = re.compile(rf"[\[(] ?(?:at|AT|@) ?[\])] ?((?:{LABEL}(?: ?[\[(] ?(?:dot|DOT|\.) ?[\])] ?|\.)){{1,8}}"
                   r"[A-Za-z]{2,24})(?![\w(-])", re.ASCII)
DOT = re.compile(r" ?[\[(] ?(?:dot|DOT|\.) ?[\])] ?")
REMOTE_PATH = re.compile(r":[\w./~-]", re.ASCII)
# second-level names and mailboxes that documentation uses for "any"
PLACEHOLDER_DOMAINS = frozenset("example domain yourdomain mydomain somedomain company yourcompany mycompany foo bar "
                                "baz foobar test xxx xx xyz abc email host hostname server site yoursite "
                                "mysite".split())
PLACEHOLDER_MAILBOXES = frozenset("user username yourname your.name your_name your-name youremail your_email "
                                  "your.email name email someone somebody example foo bar git hg svn".split())

APART = r"(?<![0-9A-Za-z_.+/#-])"
INTERNATIONAL = re.compile(r"(?<![0-9A-Za-z_.+/#])(?:\+ ?|00 ?)[1-9](?:[ ().–-]{0,2}[0-9]){6,14}(?![0-9A-Za-z])")
NORTH_AMERICAN = re.compile(APART + r"(?:1[ .-])?(?:\([2-9][0-9]{2}\) ?[2-9][0-9]{2}[ .-]|"
                            r"[2-9][0-9]{2}([.-])[2-9][0-9]{2}\1)[0-9]{4}(?![0-9A-Za-z_-])")
CHINESE_MOBILE = re.compile(APART + r"1[3-9][0-9]([ -]?)[0-9]{4}\1[0-9]{4}(?![0-9A-Za-z_]|[.-][0-9])")
CHINESE_LANDLINE = re.compile(APART + r"(?:\(0[1-9][0-9]{1,2}\) ?|0[1-9][0-9]{1,2}[ -])[2-9][0-9]{2,3}[ -]?[0-9]{4}"
                              r"(?:-[0-9]{1,5})?(?![0-9A-Za-z_-])")
CHINESE_SERVICE = re.compile(APART + r"[48]00(?:-[0-9]{3}-[0-9]{4}|-[0-9]{4}-[0-9]{3})(?![0-9A-Za-z_-])")
NATIONAL = re.compile(APART + r"\(?[0-9](?:[ ()./-]{0,2}[0-9]){7,13}(?![0-9A-Za-z_])")
SPOKEN_OF = re.compile(r"(?:\b(?:tel|telephone|phone|mobile|cell|fax|call|whatsapp|wechat|sms|telefon|handy|téléphone|"
                       r"teléfono|telefono)\b|电话|手机|传真|联系方式|热线|致电|座机|微信)[^0-9\n]{0,20}$", re.IGNORECASE)
LOOK_BACK = 36  # characters before a number that are searched for such a word
HAN = re.compile("[一-鿿]")
REGIONS = ("GB", "DE", "FR", "ES", "IT", "NL", "US", "CN")  # whose national forms are tried after such a word

NOT_BEFORE_IPV4 = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.=<>~^-")
IPV4 = re.compile(r"[0-9]{1,3}(?:\.[0-9]{1,3}){3}(?![0-9A-Za-z_-]|\.[0-9A-Za-z]|/[0-9])")
IPV6 = re.compile(r"[23][0-9A-Fa-f]{3}:[0-9A-Fa-f:]{3,34}(?![0-9A-Za-z_.:])")
JOINED_IPV6 = re.compile(r"[0-9A-Za-z_.]$|[0-9A-Fa-f:]:$")
VERSION = re.compile(r"(?:\b(?:version|ver|v|release|oid|section|chapter|sqlite|build)|版本|版|章|节)[^0-9\n]{0,8}$|"
                     r"[<>=~!]=? $", re.IGNORECASE)
RESOLVERS = frozenset("8.8.8.8 8.8.4.4 1.1.1.1 1.0.0.1 9.9.9.9 4.4.4.4 114.114.114.114 223.5.5.5 223.6.6.6 "
                      "119.29.29.29 180.76.76.76 1.2.3.4 4.3.2.1 5.6.7.8".split())  # known to all, or made up


def emails(text: str) -> Iterator[tuple[int, int]]:
    """Addresses at a public domain, also in the form `name [at] host [dot] org`."""
    if "@" in text:
        for match in AT.finditer(text):
            if not (in_url(text, match.start()) or REMOTE_PATH.match(text, match.end())):
                yield from mailbox(text, match)
    for match in SPELT.finditer(text):
        yield from mailbox(text, match)


def mailbox(text: str, at: re.Match[str]) -> Iterator[tuple[int, int]]:
    """The whole address whose sign and domain `at` matched, where it is one."""
    end = at.start() - (at[0][0] != "@" and text[at.start() - 1:at.start()] == " ")
    before = text[max(0, end - 65):end]
    name = before[len(before.rstrip(LOCAL)):].lstrip("._%+-")
    start = end - len(name)
    if not name or len(name) > 64 or name.endswith(".") or text[max(0, start - 4):start] == "ssh ":
        return
    mail = name.lower()
    if mail in PLACEHOLDER_MAILBOXES or not mail.strip("x"):
        return
    domain = suffixes()(DOT.sub(".", at[1]).lower())
    if domain.suffix and len(domain.domain) > 1 and domain.domain not in PLACEHOLDER_DOMAINS | {mail}:
        yield start, at.end()


def in_url(text: str, at: int) -> bool:
    """Whether the @ at position `at` ends the user part of an address such as postgresql://scott:tiger@host."""
    scheme = text.rfind("://", max(0, at - 256), at)
    return scheme >= 0 and not re.search(r"[\s/?&=\"'<>]", text[scheme + 3:at])


@functools.cache
def suffixes():
    """The public suffix list as it ships in tldextract; nothing is fetched."""
    import tldextract

    return tldextract.TLDExtract(suffix_list_urls=(), cache_dir=None)


def phones(text: str, start: int, end: int) -> Iterator[tuple[int, int]]:
    """Numbers in international form, North American and Chinese ones by their form, others after a word for phone."""
    for match in INTERNATIONAL.finditer(text, start, end):
        yield from assigned(match, ("ZZ",))
    for match in NORTH_AMERICAN.finditer(text, start, end):
        yield from assigned(match, ("US",))
    for match in CHINESE_MOBILE.finditer(text, start, end):
        around = max(0, match.start() - 20), match.end() + 20
        if match[1] or HAN.search(text, *around) or spoken(match):
            yield from assigned(match, ("CN",))
    for pattern in (CHINESE_LANDLINE, CHINESE_SERVICE):
        for match in pattern.finditer(text, start, end):
            yield from assigned(match, ("CN",))
    for match in NATIONAL.finditer(text, start, end):
        if spoken(match):
            yield from assigned(match, ("US",) if NORTH_AMERICAN.fullmatch(match[0]) else REGIONS)


def spoken(number: re.Match[str]) -> bool:
    """Whether a word for telephone stands just before."""
    return SPOKEN_OF.search(number.string[max(0, number.start() - LOOK_BACK):number.start()]) is not None


def assigned(match: re.Match[str], regions: tuple[str, ...]) -> Iterator[tuple[int, int]]:
    """The longest beginning of a match, cut between groups of digits, that one of `regions` has as a number."""
    written = match[0]
    while sum(map(str.isdigit, written)) >= 7:
        if any(is_number(written, region) for region in regions):
            yield match.start(), match.start() + len(written)
            return
        cut = re.search(r"[ ().–/-]+[0-9]+$", written)
        if not cut:
            return
        written = written[:cut.start()]


@functools.lru_cache(maxsize=4096)
def is_number(written: str, region: str) -> bool:
    """Whether libphonenumber knows `written` as an assigned number of `region` (ZZ: of the country its code names).

    None are 555-01xx and area code 555, which fiction uses, and numbers of one or two digits repeated.
    """
    import phonenumbers

    digits = re.sub("[^0-9]", "", written)
    if region == "ZZ":
        written = "+" + (digits[2:] if written.startswith("00") else digits)
    elif len(set(digits)) < 3:
        return False
    try:
        number = phonenumbers.parse(written, region)
    except phonenumbers.NumberParseException:
        return False
    national = str(number.national_number)
    fiction = number.country_code == 1 and (national.startswith("555") or national[3:8] == "55501")
    return not fiction and phonenumbers.is_valid_number(number)


def addresses(text: str) -> Iterator[tuple[int, int]]:
    """Public IPv4 and IPv6 addresses of one host; loopback, private, documentation and network ones stay."""
    for match in IPV4.finditer(text):
        before = text[max(0, match.start() - 16):match.start()]
        if match[0] in RESOLVERS or match[0].endswith(".0") or before[-1:] in NOT_BEFORE_IPV4:
            continue
        if public(match[0]) and not VERSION.search(before) and max(map(int, match[0].split("."))) > 20:
            yield match.span()
    for match in IPV6.finditer(text):
        written = match[0].rstrip(":")
        begins = not JOINED_IPV6.search(text[max(0, match.start() - 2):match.start()])
        if begins and public(written) and not written.endswith("::"):
            yield match.start(), match.start() + len(written)


def public(written: str) -> bool:
    """Whether this is an address that the Internet routes to one host."""
    try:
        address = ipaddress.ip_address(written)
    except ValueError:
        return False
    return address.is_global and not address.is_multicast

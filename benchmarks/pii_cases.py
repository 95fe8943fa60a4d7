"""Labelled texts for benchmarks/pii.py: seeded templates in English and Chinese, and excerpts of the real corpus.

A case is a text, its spans (start, end, class) and where it is from. Numbers are made here by their standards' own
rules, apart from the libraries that the finder uses. Beside each class stand hard negatives: what looks like it in
technical text. The excerpts (benchmarks/data/pii.jsonl) were labelled by hand: a span is an address or number that can
be somebody's; samples that cannot exist, and names of hosts, versions, hashes, are none.
"""

from __future__ import annotations

import json
import random
import string
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

EXCERPTS = Path(__file__).with_name("data") / "pii.jsonl"
ALPHANUMERIC = string.ascii_letters + string.digits


class Case(NamedTuple):
    """A labelled text."""

    text: str
    spans: list[tuple[int, int, str]]
    origin: str


def digits(draw: random.Random, count: int) -> str:
    """So many random digits."""
    return "".join(draw.choices(string.digits, k=count))


def email(draw: random.Random) -> str:
    name = draw.choice(["li.wei", "maria_gomez", "j.smith", "zhangsan88", "a.kowalski", "tom+news", "k-ito", "wanglei"])
    host = draw.choice(["gmail.com", "163.com", "qq.com", "outlook.com", "tsinghua.edu.cn", "ox.ac.uk", "web.de",
                        "orange.fr", "mail.ru", "yahoo.co.jp", "sub.northwind.io"])
    return f"{name}{draw.randrange(100) if draw.random() < 0.5 else ''}@{host}"


def phone_en(draw: random.Random) -> str:
    area = draw.choice("212 415 312 206 617 713 305 404".split())
    exchange, line = draw.randrange(220, 550), digits(draw, 4)
    return draw.choice([f"({area}) {exchange}-{line}", f"{area}-{exchange}-{line}", f"{area}.{exchange}.{line}",
                        f"+1 {area} {exchange} {line}", f"+1{area}{exchange}{line}", f"+44 7{draw.randrange(400, 500)} "
                        f"{digits(draw, 6)}", f"+49 151 {draw.randrange(1, 10)}{digits(draw, 7)}",
                        f"+33 6 {draw.randrange(10, 90)} {' '.join(digits(draw, 2) for _ in range(3))}",
                        f"0049 30 {draw.randrange(20, 99)}{digits(draw, 4)}"])


def phone_zh(draw: random.Random) -> str:
    mobile = draw.choice("134 135 136 138 139 150 151 152 157 158 159 182 187 188 130 131 132 155 156 186 133 153 180 "
                         "189 199 198".split()) + digits(draw, 8)
    line = draw.choice("26") + digits(draw, 7)
    return draw.choice([mobile, mobile, f"{mobile[:3]}-{mobile[3:7]}-{mobile[7:]}", f"{mobile[:3]} {mobile[3:7]} "
                        f"{mobile[7:]}", f"+86 {mobile}", f"+86{mobile}", f"010-{line}", f"021-{line}", f"（010）{line}"])


def resident_id(draw: random.Random) -> str:
    county = draw.choice("110105 310104 440305 510104 320102 420106 330106 610103 230103 370202".split())
    body = (f"{county}{draw.randrange(1950, 2010)}{draw.randrange(1, 13):02}{draw.randrange(1, 29):02}"
            f"{draw.randrange(1, 999):03}")
    total = sum(int(d) * w for d, w in zip(body, (7, 9, 10, 5, 8, 4, 2, 1, 6, 3, 7, 9, 10, 5, 8, 4, 2)))
    return body + "10X98765432"[total % 11]


def with_luhn(body: str) -> str:
    total = sum(sum(divmod(int(d) * (2 if i % 2 == 0 else 1), 10)) for i, d in enumerate(reversed(body)))
    return body + str(-total % 10)


def card(draw: random.Random) -> str:
    prefix, length = draw.choice([("4539", 16), ("4916", 16), ("5234", 16), ("2345", 16), ("6222", 19), ("6217", 16),
                                  ("3742", 15)])
    number = with_luhn(prefix + digits(draw, length - 5))
    if length == 16 and draw.random() < 0.6:
        return draw.choice([" ", "-"]).join(number[i:i + 4] for i in range(0, 16, 4))
    return number


def iban(draw: random.Random) -> str:
    country, body = draw.choice([("DE", digits(draw, 18)), ("GB", "BARC" + digits(draw, 14)), ("FR", digits(draw, 23)),
                                 ("NL", "INGB" + digits(draw, 10)), ("ES", digits(draw, 20))])
    value = int("".join(str(int(c, 36)) for c in body + country + "00"))
    whole = f"{country}{98 - value % 97:02}{body}"
    return whole if draw.random() < 0.5 else " ".join(whole[i:i + 4] for i in range(0, len(whole), 4))


def ssn(draw: random.Random) -> str:
    return f"{draw.randrange(1, 666):03}-{draw.randrange(1, 100):02}-{draw.randrange(1, 10000):04}"


def address(draw: random.Random) -> str:
    if draw.random() < 0.2:
        return f"2a00:{draw.randrange(4096, 65536):x}:{draw.randrange(4096, 65536):x}:1::{draw.randrange(1, 999):x}"
    first = draw.choice([23, 45, 52, 81, 91, 103, 116, 185, 202, 221])
    return ".".join(map(str, [first, *(draw.randrange(1, 255) for _ in range(3))]))


def key(draw: random.Random) -> str:
    def some(count: int, alphabet: str = ALPHANUMERIC) -> str:
        return "".join(draw.choices(alphabet, k=count))
    return draw.choice(["AKIA" + some(16, string.ascii_uppercase + "234567"), "ghp_" + some(36), "AKID" + some(32),
                        f"xoxb-{digits(draw, 11)}-{digits(draw, 12)}-{some(24)}", "AIza" + some(35),
                        "hf_" + some(34, string.ascii_letters), f"eyJ{some(30)}.eyJ{some(60)}.{some(43)}",
                        "sk-proj-" + some(48)])


def assigned(draw: random.Random) -> str:
    return "".join(draw.choices(ALPHANUMERIC, k=draw.choice([20, 24, 32, 40])))


Maker = Callable[[random.Random], str]
POSITIVE: list[tuple[str, Maker, list[str]]] = [
    ("email", email, ["Write to {} before Friday.", "Author: Jane Doe <{}>", "contact=\"{}\"", "请发邮件至{}，谢谢。",
                      "邮箱：{}", "user.email == '{}'"]),
    ("phone", phone_en, ["Call {} after six.", "Phone: {}", "Fax {}.", "Reach me at {} or by post.", "tel:{}"]),
    ("phone", phone_zh, ["请拨打{}咨询。", "联系电话：{}", "手机{}，微信同号", "王先生 {} 看房", "传真：{}。"]),
    ("resident_id", resident_id, ["身份证号：{}", "证件号码{}，有效期至2030年", "ID card {} of the applicant", "张三，{}，男"]),
    ("card", card, ["Card number {} was declined.", "paid with {}.", "银行卡号：{}", "请转账至卡号{}，户名李四"]),
    ("iban", iban, ["IBAN {} at our bank", "Transfer to {}.", "收款账号 {}", "IBAN: {}, BIC MARKDEFF"]),
    ("ssn", ssn, ["SSN {} on file", "Her social security number is {}.", "ssn={}", "number {} was stolen"]),
    ("ip", address, ["Login from {} failed.", "client {} - GET /index", "来自{}的访问", "服务器地址：{}"]),
    ("key", key, ["export TOKEN={}", "token: {}", "密钥是 {} ，勿外传", "'{}' leaked"]),
    ("key", assigned, ["api_key = \"{}\"", "SECRET_KEY = '{}'", "密码：\"{}\"", "\"access_token\": \"{}\""]),
]
def wrong_resident_id(draw: random.Random) -> str:
    right = resident_id(draw)
    return right[:-1] + draw.choice([c for c in "0123456789X" if c != right[-1]])


def wrong_card(draw: random.Random) -> str:
    right = with_luhn("4539" + digits(draw, 11))
    return right[:-1] + draw.choice([c for c in string.digits if c != right[-1]])


NEGATIVE: list[Maker] = [
    lambda d: f"{d.choice(['bob', 'info'])}@{d.choice(['example.com', 'example.org', 'foo.example', 'localhost'])}",
    lambda d: f"postgresql://scott:tiger{d.randrange(99)}@db{d.randrange(9)}.northwind.com/test",
    lambda d: f"git clone git@github.com:acme/tool{d.randrange(99)}.git",
    lambda d: f"@app.route{d.randrange(9)}(\"/x\") and W@x.mean() and pkg@1.{d.randrange(9)}.0",
    lambda d: f"ratio {d.random():.12f} after {digits(d, 10)} rows, ids {digits(d, 4)}-{digits(d, 4)}",
    lambda d: f"2024-0{d.randrange(1, 9)}-1{d.randrange(9)} 12:30:45 at 17{digits(d, 8)}, 订单号 {digits(d, 13)}",
    lambda d: f"dial ({d.choice(['212', '415'])}) 555-01{digits(d, 2)} in the film; 1000-2000-{digits(d, 4)}",
    lambda d: f"<Mapper at 0x{d.randrange(16**12):012x}>, 端口 1025-65535，编号 {d.randrange(2, 9)}{digits(d, 7)}",
    wrong_resident_id,
    lambda d: f"流水号 9{digits(d, 17)}",
    wrong_card,
    lambda d: f"use {d.choice(['4111 1111 1111 1111', '4242424242424242', '378282246310005'])} in the sandbox",
    lambda d: f"snowflake 1{digits(d, 18)} and 0.{digits(d, 16)}",
    lambda d: f"part DE{digits(d, 18)} of model GB{digits(d, 2)}X{digits(d, 13)}",
    lambda d: f"part {d.choice(['000', '666', '912'])}-{digits(d, 2)}-{digits(d, 4)}, ISBN 978-0-{digits(d, 2)}-1234-1",
    lambda d: d.choice(["127.0.0.1", "10.0.3.7", "192.168.1.20", "172.16.5.4", "203.0.113.9", "2001:db8::8a2e", "::1"]),
    lambda d: f"version 10.{d.randrange(9)}.{d.randrange(40)}.{d.randrange(255)}, std::vector::at, 12:30:45:99",
    lambda d: f"commit {d.randrange(16**40):040x} sha256={d.randrange(16**64):064x}",
    lambda d: f"api_key = \"{d.choice(['YOUR_API_KEY_GOES_HERE', 'xxxxxxxxxxxxxxxxxxxx', 'os.environ[API_KEY]'])}\"",
    lambda d: f"cache_key = \"my_key_with_part_{d.randrange(99)}\", password=\"${{secrets.DB}}\", AKIAIOSFODNN7EXAMPLE",
]


def generated(seed: int, each: int = 60) -> list[Case]:
    """`each` texts of every maker above, positives of one span and negatives of none, the same for a seed."""
    draw, cases = random.Random(seed), []
    for kind, make, templates in POSITIVE:
        for _ in range(each):
            before, after = draw.choice(templates).split("{}")
            value = make(draw)
            cases.append(Case(before + value + after, [(len(before), len(before) + len(value), kind)], "generated"))
    cases += [Case(make(draw), [], "generated") for make in NEGATIVE for _ in range(each)]
    return cases


def excerpts() -> list[Case]:
    """The hand-labelled excerpts of the corpus."""
    with EXCERPTS.open(encoding="utf-8") as lines:
        return [Case(item["text"], [tuple(span) for span in item["spans"]], "corpus")
                for item in map(json.loads, lines)]

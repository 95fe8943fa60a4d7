"""Personal data: every form masked, what technical text writes kept, check digits by hand, hostile text."""

import re
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks import pii_cases
from tasks.data import contacts, credentials, identity, pii

MASKED = {
    "Write to jane_doe@northwind.co.uk, please": "Write to <email>, please",
    "thanks to jason (at) ncsmags.com and li [at] sohu [dot] com": "thanks to <email> and <email>",
    "请发邮件至li.lei@sina.com.cn。": "请发邮件至<email>。",
    "call (415) 555-2671, 1-212-736-5000 or +49 30 901820": "call <phone>, <phone> or <phone>",
    "Tel: 01507 529529 | fax 01 42 68 53 00": "Tel: <phone> | fax <phone>",
    "+86 13711112222 2020年": "<phone> 2020年",
    "电话：13800138001，座机（010）62781234，热线400-810-8888": "电话：<phone>，座机<phone>，热线<phone>",
    "手机１３８００１３８００１": "手机<phone>",
    "身份证11010519491231002X。": "身份证<resident_id>。",
    "card 4539 1488 0343 6467, 银行卡6222021234567890128": "card <card>, 银行卡<card>",
    "DE44 5001 0517 5407 3249 31 BIC GB33BUKB20201555555555 ok": "<iban> BIC <iban> ok",
    "SSN 536-90-4399, ssn: 536904399": "SSN <ssn>, ssn: <ssn>",
    "from 23.45.67.89, 2a00:1450:4001:81b::200e": "from <ip>, <ip>",
    'api_key = "9f8Ga73hKQp2LmZx81TyVbN0"': 'api_key = "<key>"',
    "-----BEGIN RSA PRIVATE KEY-----\nMIIEow\n-----END RSA PRIVATE KEY-----!": "<key>!",
    "Authorization: Bearer 9f8Ga73hKQp2LmZx81TyVbN0qq": "Authorization: Bearer <key>",
}
KEPT = """postgresql://scott:tiger@localhost/test
mysql+mysqldb://user:pass@db.northwind.com:3306/x
bob@example.com, you@yourdomain.com, user@gmail.com, xxx@163.com, a@host
git clone git@github.com:sqlalchemy/alembic.git
ssh admin@shell.northwind.com
@decorator @app.route("/") W@x.mean() @Backend.mapper_registry.mapped
alembic upgrade networking@head ae10@head
libxml2 2.10.3, version 10.2.0.1, SQLite version 3.7.15.2, >= 7.16.3.207, package-1.2.3.44
127.0.0.1 192.168.0.199 10.0.0.1 203.0.113.7 8.8.8.8 10.10.1.0/24 ::1 2001:db8::1 fe80::1 std::vector
commit 1975ea83b7121975ea83b7121975ea83b7121975 sha256: 9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08
<Mapper at 0x7fa540897048; Address> 0.613876128196 36.714947 1611754219108 2021-01-13T09:44:07.182
4111 1111 1111 1111 4242424242424242 DE89370400440532013000 123-45-6789 078-05-1120 AKIAIOSFODNN7EXAMPLE
(212) 555-0123 ISBN 978-7-111-40701-0 1025-65535 端口范围1000-2000 订单号2024010112345678901
cache_key = "my_key_with_frobnizzle" password = "averystrongpassword" api_key="YOUR_API_KEY_GOES_HERE"
password="${secrets.DB_PASSWORD}" token = os.environ["TOKEN"] SECRET_KEY = 'change-me-in-production'"""


@pytest.mark.parametrize("text", MASKED)
def test_each_form_is_masked(text):
    masked, counts = pii.mask(text)
    assert masked == MASKED[text]
    assert counts == {kind: masked.count(f"<{kind}>") for kind in pii.CLASSES if f"<{kind}>" in masked}
    assert pii.mask(masked)[0] == masked


@pytest.mark.parametrize("line", KEPT.split("\n"))
def test_technical_text_is_kept(line):
    assert pii.mask(line) == (line, {})


def test_only_the_classes_asked_for_are_masked():
    assert pii.mask("li.lei@sina.com.cn 536-90-4399", ["ssn"]) == ("li.lei@sina.com.cn <ssn>", {"ssn": 1})


def test_wrong_check_digits_are_no_numbers():
    """Of the eleven or ten endings of one number exactly one is right; found by the standards' sums, not a library."""
    body = "44030819990110151"
    total = sum(int(d) * pow(2, 17 - i, 11) for i, d in enumerate(body))
    right = "10X98765432"[total % 11]
    assert [c for c in "0123456789X" if pii.find(f"证 {body}{c}。")] == [right]
    assert not pii.find("证 440308199902301517")  # the 30th of February
    card = "453914880343646"
    assert [c for c in "0123456789" if any(s.kind == "card" for s in pii.find(f"paid by {card}{c} then"))] == ["7"]


def test_iban_lengths_are_the_registrys():
    from stdnum import numdb

    registry = numdb.get("iban")
    for country, length in identity.IBAN_LENGTHS.items():
        structure = registry.info(country)[0][1]["bban"]
        assert 4 + sum(map(int, re.findall(r"(\d+)!", structure))) == length, country


def test_recall_and_precision_on_generated_text():
    for seed in (1, 2):
        wrong = {kind: [] for kind in pii.CLASSES}
        cases = pii_cases.generated(seed, each=40)
        for case in cases:
            found = [tuple(span) for span in pii.find(case.text)]
            for span in set(found) ^ set(case.spans):
                wrong[span[2]].append(case.text)
        labelled = {kind: sum(span[2] == kind for case in cases for span in case.spans) for kind in pii.CLASSES}
        for kind, texts in wrong.items():
            assert len(texts) <= 0.05 * labelled[kind], (kind, texts)


def test_hand_labelled_excerpts():
    cases = pii_cases.excerpts()
    assert len(cases) >= 60
    missed = [case.text for case in cases if set(case.spans) - {tuple(s) for s in pii.find(case.text)}]
    extra = [case.text for case in cases if {tuple(s) for s in pii.find(case.text)} - set(case.spans)]
    assert not missed and len(extra) <= 2, (missed, extra)


@settings(max_examples=300, deadline=None)
@given(st.text(st.sampled_from("0123456789 +-().:@aAxX=\"'/é电话１２\n") | st.characters(), max_size=120)
       | st.lists(st.sampled_from([*MASKED, *KEPT.split("\n")]), max_size=4).map(" ".join))
def test_masking_changes_spans_alone(text):
    spans = pii.find(text)
    assert all(0 <= s.start < s.end <= len(text) for s in spans)
    assert all(a.end <= b.start for a, b in zip(spans, spans[1:]))
    masked, counts = pii.mask(text)
    assert sum(counts.values()) == len(spans)
    assert len(masked) == len(text) + sum(len(f"<{s.kind}>") - (s.end - s.start) for s in spans)
    position = 0
    for before, span in zip([0, *(s.end for s in spans)], spans):
        wanted = text[before:span.start] + f"<{span.kind}>"
        assert masked.startswith(wanted, position)
        position += len(wanted)


HOSTILE = ["a", "1", "1 ", " ", "@", "@a.", "a@a.", "+1", "eyJ", "eyJaaaaaaaa.", "-----BEGIN PRIVATE KEY-----", '="',
           "sk-", "xoxb-", "ghp_", "GB29", "GB29 ", "2a00:", "1.1.", "(at)", "://", "://a@b.cn", "138-1234-", "(010) ",
           "tel 01 42 ", "= Aa1", "Bearer ", '"a1B', "１２３４５６７ ", "4539 1488 0343 6467 "]


def test_time_is_linear_in_hostile_text():
    """10 times the text may cost 10 times the time; the factor 40 leaves room for a busy machine, not for a square. Of
    three trials the best counts: a core that something else takes for a while slows one of them."""
    for unit in HOSTILE:
        ratios = []
        while len(ratios) < 3 and (not ratios or min(ratios) >= 40):
            spent = []
            for size in (20_000, 200_000):
                text = unit * (size // len(unit))
                started = time.process_time()
                pii.find(text)
                spent.append(time.process_time() - started)
            ratios.append(spent[1] / max(spent[0], 0.005))
        assert min(ratios) < 40, (unit, ratios)


def test_five_megabytes_without_a_break():
    for unit in ("1", "a@a."):
        started = time.process_time()
        pii.find(unit * (5_000_000 // len(unit)))
        assert time.process_time() - started < 15, unit


def test_entropy_is_shannons():
    assert credentials.entropy("aaaa") == 0 and credentials.entropy("abcd") == 2
    assert not credentials.random("a" * 30) and not credentials.random("1" * 30)


def test_numbers_of_fiction_are_nobodys():
    assert contacts.is_number("415-555-2671", "US") and not contacts.is_number("415-555-0142", "US")
    assert not contacts.is_number("555-555-3949", "US")

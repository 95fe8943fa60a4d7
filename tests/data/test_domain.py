"""Domains on labelled text that was not written for them: library sources, TeX-rich references, manuals, a novel."""

import importlib
import inspect
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.data.domain import DOMAINS, DomainParams, domain, is_code, shares

LIBRARY = ("argparse ast base64 bisect calendar cmd codecs configparser contextlib copy csv datetime difflib enum "
           "fileinput fractions ftplib functools gettext glob gzip heapq html.parser http.client imaplib ipaddress "
           "json.decoder logging mailbox mimetypes optparse pathlib pickle pprint queue random sched shutil smtplib "
           "ssl statistics string subprocess tarfile textwrap threading timeit tokenize unittest.case zipfile").split()
ZH_MATHEMATICS = [
    "设函数 f(x) = x^2 + 2x + 1，求它在区间上的最小值。解：求导数得 f'(x) = 2x + 2，令其为零，得 x = -1，故最小值为 0。",
    "定理：若 $a$ 与 $n$ 互质，则 $a^{\\varphi(n)} \\equiv 1 \\pmod n$。证明：考虑模 $n$ 的既约剩余系，乘以 $a$ 后仍是既约剩余系。",
    "勾股定理：直角三角形两条直角边的平方和等于斜边的平方，即 a² + b² = c²。证明方法很多，下面用面积来证明它。",
    "等差数列的前 n 项和为 n(a₁ + aₙ)/2，等比数列的极限在公比的绝对值小于一时收敛，由不等式可得上界。",
]
ZH_KNOWLEDGE = [
    "话说天下大势，分久必合，合久必分。周末七国分争，并入于秦。及秦灭之后，楚、汉分争，又并入于汉。",
    "图书馆每周二到周日开放，读者凭借书证可以借阅五本图书，借期为三十天，到期可以续借一次。",
    "实例 ID，可通过查询接口获取。\n状态：取值 0 表示运行中，1 表示已停止。\n名称：长度不超过 60 个字符。",
    "证据显示，这家公司的收入在过去三年里增长了两成，分析人士对它的前景表示乐观。",
]
EN_MATHEMATICS = [
    "Theorem. There are infinitely many primes. Proof. Suppose p_1, ..., p_n were all; then p_1 p_2 ... p_n + 1 has a "
    "prime divisor that is none of them.",
    "The quadratic equation ax^2 + bx + c = 0 has the roots x = (-b ± √(b² - 4ac)) / 2a, real when b² ≥ 4ac.",
    r"The series $\sum_{n=1}^{\infty} 1/n^2$ converges, and Euler showed that its sum is $\pi^2/6$.",
]
ZH_CODE = "下面的函数读取配置：\n```python\ndef load(path):\n    with open(path) as file:\n        return json.load(file)\n\n" \
          "config = load('app.json')\nprint(config['name'])\n```\n"


def by_committed(data, text):
    return domain(text, data.section(DomainParams, "value.domain"))


def test_library_sources_are_code_and_their_manuals_are_not(data):
    """The standard library, unselected: whole modules against their docstrings, doctests included."""
    modules = [importlib.import_module(name) for name in LIBRARY]
    sources = [by_committed(data, inspect.getsource(module)) for module in modules]
    manuals = [by_committed(data, "\n".join(inspect.getdoc(made) or "" for _, made in inspect.getmembers(
        module, lambda made: inspect.isclass(made) or inspect.isfunction(made)))) for module in modules]
    assert sources.count("code") >= 0.95 * len(modules) and manuals.count("knowledge") >= 0.95 * len(modules)


def test_references_full_of_formulas_are_mathematics(data):
    """SymPy's special functions: TeX between doctests; a few of them are mostly examples."""
    from sympy.functions.special import bessel, elliptic_integrals, error_functions, zeta_functions

    found = [by_committed(data, inspect.getdoc(made)) for module in (bessel, elliptic_integrals, error_functions,
                                                                     zeta_functions)
             for _, made in inspect.getmembers(module, inspect.isclass)
             if made.__module__ == module.__name__ and len(made.__doc__ or "") > 600]
    assert len(found) > 25 and found.count("mathematics") >= 0.9 * len(found)


@pytest.mark.parametrize("text, wanted", [
    *((text, "mathematics") for text in ZH_MATHEMATICS + EN_MATHEMATICS),
    *((text, "knowledge") for text in ZH_KNOWLEDGE), (ZH_CODE, "code"), ("", "knowledge"),
    ("The body stands between dollars:\n$$\nBEGIN\n a new customer\n$$\nand nothing else.", "knowledge"),
    (" \n\t\n", "knowledge"), ("\ud800\x00\x00", "knowledge"),
])
def test_short_texts_of_both_languages(data, text, wanted):
    assert by_committed(data, text) == wanted


@pytest.mark.parametrize("line, code", [
    (">>> import os", True), ("x = f(1)", True), ("    return self.value", True),
    ("for (int i = 0; i < n; i++) {", True),
    ("SELECT name FROM users", True), ("@property", True), ("});", True), ("session.add(user)", True),
    ("if x > 3:", True), ('"name": "value",', True), ("#include <stdio.h>", True), ("<div class='a'>", True),
    ("The price is the sum of the parts.", False), ("For each user, the following holds:", False),
    ("操作系统：Linux", False),
    ("Return the number of items in the list", False), ("Import taxes rose again.", False), ("", False),
    ("From there we went to the sea.", False), ("Class struggle, as they called it", False),
    ("- a bullet of a list", False),
])
def test_lines(line, code):
    assert is_code(line) is code


def test_fences_decide_for_what_stands_in_them():
    prose = "It rained in the valley all day long, and nobody came.\n"
    assert shares(f"{prose}```\n{prose}```\n")[0] == pytest.approx(0.5)
    code, mathematics = shares(f"{prose}```math\na + b\n```\n")
    assert code == 0 and mathematics > 0


@settings(max_examples=60, deadline=None)
@given(st.text(max_size=400), st.floats(0.01, 1), st.floats(0.01, 1))
def test_any_text_has_shares_and_one_domain(text, code, mathematics):
    found = shares(text)
    assert all(0 <= share <= 1 for share in found)
    assert domain(text, DomainParams(code=code, mathematics=mathematics)) in DOMAINS
    assert shares(text + "\n  \n\n") == found or text.count("```") or text.count("~~~")  # white space says nothing


@pytest.mark.parametrize("unit", ["$", "\\[", "\\begin{equation}", "a+", "^", "(", "```\n", "a = ", "√∑", "x=y+", "<a"])
def test_hostile_repetition_costs_no_more_than_linear_time(unit):
    def seconds(size):
        started = time.process_time()
        shares((unit * size)[:size])
        return time.process_time() - started

    assert seconds(200_000) < 3

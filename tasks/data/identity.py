"""Numbers that name a person or an account: found by their form, kept as found only where their check digits agree.

Chinese resident identity (GB 11643, ISO 7064 MOD 11-2), payment cards (ISO/IEC 7812: issuer, length, Luhn), IBAN
(ISO 13616, mod 97 and the country's structure), US social security numbers (structure; they have no check digit).
The checks are python-stdnum's. Published sample numbers stay.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from stdnum import iban, luhn
from stdnum.cn import ric
from stdnum.exceptions import ValidationError
from stdnum.us import ssn

RESIDENT = re.compile(r"(?<![0-9A-Za-z_.])[1-9][0-9]{5}(?:18|19|20)[0-9]{9}[0-9Xx](?![0-9A-Za-z_])")
PROVINCES = frozenset("11 12 13 14 15 21 22 23 31 32 33 34 35 36 37 41 42 43 44 45 46 50 51 52 53 54 61 62 63 64 65 "
                      "71 81 82 83".split())
GROUPED = re.compile(r"(?<![0-9A-Za-z_.-])(?:[2-6][0-9]{3}([ -])[0-9]{4}\1[0-9]{4}\1[0-9]{4}(?:\1[0-9]{3})?|"
                     r"3[0-9]{3}([ -])[0-9]{6}\2[0-9]{4,5})(?![0-9A-Za-z_-])")
UNBROKEN = re.compile(r"(?<![0-9A-Za-z_.-])[2-6][0-9]{12,18}(?![0-9A-Za-z_-]|\.[0-9])")
PAYMENT = re.compile(r"(?:card|visa|amex|diners|account|payment|卡)[^0-9\n]{0,20}$", re.IGNORECASE)
IBAN = re.compile(r"[A-Z]{2}[0-9]{2}(?: ?[A-Z0-9]){11,30}")
# the registry's lengths, so that what follows an account in the text is not tried as a part of it
IBAN_LENGTHS = {country: length for length, countries in {
    15: "NO", 16: "BE", 18: "DK FI FK FO GL NL SD", 19: "MK SI", 20: "AT BA EE KZ LT LU MN XK", 21: "CH HR LI LV",
    22: "BG BH CR DE GB GE IE ME RS VA", 23: "AE GI IL IQ OM SO TL", 24: "AD CZ ES MD PK RO SA SE SK TN VG",
    25: "LY PT ST", 26: "IS TR", 27: "BI DJ FR GR IT MC MR SM", 28: "AL AZ BY CY DO GT HN HU LB NI PL SV",
    29: "BR EG PS QA UA", 30: "JO KW MU YE", 31: "MT SC", 32: "LC", 33: "RU",
}.items() for country in countries.split()}
SSN = re.compile(r"(?<![0-9A-Za-z_.+/#-])([0-9]{3})([- ]?)([0-9]{2})\2([0-9]{4})(?![0-9A-Za-z_-]|\.[0-9])")
SOCIAL_SECURITY = re.compile(r"(?:\bssn\b|social security|社会安全)[^0-9\n]{0,24}$", re.IGNORECASE)
# (first number, last number, lengths) of the issuers' prefixes, each range of one number of digits
ISSUERS = (
    (4, 4, (13, 16, 19)), (51, 55, (16,)), (2221, 2720, (16,)), (34, 34, (15,)), (37, 37, (15,)), (6011, 6011, (16,)),
    (644, 649, (16,)), (65, 65, (16,)), (62, 62, (16, 17, 18, 19)), (3528, 3589, (16,)), (300, 305, (14,)),
    (36, 36, (14,)), (38, 39, (14,)),
)
SAMPLE_CARDS = frozenset(
    "4111111111111111 4242424242424242 4012888888881881 4000056655665556 4222222222222 5555555555554444 "
    "5105105105105100 2223003122003222 378282246310005 371449635398431 6011111111111117 6011000990139424 "
    "3530111333300000 3566002020360505 30569309025904 38520000023237 36227206271667 4444333322221111".split())
SAMPLE_IBANS = frozenset("DE89370400440532013000 GB29NWBK60161331926819 GB82WEST12345698765432 "
                         "FR1420041010050500013M02606 NL91ABNA0417164300 ES9121000418450200051332".split())
SAMPLE_SSNS = frozenset("123-45-6789 111-11-1111 222-22-2222 333-33-3333 444-44-4444 555-55-5555".split())


def resident_ids(text: str, start: int, end: int) -> Iterator[tuple[int, int]]:
    """Chinese resident identity numbers of 18 digits: province, date of birth and check digit agree."""
    for match in RESIDENT.finditer(text, start, end):
        number = match[0].upper()
        if number[:2] in PROVINCES and number[-1] == ric.calc_check_digit(number) and has_birth_date(number):
            yield match.span()


def has_birth_date(number: str) -> bool:
    """Whether digits 7 to 14 are a day of the calendar."""
    try:
        return bool(ric.get_birth_date(number))
    except ValidationError:
        return False


def cards(text: str, start: int, end: int) -> Iterator[tuple[int, int]]:
    """Payment card numbers; one without groups of a length that other numbers have needs a word for card before it."""
    for match in GROUPED.finditer(text, start, end):
        if is_card(match[0].replace(" ", "").replace("-", "")):
            yield match.span()
    for match in UNBROKEN.finditer(text, start, end):
        usual = len(match[0]) == 16 or match[0].startswith(("34", "37", "62"))
        before = text[max(0, match.start() - 32):match.start()]
        if is_card(match[0]) and (usual or PAYMENT.search(before)):
            yield match.span()


def is_card(digits: str) -> bool:
    """Whether an issuer gives out numbers that begin so, of that length, and the Luhn sum is right."""
    issued = any(first <= int(digits[:len(str(first))]) <= last and len(digits) in lengths
                 for first, last, lengths in ISSUERS)
    return issued and digits not in SAMPLE_CARDS and len(set(digits)) > 2 and luhn.is_valid(digits)


def ibans(text: str) -> Iterator[tuple[int, int]]:
    """International bank account numbers, together or in groups; what follows one is not part of it."""
    match = IBAN.search(text)
    while match:
        start, end = match.start(), match.start() + 1
        signs = [position for position, sign in enumerate(match[0], 1) if sign != " "]
        length = IBAN_LENGTHS.get(match[0][:2], len(signs) + 1)
        if length <= len(signs) and not text[max(0, start - 1):start].isalnum():
            after = start + signs[length - 1]
            compact = text[start:after].replace(" ", "")
            if (not text[after:after + 1].isalnum() and compact not in SAMPLE_IBANS
                    and iban.is_valid(compact, check_country=False)):
                yield start, after
                end = after
        match = IBAN.search(text, end)


def social_security_numbers(text: str, start: int, end: int) -> Iterator[tuple[int, int]]:
    """US numbers written 3-2-4 with hyphens, or in another form after their name."""
    for match in SSN.finditer(text, start, end):
        number = "-".join(match.group(1, 3, 4))
        named = match[2] == "-" or SOCIAL_SECURITY.search(text[max(0, match.start() - 40):match.start()])
        if named and number not in SAMPLE_SSNS and ssn.is_valid(number):
            yield match.span()

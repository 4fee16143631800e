"""Personal data and secrets in a text, by kind. What has a checksum is checked, so that numbers of other sorts are not
taken for it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping

from tunesmith.secret import PASSWORD, SECRET

Spans = Iterator[tuple[int, int]]

ADDRESS = re.compile(r"(?<![\w.%+@-])[A-Za-z0-9][A-Za-z0-9._%+-]*@[A-Za-z0-9-]+(?:\.[A-Za-z0-9-]+)*\.[A-Za-z]{2,}")
NOBODY = re.compile(r"@(?:[\w-]+\.)*(?:example|test|invalid|localhost)(?:\.\w+)?$", re.IGNORECASE)  # RFC 2606
# With + or brackets, or three groups of which the last has four digits: other numbers are no phone's
PHONE = re.compile(
    r"(?<![\w.+/$€£#-])(?<!\d\s)(?:\+\d{1,3}[ .-]?(?:\(\d{1,4}\)[ .-]?)?\d{1,4}(?:[ .-]?\d{2,4}){2,4}"
    r"|\(\d{3}\)[ .-]?\d{3}[.-]\d{4}"
    r"|(?:1[ .-])?[2-9]\d{2}([.-])[2-9]\d{2}\1\d{4}|0\d{2,4}[ /-]\d{3,4}[ -]?\d{3,5})(?![\w-]| \d)"
)
# By what the numbers of the large networks begin with, and their lengths; no term of a sum
CARD = re.compile(
    r"(?<![\w.+=*/-])(?<![+=*/] )(?:(?:4\d{3}|5[1-5]\d{2}|2[2-7]\d{2}|6011|65\d{2})([ -]?)\d{4}\1\d{4}\1\d{4}"
    r"|3[47]\d{2}([ -]?)\d{6}\2\d{5})(?![\w-]| ?[+=*/])"
)
IBAN = re.compile(r"(?<![A-Za-z0-9])[A-Z]{2}\d{2}(?: ?[A-Z0-9]{4}){2,7}(?: ?[A-Z0-9]{1,3})?(?![A-Za-z0-9])")
SSN = re.compile(r"(?<![\w-])(?!000|666|9)\d{3}-(?!00)\d{2}-(?!0000)\d{4}(?![\w-])")
PRIVATE_KEY = re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----(?:.*?-----END [A-Z ]*PRIVATE KEY-----|.*\Z)", re.DOTALL)
# One of these stands in everything that SECRET matches: looking for them first is quicker by ten times
HINTS = (
    *("hf_", "api_org_", "sk-", "gsk_", "ghp_", "gho_", "ghu_", "ghs_", "ghr_", "github_pat_", "glpat-", "xox"),
    *("AKIA", "ASIA", "AIza", "ya29.", "npm_", "pypi-", "dckr_pat_", "SG.", "k_live_", "k_test_", "r8_", "eyJ"),
)


def luhn(digits: str) -> bool:
    """Whether the last digit is the check digit of the others (ISO/IEC 7812-1)."""
    total = sum(int(d) if i % 2 == 0 else sum(divmod(2 * int(d), 10)) for i, d in enumerate(reversed(digits)))
    return total % 10 == 0 and len(set(digits)) > 1


def iban_fits(text: str) -> bool:
    """Whether the check digits are right (ISO 13616: 97 leaves 1)."""
    packed = text.replace(" ", "")
    if not 15 <= len(packed) <= 34:
        return False
    return int("".join(str(int(c, 36)) for c in packed[4:] + packed[:4])) % 97 == 1


def _addresses(text: str) -> Spans:
    if "@" in text:
        yield from (m.span() for m in ADDRESS.finditer(text) if not NOBODY.search(m[0]))


def _cards(text: str) -> Spans:
    yield from (m.span() for m in CARD.finditer(text) if luhn(re.sub(r"\D", "", m[0])))


def _ibans(text: str) -> Spans:
    yield from (m.span() for m in IBAN.finditer(text) if iban_fits(m[0]))


def _phones(text: str) -> Spans:
    yield from (m.span() for m in PHONE.finditer(text) if 9 <= sum(c.isdecimal() for c in m[0]) <= 15)


def _social(text: str) -> Spans:
    yield from (m.span() for m in SSN.finditer(text))


def _keys(text: str) -> Spans:
    if "PRIVATE KEY-----" in text:
        yield from (m.span() for m in PRIVATE_KEY.finditer(text))


def _tokens(text: str) -> Spans:
    if any(hint in text for hint in HINTS):
        yield from (m.span() for m in SECRET.finditer(text) if not m[0].startswith("-----"))


def _passwords(text: str) -> Spans:
    if "://" in text and "@" in text:
        yield from (m.span() for m in PASSWORD.finditer(text))


KINDS: Mapping[str, Callable[[str], Spans]] = {
    "private_key": _keys, "api_token": _tokens, "password": _passwords, "card_number": _cards, "iban": _ibans,
    "social_security_number": _social, "email": _addresses, "phone": _phones,
}  # fmt: skip
# No reply needs these letter by letter; a hotline or a public address may be just what is to be learned
SAFE = ("private_key", "api_token", "password", "card_number", "iban", "social_security_number")
NEED_DIGITS = ("card_number", "iban", "social_security_number", "phone")
DIGITS = re.compile(r"\d{2}")


def spans(text: str, kinds: tuple[str, ...] = tuple(KINDS)) -> list[tuple[str, int, int]]:
    """(kind, begin, end) of what is found, in their order; of two that overlap the kind that stands first in KINDS."""
    found: list[tuple[str, int, int]] = []
    has_digits = DIGITS.search(text) is not None
    for kind in kinds:
        if has_digits or kind not in NEED_DIGITS:
            for begin, end in KINDS[kind](text):
                if not any(begin < e and b < end for _, b, e in found):
                    found.append((kind, begin, end))
    return sorted(found, key=lambda one: one[1])


def masked(text: str, kinds: tuple[str, ...] = tuple(KINDS)) -> str:
    """With the name of the kind in place of each: [EMAIL]."""
    for kind, begin, end in reversed(spans(text, kinds)):
        text = f"{text[:begin]}[{kind.upper()}]{text[end:]}"
    return text

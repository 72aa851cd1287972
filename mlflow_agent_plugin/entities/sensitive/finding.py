"""Finds sensitive values in a text by their form: the one definition every room uses.

Rules:
- What is found is decided by form and check digits alone, so the same text always gives the same
  findings.
- Findings do not overlap; where two classes claim the same characters the more telling one wins
  (secret, e-mail, IBAN, IP address, card or other number), and a URL keeps what is left of it.
- Classes that are not asked for claim nothing: an allowed e-mail address hides no card number.
- Every pattern takes time in proportion to the text: hostile text cannot slow it down.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from ipaddress import IPv6Address
from typing import Any

from mlflow_agent_plugin.entities.sensitive.checksums import IBAN_LENGTH, iban_valid
from mlflow_agent_plugin.entities.sensitive.numbers import find_numbers
from mlflow_agent_plugin.entities.sensitive.secrets import find_secrets
from mlflow_agent_plugin.entities.sensitive.values import DataClass, Finding

ALL_CLASSES = frozenset(DataClass)

_EMAIL = re.compile(r"(?<![\w.%+-])[\w.%+-]{1,64}@\w[\w-]{0,62}(?:\.\w[\w-]{0,62}){1,8}")
_IBAN = re.compile(r"(?<!\w)[A-Za-z]{2}\d{2}(?:[ -]?[A-Za-z0-9]){11,30}")
_OCTET = r"(?:25[0-5]|2[0-4]\d|1?\d?\d)"
_IPV4 = re.compile(rf"(?<![\w.])(?:{_OCTET}\.){{3}}{_OCTET}(?![\w]|\.\d)", re.ASCII)
_IPV6 = re.compile(
    r"(?<![\w:.])[0-9A-Fa-f]{0,4}:[0-9A-Fa-f:]{3,40}(?:\d{1,3}(?:\.\d{1,3}){3})?(?![\w:])"
)
_URL = re.compile(
    r"(?:https?|ftp|wss?)://[^\s<>\"']{1,2048}"
    r"|(?<![\w.@/-])(?:www\d?\.[\w-]{1,63}|[A-Za-z0-9][A-Za-z0-9-]{0,62})"
    r"(?:\.[A-Za-z0-9-]{1,63}){0,4}\.(?:com|org|net|edu|gov|mil|int|info|biz|io|co|eu|uk|de|fr|ch)"
    r"(?![\w@-]|\.\w)(?:/[^\s<>\"']{0,2048})?",
    re.IGNORECASE,
)
_HARMLESS = re.compile(r"[A-Za-z_ ]{0,19}|(?=.{0,14}\Z)[A-Za-z_ -]*(?:[0-9][A-Za-z_ -]*){0,6}")
"""Nothing has so short a form: without a mark keys begin at 20 letters; with digits and dashes too
IBANs and keys begin at 15 characters, and numbers at seven digits."""
_URL_ENDS = ".,;:!?)]}"
_CLAIMED = "\0"

_Span = tuple[DataClass, int, int]


def find_sensitive(text: str, classes: Collection[str] = ALL_CLASSES) -> list[Finding]:
    """Return the sensitive values of `classes` in `text`, from left to right.

    Args:
        text: Any text.
        classes: Values of `DataClass` to look for.
    """
    if _HARMLESS.fullmatch(text):
        return []
    found: list[_Span] = []
    left = text
    for wanted, finder in _FINDERS:
        if any(kind in classes for kind in wanted):
            spans = _disjoint(span for span in finder(left) if span[0] in classes)
            if spans:
                found += spans
                left = _blank(left, spans)
    if DataClass.URL in classes:
        found += _urls(text, left)
    found.sort(key=lambda span: span[1])
    return [Finding(kind.value, start, end) for kind, start, end in found]


def mask_text(text: str, classes: Collection[str] | None = None) -> str:
    """Return `text` with every sensitive value replaced by its class, e.g. ``<EMAIL>``.

    Args:
        text: Any text.
        classes: Classes to replace; default: all but URLs, which say where, not who.

    Examples:
        >>> mask_text("mail jo@example.org about 4111 1111 1111 1111")
        'mail <EMAIL> about <CARD>'
    """
    if _HARMLESS.fullmatch(text):
        return text
    findings = find_sensitive(text, RECORDED if classes is None else classes)
    return replace_findings(text, findings, lambda finding: f"<{finding.data_class.upper()}>")


def mask_value(value: Any) -> Any:
    """Return a JSON value with every text in it masked; the shape stays."""
    if isinstance(value, str):
        return mask_text(value)
    if isinstance(value, (dict, Mapping)):  # a dict is known for one sooner than for a mapping
        return {mask_value(key): mask_value(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [mask_value(part) for part in value]
    return value


RECORDED = ALL_CLASSES - {DataClass.URL}
"""What traces, audit and tables never hold, unless an agent's privacy rules say otherwise."""


def replace_findings(
    text: str, findings: Iterable[Finding], replacement: Callable[[Finding], str]
) -> str:
    """Return `text` with each finding (sorted, disjoint) replaced."""
    parts: list[str] = []
    end = 0
    for finding in findings:
        parts += (text[end : finding.start], replacement(finding))
        end = finding.end
    return "".join(parts) + text[end:] if parts else text


def _secrets(text: str) -> Iterator[_Span]:
    for start, end in find_secrets(text):
        yield DataClass.SECRET, start, end


def _emails(text: str) -> Iterator[_Span]:
    if "@" in text:
        for match in _EMAIL.finditer(text):
            yield DataClass.EMAIL, *match.span()


def _ibans(text: str) -> Iterator[_Span]:
    for match in _IBAN.finditer(text):
        # Words may follow the number and look like more of it: its country says how long it is.
        length = IBAN_LENGTH.get(match.group()[:2].upper(), 0)
        taken = [at for at, letter in enumerate(match.group()) if letter.isalnum()][:length]
        if (
            length
            and len(taken) == length
            and iban_valid("".join(match.group()[at] for at in taken))
        ):
            yield DataClass.IBAN, match.start(), match.start() + taken[-1] + 1


def _ips(text: str) -> Iterator[_Span]:
    if "." in text:
        for match in _IPV4.finditer(text):
            yield DataClass.IP, *match.span()
    if ":" in text:
        for match in _IPV6.finditer(text):
            # "12:30:45" is a time and "::" an operator: two colons and three digits at least.
            digits = match.group().replace(":", "")
            if match.group().count(":") >= 2 and len(digits) >= 3 and _is_ipv6(match.group()):
                yield DataClass.IP, *match.span()


def _is_ipv6(candidate: str) -> bool:
    try:
        IPv6Address(candidate)
    except ValueError:
        return False
    return True


def _urls(text: str, left: str) -> Iterator[_Span]:
    """Yield the URLs of `text`, without the parts that are claimed in `left`."""
    if "." not in text and "://" not in text:
        return
    for match in _URL.finditer(text):
        end = match.start() + len(match.group().rstrip(_URL_ENDS))
        start = match.start()
        while start < end:
            stop = left.find(_CLAIMED, start, end)
            stop = end if stop == -1 else stop
            if stop > start:
                yield DataClass.URL, start, stop
            start = stop
            while start < end and left[start] == _CLAIMED:
                start += 1


_FINDERS: tuple[tuple[frozenset[DataClass], Callable[[str], Iterator[_Span]]], ...] = (
    (frozenset({DataClass.SECRET}), _secrets),
    (frozenset({DataClass.EMAIL}), _emails),
    (frozenset({DataClass.IBAN}), _ibans),
    (frozenset({DataClass.IP}), _ips),
    (
        frozenset({DataClass.CARD, DataClass.US_SSN, DataClass.PHONE, DataClass.NUMBER}),
        find_numbers,
    ),
)


def _disjoint(spans: Iterable[_Span]) -> list[_Span]:
    """Sort `spans`; of those that overlap keep one that covers them all."""
    kept: list[_Span] = []
    for kind, start, end in sorted(spans, key=lambda span: (span[1], -span[2])):
        if kept and start < kept[-1][2]:
            kept[-1] = (kept[-1][0], kept[-1][1], max(kept[-1][2], end))
        else:
            kept.append((kind, start, end))
    return kept


def _blank(text: str, spans: list[_Span]) -> str:
    parts: list[str] = []
    done = 0
    for _, start, end in spans:
        parts += (text[done:start], _CLAIMED * (end - start))
        done = end
    return "".join(parts) + text[done:]

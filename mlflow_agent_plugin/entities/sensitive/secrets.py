"""Keys, tokens and passwords, by the forms their issuers document.

Rules:
- A token with a known prefix is found wherever it stands; a password only after its name and ``:``
  or ``=`` ("api_key=…"), and only if it does not look like a word.
- Of a named password only the value is the finding, so that a record still says what was there.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

_TOKEN = re.compile(
    r"(?<![A-Za-z0-9])(?:"
    r"(?:AKIA|ASIA)[A-Z0-9]{16}(?![A-Za-z0-9])"
    r"|gh[pousr]_[A-Za-z0-9]{36,255}|github_pat_\w{22,255}|glpat-[\w-]{20,255}"
    r"|xox[abeprs]-[A-Za-z0-9-]{10,255}"
    r"|[rs]k_(?:live|test)_[A-Za-z0-9]{16,255}|sk-[A-Za-z0-9_-]{20,255}"
    r"|AIza[\w-]{35}|ya29\.[\w-]{20,1024}"
    r"|hv[sbr]\.[\w-]{20,255}"
    r"|npm_[A-Za-z0-9]{36}|pypi-[\w-]{50,1024}"
    r"|SG\.[\w-]{16,64}\.[\w-]{16,128}"
    r"|eyJ[\w-]{8,4096}\.eyJ[\w-]{8,8192}\.[\w-]{8,2048}"
    r")"
)
_NAMED = re.compile(
    r"(?:password|passwd|passphrase|pwd|secret|api[_-]?key|access[_-]?key|auth[_-]?token"
    r"|access[_-]?token|refresh[_-]?token|session[_-]?token|credential)[\w-]{0,30}"
    r"[\"']?\s{0,3}[:=]\s{0,3}[\"']?(?P<value>[^\s\"'<>,;&]{6,512})",
    re.IGNORECASE,
)
_HEADER = re.compile(r"\b(?:bearer|basic)\s{1,3}(?P<value>[\w.~+/=-]{16,4096})", re.IGNORECASE)
_IN_URL = re.compile(r"://[^\s/:@]{1,128}:(?P<value>[^\s/@<>]{1,256})@")
_KEY_BEGIN = re.compile(r"-----BEGIN [A-Z0-9 ]{0,40}PRIVATE KEY-----")
_KEY_END = re.compile(r"-----END [A-Z0-9 ]{0,40}PRIVATE KEY-----")
_NOT_A_WORD = re.compile(r"[\d+/=_!@#$%^*]")


def find_secrets(text: str) -> Iterator[tuple[int, int]]:
    """Yield (start, end) of every key, token and password in `text`; spans may overlap."""
    end = 0
    for begin in _KEY_BEGIN.finditer(text):
        if begin.start() < end:
            continue
        close = _KEY_END.search(text, begin.end())
        # A key without an end was cut off: everything after its beginning belongs to it.
        end = len(text) if close is None else close.end()
        yield begin.start(), end
    for match in _TOKEN.finditer(text):
        yield match.span()
    for pattern in (_NAMED, _HEADER):
        for match in pattern.finditer(text):
            if _NOT_A_WORD.search(match["value"]):
                yield match.span("value")
    if "://" in text:
        for match in _IN_URL.finditer(text):
            yield match.span("value")

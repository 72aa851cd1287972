"""Where the value of each argument of a tool call came from.

Rules (no I/O):
- Every text the session has seen carries a label: what the user wrote, what a trusted tool
  returned, what a tool with ``untrusted_output`` returned.
- A value is looked for as a whole, after Unicode (NFKC), case and white-space normalisation, and
  only between word boundaries: "50" is not found in "1500".
- What stands in an untrusted text and nowhere else is ``untrusted``; what stands nowhere is
  ``model``. A value that the user wrote is ``user`` even if an untrusted text repeats it.
- An object or list is as trustworthy as its worst part. Booleans, nulls and empty values say
  nothing and are ``model``.
- The wording of a text never matters, only where it came from.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from mlflow_agent_plugin.entities import Provenance

_WORST_FIRST = (Provenance.UNTRUSTED, Provenance.MODEL, Provenance.TRUSTED, Provenance.USER)
_SEARCHED = (Provenance.USER, Provenance.TRUSTED, Provenance.UNTRUSTED)

LabelledText = tuple[Provenance, str]


def derive_provenance(arguments: Mapping[str, Any], seen: Sequence[LabelledText]) -> dict[str, str]:
    """Return for each argument the `Provenance` value of where it came from.

    Args:
        arguments: Arguments of one call, JSON values.
        seen: Every labelled text of the session so far.
    """
    texts = {
        label: " \n ".join(_normalise(text) for found, text in seen if found is label)
        for label in _SEARCHED
    }
    return {name: _of(value, texts).value for name, value in arguments.items()}


def _normalise(text: str) -> str:
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def _of(value: Any, texts: Mapping[Provenance, str]) -> Provenance:
    if isinstance(value, Mapping):
        return _worst(_of(part, texts) for part in value.values())
    if isinstance(value, list):
        return _worst(_of(part, texts) for part in value)
    if value is None or isinstance(value, bool):
        return Provenance.MODEL
    spellings = _spellings(value)
    for label in _SEARCHED:
        if any(_stands_in(needle, texts[label]) for needle in spellings):
            return label
    return Provenance.MODEL


def _worst(labels: Iterable[Provenance]) -> Provenance:
    found = set(labels)
    return next((label for label in _WORST_FIRST if label in found), Provenance.MODEL)


def _spellings(value: Any) -> set[str]:
    if isinstance(value, str):
        return {_normalise(value)} - {""}
    spellings = {json.dumps(value)}
    if isinstance(value, float) and value.is_integer():
        spellings.add(str(int(value)))
    if isinstance(value, (int, float)):
        spellings |= {f"{value:.2f}", f"{value:,}", f"{value:,.2f}"}
    return spellings


def _stands_in(needle: str, haystack: str) -> bool:
    start = haystack.find(needle)
    while start != -1:
        before, after = haystack[:start][-1:], haystack[start + len(needle) :][:1]
        if not (_joins(before, needle[0]) or _joins(needle[-1], after)):
            return True
        start = haystack.find(needle, start + 1)
    return False


def _joins(left: str, right: str) -> bool:
    return bool(re.fullmatch(r"\w\w", left + right))

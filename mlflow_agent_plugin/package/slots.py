"""Slots: the names a consumer loads a version by.

Rules:
- A slot is a stage (``Production``, ``Staging``) or an alias, written ``@champion``.
- A stage is the same slot in any spelling MLflow accepts (``production``, ``PRODUCTION``).
- An alias is the slot only in its exact spelling, but databases differ in what they take for equal
  (case, accents, width, trailing spaces): a spelling that any of them might take for a protected
  alias is a `twin` of it and refused, never written.
- ``latest`` and ``v3`` are not slots: they move with every registration.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass

from mlflow_agent_plugin.errors import RequestError

STAGES = ("Staging", "Production")
"""Stages that can be protected; ``None`` and ``Archived`` are where versions wait, not slots."""

ALIAS_PATTERN = re.compile(r"[\w\-]{1,255}")
_RESERVED = re.compile(r"latest|v\d+", re.IGNORECASE)


@dataclass(frozen=True)
class Slot:
    """A stage or an alias of one registered model.

    Attributes:
        name: Canonical stage name, or the alias without ``@``.
        is_alias: True for an alias.
    """

    name: str
    is_alias: bool

    def __str__(self) -> str:
        return f"@{self.name}" if self.is_alias else self.name

    @classmethod
    def parse(cls, text: object) -> Slot:
        """Read a slot as people write it.

        Raises:
            RequestError: It is neither a stage that can be protected nor an alias.
        """
        if isinstance(text, str) and text.startswith("@"):
            alias = text[1:]
            if ALIAS_PATTERN.fullmatch(alias) and not _RESERVED.fullmatch(alias):
                return cls(alias, is_alias=True)
            raise RequestError(
                f"{text[:80]!r} is not an alias that can be assigned",
                hint="Use letters, digits, _ and -, e.g. @champion.",
            )
        if isinstance(text, str):
            for stage in STAGES:
                if text.lower() == stage.lower():
                    return cls(stage, is_alias=False)
        raise RequestError(
            f"{str(text)[:80]!r} is not a slot",
            hint="Use Production, Staging or an alias written like @champion.",
        )

    def tag_key(self, prefix: str) -> str:
        """Return the tag key about this slot: ``agent.gate.Production``, ``agent.gate.alias.x``."""
        return f"{prefix}.alias.{self.name}" if self.is_alias else f"{prefix}.{self.name}"


def fold(text: str) -> str:
    """Return what the most forgiving database collation still tells apart in `text`."""
    decomposed = unicodedata.normalize("NFKD", text.strip())
    plain = "".join(letter for letter in decomposed if not unicodedata.combining(letter))
    return unicodedata.normalize("NFKD", plain.casefold()).strip()


def twins(a: str, b: str) -> bool:
    """Return True if two different spellings might be one name to some database."""
    return a != b and fold(a) == fold(b)

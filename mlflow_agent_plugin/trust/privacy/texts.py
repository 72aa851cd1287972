"""Applies one place's rules to a text, or to every text of a JSON value.

Rules:
- Of findings that overlap (a pattern's and Presidio's) the pattern's stays; the other keeps what is
  left of it.
- Keys of objects are texts too. A whole number is looked at only as a card number: amounts and
  times have as many digits.
- A value that is blocked takes its whole text with it; `block` is decided before anything else.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

from mlflow_agent_plugin.entities import PrivacyAction
from mlflow_agent_plugin.entities.sensitive import (
    DataClass,
    Finding,
    card_valid,
    find_sensitive,
    replace_findings,
)
from mlflow_agent_plugin.trust.privacy.rules import PlaceRules

Replace = Callable[[str, str], str]
"""Takes (data class, value), returns what stands in its place."""


class EntityFinder(Protocol):
    """Finds entity types that have no pattern of ours."""

    def find(self, text: str, entities: frozenset[str]) -> list[Finding]:
        """Return the findings of `entities`; raises rather than leaving a part unsearched."""
        ...


class BlockedTextError(Exception):
    """The text holds a value that must not pass.

    Attributes:
        data_classes: The classes found.
    """

    def __init__(self, data_classes: tuple[str, ...]) -> None:
        super().__init__(", ".join(data_classes))
        self.data_classes = data_classes


class RuledText:
    """One place's rules, ready to apply.

    Args:
        rules: What happens to which class.
        mask: Gives what stands for a masked value.
        digest: Gives the keyed hash of a value.
        finder: Finds further entity types; None if the rules name none.
    """

    def __init__(
        self,
        rules: PlaceRules,
        *,
        mask: Replace,
        digest: Replace,
        finder: EntityFinder | None = None,
    ) -> None:
        ours = {kind.value for kind in DataClass}
        self._actions = rules.actions
        self._patterns = frozenset(rules.classes & ours)
        self._entities = frozenset(rules.classes - ours)
        self._mask = mask
        self._digest = digest
        self._finder = finder

    @property
    def idle(self) -> bool:
        """Whether everything is allowed, so that nothing needs to be looked at."""
        return not self._actions

    def text(self, text: str, *, mask: Replace | None = None) -> str:
        """Return `text` as it may pass.

        Raises:
            BlockedTextError: It may not.
        """
        findings = self._find(text)
        if not findings:
            return text
        blocked = {f.data_class for f in findings if self._is(f, PrivacyAction.BLOCK)}
        if blocked:
            raise BlockedTextError(tuple(sorted(blocked)))
        masked = mask or self._mask

        def replaced(finding: Finding) -> str:
            how = self._digest if self._is(finding, PrivacyAction.HASH) else masked
            return how(finding.data_class, text[finding.start : finding.end])

        return replace_findings(text, findings, replaced)

    def value(self, value: Any, *, mask: Replace | None = None) -> Any:
        """Return a JSON value as it may pass; the same object if nothing is looked at.

        Raises:
            BlockedTextError: It may not.
        """
        if self.idle:
            return value
        if isinstance(value, str):
            return self.text(value, mask=mask)
        if isinstance(value, Mapping):
            return {
                self.value(key, mask=mask): self.value(part, mask=mask)
                for key, part in value.items()
            }
        if isinstance(value, (list, tuple)):
            return [self.value(part, mask=mask) for part in value]
        if isinstance(value, int) and not isinstance(value, bool) and value > 10**11:
            number = str(value) if value < 10**19 else ""
            if DataClass.CARD in self._patterns and card_valid(number):
                return self.text(number, mask=mask)
        return value

    def _find(self, text: str) -> list[Finding]:
        found = find_sensitive(text, self._patterns) if self._patterns else []
        if not self._entities or self._finder is None:
            return found
        for other in self._finder.find(text, self._entities):
            if all(other.end <= known.start or known.end <= other.start for known in found):
                found.append(other)
        return sorted(found, key=lambda finding: finding.start)

    def _is(self, finding: Finding, action: PrivacyAction) -> bool:
        return self._actions[finding.data_class] is action

"""What an agent's rules say about each data class at each place.

Rules (no I/O):
- What a manifest does not name falls back to its ``default`` at that place, then to: secrets are
  masked in messages and tool outputs; traces and audit mask everything but URLs; the rest is
  allowed.
- A place where everything is allowed is not searched.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mlflow_agent_plugin.entities import PrivacyAction, PrivacyPlace
from mlflow_agent_plugin.entities.sensitive import ALL_CLASSES, DataClass

if TYPE_CHECKING:
    from mlflow_agent_plugin.package import Manifest

_TO_THE_MODEL = (PrivacyPlace.INPUT, PrivacyPlace.TOOL_OUTPUT)
_RECORDS = (PrivacyPlace.TRACE, PrivacyPlace.AUDIT)


@dataclass(frozen=True)
class PlaceRules:
    """The rules of one place.

    Attributes:
        actions: Every data class that is not simply allowed, with what happens to it.
    """

    actions: Mapping[str, PrivacyAction]

    @property
    def classes(self) -> frozenset[str]:
        """The classes to look for."""
        return frozenset(self.actions)


def rules_of(manifest: Manifest) -> dict[PrivacyPlace, PlaceRules]:
    """Return the rules of every place."""
    spec = manifest.privacy
    entities = () if spec.presidio is None else tuple(spec.presidio.entities)
    rules: dict[PrivacyPlace, PlaceRules] = {}
    for place in PrivacyPlace:
        named: Mapping[str, PrivacyAction] = getattr(spec, place.value)
        actions = {
            kind: named.get(kind, named.get("default", _fallback(place, kind)))
            for kind in (*sorted(kind.value for kind in ALL_CLASSES), *entities)
        }
        rules[place] = PlaceRules(
            {kind: action for kind, action in actions.items() if action is not PrivacyAction.ALLOW}
        )
    return rules


def _fallback(place: PrivacyPlace, kind: str) -> PrivacyAction:
    if place in _RECORDS:
        return PrivacyAction.ALLOW if kind == DataClass.URL.value else PrivacyAction.MASK
    if place in _TO_THE_MODEL and kind == DataClass.SECRET.value:
        return PrivacyAction.MASK
    return PrivacyAction.ALLOW

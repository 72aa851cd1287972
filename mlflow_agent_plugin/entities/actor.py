"""Who asked."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Actor:
    """The person or service on whose behalf an agent acts, or who acts on the registry.

    Attributes:
        user: Stable name of the user; for a bank's customer, the customer id.
        tenant: The organisation whose data the user may see.
        roles: Role names, as policies and gate rules spell them.
        verified: True only if a credential was checked (token, login); never from user input.
    """

    user: str
    tenant: str = "default"
    roles: frozenset[str] = field(default_factory=frozenset)
    verified: bool = False

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-ready dictionary."""
        return {
            "user": self.user,
            "tenant": self.tenant,
            "roles": sorted(self.roles),
            "verified": self.verified,
        }


ANONYMOUS = Actor(user="anonymous")
"""Nobody in particular: unverified, without roles. Policies permit it by name or not at all."""

"""What a tool gets for its scopes, and only while its call runs.

Rules:
- The values are in one place, behind `Credential.reveal`; printing, formatting, comparing, copying,
  pickling or serialising the object gives none of them away.
- When the call has ended, or the credential has expired, `reveal` raises; a tool that ran into its
  time limit and goes on in its thread finds nothing any more.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any, NoReturn

from mlflow_agent_plugin.entities import Clock, utc_now
from mlflow_agent_plugin.errors import CredentialError
from mlflow_agent_plugin.trust.credentials.scrubbing import Scrubber


class Credential:
    """Secret values by scope, lent to one tool call.

    Args:
        values: Scope to the values lent for it, by name.
        tool: The tool it is lent to.
        scopes: Every scope of the tool's contract, with or without values.
        providers: Scope to the name of the source its values came from.
        expires_at: When the issuer stops accepting it; None if nobody said.
        clock: Source of time.

    Examples:
        >>> credential = Credential({"mail:send": {"value": "s3cret-key"}}, tool="send")
        >>> credential.reveal()
        's3cret-key'
        >>> credential
        Credential(tool='send', scopes=('mail:send',))
    """

    __slots__ = (
        "_clock",
        "_ended",
        "_providers",
        "_scopes",
        "_scrubber",
        "_tool",
        "_values",
        "expires_at",
    )

    def __init__(
        self,
        values: Mapping[str, Mapping[str, str]],
        *,
        tool: str,
        scopes: tuple[str, ...] | None = None,
        providers: Mapping[str, str] | None = None,
        expires_at: datetime | None = None,
        clock: Clock = utc_now,
    ) -> None:
        self._values = {scope: dict(found) for scope, found in values.items()}
        self._tool = tool
        self._scopes = tuple(values) if scopes is None else scopes
        self._providers = dict(providers or {})
        self.expires_at = expires_at
        self._clock = clock
        self._ended = False
        self._scrubber = Scrubber(v for found in self._values.values() for v in found.values())

    @property
    def scopes(self) -> tuple[str, ...]:
        """The scopes it was lent for."""
        return tuple(self._values)

    @property
    def providers(self) -> dict[str, str]:
        """Each scope it was lent for with the name of the source, "" if unknown: for the audit."""
        return {scope: self._providers.get(scope, "") for scope in self._values}

    def reveal(self, name: str | None = None, *, scope: str | None = None) -> str:
        """Return a secret value, to hand it to the system it is for.

        Args:
            name: Which value of the scope, e.g. ``aws_secret_access_key``; None: the only one.
            scope: Which scope; None: the only one.

        Raises:
            CredentialError: The call has ended, the credential expired, or there is no such value.
        """
        where = f"tool {self._tool}"
        if self._ended:
            raise CredentialError(
                "the credential was lent for a call that has ended",
                where=where,
                hint="Use it within the tool's function; every call gets its own.",
            )
        if self.expires_at is not None and self._clock() >= self.expires_at:
            raise CredentialError("the credential has expired", where=where)
        found = self._values[self._one(self._values, scope, "scope")]
        return found[self._one(found, name, "value")]

    def _one(self, known: Mapping[str, Any], wanted: str | None, what: str) -> str:
        if wanted is None and len(known) == 1:
            return next(iter(known))
        if wanted is not None and wanted in known:
            return wanted
        if what == "scope" and not known:
            asked = wanted or ", ".join(self._scopes) or "none"
            raise CredentialError(
                f"no credential is configured for scope {asked}",
                where=f"tool {self._tool}",
                hint="Name its source in the file MLFLOW_AGENTS_CREDENTIALS points to.",
            )
        problem = f"there is no {what} {wanted!r}" if wanted else f"there are several {what}s"
        raise CredentialError(
            problem, where=f"tool {self._tool}", hint=f"Ask for one of: {', '.join(sorted(known))}."
        )

    def end(self) -> None:
        """Forget the values; the scrubber is kept by those who need it."""
        self._ended = True
        for found in self._values.values():
            found.clear()

    @property
    def scrubber(self) -> Scrubber:
        """Takes the values out of what the tool says."""
        return self._scrubber

    def __repr__(self) -> str:
        """Name tool and scopes, never a value."""
        return f"Credential(tool={self._tool!r}, scopes={self.scopes!r})"

    __str__ = __repr__

    def __format__(self, spec: str) -> str:
        """As `repr`."""
        del spec
        return repr(self)

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        """Refuse to be copied or pickled."""
        del protocol
        raise TypeError("a credential is not copied, pickled or kept: it ends with its call")

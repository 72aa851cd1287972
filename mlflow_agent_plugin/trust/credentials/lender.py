"""Lends each tool call the secrets its contract's scopes ask for, and takes them back.

Rules:
- Every configured scope of the contract is issued before the tool starts; if one cannot be, the
  tool does not run, and what was already issued is revoked.
- A tool sees only the scopes of its own contract.
- When the call ends, however it ends, the credential forgets its values and the issuer is asked to
  revoke them. A failed revocation is logged without the secret and does not change the outcome.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

from mlflow_agent_plugin.entities import Clock, utc_now
from mlflow_agent_plugin.errors import CredentialError
from mlflow_agent_plugin.trust.credentials.credential import Credential
from mlflow_agent_plugin.trust.credentials.provider import (
    CredentialProvider,
    CredentialRequest,
    IssuedSecret,
)

if TYPE_CHECKING:
    from mlflow_agent_plugin.trust.call import GovernedCall

_logger = logging.getLogger(__name__)


class ScopedCredentials:
    """The `CredentialLender` of one agent.

    Args:
        providers: Source of each configured scope.
        clock: Source of time.
    """

    def __init__(
        self, providers: Mapping[str, CredentialProvider], *, clock: Clock = utc_now
    ) -> None:
        self._providers = providers
        self._clock = clock

    @contextmanager
    def lend(self, governed: GovernedCall) -> Iterator[Credential]:
        """Yield the call's credential.

        Raises:
            CredentialError: A configured scope's secret is missing, refused, or its source is away.
        """
        issued: dict[str, IssuedSecret] = {}
        try:
            for scope in governed.contract.scopes:
                if scope in self._providers and scope not in issued:
                    issued[scope] = self._issue(scope, governed)
            ends = [secret.expires_at for secret in issued.values() if secret.expires_at]
            credential = Credential(
                {scope: secret.values for scope, secret in issued.items()},
                tool=governed.contract.name,
                scopes=tuple(governed.contract.scopes),
                providers={scope: _name(self._providers[scope]) for scope in issued},
                expires_at=min(ends) if ends else None,
                clock=self._clock,
            )
            try:
                yield credential
            finally:
                credential.end()
        finally:
            for scope, secret in issued.items():
                _revoke(scope, secret)

    def _issue(self, scope: str, governed: GovernedCall) -> IssuedSecret:
        request = CredentialRequest(
            scope=scope,
            tool=governed.contract.name,
            agent=governed.agent,
            tenant=governed.actor.tenant,
            user=governed.actor.user,
            key=governed.key,
        )
        kind = ""
        try:
            return self._providers[scope].issue(request)
        except CredentialError:
            raise
        except Exception as error:  # noqa: BLE001 - a broken source is a no, and may hold a secret
            kind = type(error).__name__
        # Outside the handler: the original error, which may hold a secret, is not carried along.
        raise CredentialError(
            f"the source of the credential failed ({kind})", where=f"scope {scope}"
        )


def _name(provider: CredentialProvider) -> str:
    return str(getattr(provider, "name", type(provider).__name__))


def _revoke(scope: str, secret: IssuedSecret) -> None:
    if secret.revoke is None:
        return
    try:
        secret.revoke()
    except Exception as error:  # noqa: BLE001 - the call is over; its outcome stands
        _logger.warning(
            "The credential for scope %s could not be revoked (%s); it ends by itself",
            scope,
            type(error).__name__,
        )

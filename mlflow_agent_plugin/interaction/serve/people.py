"""Who sends a request: API keys, the plugin's own actor tokens, OpenID Connect.

Rules:
- A credential stands in ``Authorization: Bearer …`` and nowhere else; what the body says about
  identity is refused.
- An API key is 256 random bits; the file keeps its SHA-256 only, with user, tenant, roles and, if
  wanted, an end. The file is read again when it changes; one that cannot be read lets nobody in.
- Any other credential is a JWT: signed by a key trusted for actors, or by the OpenID Connect
  issuer, with asymmetric algorithms only.
- Whatever is wrong with a credential, the answer is 401: it never falls back to another identity.
"""

from __future__ import annotations

import hashlib
import secrets
import threading
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

import jwt
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError

from mlflow_agent_plugin.config import Settings
from mlflow_agent_plugin.entities import ANONYMOUS, Actor, Clock, utc_now
from mlflow_agent_plugin.errors import AgentError, ConfigError, IdentityError
from mlflow_agent_plugin.interaction.serve.settings import OidcSettings, ServeSettings
from mlflow_agent_plugin.package.reading import read_yaml
from mlflow_agent_plugin.trust import KeyPurpose, KeyStore, actor_from_token, parse_actor

PREFIX = "mak_"
"""What every API key begins with, so that scanners and people recognise one."""

ALGORITHMS = (
    "RS256",
    "RS384",
    "RS512",
    "PS256",
    "PS384",
    "PS512",
    "ES256",
    "ES384",
    "ES512",
    "EdDSA",
)
_HTTP_SECONDS = 5
_KEYS_LIVE_SECONDS = 300


class ApiKey(BaseModel):
    """One key of the file.

    Attributes:
        sha256: Of the key's text.
        actor: ``user@tenant`` or ``user@tenant:role,role``.
        expires: When it ends.
        note: For whoever keeps the file.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    actor: str
    expires: AwareDatetime | None = None
    note: str = ""


class KeyFile(BaseModel):
    """The file of API keys."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    keys: list[ApiKey]


def make_key() -> tuple[str, str]:
    """Return a new API key and what the file keeps of it."""
    key = f"{PREFIX}{secrets.token_urlsafe(32)}"
    return key, hashlib.sha256(key.encode()).hexdigest()


class Doorkeeper:
    """Turns the credential of a request into an actor.

    Args:
        settings: Which credentials are accepted.
        clock: The time they are judged at.

    Raises:
        ConfigError: Nobody could ever get in, or the file of keys makes no sense.
    """

    def __init__(self, settings: ServeSettings, *, clock: Clock = utc_now) -> None:
        self._anonymous = settings.anonymous
        self._clock = clock
        self._trusted = KeyStore(Settings.from_env().key_dir)
        self._keys = None if settings.keys is None else _Keys(Path(settings.keys))
        self._oidc = None if settings.oidc is None else _Oidc(settings.oidc)
        if self._keys is not None:
            self._keys.read()

    def identify(self, authorization: str | None) -> Actor:
        """Return who sent a request.

        Args:
            authorization: Its Authorization header.

        Raises:
            IdentityError: The credential is missing, malformed, forged or expired.
        """
        if authorization is None:
            if self._anonymous:
                return ANONYMOUS
            raise IdentityError("a credential is missing", hint="Send Authorization: Bearer ….")
        scheme, _, token = authorization.partition(" ")
        token = token.strip()
        if scheme.lower() != "bearer" or not token or len(token) > 16_384:
            raise IdentityError("the credential is not a bearer token")
        if token.startswith(PREFIX):
            return self._by_key(token)
        try:
            header = jwt.get_unverified_header(token)
        except jwt.PyJWTError as error:
            raise IdentityError("the credential is neither an API key nor a JWT") from error
        own = self._trusted.trusted_keys(KeyPurpose.ACTORS)
        if header.get("kid") in own or self._oidc is None:
            return actor_from_token(token, own, clock=self._clock)
        return self._oidc.actor(token)

    def _by_key(self, token: str) -> Actor:
        found = None if self._keys is None else self._keys.read().get(_digest(token))
        if found is None:
            raise IdentityError("the API key is not known")
        actor, expires = found
        if expires is not None and self._clock() >= expires:
            raise IdentityError("the API key has ended", hint="Get a new one.")
        return actor


def _digest(token: str) -> str:
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).hexdigest()


class _Keys:
    """The file of keys, as it is now."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._stamp: tuple[int, int] | None = None
        self._known: Mapping[str, tuple[Actor, datetime | None]] = {}

    def read(self) -> Mapping[str, tuple[Actor, datetime | None]]:
        with self._lock:
            try:
                state = self._path.stat()
            except OSError as error:
                raise ConfigError(
                    f"cannot be read: {error.strerror}", where=str(self._path)
                ) from error
            stamp = (state.st_mtime_ns, state.st_size)
            if stamp != self._stamp:
                self._known = _parse(self._path)
                self._stamp = stamp
            return self._known


def _parse(path: Path) -> dict[str, tuple[Actor, datetime | None]]:
    from dataclasses import replace

    try:
        file = KeyFile.model_validate(read_yaml(path).data)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise ConfigError(first["msg"], where=f"{path}: {where}") from error
    except AgentError as error:
        raise ConfigError(error.problem, where=error.where, hint=error.hint) from error
    known = {}
    for key in file.keys:
        # The file is the operator's word for who holds the key: that is a checked credential.
        known[key.sha256] = (replace(parse_actor(key.actor), verified=True), key.expires)
    return known


class _Oidc:
    """Tokens of one OpenID Connect issuer."""

    def __init__(self, settings: OidcSettings) -> None:
        self._settings = settings
        self._lock = threading.Lock()
        self._client: jwt.PyJWKClient | None = None

    def actor(self, token: str) -> Actor:
        wanted = self._settings
        try:
            key = self._jwks().get_signing_key_from_jwt(token)
            claims = jwt.decode(
                token,
                key,
                algorithms=list(ALGORITHMS),
                issuer=wanted.issuer,
                audience=wanted.audience,
                leeway=30,
                options={"require": ["iss", "aud", "exp", "iat"]},
            )
        except (jwt.PyJWTError, OSError, ValueError) as error:
            raise IdentityError(f"the token is refused: {type(error).__name__}") from error
        user, tenant = (_claim(claims, name) for name in (wanted.user_claim, wanted.tenant_claim))
        roles = _claim(claims, wanted.roles_claim) or []
        if not isinstance(roles, list):
            raise IdentityError(f"the token's {wanted.roles_claim} is not a list")
        try:
            named = parse_actor(
                f"{user}@{tenant}" + (f":{','.join(map(str, roles))}" if roles else "")
            )
        except ConfigError as error:
            raise IdentityError(
                f"the token's {wanted.user_claim}, {wanted.tenant_claim} or {wanted.roles_claim} "
                "cannot be used"
            ) from error
        if not isinstance(user, str) or not isinstance(tenant, str) or "@" in tenant:
            raise IdentityError(f"the token lacks {wanted.user_claim} or {wanted.tenant_claim}")
        return Actor(user=user, tenant=tenant, roles=named.roles, verified=True)

    def _jwks(self) -> jwt.PyJWKClient:
        import requests

        with self._lock:
            if self._client is None:
                url = f"{self._settings.issuer.rstrip('/')}/.well-known/openid-configuration"
                try:
                    found = requests.get(url, timeout=_HTTP_SECONDS)
                    found.raise_for_status()
                    address = str(found.json()["jwks_uri"])
                except (requests.RequestException, ValueError, KeyError, TypeError) as error:
                    raise IdentityError("the token's issuer cannot be asked now") from error
                self._client = jwt.PyJWKClient(
                    address, cache_keys=True, lifespan=_KEYS_LIVE_SECONDS, timeout=_HTTP_SECONDS
                )
            return self._client


def _claim(claims: Mapping[str, Any], path: str) -> Any:
    found: Any = claims
    if path in claims:
        return claims[path]
    for part in path.split("."):
        if not isinstance(found, Mapping):
            return None
        found = found.get(part)
    return found

"""Who asked: actors from signed tokens, from settings, from the operating system.

Rules:
- Only a checked credential makes an actor verified. A name from a setting, the operating system or
  a request's text never does.
- A token is a JWT signed with Ed25519 (``alg: EdDSA``, no other), by a key that is trusted by its
  id (``kid``), for this audience, by this issuer, not expired, not from the future; 30 seconds of
  leeway for clocks. It names user, tenant and roles.
- Whatever is wrong with a token, the request is refused: it never falls back to another identity.
- Nobody at all is `ANONYMOUS`: unverified, without roles.
"""

from __future__ import annotations

import getpass
import re
from collections.abc import Mapping
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from mlflow_agent_plugin.config import Settings
from mlflow_agent_plugin.entities import ANONYMOUS, Actor, Clock, utc_now
from mlflow_agent_plugin.errors import ConfigError, IdentityError
from mlflow_agent_plugin.trust.keys import SigningKey

ISSUER = "mlflow-agents"
AUDIENCE = "mlflow-agents"
LEEWAY_SECONDS = 30
MAX_TOKEN_CHARS = 8192
MAX_NAME_CHARS = 256
MAX_ROLES = 64

_ROLE = re.compile(r"^[A-Za-z][A-Za-z0-9_-]{0,127}$")


def local_actor(settings: Settings | None = None) -> Actor:
    """Return who runs this process: ``MLFLOW_AGENTS_ACTOR``, else the OS user; never verified.

    Raises:
        ConfigError: ``MLFLOW_AGENTS_ACTOR`` does not read ``user[@tenant][:role,role]``.
    """
    text = (settings or Settings.from_env()).actor
    if text is not None:
        return parse_actor(text)
    try:
        user = getpass.getuser()
    except (KeyError, OSError, ImportError):
        # A container may run under a number without a name.
        return ANONYMOUS
    return Actor(user=user) if _is_name(user) else ANONYMOUS


def parse_actor(text: str) -> Actor:
    """Read ``user``, ``user@tenant`` or ``user@tenant:role,role`` as an unverified actor.

    The tenant follows the last ``@``: a user may be an e-mail address when a tenant is given.

    Raises:
        ConfigError: A part is empty or holds characters no name has.
    """
    where = "MLFLOW_AGENTS_ACTOR"
    hint = "Write user, user@tenant or user@tenant:role,role"
    who, colon, role_text = text.partition(":")
    user, at, tenant = who.rpartition("@") if "@" in who else (who, "", "default")
    for part, name in ((user, "user"), (tenant, "tenant")):
        if not _is_name(part):
            raise ConfigError(f"{text!r} has no usable {name}", where=where, hint=hint)
    if colon and not at:
        raise ConfigError(f"{text!r} gives roles without a tenant", where=where, hint=hint)
    roles = role_text.split(",") if colon else []
    bad = [role for role in roles if not _ROLE.match(role)]
    if bad:
        raise ConfigError(f"{bad[0]!r} is not a role name", where=where, hint=hint)
    return Actor(user=user, tenant=tenant, roles=frozenset(roles))


def issue_token(actor: Actor, key: SigningKey, ttl_seconds: int, *, clock: Clock = utc_now) -> str:
    """Sign a token that makes its bearer `actor` for `ttl_seconds`.

    Raises:
        IdentityError: The actor's names cannot stand in a token, or the lifetime is not positive.
    """
    if ttl_seconds <= 0:
        raise IdentityError("a token needs a positive lifetime", where="ttl_seconds")
    now = int(clock().timestamp())
    claims = {
        "iss": ISSUER,
        "aud": AUDIENCE,
        "sub": actor.user,
        "tenant": actor.tenant,
        "roles": sorted(actor.roles),
        "iat": now,
        "exp": now + ttl_seconds,
    }
    _actor(claims)
    return jwt.encode(claims, key.private_key, algorithm="EdDSA", headers={"kid": key.key_id})


def actor_from_token(
    token: str, public_keys: Mapping[str, Ed25519PublicKey], *, clock: Clock = utc_now
) -> Actor:
    """Return the verified actor a token names.

    Args:
        token: The JWT.
        public_keys: Keys that may sign actor tokens, by key id: `KeyStore.trusted_keys` for
            `KeyPurpose.ACTORS`.
        clock: Time the token is judged at.

    Raises:
        IdentityError: It is malformed, forged, expired, from the future, or for somebody else.
    """
    if not isinstance(token, str) or not 0 < len(token) <= MAX_TOKEN_CHARS:
        raise IdentityError(f"a token is text of at most {MAX_TOKEN_CHARS} characters")
    try:
        key_id = jwt.get_unverified_header(token).get("kid")
    except jwt.PyJWTError as error:
        raise IdentityError("the actor token is not a JWT") from error
    key = public_keys.get(key_id) if isinstance(key_id, str) else None
    if key is None:
        raise IdentityError(
            "the actor token is signed by a key that is not trusted",
            hint="Put the issuer's public key into trusted/actors of the key folder.",
        )
    try:
        claims = jwt.decode(
            token,
            key,
            algorithms=["EdDSA"],
            issuer=ISSUER,
            audience=AUDIENCE,
            # Times are checked below, against the clock that was passed in.
            options={
                "require": ["iss", "aud", "sub", "tenant", "iat", "exp"],
                "verify_exp": False,
                "verify_iat": False,
                "verify_nbf": False,
            },
        )
    except (jwt.PyJWTError, ValueError, TypeError, RecursionError) as error:
        raise IdentityError(f"the actor token is refused: {error}") from error
    now = clock().timestamp()
    if now >= _time(claims, "exp") + LEEWAY_SECONDS:
        raise IdentityError("the actor token has expired", hint="Get a new one.")
    if any(now < _time(claims, name) - LEEWAY_SECONDS for name in ("iat", "nbf") if name in claims):
        raise IdentityError("the actor token is not valid yet")
    return _actor(claims)


def _time(claims: Mapping[str, Any], name: str) -> int:
    value = claims[name]
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 2**40:
        raise IdentityError(f"the actor token's {name} is not a time")
    return value


def _actor(claims: Mapping[str, Any]) -> Actor:
    user, tenant, roles = claims["sub"], claims["tenant"], claims.get("roles", [])
    if not _is_name(user) or not _is_name(tenant):
        raise IdentityError("the actor token names no usable user or tenant")
    usable = isinstance(roles, list) and len(roles) <= MAX_ROLES
    if not usable or not all(isinstance(role, str) and _ROLE.match(role) for role in roles):
        raise IdentityError("the actor token's roles are not a list of role names")
    return Actor(user=user, tenant=tenant, roles=frozenset(roles), verified=True)


def _is_name(value: object) -> bool:
    return (
        isinstance(value, str)
        and 0 < len(value) <= MAX_NAME_CHARS
        and value == value.strip()
        and value.isprintable()
    )

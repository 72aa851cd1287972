"""An actor is verified only by a token that fits in every respect."""

from __future__ import annotations

import base64
import json

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from hypothesis import given
from hypothesis import strategies as st

from mlflow_agent_plugin.config import Settings
from mlflow_agent_plugin.entities import ANONYMOUS, Actor
from mlflow_agent_plugin.errors import ConfigError, IdentityError
from mlflow_agent_plugin.trust.identity import (
    actor_from_token,
    issue_token,
    local_actor,
    parse_actor,
)
from mlflow_agent_plugin.trust.keys import SigningKey, public_pem

EVE = Actor("eve", "bank", frozenset({"customer", "vip"}), verified=True)
KEY = SigningKey.generate()
TRUSTED = {KEY.key_id: KEY.public_key}


@pytest.fixture
def token(clock):
    """Make a token with some claims or header fields changed; None removes one."""

    def make(*, key=KEY, algorithm="EdDSA", headers=None, **changes):
        now = int(clock().timestamp())
        claims = {
            "iss": "mlflow-agents", "aud": "mlflow-agents", "sub": "eve", "tenant": "bank",
            "roles": ["customer", "vip"], "iat": now, "exp": now + 60,
        }  # fmt: skip
        claims = {k: v for k, v in {**claims, **changes}.items() if v is not None}
        signer = key.private_key if isinstance(key, SigningKey) else key
        headers = {"kid": KEY.key_id} if headers is None else headers
        return jwt.encode(claims, signer, algorithm=algorithm, headers=headers)

    return make


def refused(token, clock, keys=TRUSTED):
    with pytest.raises(IdentityError) as caught:
        actor_from_token(token, keys, clock=clock)
    assert caught.value.error_code == "UNAUTHENTICATED"
    return str(caught.value)


def test_a_token_names_its_actor_verified(clock, token):
    assert actor_from_token(token(), TRUSTED, clock=clock) == EVE


def test_an_issued_token_gives_the_actor_back(clock):
    unverified = Actor("eve", "bank", EVE.roles)
    assert (
        actor_from_token(issue_token(unverified, KEY, 60, clock=clock), TRUSTED, clock=clock) == EVE
    )


@pytest.mark.parametrize("text", ["", "x", "a.b.c", "é.é.é", "..", "x" * 8193, None, 7, b"x"])
def test_what_is_no_token_is_refused(clock, text):
    refused(text, clock)


def test_a_token_without_signature_is_refused(clock, token):
    claims = token().split(".")[1]
    header = base64.urlsafe_b64encode(
        json.dumps({"alg": "none", "kid": KEY.key_id}).encode()
    ).decode()
    refused(f"{header.rstrip('=')}.{claims}.", clock)


def test_a_token_signed_with_the_public_key_as_a_shared_secret_is_refused(clock):
    """The classic confusion of algorithms."""
    header = {"alg": "HS256", "typ": "JWT", "kid": KEY.key_id}
    forged = jwt.encode({"sub": "eve"}, "x" * 32, algorithm="HS256", headers=header)
    message = forged.rsplit(".", 1)[0].encode()
    import hashlib
    import hmac

    mac = hmac.new(public_pem(KEY.public_key), message, hashlib.sha256).digest()
    refused(f"{message.decode()}.{base64.urlsafe_b64encode(mac).decode().rstrip('=')}", clock)


def test_a_token_of_another_algorithm_is_refused(clock, token):
    other = rsa.generate_private_key(65537, 2048)
    refused(token(key=other, algorithm="RS256"), clock)
    refused(token(key="x" * 32, algorithm="HS256"), clock)


def test_a_token_of_an_unknown_key_or_without_key_id_is_refused(clock, token):
    assert "not trusted" in refused(token(), clock, keys={})
    assert "not trusted" in refused(token(headers={}), clock)
    assert "not trusted" in refused(token(headers={"kid": "f" * 64}), clock)


def test_a_token_that_claims_the_id_of_a_trusted_key_is_refused(clock, token):
    refused(token(key=SigningKey.generate()), clock)


@pytest.mark.parametrize(
    "changes",
    [
        {"iss": "somebody"}, {"iss": None}, {"aud": "another-service"}, {"aud": None},
        {"aud": ["a", "b"]}, {"sub": None}, {"sub": ""}, {"sub": " eve"}, {"sub": "e\x00ve"},
        {"sub": "x" * 257}, {"tenant": None}, {"tenant": ""}, {"tenant": 7},
        {"exp": None}, {"iat": None}, {"exp": "tomorrow"}, {"exp": True},
        {"iat": -1}, {"nbf": "now"}, {"roles": "admin"}, {"roles": ["ad min"]}, {"roles": [7]},
        {"roles": {"admin": 1}}, {"roles": ["r"] * 65},
    ],
    ids=str,
)  # fmt: skip
def test_a_token_with_one_wrong_claim_is_refused(clock, token, changes):
    refused(token(**changes), clock)


def test_a_token_ends_with_its_time_and_little_leeway(clock, token):
    made = token()
    clock.advance(60 + 29)
    assert actor_from_token(made, TRUSTED, clock=clock) == EVE
    clock.advance(1)
    assert "expired" in refused(made, clock)


@pytest.mark.parametrize("claim", ["iat", "nbf"])
def test_a_token_from_the_future_is_refused_beyond_the_leeway(clock, token, claim):
    now = int(clock().timestamp())
    assert actor_from_token(token(**{claim: now + 30}), TRUSTED, clock=clock) == EVE
    assert "not valid yet" in refused(token(**{claim: now + 31}), clock)


@given(position=st.integers(min_value=0), flip=st.integers(min_value=1, max_value=255))
def test_a_token_with_any_changed_byte_never_names_another_actor(position, flip):
    made = bytearray(issue_token(EVE, KEY, 60).encode())
    made[position % len(made)] ^= flip
    try:
        text = made.decode()
    except UnicodeDecodeError:
        return
    try:
        actor = actor_from_token(text, TRUSTED)
    except IdentityError:
        return
    assert actor == EVE  # base64's unused bits: the same signature, spelled otherwise


@pytest.mark.parametrize("ttl", [0, -1])
def test_a_token_without_lifetime_is_not_issued(ttl):
    with pytest.raises(IdentityError):
        issue_token(EVE, KEY, ttl)


@pytest.mark.parametrize("actor", [Actor(""), Actor("a", ""), Actor("a", "b", frozenset({"x y"}))])
def test_an_actor_without_usable_names_gets_no_token(actor):
    with pytest.raises(IdentityError):
        issue_token(actor, KEY, 60)


@pytest.mark.parametrize(
    ("text", "actor"),
    [
        ("eve", Actor("eve")),
        ("eve@bank", Actor("eve", "bank")),
        ("eve@bank:clerk", Actor("eve", "bank", frozenset({"clerk"}))),
        ("eve@bank:clerk,lead", Actor("eve", "bank", frozenset({"clerk", "lead"}))),
        ("eve@mail.org@bank", Actor("eve@mail.org", "bank")),
    ],
)
def test_a_setting_names_an_actor_who_is_not_verified(text, actor):
    assert local_actor(Settings(actor=text)) == actor
    assert not parse_actor(text).verified


@pytest.mark.parametrize(
    "text",
    ["", "@", "@bank", "eve@", " eve", "eve @bank", "eve\n", "eve:clerk", "eve@bank:", "eve@b:,",
     "eve@bank:cl erk", "eve@bank:clerk,", "x" * 257],
)  # fmt: skip
def test_a_setting_that_names_nobody_is_a_config_error_that_shows_the_form(text):
    with pytest.raises(ConfigError, match=r"MLFLOW_AGENTS_ACTOR.*user@tenant:role,role"):
        parse_actor(text)


def test_without_a_setting_the_actor_is_the_os_user(monkeypatch):
    monkeypatch.setenv("LOGNAME", "carol")
    assert local_actor() == Actor("carol")


def test_a_process_without_user_name_is_anonymous(monkeypatch):
    monkeypatch.setattr("getpass.getuser", lambda: (_ for _ in ()).throw(OSError("no name")))
    assert local_actor(Settings()) == ANONYMOUS

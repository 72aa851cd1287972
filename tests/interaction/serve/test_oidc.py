"""Tokens of an OpenID Connect issuer: a real HTTP issuer with real keys."""

from __future__ import annotations

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from helpers.issuer import Issuer

from mlflow_agent_plugin.errors import IdentityError
from mlflow_agent_plugin.interaction.serve.people import Doorkeeper
from mlflow_agent_plugin.interaction.serve.settings import OidcSettings, ServeSettings


@pytest.fixture(scope="module")
def issuer():
    made = Issuer()
    yield made
    made.close()


@pytest.fixture
def door(issuer):
    oidc = OidcSettings(issuer=issuer.url, audience="agents", tenant_claim="org",
                        roles_claim="realm.roles")  # fmt: skip
    return Doorkeeper(ServeSettings(agents={"a": "models:/a/1"}, oidc=oidc))


def test_a_token_of_the_issuer_is_its_verified_actor(door, issuer):
    actor = door.identify(f"Bearer {issuer.token()}")
    assert (actor.user, actor.tenant, sorted(actor.roles), actor.verified) == (
        "ann", "home", ["warden"], True,
    )  # fmt: skip


def test_an_e_mail_address_is_a_user_name(door, issuer):
    assert door.identify(f"Bearer {issuer.token(sub='ann@example.com')}").user == "ann@example.com"


@pytest.mark.parametrize(
    "changes",
    [
        {"iss": "https://elsewhere.example"}, {"aud": "others"}, {"exp": 1}, {"exp": None},
        {"iat": None}, {"org": None}, {"org": "a@b"}, {"org": ""}, {"sub": None}, {"sub": ""},
        {"sub": 7}, {"realm": {"roles": "warden"}}, {"realm": {"roles": ["not a role"]}},
        {"nbf": 2**33},
    ],
)  # fmt: skip
def test_a_token_with_a_wrong_claim_is_refused(door, issuer, changes):
    with pytest.raises(IdentityError):
        door.identify(f"Bearer {issuer.token(**changes)}")


def test_a_forged_token_is_refused(door, issuer):
    other = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    unsigned = jwt.encode(jwt.decode(issuer.token(), options={"verify_signature": False}), None,
                          algorithm="none", headers={"kid": "k1"})  # fmt: skip
    forged = [issuer.token(key=other), issuer.token(kid="k2"), unsigned,
              issuer.token(key="s" * 40, algorithm="HS256")]  # fmt: skip
    for token in forged:
        with pytest.raises(IdentityError):
            door.identify(f"Bearer {token}")


def test_an_issuer_that_does_not_answer_lets_nobody_in(issuer):
    oidc = OidcSettings(issuer="http://127.0.0.1:9", audience="agents", tenant_claim="org")
    door = Doorkeeper(ServeSettings(agents={"a": "models:/a/1"}, oidc=oidc))
    with pytest.raises(IdentityError, match="cannot be asked"):
        door.identify(f"Bearer {issuer.token(iss='http://127.0.0.1:9')}")

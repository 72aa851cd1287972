"""Vault, against a real server (OpenBao) and, for dynamic secrets, a real PostgreSQL."""

import hvac
import psycopg
import pytest
from helpers.vault_server import vault_server

from mlflow_agent_plugin.errors import CredentialError
from mlflow_agent_plugin.trust.credentials import CredentialRequest
from mlflow_agent_plugin.trust.credentials.vault import VaultLogin, VaultProvider

pytestmark = pytest.mark.integration

REQUEST = CredentialRequest(
    scope="orders:read", tool="find", agent="shop", tenant="acme", user="ann", key="s1:c1"
)


@pytest.fixture(scope="module")
def vault():
    """Start a server with one secret, one AppRole and its secret id; gives (url, client)."""
    with vault_server() as (url, token):
        client = hvac.Client(url=url, token=token)
        client.secrets.kv.v2.create_or_update_secret(
            path="shop/acme", secret={"user": "u", "password": "p-123456"}
        )
        client.sys.create_or_update_policy(
            "shop",
            'path "secret/data/shop/*" { capabilities = ["read"] }\n'
            'path "database/creds/*" { capabilities = ["read"] }\n'
            'path "sys/leases/revoke" { capabilities = ["update"] }',
        )
        client.sys.enable_auth_method("approle")
        client.auth.approle.create_or_update_approle(
            "shop", token_policies=["shop"], token_ttl="10m"
        )
        yield url, client


@pytest.fixture
def approle(vault, tmp_path):
    """Log in as the process would: by role id and a file with the secret id."""
    _, client = vault
    role_id = client.auth.approle.read_role_id("shop")["data"]["role_id"]
    secret_id = client.auth.approle.generate_secret_id("shop")["data"]["secret_id"]
    (tmp_path / "secret-id").write_text(secret_id + "\n")
    return VaultLogin(role_id=role_id, secret_id_file=str(tmp_path / "secret-id"))


def accessors(client):
    return set(client.list("auth/token/accessors")["data"]["keys"])


def test_a_stored_secret_is_read_and_its_login_revoked(vault, approle):
    url, client = vault
    before = accessors(client)
    issued = VaultProvider(url, "shop/{tenant}", login=approle).issue(REQUEST)
    assert dict(issued.values) == {"user": "u", "password": "p-123456"}
    assert len(accessors(client) - before) == 1
    issued.revoke()
    assert accessors(client) == before


def test_a_token_file_works_and_its_token_is_left_alone(vault, tmp_path):
    url, client = vault
    (tmp_path / "token").write_text(client.token)
    login = VaultLogin(token_file=str(tmp_path / "token"))
    issued = VaultProvider(url, "shop/acme", login=login).issue(REQUEST)
    assert issued.values["password"] == "p-123456"
    assert issued.revoke is None


@pytest.mark.parametrize("path", ["shop/nothing", "other/acme"])
def test_a_secret_that_is_missing_or_forbidden_is_a_no_and_leaves_no_login(vault, approle, path):
    url, client = vault
    before = accessors(client)
    with pytest.raises(CredentialError, match=r"InvalidPath|Forbidden") as caught:
        VaultProvider(url, path, login=approle).issue(REQUEST)
    assert caught.value.__context__ is None
    assert accessors(client) == before


def test_a_wrong_secret_id_is_a_no_that_does_not_repeat_it(vault, approle, tmp_path):
    (tmp_path / "secret-id").write_text("wrong-secret-id")
    with pytest.raises(CredentialError, match="refused") as caught:
        VaultProvider(vault[0], "shop/acme", login=approle).issue(REQUEST)
    assert "wrong-secret-id" not in repr(caught.value)


def test_a_missing_login_file_is_a_no(vault):
    with pytest.raises(CredentialError, match="missing"):
        VaultProvider(vault[0], "shop/acme", login=VaultLogin(token_file="/nowhere")).issue(REQUEST)


def test_vault_that_is_away_is_a_no(approle):
    with pytest.raises(CredentialError, match="cannot be asked"):
        VaultProvider("http://127.0.0.1:9", "shop/acme", login=approle).issue(REQUEST)


def test_a_database_login_made_for_the_call_ends_with_it(vault, approle, postgres_uri):
    url, client = vault
    client.sys.enable_secrets_engine("database")
    address = postgres_uri.partition("@")[2]
    password = postgres_uri.partition("@")[0].rpartition(":")[2]
    client.secrets.database.configure(
        name="orders",
        plugin_name="postgresql-database-plugin",
        allowed_roles="*",
        connection_url=f"postgresql://{{{{username}}}}:{{{{password}}}}@{address}",
        username="agents",
        password=password,
    )
    client.secrets.database.create_role(
        name="reader",
        db_name="orders",
        creation_statements=[
            "CREATE ROLE \"{{name}}\" LOGIN PASSWORD '{{password}}' VALID UNTIL '{{expiration}}'"
        ],
        default_ttl="5m",
    )
    provider = VaultProvider(url, "database/creds/reader", mount=None, login=approle)
    issued = provider.issue(REQUEST)
    login = {"user": issued.values["username"], "password": issued.values["password"]}
    with psycopg.connect(f"postgresql://{address}", **login) as connection:
        assert connection.execute("select current_user").fetchone() == (login["user"],)
    assert issued.expires_at is not None
    issued.revoke()
    with pytest.raises(psycopg.OperationalError):
        psycopg.connect(f"postgresql://{address}", **login)

"""Secrets Manager and STS, against moto's server over HTTP. It checks no signatures or policies."""

import json
import logging
from datetime import datetime, timedelta, timezone

import boto3
import pytest

from mlflow_agent_plugin.errors import CredentialError
from mlflow_agent_plugin.trust.credentials import CredentialRequest
from mlflow_agent_plugin.trust.credentials.aws import AssumeRoleProvider, SecretsManagerProvider

REQUEST = CredentialRequest(
    scope="orders:read", tool="find", agent="shop", tenant="acme", user="ann", key="s 1/ü:c1"
)
ROLE = "arn:aws:iam::123456789012:role/agent-{tenant}"


@pytest.fixture(scope="module")
def endpoint():
    """Run moto's server once for this file."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture(autouse=True)
def identity(monkeypatch):
    for name, value in {
        "AWS_ACCESS_KEY_ID": "testing",
        "AWS_SECRET_ACCESS_KEY": "testing",
        "AWS_DEFAULT_REGION": "eu-west-1",
        "AWS_EC2_METADATA_DISABLED": "true",
    }.items():
        monkeypatch.setenv(name, value)


@pytest.fixture
def stored(endpoint, request):
    """Return a function that stores a secret and gives the provider that reads it."""
    client = boto3.client("secretsmanager", endpoint_url=endpoint)

    def store(text, **more):
        name = f"{request.node.name}/acme"
        client.create_secret(Name=name, SecretString=text)
        secret_id = f"{request.node.name}/{{tenant}}"
        return SecretsManagerProvider(secret_id, endpoint_url=endpoint, **more)

    return store


def test_a_stored_text_is_one_value(stored):
    assert dict(stored("s3cret-text").issue(REQUEST).values) == {"value": "s3cret-text"}


def test_a_stored_object_gives_its_fields_or_one_of_them(stored):
    provider = stored(json.dumps({"username": "u", "password": "p-123456"}))
    assert dict(provider.issue(REQUEST).values) == {"username": "u", "password": "p-123456"}


def test_one_field_of_a_stored_object(stored):
    provider = stored(json.dumps({"username": "u", "password": "p-123456"}), key="password")
    assert dict(provider.issue(REQUEST).values) == {"value": "p-123456"}


def test_a_field_that_is_not_there_is_refused_without_the_secret(stored):
    with pytest.raises(CredentialError, match="no field 'nope'") as caught:
        stored(json.dumps({"password": "p-123456"}), key="nope").issue(REQUEST)
    assert "p-123456" not in str(caught.value)


def test_a_secret_that_is_not_there_is_refused(endpoint):
    with pytest.raises(CredentialError, match="ResourceNotFoundException"):
        SecretsManagerProvider("nothing/here", endpoint_url=endpoint).issue(REQUEST)


def test_another_tenants_secret_is_not_found(stored):
    other = CredentialRequest(**{**vars(REQUEST), "tenant": "evil"})
    with pytest.raises(CredentialError, match="ResourceNotFoundException"):
        stored("s3cret-text").issue(other)


def test_aws_that_is_away_is_a_clear_no():
    with pytest.raises(CredentialError, match="cannot be asked") as caught:
        SecretsManagerProvider("x", endpoint_url="http://127.0.0.1:9").issue(REQUEST)
    assert caught.value.__context__ is None


def test_a_machine_without_aws_identity_is_a_clear_no(endpoint, monkeypatch, tmp_path):
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    with pytest.raises(CredentialError, match="NoCredentialsError"):
        SecretsManagerProvider("x", endpoint_url=endpoint).issue(REQUEST)


def test_a_role_is_assumed_for_the_call_with_its_session_policy(endpoint, monkeypatch):
    sent = []
    provider = AssumeRoleProvider(
        ROLE,
        session_policy={"Statement": [{"Resource": "arn:aws:s3:::orders/{tenant}/*"}]},
        endpoint_url=endpoint,
    )
    provider.issue(REQUEST)
    provider._client._made.meta.events.register(
        "provide-client-params.sts.AssumeRole", lambda params, **_: sent.append(dict(params))
    )
    issued = provider.issue(REQUEST)
    assert set(issued.values) == {
        "aws_access_key_id", "aws_secret_access_key", "aws_session_token",
    }  # fmt: skip
    now = datetime.now(timezone.utc)
    assert now + timedelta(seconds=800) < issued.expires_at < now + timedelta(seconds=1000)
    assert sent == [
        {
            "RoleArn": "arn:aws:iam::123456789012:role/agent-acme",
            "RoleSessionName": "shop-s-1---c1",
            "DurationSeconds": 900,
            "Policy": '{"Statement":[{"Resource":"arn:aws:s3:::orders/acme/*"}]}',
        }
    ]
    caller = boto3.client("sts", endpoint_url=endpoint, **issued.values).get_caller_identity()
    assert caller["Arn"].endswith("assumed-role/agent-acme/shop-s-1---c1")


def test_a_debug_log_of_the_whole_process_holds_no_secret(stored, caplog):
    caplog.set_level(logging.DEBUG)
    provider = stored("s3cret-text")
    caplog.clear()
    provider.issue(REQUEST)
    assert "s3cret-text" not in caplog.text

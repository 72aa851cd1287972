"""Which scope gets its secret from where; and that nothing else does."""

import pytest

from mlflow_agent_plugin.errors import ConfigError, CredentialError
from mlflow_agent_plugin.trust.credentials import (
    CredentialRequest,
    FileProvider,
    open_providers,
    read_sources,
)
from mlflow_agent_plugin.trust.credentials.placeholders import fill


def request(**more):
    facts = {"scope": "s", "tool": "t", "agent": "shop", "tenant": "acme", "user": "ann"}
    return CredentialRequest(**{**facts, "key": "s1:c1", **more})


@pytest.fixture
def sources(tmp_path):
    def read(text):
        path = tmp_path / "credentials.yaml"
        path.write_text(f"apiVersion: mlflow-agents/v1\ncredentials:\n{text}")
        return read_sources(path)

    return read


def test_a_listed_scope_has_its_source(sources, tmp_path, monkeypatch):
    (tmp_path / "mail").write_text("from-file\n")
    (tmp_path / "mail").chmod(0o600)
    monkeypatch.setenv("ORDERS_TOKEN", "from-variable")
    found = open_providers(
        sources(
            '  - {scope: "orders:read", provider: environment, variable: ORDERS_TOKEN}\n'
            f'  - {{scope: "mail:send", provider: file, path: "{tmp_path}/mail"}}\n'
        ),
        ["orders:read", "mail:send", "other"],
    )
    assert {scope: dict(p.issue(request()).values) for scope, p in found.items()} == {
        "orders:read": {"value": "from-variable"},
        "mail:send": {"value": "from-file"},
    }


def test_an_unlisted_scope_may_have_its_variable(monkeypatch):
    monkeypatch.setenv("MLFLOW_AGENTS_CREDENTIAL_ORDERS_READ", "abc123")
    found = open_providers(None, ["orders:read", "orders:write"])
    assert list(found) == ["orders:read"]
    assert found["orders:read"].issue(request()).values == {"value": "abc123"}


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("  - {scope: a, provider: nowhere}\n", "provider"),
        ("  - {scope: a, provider: file}\n", "path"),
        ("  - {scope: a, provider: file, path: x, password: y}\n", "password"),
        ("  - {scope: a, provider: file, path: x}\n" * 2, "more than one source"),
        ("  - {scope: a, provider: aws_sts, role_arn: r, duration_seconds: 60}\n", "900"),
        ("  - {scope: a, provider: vault, url: 'http://v', path: p, login: {}}\n", "token_file"),
        (
            "  - {scope: a, provider: vault, url: 'ftp://v', path: p, login: {token_file: f}}\n",
            "url",
        ),
    ],
)
def test_a_malformed_source_is_one_clear_error(sources, text, problem):
    with pytest.raises(ConfigError, match=problem):
        sources(text)


def test_a_missing_file_of_sources_is_an_error(tmp_path):
    with pytest.raises(ConfigError):
        read_sources(tmp_path / "nowhere.yaml")


@pytest.mark.parametrize(
    ("make", "problem"),
    [
        (lambda path: None, "cannot be read"),
        (lambda path: path.mkdir(), "is not a file"),
        (lambda path: path.write_text("\n"), "is empty"),
        (lambda path: path.write_bytes(b"\xff\xfe\xfa"), "is not UTF-8"),
        (lambda path: path.write_text("x" * 70_000), "is not a file of at most"),
    ],
)
def test_a_secret_file_that_is_not_one_is_refused(tmp_path, make, problem):
    path = tmp_path / "secret"
    make(path)
    if path.is_file():
        path.chmod(0o600)
    with pytest.raises(CredentialError, match=problem):
        FileProvider(path).issue(request())


def test_a_secret_file_everybody_can_read_is_refused(tmp_path):
    path = tmp_path / "secret"
    path.write_text("abc123")
    path.chmod(0o644)
    with pytest.raises(CredentialError, match="every user"):
        FileProvider(path).issue(request())


def test_placeholders_are_filled_and_iams_own_are_left():
    policy = {"Resource": "arn:aws:s3:::b/{tenant}/${aws:username}/*", "l": ["{user}@{agent}", 1]}
    assert fill(policy, request()) == {
        "Resource": "arn:aws:s3:::b/acme/${aws:username}/*",
        "l": ["ann@shop", 1],
    }


@pytest.mark.parametrize(
    "tenant", ["", "*", "..", "a/b", "a..b", "a b", "ä", "x" * 200, '"}]', "?"]
)
def test_a_name_that_could_widen_a_path_or_policy_is_refused(tenant):
    with pytest.raises(CredentialError, match="tenant"):
        fill("secrets/{tenant}", request(tenant=tenant))
    assert fill("secrets/fixed", request(tenant=tenant)) == "secrets/fixed"

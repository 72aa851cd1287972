"""A credential gives its values to the tool it was lent to, and to nothing else."""

import base64
import copy
import json
import pickle
from datetime import datetime, timedelta, timezone
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlflow_agent_plugin.entities import canonical_json
from mlflow_agent_plugin.errors import CredentialError
from mlflow_agent_plugin.trust.credentials import Credential
from mlflow_agent_plugin.trust.credentials.scrubbing import Scrubber

SECRET = "p4ss/w0rd+ü&known=1"
NOW = datetime(2026, 1, 1, tzinfo=timezone.utc)


def lent(**more):
    return Credential({"orders:read": {"value": SECRET}}, tool="find", **more)


def test_the_tool_gets_the_value():
    assert lent().reveal() == SECRET
    assert lent().reveal("value", scope="orders:read") == SECRET


@pytest.mark.parametrize(
    "show", [str, repr, "{}".format, "{:>80}".format, lambda c: str([c]), lambda c: f"{c!r}"]
)
def test_no_way_of_printing_shows_the_value(show):
    assert SECRET not in show(lent())
    assert "orders:read" in show(lent())


@pytest.mark.parametrize(
    "keep", [pickle.dumps, copy.copy, copy.deepcopy, json.dumps, canonical_json, vars]
)
def test_no_way_of_keeping_it_works(keep):
    with pytest.raises((TypeError, ValueError)) as caught:
        keep(lent())
    assert SECRET not in str(caught.value)


def test_after_its_call_it_is_empty():
    credential = lent()
    credential.end()
    with pytest.raises(CredentialError, match="has ended"):
        credential.reveal()
    assert all(
        SECRET not in repr(getattr(credential, slot))
        for slot in Credential.__slots__
        if slot != "_scrubber"
    )


def test_once_expired_it_is_refused():
    credential = lent(expires_at=NOW + timedelta(seconds=1), clock=lambda: NOW)
    assert credential.reveal() == SECRET
    credential = lent(expires_at=NOW, clock=lambda: NOW)
    with pytest.raises(CredentialError, match="expired"):
        credential.reveal()


def test_a_scope_without_a_source_says_where_to_name_one():
    with pytest.raises(CredentialError, match=r"orders:read.*MLFLOW_AGENTS_CREDENTIALS"):
        Credential({}, tool="find", scopes=("orders:read",)).reveal()


def test_a_scope_or_name_that_is_not_there_is_named_with_those_that_are():
    with pytest.raises(CredentialError, match=r"no scope 'x'.*orders:read"):
        lent().reveal(scope="x")
    both = Credential({"a": {"u": "1", "p": "2"}}, tool="find")
    with pytest.raises(CredentialError, match=r"several values.*p, u"):
        both.reveal()


SPELLINGS = {
    "as it is": SECRET,
    "in a URL": quote(SECRET, safe=""),
    "in JSON": json.dumps({"k": SECRET}),
    "in hex": SECRET.encode().hex().upper(),
    "in Python": repr([SECRET]),
    "in base64": base64.b64encode(SECRET.encode()).decode(),
    "in a header": base64.b64encode(f"user:{SECRET}".encode()).decode(),
    "in another header": base64.b64encode(f"us:{SECRET} and more".encode()).decode(),
    "in a third": base64.urlsafe_b64encode(f"u:{SECRET}!".encode()).decode(),
}


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_a_known_value_is_found_however_it_is_spelled(spelling):
    scrubbed = lent().scrubber.text(f"before {SPELLINGS[spelling]} after")
    assert "<SECRET>" in scrubbed
    assert scrubbed.startswith("before ")
    assert scrubbed.endswith(" after")


@given(st.text(min_size=6, max_size=40), st.text(max_size=10), st.text(max_size=10))
def test_no_value_of_six_characters_survives(value, before, after):
    scrubbed = Scrubber([value]).value({"k": [before + value + after]})
    assert value not in scrubbed["k"][0].replace("<SECRET>", "")


def test_keys_numbers_and_nested_lists_are_searched():
    scrubber = Scrubber(["12345678"])
    found = scrubber.value({"12345678": [12345678, {"x": ("a12345678b",)}], "n": 12, "t": True})
    assert found == {"<SECRET>": ["<SECRET>", {"x": ["a<SECRET>b"]}], "n": 12, "t": True}


def test_an_exception_and_what_it_came_from_lose_the_value():
    error = ValueError(f"no: {SECRET}", 3)
    error.__cause__ = KeyError(SECRET)
    assert Scrubber([SECRET]).exception(error)
    assert SECRET not in repr((error, error.__cause__))
    assert error.args == ("no: <SECRET>", 3)


def test_an_exception_that_keeps_its_text_out_of_reach_is_reported():
    assert not Scrubber([SECRET]).exception(OSError(5, f"no: {SECRET}"))

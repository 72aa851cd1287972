"""What a tool's exception says: refused for its rate, out of order, or simply a no."""

from __future__ import annotations

import email.message
import io
import urllib.error
from datetime import datetime, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlflow_agent_plugin.core.resilience.faults import FaultKind, classify, parse_retry_after
from mlflow_agent_plugin.errors import ToolRateLimitedError, ToolUnavailableError

NOW = datetime(2026, 1, 1, 12, tzinfo=timezone.utc)


def of_urllib(status, headers):
    found = email.message.Message()
    for name, value in headers.items():
        found[name] = value
    return urllib.error.HTTPError("http://x", status, "no", found, io.BytesIO())


def of_requests(status, headers):
    import requests

    response = requests.Response()
    response.status_code = status
    response.headers.update(headers)
    return requests.HTTPError("no", response=response)


def of_httpx(status, headers):
    import httpx

    request = httpx.Request("GET", "http://x")
    response = httpx.Response(status, headers=headers, request=request)
    return httpx.HTTPStatusError("no", request=request, response=response)


def of_botocore(status, headers):
    from botocore.exceptions import ClientError

    about = {"HTTPStatusCode": status, "HTTPHeaders": {k.lower(): v for k, v in headers.items()}}
    return ClientError({"Error": {"Code": "Slow"}, "ResponseMetadata": about}, "Get")


def of_openai(status, headers):
    import httpx
    import openai

    request = httpx.Request("POST", "http://x")
    response = httpx.Response(status, headers=headers, request=request)
    return openai.APIStatusError("no", response=response, body=None)


LIBRARIES = [of_urllib, of_requests, of_httpx, of_botocore, of_openai]


@pytest.mark.parametrize("library", LIBRARIES)
def test_a_429_of_any_library_is_a_rate_limit_with_the_services_own_wait(library):
    fault = classify(library(429, {"Retry-After": "7"}), now=NOW)
    assert (fault.kind, fault.retry_after_seconds) == (FaultKind.RATE_LIMITED, 7)
    assert not fault.is_uncertain, "nothing happened there"


@pytest.mark.parametrize("library", LIBRARIES)
def test_a_server_error_is_an_outage_whose_effect_nobody_knows(library):
    fault = classify(library(503, {"Retry-After": "3"}), now=NOW)
    assert (fault.kind, fault.retry_after_seconds) == (FaultKind.OUTAGE, 3)
    assert fault.is_uncertain


@pytest.mark.parametrize("library", LIBRARIES)
def test_any_other_refusal_is_a_failure_that_had_no_effect(library):
    fault = classify(library(403, {}), now=NOW)
    assert fault.kind is FaultKind.FAILURE
    assert not fault.is_uncertain


def test_a_connection_of_httpx_that_breaks_is_an_outage_with_an_unknown_effect():
    import httpx

    fault = classify(httpx.ReadTimeout("slow"), now=NOW)
    assert (fault.kind, fault.is_uncertain) == (FaultKind.OUTAGE, True)


@pytest.mark.parametrize("error", [TimeoutError("slow"), ConnectionResetError("gone")])
def test_time_outs_and_broken_connections_are_outages(error):
    fault = classify(error, now=NOW)
    assert (fault.kind, fault.is_uncertain) == (FaultKind.OUTAGE, True)


@pytest.mark.parametrize("error", [FileNotFoundError("x"), PermissionError("x")])
def test_a_missing_file_opens_no_breaker_but_its_effect_is_unknown(error):
    fault = classify(error, now=NOW)
    assert (fault.kind, fault.is_uncertain) == (FaultKind.FAILURE, True)


def test_what_a_tool_says_itself_is_taken_at_its_word():
    limited = classify(ToolRateLimitedError("busy", retry_after_seconds=4), now=NOW)
    assert (limited.kind, limited.retry_after_seconds) == (FaultKind.RATE_LIMITED, 4)
    out = classify(ToolUnavailableError("down"), now=NOW)
    assert (out.kind, out.is_uncertain) == (FaultKind.OUTAGE, False)
    assert classify(ValueError("bad"), now=NOW).kind is FaultKind.FAILURE


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("0", 0), ("2.5", 2.5), (" 9 ", 9), ("-5", 0), ("1e99", 3600), ("inf", 3600),
        ("Thu, 01 Jan 2026 12:00:30 GMT", 30), ("Thu, 01 Jan 2026 11:00:00 GMT", 0),
        ("nan", None), ("", None), ("soon", None), (None, None), ([], None), (b"\xff", None),
    ],
)  # fmt: skip
def test_a_retry_after_is_seconds_or_a_date_and_nothing_else(text, seconds):
    assert parse_retry_after(text, now=NOW) == seconds


@given(st.one_of(st.text(), st.integers(), st.floats(), st.binary(), st.none()))
def test_a_hostile_retry_after_never_breaks_anything_or_holds_for_ever(value):
    found = parse_retry_after(value, now=NOW)
    assert found is None or 0 <= found <= 3600


class HostileError(Exception):
    status = "429"
    code = True

    @property
    def response(self):
        raise RuntimeError("no response for you")

    @property
    def headers(self):
        raise RuntimeError


def test_an_exception_whose_attributes_raise_is_a_failure():
    assert classify(HostileError(), now=NOW).kind is FaultKind.FAILURE

"""Quotas are reserved whole or not at all, settled to what was used, and never shared by tenants."""

from __future__ import annotations

import contextlib

import pytest

from mlflow_agent_plugin.config import Settings
from mlflow_agent_plugin.entities import Actor
from mlflow_agent_plugin.errors import ConfigError, LimitsUnavailableError, QuotaExceededError
from mlflow_agent_plugin.package import QuotaResource as R
from mlflow_agent_plugin.trust.quotas import QuotaUse, open_quota_book

HOUR = 3600


def use(user="ann", tenant="acme", session="s1", agent="bank", tool=None, *, verified=True):
    return QuotaUse(Actor(user, tenant, verified=verified), session, agent, tool)


def left(book, resource, who, limit):
    """Return how much can still be taken, by taking and giving back."""
    for amount in range(limit, 0, -1):
        try:
            book.reserve(who, {resource: amount}).release()
        except QuotaExceededError:
            continue
        return amount
    return 0


def rule(of, limit, per="tenant", every=HOUR, **more):
    window = {} if of == "concurrency" else {"every_seconds": every}
    return {"per": per, "of": of, "limit": limit, **window, **more}


def test_a_quota_admits_its_limit_and_then_says_when_to_come_again(book, clock):
    clock.advance(600)
    quotas = book(rule("calls", 3))
    for _ in range(3):
        quotas.reserve(use(), {R.CALLS: 1})
    with pytest.raises(QuotaExceededError, match="3 calls every 3600 s per tenant") as refusal:
        quotas.reserve(use(), {R.CALLS: 1})
    assert refusal.value.retry_after_seconds == 3000
    clock.advance(2999)
    with pytest.raises(QuotaExceededError):
        quotas.reserve(use(), {R.CALLS: 1})
    clock.advance(1)
    quotas.reserve(use(), {R.CALLS: 1})


def test_a_refused_reservation_takes_nothing_under_any_rule(book):
    quotas = book(
        rule("calls", 5), rule("tokens", 10), rule("concurrency", 1), rule("tokens", 4, per="user")
    )
    for _ in range(3):
        with pytest.raises(QuotaExceededError, match="per user"):
            quotas.reserve(use(), {R.CALLS: 1, R.CONCURRENCY: 1, R.TOKENS: 5})
    assert left(quotas, R.CALLS, use(), 5) == 5
    assert left(quotas, R.TOKENS, use("bob"), 4) == 4
    quotas.reserve(use(), {R.CONCURRENCY: 1})


def test_what_was_not_used_is_given_back_and_what_was_used_beyond_is_taken(book):
    quotas = book(rule("tokens", 100))
    quotas.reserve(use(), {R.TOKENS: 80}).settle({R.TOKENS: 30})
    assert left(quotas, R.TOKENS, use(), 100) == 70
    quotas.reserve(use(), {R.TOKENS: 10}).settle({R.TOKENS: 65})
    assert left(quotas, R.TOKENS, use(), 100) == 5
    quotas.reserve(use(), {R.TOKENS: 5}).settle({R.TOKENS: 500})
    with pytest.raises(QuotaExceededError):
        quotas.reserve(use(), {R.TOKENS: 0})


def test_settling_twice_or_late_gives_nothing_back_again(book, clock):
    quotas = book(rule("tokens", 100))
    first = quotas.reserve(use(), {R.TOKENS: 60})
    first.settle({R.TOKENS: 10})
    first.release()
    first.settle({R.TOKENS: 0})
    assert left(quotas, R.TOKENS, use(), 100) == 90
    late = quotas.reserve(use(), {R.TOKENS: 90})
    clock.advance(HOUR)
    late.release()
    assert left(quotas, R.TOKENS, use(), 200) == 100


def test_more_than_the_limit_never_fits_and_no_waiting_is_promised(book):
    with pytest.raises(QuotaExceededError, match="than there ever is") as refusal:
        book(rule("tokens", 100)).reserve(use(), {R.TOKENS: 101})
    assert refusal.value.retry_after_seconds is None


@pytest.mark.parametrize(
    ("per", "same", "other"),
    [
        ("tenant", use("bob", session="s2"), use(tenant="beta")),
        ("user", use(session="s2"), use("bob")),
        ("user", use(session="s2"), use(tenant="beta")),
        ("session", use(tool="pay"), use(session="s2")),
        ("session", use(tool="pay"), use(tenant="beta")),
        ("tenant", use("bob"), use(verified=False)),
        ("user", use(session="s2"), use(verified=False)),
    ],
)
def test_a_scope_counts_together_and_nobody_elses_use_touches_it(book, per, same, other):
    quotas = book(rule("calls", 2, per=per), rule("concurrency", 1, per=per, tool="pay"))
    for _ in range(50):
        with contextlib.suppress(QuotaExceededError):
            quotas.reserve(other, {R.CALLS: 1})
    quotas.reserve(use(), {R.CALLS: 1})
    quotas.reserve(same, {R.CALLS: 1})
    with pytest.raises(QuotaExceededError):
        quotas.reserve(same, {R.CALLS: 1})


def test_names_made_to_look_like_another_scope_count_apart(book):
    quotas = book(rule("calls", 1, per="user"))
    names = ["a", "a:b", "a\x00b", "a\nb", '","tenant":"x', "\ud800", "a" * 5000, "é", "e\u0301"]
    for tenant in names:
        for user in names:
            quotas.reserve(use(user, tenant), {R.CALLS: 1})


def test_a_quota_of_a_tool_counts_that_tool_only(book):
    quotas = book(rule("calls", 1, tool="pay"))
    quotas.reserve(use(tool="pay"), {R.CALLS: 1})
    quotas.reserve(use(tool="look"), {R.CALLS: 1})
    with pytest.raises(QuotaExceededError, match="calls of pay"):
        quotas.reserve(use(tool="pay"), {R.CALLS: 1})


def test_the_hosts_quotas_hold_for_all_agents_together_or_for_the_one_they_name(book):
    quotas = book(
        rule("calls", 2, source="host"),
        rule("tokens", 1, source="host", agent="bank"),
        rule("requests", 1, source="host", tenant="beta"),
        rule("calls", 9),
    )
    quotas.reserve(use(), {R.CALLS: 1})
    quotas.reserve(use(agent="shop"), {R.CALLS: 1})
    with pytest.raises(QuotaExceededError, match="host"):
        quotas.reserve(use(), {R.CALLS: 1})
    quotas.reserve(use(), {R.TOKENS: 1})
    quotas.reserve(use(agent="shop"), {R.TOKENS: 5})
    for _ in range(3):
        quotas.reserve(use(), {R.REQUESTS: 1})
    quotas.reserve(use(tenant="beta"), {R.REQUESTS: 1})
    with pytest.raises(QuotaExceededError):
        quotas.reserve(use(tenant="beta"), {R.REQUESTS: 1})


def test_concurrency_is_given_back_when_the_use_ends(book):
    quotas = book(rule("concurrency", 2))
    first, second = (quotas.reserve(use(), {R.CONCURRENCY: 1}) for _ in range(2))
    with pytest.raises(QuotaExceededError, match="at once") as refusal:
        quotas.reserve(use(), {R.CONCURRENCY: 1})
    assert refusal.value.retry_after_seconds == 1
    first.settle({})
    first.settle({})
    quotas.reserve(use(), {R.CONCURRENCY: 1})
    with pytest.raises(QuotaExceededError):
        quotas.reserve(use(), {R.CONCURRENCY: 1})
    second.release()


def test_without_rules_everything_is_admitted_and_nothing_is_counted(book):
    quotas = book()
    quotas.reserve(use(), {R.CALLS: 10**12, R.CONCURRENCY: 1}).settle({R.CALLS: 1})
    assert not any(quotas.limits(resource) for resource in R)


@pytest.mark.parametrize(
    ("uri", "word"),
    [
        ("redis", "scheme"),
        ("", "scheme"),
        ("mongodb://h/1", "scheme"),
        ("redis://h:port/0", "malformed"),
        ("redis://:s3cret@h:99999999/0", "malformed"),
    ],
)
def test_a_uri_that_makes_no_sense_is_refused_without_its_password(uri, word):
    with pytest.raises(ConfigError, match=word) as refusal:
        open_quota_book((), Settings(limits_uri=uri))
    assert "s3cret" not in str(refusal.value)


def test_a_server_that_never_was_there_refuses_and_names_itself_without_the_password(book):
    quotas = book(rule("calls", 3), uri="redis://:s3cret@127.0.0.1:1/0")
    with pytest.raises(LimitsUnavailableError, match=r"127\.0\.0\.1:1") as refusal:
        quotas.reserve(use(), {R.CALLS: 1})
    assert "s3cret" not in str(refusal.value)

"""Several workers count in one Redis; without it nothing is admitted."""

from __future__ import annotations

import pytest
from helpers.redis_server import RedisServer, need_redis
from helpers.scale import scaled

from mlflow_agent_plugin.config import Settings
from mlflow_agent_plugin.entities import Actor
from mlflow_agent_plugin.errors import LimitsUnavailableError, QuotaExceededError
from mlflow_agent_plugin.package import QuotaResource as R
from mlflow_agent_plugin.package import QuotaRule
from mlflow_agent_plugin.trust.quotas import BoundQuota, QuotaUse, open_quota_book

pytestmark = pytest.mark.integration

WHO = QuotaUse(Actor("ann", "acme"), "s1", "bank", "pay")
RULES = (
    BoundQuota(QuotaRule(per="tenant", of="calls", limit=3, every_seconds=86_400), "x"),
    BoundQuota(QuotaRule(per="tenant", of="concurrency", limit=1, tool="pay"), "x"),
)

COMPETE = """
import sys
from mlflow_agent_plugin.config import Settings
from mlflow_agent_plugin.entities import Actor
from mlflow_agent_plugin.errors import QuotaExceededError
from mlflow_agent_plugin.package import QuotaResource as R, QuotaRule
from mlflow_agent_plugin.trust.quotas import BoundQuota, QuotaUse, open_quota_book
rules = (
    BoundQuota(QuotaRule(per="tenant", of="tokens", limit=1000, every_seconds=31622400), "x"),
    BoundQuota(QuotaRule(per="tenant", of="concurrency", limit=3, tool="pay"), "x"),
)
book = open_quota_book(rules, Settings(limits_uri=sys.argv[1]))
who = QuotaUse(Actor("ann", "acme"), "s", "bank", "pay")
used = refused = 0
print("ready", flush=True)
sys.stdin.readline()
for number in range(int(sys.argv[2])):
    try:
        taken = book.reserve(who, {R.TOKENS: 7, R.CONCURRENCY: 1})
    except QuotaExceededError:
        refused += 1
        continue
    real = number % 7 + 1
    taken.settle({R.TOKENS: real})
    used += real
print(used, refused)
"""


@pytest.fixture
def server(tmp_path):
    need_redis()
    server = RedisServer(tmp_path)
    server.start()
    yield server
    server.stop()


def test_processes_together_never_use_more_than_the_limit(server, race):
    rounds = scaled(120, 3000)
    answers = race(COMPETE, server.uri, rounds, processes=3)
    used = sum(int(answer.split()[0]) for answer in answers)
    assert 1000 - 3 * 7 < used <= 1000


def test_a_server_that_goes_away_refuses_and_its_return_needs_no_restart(server, caplog):
    book = open_quota_book(RULES, Settings(limits_uri=server.uri))
    held = book.reserve(WHO, {R.CALLS: 1, R.CONCURRENCY: 1})
    server.stop()
    for _ in range(2):
        with pytest.raises(LimitsUnavailableError, match="does not answer"):
            book.reserve(WHO, {R.CALLS: 1})
    held.settle({R.CALLS: 1})
    assert "was not settled" in caplog.text
    assert "hush-hush" not in caplog.text
    server.start()
    book.reserve(WHO, {R.CALLS: 1, R.CONCURRENCY: 1}).release()


def test_a_killed_workers_place_is_free_again_when_its_lease_ends(server):
    book = open_quota_book(RULES, Settings(limits_uri=server.uri))
    book.reserve(WHO, {R.CONCURRENCY: 1}, lease_seconds=0.2)
    with pytest.raises(QuotaExceededError):
        book.reserve(WHO, {R.CONCURRENCY: 1})
    for _ in range(2000):
        try:
            book.reserve(WHO, {R.CONCURRENCY: 1}).release()
        except QuotaExceededError:
            continue
        break
    else:
        raise AssertionError("the place was never given back")


def test_a_server_that_wants_another_password_refuses_and_keeps_it_to_itself(server):
    wrong = server.uri.replace("hush-hush", "wrong-pass")
    book = open_quota_book(RULES, Settings(limits_uri=wrong))
    with pytest.raises(LimitsUnavailableError) as refusal:
        book.reserve(WHO, {R.CALLS: 1})
    assert "wrong-pass" not in str(refusal.value)

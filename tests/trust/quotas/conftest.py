"""Books of quotas in memory and on a real Redis."""

from __future__ import annotations

import pytest
from helpers.redis_server import RedisServer, need_redis

from mlflow_agent_plugin.config import Settings
from mlflow_agent_plugin.package import HostQuota, QuotaRule
from mlflow_agent_plugin.trust.quotas import BoundQuota, open_quota_book


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory):
    need_redis()
    server = RedisServer(tmp_path_factory.mktemp("redis"))
    server.start()
    yield server
    server.stop()


@pytest.fixture(params=["memory", pytest.param("redis", marks=pytest.mark.integration)])
def limits_uri(request):
    """Give the URI of empty counters: once in memory, once in Redis."""
    if request.param == "memory":
        return "memory://"
    server = request.getfixturevalue("redis_server")
    import redis

    redis.Redis.from_url(server.uri).flushall()
    return server.uri


@pytest.fixture
def book(limits_uri, clock):
    """Open a book of rules, each given as a dictionary; ``source`` names where it stands."""

    def make(*rules, uri=limits_uri):
        bound = []
        for given in rules:
            rule = dict(given)
            source = rule.pop("source", "agent.yaml")
            if source == "host":
                read = HostQuota(**rule)
                bound.append(BoundQuota(read, source, agent=read.agent, tenant=read.tenant))
            else:
                bound.append(BoundQuota(QuotaRule(**rule), source, agent=rule.get("agent", "bank")))
        return open_quota_book(bound, Settings(limits_uri=uri), clock=clock)

    return make

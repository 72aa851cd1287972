"""Several processes on one PostgreSQL and one Redis, and what a turn does while either is away."""

from __future__ import annotations

import contextlib
import threading
from datetime import timedelta

import pytest
import yaml
from helpers.postgres_server import PostgresServer
from helpers.redis_server import RedisServer, need_redis
from helpers.shelf_agent import call, say, write_bundle

from mlflow_agent_plugin.config import Settings
from mlflow_agent_plugin.core import AgentRuntime
from mlflow_agent_plugin.core.runtime.runtime import LEASE_SECONDS
from mlflow_agent_plugin.entities import Actor, AgentRequest, utc_now
from mlflow_agent_plugin.errors import (
    LimitsUnavailableError,
    SessionBusyError,
    StoppedError,
    StoreError,
    as_mlflow,
)
from mlflow_agent_plugin.package import load_bundle
from mlflow_agent_plugin.store import Store
from mlflow_agent_plugin.trust import verify_audit

pytestmark = pytest.mark.integration

ANN = Actor("ann", "home", verified=True)


@pytest.fixture(scope="module")
def server():
    made = PostgresServer()
    try:
        made.start()
        yield made
    finally:
        made.close()


@pytest.fixture
def redis_server(tmp_path):
    need_redis()
    made = RedisServer(tmp_path)
    made.start()
    yield made
    made.stop()


@pytest.fixture
def database(server):
    return server.create_database()


@pytest.fixture
def bundle(tmp_path):
    replies = [call("look", "a"), say("found")] * 30
    return load_bundle(write_bundle(tmp_path / "shelf", replies, folder=tmp_path / "things"))


def ask(runtime, session="s", text="go"):
    return runtime.invoke(AgentRequest(text=text, session_id=session, actor=ANN))


def assert_whole(database):
    with Store.open(database) as store:
        verified = verify_audit(store)
        assert verified.ok, verified


@contextlib.contextmanager
def away(server):
    """Take a server away, as a crash does, for the length of the block."""
    server.stop()
    try:
        yield
    finally:
        server.start()


def status_of(error):
    return as_mlflow(error).get_http_status_code()


def test_postgresql_goes_away_between_turns_and_comes_back(server, database, bundle):
    settings = Settings(store_uri=database)
    with AgentRuntime.open(bundle, settings=settings, tracing=False) as runtime:
        assert ask(runtime).text == "found"
        with away(server):
            for _ in range(3):
                with pytest.raises((StoreError, StoppedError)) as refusal:
                    ask(runtime)
                assert status_of(refusal.value) == 503
                assert server.password not in str(refusal.value)
        assert ask(runtime).text == "found"
    assert_whole(database)


def test_a_restart_nobody_noticed_costs_each_process_at_most_one_refused_turn(
    server, database, bundle
):
    with AgentRuntime.open(bundle, settings=Settings(store_uri=database), tracing=False) as runtime:
        threads = [threading.Thread(target=ask, args=(runtime, f"s{n}")) for n in range(6)]
        for thread in threads:  # several connections, so that several are dead afterwards
            thread.start()
        for thread in threads:
            thread.join()
        with away(server):
            pass
        with contextlib.suppress(StoreError, StoppedError):
            ask(runtime, "first")
        for number in range(4):
            assert ask(runtime, f"after-{number}").text == "found"
    assert_whole(database)


def test_postgresql_goes_away_in_the_middle_of_a_tool_and_the_effect_is_not_repeated(
    server, database, tmp_path
):
    replies = [call("put", "lamp"), say("done")]
    bundle = load_bundle(write_bundle(tmp_path / "shelf", replies, folder=tmp_path / "things"))
    ahead = [timedelta(0)]
    down = []

    def breaks(_name, function):
        def run(context, **arguments):
            done = function(context, **arguments)
            if not down:
                down.append(True)
                server.stop()
            return done

        return run

    settings = Settings(store_uri=database)
    opened = AgentRuntime.open(
        bundle, settings=settings, tracing=False, tool_wrapper=breaks,
        clock=lambda: utc_now() + ahead[0],
    )  # fmt: skip
    with opened as runtime:
        try:
            with pytest.raises((StoreError, StoppedError)) as refusal:
                ask(runtime, text="put the lamp there")
            assert status_of(refusal.value) == 503
        finally:
            server.start()
        with pytest.raises(SessionBusyError):  # nobody could end the turn: its lease still runs
            ask(runtime)
        ahead[0] = timedelta(seconds=LEASE_SECONDS + 1)
        answer = runtime.invoke(AgentRequest("", session_id="s", actor=ANN, resume=True))
    assert answer.text == "done"
    effects = (tmp_path / "things" / "effects.txt").read_text().split("\n")[:-1]
    assert len(set(effects)) == 1  # one idempotency key, however often the tool was asked
    assert_whole(database)


def test_redis_goes_away_and_comes_back_and_no_turn_runs_uncounted(
    server, database, tmp_path, redis_server
):
    root = write_bundle(
        tmp_path / "shelf", [call("put", "lamp"), say("done")] * 20, folder=tmp_path / "things"
    )
    manifest = yaml.safe_load((root / "agent.yaml").read_text())
    quota = {"per": "tenant", "of": "requests", "limit": 50, "every_seconds": 3600}
    (root / "agent.yaml").write_text(yaml.safe_dump(manifest | {"quotas": [quota]}))
    settings = Settings(store_uri=database, limits_uri=redis_server.uri)
    with AgentRuntime.open(load_bundle(root), settings=settings, tracing=False) as runtime:
        assert ask(runtime, "a").text == "done"
        redis_server.stop()
        try:
            for _ in range(2):
                with pytest.raises(LimitsUnavailableError) as refusal:
                    ask(runtime, "b")
                assert status_of(refusal.value) == 503
        finally:
            redis_server.start()
        assert ask(runtime, "b").text == "done"
    effects = (tmp_path / "things" / "effects.txt").read_text().splitlines()
    assert len(effects) == 2
    assert_whole(database)


def test_more_turns_at_once_than_connections_all_end(database, bundle, monkeypatch):
    monkeypatch.setenv("MLFLOW_AGENTS_STORE_POOL", "2")
    answers = []
    with AgentRuntime.open(bundle, settings=Settings(store_uri=database), tracing=False) as runtime:
        assert runtime.store.engine.pool.size() == 2

        def client(number):
            answers.extend(ask(runtime, f"s{number}-{turn}").text for turn in range(3))

        threads = [threading.Thread(target=client, args=(number,)) for number in range(12)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert answers == ["found"] * 36
    assert_whole(database)


def test_session_state_that_cannot_be_saved_is_no_failure_of_the_agent(bundle, tmp_path):
    settings = Settings(store_uri=f"sqlite:///{tmp_path}/store.db")
    with AgentRuntime.open(bundle, settings=settings, tracing=False) as runtime:
        ask(runtime)
        with runtime.store.begin() as connection:
            connection.exec_driver_sql("DROP TABLE writes")
        with pytest.raises(StoreError, match="no such table") as refusal:
            ask(runtime)
        assert status_of(refusal.value) == 503

"""Watching a model: one watcher at a time, each decision on record."""

from __future__ import annotations

import threading
from datetime import datetime, timedelta, timezone

import pytest

from mlflow_agent_plugin.errors import LeaseLostError
from mlflow_agent_plugin.lifecycle.fencing import _held, check_held
from mlflow_agent_plugin.lifecycle.triggers import Signals, TriggerPolicy
from mlflow_agent_plugin.lifecycle.watching import Watcher
from mlflow_agent_plugin.store import Store
from mlflow_agent_plugin.store.leases import LeaseTable
from mlflow_agent_plugin.trust import AuditKind, AuditLog

NOW = datetime(2026, 6, 1, tzinfo=timezone.utc)
POLICY = TriggerPolicy.model_validate(
    {
        "apiVersion": "mlflow-agents/v1",
        "cooldown_hours": 24,
        "rules": [{"name": "labels", "when": "new_labels", "at_least": 10}],
    }
)


class Clock:
    """A clock that is moved by hand."""

    def __init__(self):
        self.now = NOW

    def __call__(self):
        return self.now


@pytest.fixture
def store(store_uri):
    """A runtime store."""
    with Store.open(store_uri) as opened:
        yield opened


def watcher(store, clock, *, labels=20, start=None, started=None):
    return Watcher(
        POLICY, model_name="support", store=store, clock=clock, start=start,
        gather=lambda: Signals(now=clock(), new_labels=labels, last_started_at=started),
    )  # fmt: skip


def test_a_lease_has_one_holder_until_it_is_over(store):
    clock = Clock()
    leases = LeaseTable(store, clock=clock)
    assert leases.acquire("x", "a", 60)
    assert not leases.acquire("x", "b", 60)
    assert leases.acquire("x", "a", 60)
    assert leases.acquire("y", "b", 60)
    clock.now += timedelta(seconds=61)
    assert leases.acquire("x", "b", 60)
    leases.release("x", "a")
    assert not leases.acquire("x", "a", 60)
    leases.release("x", "b")
    assert leases.acquire("x", "a", 60)


def test_of_many_that_want_a_lease_at_once_one_gets_it(store):
    got = []
    gate = threading.Barrier(8)

    def want(name):
        gate.wait()
        if LeaseTable(store).acquire("x", name, 60):
            got.append(name)

    threads = [threading.Thread(target=want, args=(str(n),)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(got) == 1


def test_of_two_watchers_one_starts_the_pipeline(store):
    clock, started = Clock(), []
    first = watcher(store, clock, start=lambda *_: started.append("first"))
    second = watcher(store, clock, start=lambda *_: started.append("second"))
    assert first.look().decision.fire
    assert second.look().decision is None
    assert started == ["first"]
    first.close()
    assert second.look().decision is not None


def test_a_dead_watcher_is_followed_by_another_when_its_lease_is_over(store):
    clock = Clock()
    watcher(store, clock).look()
    second = watcher(store, clock)
    assert second.look().decision is None
    clock.now += timedelta(hours=1)
    assert second.look().decision is not None


def test_a_watcher_that_lost_its_lease_stops_what_it_started(store):
    clock = Clock()

    def start(*_):
        clock.now += timedelta(hours=1)  # the machine slept
        assert LeaseTable(store, clock=clock).acquire("watch:support", "next", 60)
        (lease,) = _held.get()
        lease.look()
        check_held()

    with pytest.raises(LeaseLostError):
        watcher(store, clock, start=start).look()


def test_a_dry_watcher_starts_nothing_and_records_why_it_would_have(store):
    assert watcher(store, Clock()).look().decision.fire
    (event,) = AuditLog(store).events(kind=AuditKind.TRIGGER_DECIDED)
    assert event.body["dry_run"] is True
    assert event.body["decision"]["results"][0]["reason"] == "20 new labels, 10 are asked for"


def test_a_cool_down_that_goes_on_is_recorded_once(store):
    clock = Clock()
    cooling = watcher(store, clock, start=lambda *_: 1 / 0, started=NOW - timedelta(hours=1))
    for _ in range(3):
        assert not cooling.look().decision.fire
    assert len(AuditLog(store).events(kind=AuditKind.TRIGGER_DECIDED)) == 1


def test_signals_that_cannot_be_gathered_start_nothing_and_do_not_end_the_watch(store):
    clock, looks = Clock(), []
    broken = Watcher(
        POLICY, model_name="support", store=store, clock=clock, interval_seconds=0.001,
        gather=lambda: looks.append(1) or 1 / 0, start=lambda *_: looks.append("started"),
    )  # fmt: skip
    thread = threading.Thread(target=broken.run)
    thread.start()
    while len(looks) < 3:
        assert thread.is_alive()
    broken.stop()
    thread.join()
    assert "started" not in looks
    assert LeaseTable(store, clock=clock).acquire("watch:support", "next", 1)


def test_the_command_looks_once_and_says_what_each_rule_said(tmp_path, monkeypatch):
    """From cron: nothing is started in a dry run, and the answer names every rule."""
    import json

    from click.testing import CliRunner

    from mlflow_agent_plugin.interaction.cli import main
    from mlflow_agent_plugin.lifecycle import watching

    monkeypatch.setattr(watching, "version_in", lambda *_: "1")
    monkeypatch.setattr(watching, "gather_signals", lambda *_, **__: Signals(now=NOW, new_labels=3))
    policy = tmp_path / "triggers.yaml"
    policy.write_text(json.dumps(POLICY.model_dump(by_alias=True)))
    done = CliRunner().invoke(
        main, ["watch", "support", "--policy", str(policy), "--once", "--dry-run", "--json"]
    )
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert found["decision"]["fire"] is False
    assert found["decision"]["results"][0]["reason"] == "3 new labels, 10 are asked for"


def test_signals_come_from_the_table_the_registry_and_the_labels(tmp_path):
    import mlflow

    client = mlflow.MlflowClient()
    client.create_registered_model("support")
    client.create_model_version("support", str(tmp_path))
    client.set_registered_model_alias("support", "champion", "1")
    from mlflow_agent_plugin.lifecycle.watching import gather_signals, version_in

    assert version_in("support", "@champion") == "1"
    signals = gather_signals("support", "1", table=tmp_path / "t", hours=1, windows=3)
    assert len(signals.metrics) == 3
    assert signals.metrics[0]["requests"].value == 0
    assert signals.new_labels == 0
    assert signals.version_created_at is not None
    assert signals.last_started_at is None

"""One pipeline at a time."""

import json
import os
import subprocess
import sys
import threading
import time
from datetime import timedelta

import pytest
from sqlalchemy import select, update

from mlflow_agent_plugin.entities import utc_now
from mlflow_agent_plugin.errors import LeaseLostError, PipelineError, StoreError
from mlflow_agent_plugin.lifecycle.fencing import (
    LEASES_VARIABLE,
    HeldLease,
    check_leases,
    leases_for_children,
)
from mlflow_agent_plugin.lifecycle.lease import model_lease, pipeline_lease
from mlflow_agent_plugin.store import Store
from mlflow_agent_plugin.store.leases import LeaseTable
from mlflow_agent_plugin.store.tables import leases

HOLD = (
    "import sys\n"
    "from mlflow_agent_plugin.lifecycle.lease import pipeline_lease\n"
    "with pipeline_lease(sys.argv[1], purpose='hold'):\n"
    "    print('held', flush=True)\n"
    "    sys.stdin.read()\n"
)


def test_a_second_holder_is_refused_at_once_and_told_who_holds_it(tmp_path):
    with pipeline_lease(tmp_path / "w", purpose="first"):
        with (
            pytest.raises(PipelineError, match=f"process {os.getpid()}"),
            pipeline_lease(tmp_path / "w", purpose="second"),
        ):
            raise AssertionError
        with pipeline_lease(tmp_path / "other", purpose="elsewhere"):
            pass
        with pipeline_lease(tmp_path / "w", purpose="another lease", name="trigger"):
            pass
    with pipeline_lease(tmp_path / "w", purpose="third"):
        pass
    assert not list((tmp_path / "w").glob("*.json"))


def test_an_error_in_the_block_frees_the_lease(tmp_path):
    with pytest.raises(ValueError, match="broken"), pipeline_lease(tmp_path, purpose="a"):
        raise ValueError("broken")
    with pipeline_lease(tmp_path, purpose="b"):
        pass


def test_of_many_threads_at_once_one_holds_it(tmp_path):
    start, held, refused = threading.Barrier(8), [], []
    done = threading.Event()

    def work():
        start.wait()
        try:
            with pipeline_lease(tmp_path, purpose="thread"):
                held.append(1)
                done.wait(10)
        except PipelineError:
            refused.append(1)
            if len(refused) == 7:
                done.set()

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(held), len(refused)) == (1, 7)


def test_another_process_is_refused_until_the_holder_is_killed(tmp_path):
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert holder.stdout.readline() == "held\n"
        with (
            pytest.raises(PipelineError, match=f"process {holder.pid} on"),
            pipeline_lease(tmp_path, purpose="me"),
        ):
            raise AssertionError
    finally:
        holder.kill()
        holder.wait()
        holder.stdin.close()
        holder.stdout.close()
    with pipeline_lease(tmp_path, purpose="me"):
        pass


HOLD_MODEL = (
    "import sys\n"
    "from mlflow_agent_plugin.lifecycle.lease import model_lease\n"
    "from mlflow_agent_plugin.store import Store\n"
    "with Store.open(sys.argv[1]) as store, model_lease(store, 'support'):\n"
    "    print('held', flush=True)\n"
    "    sys.stdin.read()\n"
)


@pytest.mark.integration
def test_machines_that_share_a_store_run_one_pipeline_per_model(store_uri):
    """Another process stands for another machine: it shares nothing else."""
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD_MODEL, store_uri],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert holder.stdout.readline() == "held\n"
        with Store.open(store_uri) as store:
            with (
                pytest.raises(PipelineError, match=f"process {holder.pid} on"),
                model_lease(store, "support"),
            ):
                raise AssertionError
            with model_lease(store, "other"), model_lease(store, "support", name="trigger"):
                pass
    finally:
        holder.kill()
        holder.wait()
        holder.stdin.close()
        holder.stdout.close()
    with Store.open(store_uri) as store:
        # Killed: nobody gave it up. It ends by itself, and not before.
        with pytest.raises(PipelineError), model_lease(store, "support"):
            raise AssertionError
        with model_lease(store, "support", clock=lambda: utc_now() + timedelta(seconds=121)):
            pass


def until_of(store, name):
    with store.read() as connection:
        query = select(leases.c.until).where(leases.c.name == name)
        return connection.execute(query).scalar_one()


def test_a_model_s_lease_is_renewed_while_its_holder_lives(store_uri):
    with Store.open(store_uri) as store, model_lease(store, "support", seconds=1.5):
        first, deadline = until_of(store, "pipeline:support"), time.monotonic() + 60
        while until_of(store, "pipeline:support") == first:
            assert time.monotonic() < deadline
    with Store.open(store_uri) as store, model_lease(store, "support"):
        pass  # given up at the end


def test_a_store_that_is_away_starts_no_pipeline(tmp_path):
    with Store.open(f"sqlite:///{tmp_path}/gone.db") as store:
        with store.begin() as connection:
            connection.exec_driver_sql("DROP TABLE agent_leases")
        with pytest.raises(StoreError), model_lease(store, "support"):
            raise AssertionError


class Clock:
    """A clock that is moved by hand."""

    def __init__(self):
        self.now = utc_now()

    def __call__(self):
        return self.now


def test_whoever_lost_a_lease_is_told_once_and_may_not_go_on(store_uri):
    clock, told = Clock(), []
    with Store.open(store_uri) as store:
        table = LeaseTable(store, clock=clock)
        assert table.acquire("x", "me", 120)
        held = HeldLease(table, "x", "me", 120, clock=clock)
        with held.when_lost(lambda: told.append(1)):
            clock.now += timedelta(seconds=50)
            held.look()
            held.check()
            clock.now += timedelta(seconds=121)  # the machine slept
            assert table.acquire("x", "other", 120)
            table.release("x", "other")  # and the other one is even done already
            for _ in range(2):
                held.look()
        assert told == [1]
        with pytest.raises(LeaseLostError, match="x went to somebody else"):
            held.check()


def test_a_lease_nobody_took_outlives_a_machine_that_slept(store_uri):
    clock = Clock()
    with Store.open(store_uri) as store:
        table = LeaseTable(store, clock=clock)
        assert table.acquire("x", "me", 120)
        held = HeldLease(table, "x", "me", 120, clock=clock)
        clock.now += timedelta(hours=9)
        held.look()
        held.check()
        assert not table.acquire("x", "other", 120)


def test_a_lease_counts_as_lost_when_the_store_was_away_for_as_long_as_it_lasts(tmp_path):
    clock = Clock()
    with Store.open(f"sqlite:///{tmp_path}/gone.db") as store:
        table = LeaseTable(store, clock=clock)
        assert table.acquire("x", "me", 120)
        held = HeldLease(table, "x", "me", 120, clock=clock)
        with store.begin() as connection:
            connection.exec_driver_sql("DROP TABLE agent_leases")
        clock.now += timedelta(seconds=60)
        held.look()
        assert not held.lost
        clock.now += timedelta(seconds=60)
        held.look()
        assert held.lost


def test_children_know_the_leases_they_work_under_and_stop_when_one_is_lost(store_uri, monkeypatch):
    with Store.open(store_uri) as store:
        check_leases(store)
        with model_lease(store, "support", name="trigger"), model_lease(store, "support"):
            monkeypatch.setenv(LEASES_VARIABLE, leases_for_children())
        table = LeaseTable(store)
        for name, holder in json.loads(os.environ[LEASES_VARIABLE]):
            assert table.acquire(name, holder, 60)
        check_leases(store)
        assert leases_for_children() == os.environ[LEASES_VARIABLE]
        with store.begin() as connection:
            connection.execute(
                update(leases).where(leases.c.name == "trigger:support").values(holder="other")
            )
        with pytest.raises(LeaseLostError, match="trigger:support"):
            check_leases(store)
        # A pipeline in between finds out by itself.
        assert table.acquire("x", "me", 60)
        clock = Clock()
        held = HeldLease(table, "x", "me", 60, clock=clock)
        clock.now += timedelta(seconds=30)
        held.look()
        assert held.lost
        monkeypatch.setenv(LEASES_VARIABLE, "nonsense")
        with pytest.raises(LeaseLostError, match="is not a list"):
            check_leases(store)

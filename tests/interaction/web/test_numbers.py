"""Numbers for the pages: worked out once, beside the requests, and never waited for long."""

from __future__ import annotations

import threading
from datetime import timedelta
from types import SimpleNamespace

import pytest
from mlflow import MlflowClient

from mlflow_agent_plugin.entities import Actor, AgentReply, Outcome, utc_now
from mlflow_agent_plugin.errors import DataError
from mlflow_agent_plugin.interaction.web.console import numbers as module
from mlflow_agent_plugin.interaction.web.console.numbers import Numbers, numbers
from mlflow_agent_plugin.observability.days import add_rows
from mlflow_agent_plugin.observability.schema import row_from_reply


@pytest.fixture(autouse=True)
def empty(monkeypatch):
    monkeypatch.setattr(module, "_kept", {})
    monkeypatch.setattr(module, "_jobs", {})
    monkeypatch.setattr(module, "WAIT_SECONDS", 60)


class Slow:
    """Work that ends when it is told to."""

    def __init__(self):
        self.go, self.calls = threading.Event(), 0

    def __call__(self):
        self.calls += 1
        assert self.go.wait(60)
        return Numbers(agents=[str(self.calls)])


def test_what_takes_long_is_not_waited_for_and_there_the_next_time(monkeypatch):
    work = Slow()
    monkeypatch.setattr(module, "WAIT_SECONDS", 0)
    assert module._soon(("k",), work) is None
    assert module._soon(("k",), work) is None
    work.go.set()
    monkeypatch.setattr(module, "WAIT_SECONDS", 60)
    assert module._soon(("k",), work) == Numbers(agents=["1"])
    assert module._soon(("k",), work) == Numbers(agents=["1"])
    assert work.calls == 1


def test_numbers_of_some_minutes_ago_are_shown_while_new_ones_are_made(monkeypatch):
    work = Slow()
    work.go.set()
    assert module._soon(("k",), work) == Numbers(agents=["1"])
    work.go.clear()
    monkeypatch.setattr(module, "_FRESH_SECONDS", -1)
    monkeypatch.setattr(module, "WAIT_SECONDS", 0)
    assert module._soon(("k",), work) == Numbers(agents=["1"])
    monkeypatch.setattr(module, "_OLD_SECONDS", -1)
    assert module._soon(("k",), work) is None
    work.go.set()
    monkeypatch.setattr(module, "WAIT_SECONDS", 60)
    assert module._soon(("k",), work) == Numbers(agents=["2"])


def test_what_nobody_came_back_for_is_not_shown_as_new_later(monkeypatch):
    work = Slow()
    work.go.set()
    monkeypatch.setattr(module, "WAIT_SECONDS", 0)
    module._soon(("k",), work)
    module._worker().submit(int).result(60)  # the work before it has ended
    assert module._kept[("k",)].value == Numbers(agents=["1"])
    monkeypatch.setattr(module, "_FRESH_SECONDS", -1)
    monkeypatch.setattr(module, "WAIT_SECONDS", 60)
    assert module._soon(("k",), work) == Numbers(agents=["2"])


def test_an_error_is_told_once_and_the_next_one_tries_again():
    def broken():
        raise DataError("cannot be read", where="the table")

    with pytest.raises(DataError, match="cannot be read"):
        module._soon(("k",), broken)
    assert module._soon(("k",), lambda: Numbers(agents=["mended"])).agents == ["mended"]


def test_however_much_is_asked_for_only_so_much_waits(monkeypatch):
    work = Slow()
    monkeypatch.setattr(module, "WAIT_SECONDS", 0)
    for number in range(3 * module._KEPT):
        assert module._soon((number,), work) is None
    assert len(module._jobs) == module._KEPT
    waiting = list(module._jobs.values())
    work.go.set()
    for job in waiting:
        job.result(60)
    assert module._soon(("new",), work) is None
    assert list(module._jobs) == [("new",)]
    module._jobs[("new",)].result(60)


def test_numbers_come_from_the_table_and_say_of_when_they_are(tmp_path, monkeypatch):
    assert numbers(days=7, tenant=None) is None
    monkeypatch.setenv("MLFLOW_AGENTS_MONITORING_TABLE", str(tmp_path / "table"))
    with pytest.raises(DataError, match="no monitoring table"):
        numbers(days=7, tenant=None)
    monkeypatch.setattr(
        module,
        "records",
        lambda: SimpleNamespace(
            client=MlflowClient(registry_uri=f"agents+sqlite:///{tmp_path}/registry.db")
        ),
    )
    rows = [
        row_from_reply(
            AgentReply(text="t", outcome=Outcome.ANSWERED, session_id=f"s{n}", agent="desk",
                       agent_digest="sha256:aa"),
            text="q", event_time=utc_now() - timedelta(days=2 * n), trace_id=f"tr-{n}",
            actor=Actor("u", tenant="acme" if n else "beta"),
        )
        for n in range(3)
    ]  # fmt: skip
    add_rows(tmp_path / "table", rows, set())
    begun = utc_now()
    found = numbers(days=7, tenant=None)
    assert (found.total["requests"].value, len(found.days), found.pending) == (3, 3, False)
    assert begun <= found.at <= utc_now()
    assert found.tools == {}
    assert numbers(days=7, tenant="acme").total["requests"].value == 2
    assert numbers(days=1, tenant="acme").total == {}

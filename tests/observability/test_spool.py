"""The spool: a queue on disk, who empties it, and MLflow's tracing in front of it."""

from __future__ import annotations

import os
import stat
import threading

import pytest

from mlflow_agent_plugin.errors import SpoolError
from mlflow_agent_plugin.observability.spool import (
    Drainer,
    LinkAwayError,
    RefusedError,
    SpoolQueue,
    drain,
)
from mlflow_agent_plugin.observability.spool.queue import MIN_MAX_BYTES


class Server:
    """Takes events unless it is away; remembers the order in which it first saw each."""

    def __init__(self, *, poison: frozenset[str] = frozenset(), unclear: bool = False) -> None:
        self.got: list[str] = []
        self.away = False
        self.poison = poison
        self.unclear = unclear

    def deliver(self, events):
        if self.away:
            raise LinkAwayError("no route")
        for taken, event in enumerate(events):
            if event.event_id in self.poison:
                if taken:
                    return taken
                raise RefusedError("cannot read it", final=not self.unclear)
            if event.event_id not in self.got:
                self.got.append(event.event_id)
        return len(events)


@pytest.fixture
def queue(tmp_path):
    """A small queue."""
    made = SpoolQueue(tmp_path / "spool" / "q.db")
    yield made
    made.close()


def fill(queue, count, *, start=0, size=10, incident=False):
    for number in range(start, start + count):
        queue.put(f"e{number}", os.urandom(size), incident=incident)


def test_events_come_back_as_they_were_in_the_order_they_came(queue):
    payloads = {f"e{n}": os.urandom(n) for n in range(20)}
    for event_id, payload in payloads.items():
        assert queue.put(event_id, payload)
    assert [(e.event_id, e.payload) for e in queue.peek(100)] == list(payloads.items())


def test_an_event_put_twice_is_there_once(queue):
    assert queue.put("a", b"1")
    assert not queue.put("a", b"2")
    assert [event.payload for event in queue.peek()] == [b"1"]
    assert queue.state().put == 1


def test_reading_removes_nothing_and_done_removes_exactly_what_it_names(queue):
    fill(queue, 5)
    first = queue.peek(2)
    assert queue.peek(2) == first
    queue.done(first)
    queue.done(first)
    assert [event.event_id for event in queue.peek()] == ["e2", "e3", "e4"]
    assert queue.state().delivered == 2


def test_what_was_put_is_there_after_opening_the_file_again(queue):
    fill(queue, 3)
    queue.close()
    again = SpoolQueue(queue.path)
    assert [event.event_id for event in again.peek()] == ["e0", "e1", "e2"]


def test_the_file_and_its_folder_are_readable_by_their_owner_only(queue):
    assert stat.S_IMODE(queue.path.stat().st_mode) == 0o600
    assert stat.S_IMODE(queue.path.parent.stat().st_mode) == 0o700


def test_a_file_that_is_something_else_is_refused_and_left_alone(tmp_path):
    path = tmp_path / "notes.txt"
    path.write_text("not a database, but longer than a header of one would be " * 9)
    with pytest.raises(SpoolError, match=r"notes\.txt: the spool cannot be used"):
        SpoolQueue(path)
    assert path.read_text().startswith("not a database")


def test_a_full_queue_drops_the_oldest_ordinary_events_and_says_how_many(tmp_path):
    queue = SpoolQueue(tmp_path / "q.db", max_bytes=MIN_MAX_BYTES)
    fill(queue, 5, size=4000, incident=True)
    fill(queue, 200, start=5, size=4000)
    state = queue.state()
    kept = [event.event_id for event in queue.peek(1000)]
    assert kept[:5] == [f"e{n}" for n in range(5)]
    assert kept[-1] == "e204"
    assert kept[5:] == [f"e{n}" for n in range(205 - len(kept[5:]), 205)]
    assert state.dropped == 205 - len(kept)
    assert state.dropped_incidents == 0
    assert state.waiting + state.dropped + state.delivered == state.put


def test_incidents_go_only_when_nothing_else_is_left(tmp_path):
    queue = SpoolQueue(tmp_path / "q.db", max_bytes=MIN_MAX_BYTES)
    fill(queue, 3, size=4000)
    fill(queue, 100, start=3, size=4000, incident=True)
    state = queue.state()
    assert state.dropped == 3
    assert state.dropped_incidents > 0
    assert queue.peek(1)[0].incident


def test_the_file_never_outgrows_its_bound_whatever_comes(tmp_path):
    queue = SpoolQueue(tmp_path / "q.db", max_bytes=MIN_MAX_BYTES)
    for number in range(300):
        queue.put(f"e{number}", os.urandom(number * 97 % 30_000), incident=number % 7 == 0)
        if number % 50 == 0:
            queue.done(queue.peek(3))
        assert queue.path.stat().st_size <= MIN_MAX_BYTES


def test_an_event_too_big_for_the_whole_queue_is_refused_and_costs_no_other(tmp_path):
    queue = SpoolQueue(tmp_path / "q.db", max_bytes=MIN_MAX_BYTES)
    fill(queue, 3)
    with pytest.raises(SpoolError, match="does not fit"):
        queue.put("big", os.urandom(MIN_MAX_BYTES))
    assert queue.state().waiting == 3


def test_threads_that_put_at_once_lose_nothing(queue):
    threads = [
        threading.Thread(target=fill, args=(queue, 50), kwargs={"start": 50 * n}) for n in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {event.event_id for event in queue.peek(1000)} == {f"e{n}" for n in range(400)}


def test_a_child_of_a_fork_goes_on_with_the_same_file(queue):
    fill(queue, 2)
    child = os.fork()
    if child == 0:
        try:
            fill(queue, 2, start=2)
        finally:
            os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    fill(queue, 1, start=4)
    assert {event.event_id for event in queue.peek()} == {f"e{n}" for n in range(5)}


def test_draining_delivers_in_order_and_leaves_nothing(queue):
    fill(queue, 120)
    server = Server()
    assert drain(queue, server) == 120
    assert server.got == [f"e{n}" for n in range(120)]
    assert queue.is_empty()


def test_what_the_link_did_not_take_stays_in_order(queue):
    fill(queue, 3)
    server = Server()
    server.away = True
    with pytest.raises(LinkAwayError):
        drain(queue, server)
    fill(queue, 2, start=3)
    server.away = False
    assert drain(queue, server) == 5
    assert server.got == [f"e{n}" for n in range(5)]


@pytest.mark.parametrize("unclear", [False, True])
def test_an_event_the_server_refuses_is_set_aside_and_the_others_go_on(queue, unclear):
    fill(queue, 9)
    server = Server(poison=frozenset({"e0", "e4"}), unclear=unclear)
    drain(queue, server)
    assert set(server.got) == {f"e{n}" for n in range(9)} - {"e0", "e4"}
    assert [event_id for event_id, _ in queue.refusals()] == ["e0", "e4"]
    server.poison = frozenset()
    assert queue.retry_refused() == 2
    drain(queue, server)
    assert queue.state().refused == 0
    assert len(server.got) == 9


def test_a_server_that_answers_everything_with_an_error_is_away_and_costs_no_event(queue):
    fill(queue, 4)
    server = Server(poison=frozenset({f"e{n}" for n in range(4)}), unclear=True)
    with pytest.raises(LinkAwayError):
        drain(queue, server)
    assert queue.state().waiting == 4


def test_the_drainer_goes_on_when_the_link_is_back(queue):
    server = Server()
    server.away = True
    drainer = Drainer(queue, lambda: server)
    fill(queue, 30)
    assert not drainer.flush(0.3)
    server.away = False
    assert drainer.flush(30)
    assert server.got == [f"e{n}" for n in range(30)]
    drainer.close()


def test_a_request_is_on_disk_when_it_is_answered_and_arrives_when_the_server_is_back(
    tmp_path, monkeypatch
):
    import mlflow

    from mlflow_agent_plugin.config import Settings
    from mlflow_agent_plugin.observability.spool import channel, ensure_spool, open_queue
    from mlflow_agent_plugin.observability.spool.delivery import MlflowReceiver

    away = threading.Event()
    away.set()
    real = MlflowReceiver.deliver

    def deliver(self, events):
        if away.is_set():
            raise LinkAwayError("cut")
        return real(self, events)

    monkeypatch.setattr(MlflowReceiver, "deliver", deliver)
    settings = Settings.from_env()
    assert ensure_spool(settings) is not None
    with mlflow.start_span("request") as span, mlflow.start_span("step"):
        pass
    queue = open_queue(settings, mlflow.get_tracking_uri())
    assert [event.event_id for event in queue.peek()] == [span.trace_id]
    assert mlflow.search_traces(return_type="list") == []
    away.clear()
    mlflow.flush_trace_async_logging()
    (trace,) = mlflow.search_traces(return_type="list")
    assert sorted(found.name for found in trace.data.spans) == ["request", "step"]
    channel.close_spools()


def test_a_bundles_own_span_is_masked_before_it_is_kept(tmp_path):
    import mlflow

    from mlflow_agent_plugin.config import Settings
    from mlflow_agent_plugin.observability.spool import (
        close_spools,
        ensure_masking,
        ensure_spool,
    )

    ensure_masking()
    ensure_spool(Settings.from_env())
    with mlflow.start_span("theirs") as span:
        span.set_inputs({"to": ["jo@example.org"], "card": "4111 1111 1111 1111"})
        span.set_attribute("note", "call +44 20 7946 0958")
        span.set_outputs("sent to jo@example.org")
    mlflow.flush_trace_async_logging()
    (trace,) = mlflow.search_traces(return_type="list")
    text = trace.to_json()
    assert "<EMAIL>" in text
    assert not [secret for secret in ("jo@example", "4111 1111", "7946 0958") if secret in text]
    close_spools()
    mlflow.tracing.configure(span_processors=[])


def test_a_full_spool_stops_the_agent_only_when_set_to(tmp_path, monkeypatch):
    from mlflow_agent_plugin.config import Settings
    from mlflow_agent_plugin.observability.spool import SpoolChannel, open_queue

    monkeypatch.setenv("MLFLOW_AGENTS_SPOOL_MAX_MB", "1")
    uri = "http://127.0.0.1:9"
    queue = open_queue(Settings.from_env(), uri)
    fill(queue, 300, size=4000)
    SpoolChannel(Settings.from_env(), uri).check()
    monkeypatch.setenv("MLFLOW_AGENTS_SPOOL_WHEN_FULL", "stop")
    channel = SpoolChannel(Settings.from_env(), uri)
    with pytest.raises(SpoolError, match=r"the spool is full \(\d+ traces wait"):
        channel.check()

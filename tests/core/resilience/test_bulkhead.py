"""No more run at once than allowed, and every place comes back."""

from __future__ import annotations

import threading

from mlflow_agent_plugin.core.resilience.bulkhead import Bulkhead


def test_threads_never_run_more_than_allowed_and_all_get_their_turn():
    bulkhead, lock = Bulkhead(), threading.Lock()
    running = most = done = 0

    def work():
        nonlocal running, most, done
        for _ in range(50):
            slot = bulkhead.enter((("acme", 3), ("acme/pay", 2)), wait_seconds=30)
            with lock:
                running += 1
                most = max(most, running)
            with lock:
                running -= 1
                done += 1
            slot.release()

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert (most <= 2, done) == (True, 400)
    assert not bulkhead._running, "nothing is kept for a tenant that is gone"


def test_a_full_one_refuses_after_its_wait_and_takes_nothing():
    bulkhead = Bulkhead()
    held = bulkhead.enter((("acme", 9), ("pay", 1)))
    assert bulkhead.enter((("acme", 9), ("pay", 1)), wait_seconds=0) is None
    others = [bulkhead.enter((("acme", 9),), wait_seconds=0) for _ in range(8)]
    assert None not in others
    assert bulkhead.enter((("beta", 1), ("beta/pay", 1)), wait_seconds=0) is not None
    held.release()
    assert bulkhead.enter((("acme", 9), ("pay", 1)), wait_seconds=0) is not None


def test_a_place_is_free_when_the_last_holder_lets_go():
    bulkhead = Bulkhead()
    slot = bulkhead.enter((("pay", 1),))
    slot.hold()
    slot.release()
    assert bulkhead.enter((("pay", 1),), wait_seconds=0) is None
    slot.release()
    assert bulkhead.enter((("pay", 1),), wait_seconds=0) is not None

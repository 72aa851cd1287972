"""When to send a request again that a rate limit refused. Pure.

Rules:
- Only 429 is sent again, never before the time its ``Retry-After`` names, and at most `attempts`
  times in all. Without that header the wait doubles from one second.
- A wait that would end after the request's time limit is not begun: the request has failed then,
  and nothing is sent that nobody waits for.
- A little jitter on top spreads what was refused together.

Source: RFC 6585, section 4 (429).
"""

from __future__ import annotations

TOO_MANY = 429
JITTER_SHARE = 0.1


def wait_before_retry(
    status: int | None,
    asked: float | None,
    *,
    attempt: int,
    attempts: int,
    left_seconds: float,
    draw: float,
) -> float | None:
    """Return how long to wait before the next attempt, None if there is none.

    Args:
        status: HTTP status of the answer.
        asked: What ``Retry-After`` asks for, in seconds.
        attempt: How often the request was sent.
        attempts: How often it may be.
        left_seconds: What is left of its time limit.
        draw: A number in [0, 1) for the jitter.
    """
    if status != TOO_MANY or attempt >= attempts:
        return None
    wait = 2.0 ** (attempt - 1) if asked is None else asked
    wait += JITTER_SHARE * draw * max(wait, 0.1)
    return None if wait >= left_seconds else wait

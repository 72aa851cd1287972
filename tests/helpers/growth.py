"""How CPU time grows with the size of the input.

Seconds say how fast the machine is and how busy; a ratio of two runs in one process says how the
code grows. Four times the input costs linear code four times the time and quadratic code sixteen.
"""

from __future__ import annotations

import time
from collections.abc import Callable

LINEAR = 9
"""More than linear code with a noisy clock, far less than quadratic code, at four times the size."""


def cpu_seconds(run: Callable[[], object], *, tries: int = 3) -> float:
    """Return the least CPU time of `tries` runs: noise only ever adds."""
    taken = []
    for _ in range(tries):
        begun = time.process_time()
        run()
        taken.append(time.process_time() - begun)
    return min(taken)


def assert_linear(run: Callable[[int], object], size: int) -> None:
    """Fail when `run(4 * size)` costs far more than four times `run(size)`.

    `size` is best large enough for some milliseconds; below ten of them at the larger size nothing
    is claimed, as the clock's own grain would decide.
    """
    run(size)  # imports, compiled patterns, caches
    large = cpu_seconds(lambda: run(4 * size))
    if large < 0.010:
        return
    # Three tries: a burst of other work on the machine can hit all runs of one size.
    for _ in range(3):
        small = cpu_seconds(lambda: run(size))
        if large < LINEAR * max(small, 0.001):
            return
        large = min(large, cpu_seconds(lambda: run(4 * size)))
    raise AssertionError(f"{size}: {small:.3f} s, {4 * size}: {large:.3f} s: more than linear")

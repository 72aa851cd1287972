"""What the estimators share: the normal distribution and a root finder."""

from __future__ import annotations

from collections.abc import Callable
from statistics import NormalDist

NORMAL = NormalDist()
BISECTIONS = 200


def critical_value(confidence: float) -> float:
    """Return the standard normal's two-sided critical value.

    Raises:
        ValueError: `confidence` is not in (0, 1).
    """
    if not 0.0 < confidence < 1.0:
        raise ValueError(f"confidence must lie between 0 and 1, not {confidence}")
    return NORMAL.inv_cdf(0.5 + confidence / 2.0)


def bisect(falling: Callable[[float], float], low: float, high: float) -> float:
    """Find the root of a function that falls from `low` to `high`, at an end if there is none."""
    for _ in range(BISECTIONS):
        middle = (low + high) / 2.0
        if middle in (low, high):
            break
        if falling(middle) > 0.0:
            low = middle
        else:
            high = middle
    return (low + high) / 2.0

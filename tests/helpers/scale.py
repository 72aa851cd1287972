"""How often the long tests repeat: a sample by default, everything when asked.

``MLFLOW_AGENTS_TEST_SCALE=full`` runs the counts the project promises (hundreds of kills, of
concurrent promotions); the default keeps one run of the suite short.
"""

from __future__ import annotations

import os

SCALE = os.environ.get("MLFLOW_AGENTS_TEST_SCALE", "short")
if SCALE not in ("short", "full"):
    raise ValueError(f"MLFLOW_AGENTS_TEST_SCALE is {SCALE!r}; expected 'short' or 'full'")


def scaled(short: int, full: int) -> int:
    """How many rounds this run does."""
    return full if SCALE == "full" else short

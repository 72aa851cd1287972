"""What `mlflow-agents doctor` looks at.

Rules:
- Looking changes nothing: no database, folder or key is made.
- A check that cannot be done is a failed check, never a passed one.
- Every row that is not ok says what to do.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from mlflow_agent_plugin.errors import AgentError
from mlflow_agent_plugin.interaction.cli.doctor import machine, platform, state
from mlflow_agent_plugin.interaction.cli.doctor.check import Check, Health, in_one_line
from mlflow_agent_plugin.interaction.cli.doctor.state import store_revision

__all__ = ["Check", "Health", "examine", "store_revision"]

CHECKS: dict[str, Callable[[str], Iterator[Check]]] = {
    "Python": machine.python,
    "packages": machine.packages,
    "extras": machine.extras,
    "plugin": machine.plugin,
    "disk": machine.disk,
    "settings": state.settings_row,
    "keys": state.keys,
    "runtime store": state.store,
    "tracking": platform.tracking,
    "registry": platform.registry,
}
"""Name of each row, or group of rows, to what looks."""


def examine() -> list[Check]:
    """Run every check."""
    found: list[Check] = []
    for name, check in CHECKS.items():
        try:
            found.extend(check(name))
        except Exception as error:
            hint = error.hint if isinstance(error, AgentError) else None
            found.append(
                Check(name, Health.FAIL, in_one_line(error), hint or "Mend what it names.")
            )
    return found

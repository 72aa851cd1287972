"""How much results depend on the run: the same cases with several seeds.

Rules:
- Evidence rests on one run; repeated runs of a case are not independent cases and never make an
  interval narrower.
- The standard error over several runs is by case, and the variance is split into what differs
  between cases and what differs between runs of one case.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mlflow_agent_plugin.entities.statistics import VarianceSplit, split_variance
from mlflow_agent_plugin.errors import SuiteError

if TYPE_CHECKING:
    from mlflow_agent_plugin.trust import CaseResult

_NAMED = 5
"""How many flaky cases are named in a line."""


@dataclass(frozen=True)
class Stability:
    """Task success of the same cases over several runs.

    Attributes:
        success: Mean over cases and runs, with the variance split.
        flaky: Cases that succeeded in some runs and failed in others.
    """

    success: VarianceSplit
    flaky: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-ready dictionary."""
        return {"task_success": self.success.to_dict(), "flaky": list(self.flaky)}

    def __str__(self) -> str:
        split = self.success
        return (
            f"task_success {split.mean:.3f} ± {1.96 * split.standard_error:.3f} over {split.runs} "
            f"runs of {split.cases} cases; variance between cases {split.between_cases:.3g}, "
            f"between runs {split.between_runs:.3g}; {len(self.flaky)} flaky"
            f"{': ' if self.flaky else ''}{', '.join(self.flaky[:_NAMED])}"
        )


def measure_stability(runs: Sequence[Sequence[CaseResult]]) -> Stability:
    """Return how much task success depends on the run.

    Args:
        runs: Results of the same cases, one list for each run.

    Raises:
        SuiteError: There is no run, or the runs are not of the same cases.
    """
    by_case: dict[str, list[float]] = {}
    for rows in runs:
        for row in rows:
            by_case.setdefault(row.case_id, []).append(float(row.success))
    if not by_case or {len(values) for values in by_case.values()} != {len(runs)}:
        raise SuiteError("stability needs runs of the same cases")
    cases = sorted(by_case)
    return Stability(
        success=split_variance([by_case[case] for case in cases]),
        flaky=tuple(case for case in cases if len(set(by_case[case])) > 1),
    )

"""The statistics of evaluation, in plain Python: intervals of rates, paired comparisons, means.

Rules:
- Every function is pure; what needs random numbers takes a seed and gives the same answer for it.
- No data is not good data: with ``n = 0`` an interval is the whole range and no test can reject.
- ``confidence`` is two-sided everywhere. A non-inferiority claim holds when the lower limit of the
  two-sided interval lies above ``-margin``, which is a one-sided test at ``(1 - confidence) / 2``.
- In paired functions ``a`` is the candidate and ``b`` the incumbent, both on the same cases;
  ``only_a`` counts the cases only the candidate got right.
"""

from __future__ import annotations

from mlflow_agent_plugin.entities.statistics.means import (
    MeanDifference,
    VarianceSplit,
    bootstrap_mean_difference,
    percentile,
    split_variance,
)
from mlflow_agent_plugin.entities.statistics.rates import (
    NonInferiority,
    PairedDifference,
    mcnemar_exact,
    minimum_detectable_difference,
    non_inferiority,
    paired_difference,
    wilson_interval,
)

__all__ = [
    "MeanDifference",
    "NonInferiority",
    "PairedDifference",
    "VarianceSplit",
    "bootstrap_mean_difference",
    "mcnemar_exact",
    "minimum_detectable_difference",
    "non_inferiority",
    "paired_difference",
    "percentile",
    "split_variance",
    "wilson_interval",
]

"""When a window of traffic has drifted: the rules, without any I/O.

Rules, in order:
1. A column is *compared* when reference and current window both have at least `minimum_sessions`
   values of it. A column the reference never had (or hardly had) is left out, and says so.
2. A compared column *stands out* when its p-value survives Benjamini-Hochberg over all compared
   columns at `alpha` AND its effect reaches `effect_floor`: small windows cannot alarm by chance,
   large ones cannot alarm over trifles.
3. Values that went missing, a test that failed, too few values: *unknown*, named as a signal of its
   own. Unknown is never "no drift".
4. Drift is *confirmed* when the same column stands out in `windows` consecutive windows. The first
   window names the columns; a later one has to confirm only these, so Benjamini-Hochberg runs over
   the named columns alone. An unknown column in between neither confirms nor clears.
5. The verdict: `True` when a column is confirmed; `None` when a column stands out and waits for
   confirmation, or when anything is unknown; `False` only when everything compared is stable.

Each row of the compared tables is one session: rows of one session are not independent, and a test
that takes them for independent alarms on nothing.

Sources: Benjamini & Hochberg 1995, JRSS B 57:289-300. Population stability index: Yurdakul &
Naranjo 2020, J. Risk Model Validation 14(4) (its sampling noise is (bins - 1)(1/n + 1/m)).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import NormalDist
from typing import Any

from mlflow_agent_plugin.observability.drift.verdict import (
    ColumnEvidence,
    ColumnStatus,
    ColumnVerdict,
    DriftRules,
    DriftVerdict,
    Window,
)

_NORMAL = NormalDist()
_POWER = 0.8


def judge(
    evidence: Sequence[ColumnEvidence],
    *,
    window: Window,
    rules: DriftRules | None = None,
    previous: DriftVerdict | None = None,
) -> DriftVerdict:
    """Combine the evidence on each column to a verdict, by the module's rules.

    Args:
        evidence: One entry per column.
        window: What was compared.
        rules: Default: `DriftRules()`.
        previous: The verdict on the window before, against the same reference. One about another
            reference, or about an overlapping or later window, is ignored, and a reason says so.
    """
    rules = rules or DriftRules()
    carried, ignored = _carried(previous, window)
    compared = [item for item in evidence if _obstacle(item, window, rules) is None]
    adjusted = dict(
        zip(
            (item.name for item in compared),
            adjust_p_values([item.p_value or 0.0 for item in compared]),
            strict=True,
        )
    )
    named = [item for item in compared if carried.get(item.name)]
    again = dict(
        zip(
            (item.name for item in named),
            adjust_p_values([item.p_value or 0.0 for item in named]),
            strict=True,
        )
    )
    columns = tuple(
        _judge_column(item, adjusted, again, carried.get(item.name, 0), window, rules)
        for item in evidence
    )
    confirmed = [column for column in columns if column.confirmed]
    standing = [column for column in columns if column.status is ColumnStatus.STANDS_OUT]
    unknown = [column for column in columns if column.status is ColumnStatus.UNKNOWN]
    reasons: list[str] = []
    if window.sessions < rules.minimum_sessions:
        reasons.append(
            f"the window has {window.sessions} sessions, {rules.minimum_sessions} are needed"
        )
    if window.reference_sessions < rules.minimum_sessions:
        reasons.append(
            f"the reference has {window.reference_sessions} sessions, "
            f"{rules.minimum_sessions} are needed"
        )
    too_small = bool(reasons)
    if not too_small:
        shown = confirmed + [column for column in standing if not column.confirmed] + unknown
        reasons.extend(f"{column.name}: {column.reason}" for column in shown)
    if standing and not confirmed:
        reasons.append(f"waits for window {_longest(standing) + 1} of {rules.windows} to confirm")
    if not adjusted and not reasons:
        reasons.append("no column could be compared")
    if ignored:
        reasons.append(ignored)
    drifted: bool | None
    if confirmed:
        drifted = True
    elif standing or unknown or too_small or not adjusted:
        drifted = None
    else:
        drifted = False
        reasons.insert(0, f"{len(adjusted)} columns are stable")
    return DriftVerdict(
        drifted=drifted,
        suspected=bool(standing),
        columns=columns,
        reasons=tuple(reasons),
        power=_power(window, len(adjusted), rules),
        window=window,
        rules=rules,
    )


def adjust_p_values(p_values: Sequence[float]) -> list[float]:
    """Return Benjamini-Hochberg adjusted p-values, in the order given.

    >>> [round(p, 3) for p in adjust_p_values([0.01, 0.04, 0.03])]
    [0.03, 0.04, 0.04]
    """
    count = len(p_values)
    order = sorted(range(count), key=lambda index: p_values[index], reverse=True)
    adjusted = [0.0] * count
    smallest = 1.0
    for position, index in enumerate(order):
        smallest = min(smallest, p_values[index] * count / (count - position))
        adjusted[index] = smallest
    return adjusted


def detectable_shift(
    n_reference: int, n_current: int, columns: int, rules: DriftRules | None = None
) -> float:
    """Return the share of sessions that must move for one window to show it with 80 % power.

    It is the share moved across the middle of a column (the least favourable place) when `columns`
    are compared and no other drifts; 1.0 if no shift would be seen.
    """
    rules = rules or DriftRules()
    if min(n_reference, n_current) < rules.minimum_sessions or columns < 1:
        return 1.0
    quantile = _NORMAL.inv_cdf(1 - rules.alpha / columns / 2) + _NORMAL.inv_cdf(_POWER)
    noise = math.sqrt(0.25 * (1 / n_reference + 1 / n_current))
    # PSI of a fifty-fifty column of which a share d moves over is about 8 d².
    floor = math.sqrt(rules.effect_floor / 8) + _NORMAL.inv_cdf(_POWER) * noise
    return min(1.0, max(quantile * noise, floor))


def _judge_column(
    item: ColumnEvidence,
    adjusted: Mapping[str, float],
    again: Mapping[str, float],
    streak: int,
    window: Window,
    rules: DriftRules,
) -> ColumnVerdict:
    common: dict[str, Any] = {
        "name": item.name,
        "test": item.test,
        "n_reference": item.n_reference,
        "n_current": item.n_current,
    }
    obstacle = _obstacle(item, window, rules)
    if obstacle is not None:
        status, reason = obstacle
        kept = streak if status is ColumnStatus.UNKNOWN else 0
        return ColumnVerdict(**common, status=status, reason=reason, streak=kept)
    assert item.p_value is not None
    assert item.effect is not None
    p_value = min(adjusted[item.name], again.get(item.name, 1.0))
    common |= {"p_value": item.p_value, "adjusted_p": p_value, "effect": item.effect}
    numbers = f"adjusted p {p_value:.2g}, effect {item.effect:.3f}"
    missing = _missing_signal(item, rules)
    if p_value <= rules.alpha and item.effect >= rules.effect_floor:
        streak += 1
        confirmed = streak >= rules.windows
        reason = f"differs from the reference ({numbers}, window {streak})"
        if missing:
            reason += f"; {missing}"
        return ColumnVerdict(
            **common,
            status=ColumnStatus.STANDS_OUT,
            reason=reason,
            streak=streak,
            confirmed=confirmed,
        )
    if missing:
        return ColumnVerdict(**common, status=ColumnStatus.UNKNOWN, reason=missing, streak=streak)
    return ColumnVerdict(**common, status=ColumnStatus.STABLE, reason=numbers)


def _obstacle(
    item: ColumnEvidence, window: Window, rules: DriftRules
) -> tuple[ColumnStatus, str] | None:
    if item.left_out is not None:
        return ColumnStatus.NOT_COMPARED, item.left_out
    if min(window.sessions, window.reference_sessions) < rules.minimum_sessions:
        return ColumnStatus.UNKNOWN, "too few sessions"
    missing = _missing_signal(item, rules)
    if item.n_reference < rules.minimum_sessions and missing is None:
        return ColumnStatus.NOT_COMPARED, f"the reference has only {item.n_reference} values"
    if min(item.n_reference, item.n_current) < rules.minimum_sessions:
        return (
            ColumnStatus.UNKNOWN,
            missing or f"only {item.n_current} values (reference {item.n_reference})",
        )
    if item.error is not None:
        return ColumnStatus.UNKNOWN, f"its test failed: {item.error}"
    for value, low, high in ((item.p_value, 0.0, 1.0), (item.effect, -math.inf, math.inf)):
        if value is None or not low <= value <= high or math.isinf(value):
            return ColumnStatus.UNKNOWN, "its test gave no usable result"
    return None


def _missing_signal(item: ColumnEvidence, rules: DriftRules) -> str | None:
    """Say how the share of missing values changed, if by more than chance and the floor."""
    n = item.n_reference + item.missing_reference
    m = item.n_current + item.missing_current
    if n == 0 or m == 0:
        return None
    before, now = item.missing_reference / n, item.missing_current / m
    share = (item.missing_reference + item.missing_current) / (n + m)
    if abs(now - before) < rules.missing_floor or share in (0.0, 1.0):
        return None
    z = abs(now - before) / math.sqrt(share * (1 - share) * (1 / n + 1 / m))
    if math.erfc(z / math.sqrt(2)) > rules.alpha:
        return None
    return f"{now:.0%} of its values are missing (reference {before:.0%})"


def _carried(previous: DriftVerdict | None, window: Window) -> tuple[dict[str, int], str | None]:
    if previous is None:
        return {}, None
    if previous.window.reference != window.reference:
        return {}, "the previous verdict was about another reference and does not count"
    if previous.window.end and window.start and previous.window.end >= window.start:
        return (
            {},
            "the previous verdict was about an overlapping or later window, and does not count",
        )
    return {column.name: column.streak for column in previous.columns}, None


def _longest(columns: Sequence[ColumnVerdict]) -> int:
    return max(column.streak for column in columns)


def _power(window: Window, columns: int, rules: DriftRules) -> str:
    share = detectable_shift(window.reference_sessions, window.sessions, columns, rules)
    sizes = f"{window.sessions} sessions against {window.reference_sessions}"
    if share >= 1:
        return f"{sizes}: no shift would have been seen"
    return (
        f"{sizes}: a shift that moves {share:.0%} of the sessions across a column's middle "
        f"is seen in one window with {_POWER:.0%} probability"
    )

"""What a drift check is given and what it answers: plain values, without any I/O.

`judging` holds the rules that lead from one to the other.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from enum import Enum
from typing import Any

from mlflow_agent_plugin.errors import ConfigError, DriftInputError


class ColumnStatus(str, Enum):
    """What one window says about one column."""

    STABLE = "stable"
    STANDS_OUT = "stands_out"
    UNKNOWN = "unknown"
    NOT_COMPARED = "not_compared"


@dataclass(frozen=True)
class DriftRules:
    """Settings of the verdict.

    Attributes:
        alpha: Share of unshifted windows in which any column may stand out (before the floor).
        effect_floor: Smallest effect that counts, as PSI with its sampling noise taken off; 0.01 is
            about 3.5 of 100 sessions moved across a column's middle.
        windows: Consecutive windows that must agree.
        minimum_sessions: Fewest sessions, on either side, a comparison needs.
        missing_floor: Smallest change in the share of missing values that counts, 0 to 1.
    """

    alpha: float = 0.005
    effect_floor: float = 0.01
    windows: int = 2
    minimum_sessions: int = 100
    missing_floor: float = 0.05

    def __post_init__(self) -> None:
        if not 0 < self.alpha < 1:
            raise ConfigError("must lie between 0 and 1", where="drift rule alpha")
        if not self.effect_floor >= 0:
            raise ConfigError("must not be negative", where="drift rule effect_floor")
        if self.windows < 1 or self.minimum_sessions < 2:
            raise ConfigError("windows must be at least 1, minimum_sessions 2", where="drift rules")
        if not 0 < self.missing_floor <= 1:
            raise ConfigError("must lie between 0 and 1", where="drift rule missing_floor")


@dataclass(frozen=True)
class ColumnEvidence:
    """What was measured about one column.

    Attributes:
        test: Name of the test that gave `p_value`.
        n_reference: Values present in the reference; likewise `n_current`.
        missing_reference: Values missing in the reference; likewise `missing_current`.
        p_value: None if the test was not run or failed.
        effect: PSI with its sampling noise taken off, None likewise.
        error: Why the test failed, None if it did not.
        left_out: Why the column is not to be compared, None if it is.
    """

    name: str
    test: str
    n_reference: int
    n_current: int
    missing_reference: int = 0
    missing_current: int = 0
    p_value: float | None = None
    effect: float | None = None
    error: str | None = None
    left_out: str | None = None


@dataclass(frozen=True)
class ColumnVerdict:
    """The verdict on one column, with its reason.

    Attributes:
        adjusted_p: Benjamini-Hochberg adjusted p-value over the compared columns.
        streak: Consecutive windows, this one included, in which the column stood out.
    """

    name: str
    test: str
    status: ColumnStatus
    reason: str
    p_value: float | None = None
    adjusted_p: float | None = None
    effect: float | None = None
    n_reference: int = 0
    n_current: int = 0
    streak: int = 0
    confirmed: bool = False


@dataclass(frozen=True)
class Window:
    """Which data a verdict is about.

    Attributes:
        reference: Digest of the reference rows.
        start: First event time of the current window, ISO 8601, None if it is empty.
        end: Last event time, likewise.
        reference_sessions: Sessions in the reference.
        sessions: Sessions in the window.
        rows: Rows in the window, of which the first of each session counts.
    """

    reference: str
    start: str | None
    end: str | None
    reference_sessions: int
    sessions: int
    rows: int


@dataclass(frozen=True)
class DriftVerdict:
    """What a window of traffic says about drift.

    Attributes:
        drifted: True (confirmed), False (everything compared is stable) or None (not known, or
            waiting for confirmation). None is never "no drift".
        suspected: A column stands out in this window, confirmed or not.
        reasons: Why, one sentence each, the most important first.
        power: What shift this window would have shown.
        report: Where the HTML report lies, None if none was made.
    """

    drifted: bool | None
    suspected: bool
    columns: tuple[ColumnVerdict, ...]
    reasons: tuple[str, ...]
    power: str
    window: Window
    rules: DriftRules = field(default_factory=DriftRules)
    report: str | None = None

    def column(self, name: str) -> ColumnVerdict:
        """Return the verdict on column `name`; raises KeyError if there is none."""
        for column in self.columns:
            if column.name == name:
                return column
        raise KeyError(name)

    @property
    def unknown(self) -> tuple[str, ...]:
        """Names of the columns nothing can be said about."""
        return tuple(c.name for c in self.columns if c.status is ColumnStatus.UNKNOWN)

    def summary(self) -> str:
        """Return the verdict as one line for a log."""
        word = {True: "drift confirmed", False: "no drift", None: "unknown"}[self.drifted]
        if self.drifted is None and self.suspected:
            word = "drift suspected"
        return f"{word}: {'; '.join(self.reasons)} ({self.window.sessions} sessions)"

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-ready dictionary; `from_dict` reads it back."""
        values = asdict(self)
        for column in values["columns"]:
            column["status"] = column["status"].value
        values["columns"] = list(values["columns"])
        values["reasons"] = list(values["reasons"])
        return values

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> DriftVerdict:
        """Read what `to_dict` returned.

        Raises:
            DriftInputError: `values` is no drift verdict.
        """
        try:
            rest = dict(values)
            rest["columns"] = tuple(
                ColumnVerdict(**{**column, "status": ColumnStatus(column["status"])})
                for column in values["columns"]
            )
            rest["reasons"] = tuple(values["reasons"])
            rest["window"] = Window(**values["window"])
            rest["rules"] = DriftRules(**values["rules"])
            return cls(**rest)
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise DriftInputError(f"this is no drift verdict: {error}") from error

    def _repr_html_(self) -> str:
        """Show the verdict as a table in a notebook."""
        from mlflow_agent_plugin.observability.drift.page import verdict_html

        return verdict_html(self)

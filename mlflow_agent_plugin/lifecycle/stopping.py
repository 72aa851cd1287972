"""When a rollout has to stop: rules over what the candidate did so far, without any I/O.

Rules:
- A safety incident stops at once.
- Rates are compared by a sequential test: it may be looked at after every request, as often as one
  likes, and still stops a candidate that is as good as the incumbent with probability at most
  `alpha`. (A test made for one look would stop one in three good candidates within a day.)
- "Worse" means worse by more than `margin`; what lies within is the incumbent's own noise.
- Enough evidence that it is *not* worse ends the rollout the other way: ready.
- Requests of one session are alike: count one per session (`Tally` takes sessions).

Source: Ramdas, Grünwald, Vovk, Shafer 2023, Game-theoretic statistics and safe anytime-valid
inference (testing by betting, Ville); the bets follow Waudby-Smith and Ramdas 2024,
section 4, on the difference of the arms.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

MAX_WAITING = 100
"""Sessions of one arm that wait for one of the other; older ones are no longer compared."""


class RolloutVerdict(str, Enum):
    """What to do with a rollout."""

    GO_ON = "go_on"
    STOP = "stop"
    READY = "ready"


@dataclass(frozen=True)
class StopRules:
    """When to stop.

    Attributes:
        success_margin: Drop of the success rate that is not accepted, e.g. 0.05.
        error_margin: Rise of the error rate that is not accepted.
        alpha: Probability of stopping a candidate that is no worse, over the whole rollout.
        min_sessions: Sessions of the candidate before it can be ready.
        max_incidents: Safety incidents that are accepted; beyond, it stops at once.
    """

    success_margin: float = 0.05
    error_margin: float = 0.02
    alpha: float = 0.05
    min_sessions: int = 200
    max_incidents: int = 0

    def __post_init__(self) -> None:
        for name in ("success_margin", "error_margin"):
            if not 0 < getattr(self, name) < 1:
                raise ValueError(f"{name} must lie between 0 and 1")
        if not 0 < self.alpha < 1:
            raise ValueError("alpha must lie between 0 and 1")
        if self.min_sessions < 1 or self.max_incidents < 0:
            raise ValueError("min_sessions must be positive, max_incidents not negative")


@dataclass
class SequentialTest:
    """Tests "these numbers have a mean of at most 0", one after the other, looked at any time.

    `evidence` grows like the stake of somebody who bets against the hypothesis: as long as it
    holds, ``exp(evidence)`` reaches ``1 / alpha`` with probability at most `alpha`.

    Attributes:
        bound: No number lies outside [-bound, bound].
        evidence: Against the hypothesis, as a logarithm.
        count: Numbers seen.
    """

    bound: float
    evidence: float = 0.0
    count: int = 0
    _sum: float = 0.0
    _squares: float = 0.0

    def observe(self, value: float) -> None:
        """Take the next number."""
        if not abs(value) <= self.bound * (1 + 1e-9):
            raise ValueError(f"{value} does not lie in [-{self.bound:g}, {self.bound:g}]")
        self.evidence += math.log1p(self._bet() * value)
        self.count += 1
        self._sum += value
        self._squares += value * value

    def rejects(self, alpha: float) -> bool:
        """Return whether the hypothesis is rejected now; act on it, it may fall again."""
        return self.evidence >= -math.log(alpha)

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-ready dictionary `from_dict` goes on from."""
        return {
            "bound": self.bound,
            "evidence": self.evidence,
            "count": self.count,
            "sum": self._sum,
            "squares": self._squares,
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> SequentialTest:
        """Return the test that `to_dict` wrote down."""
        return cls(data["bound"], data["evidence"], data["count"], data["sum"], data["squares"])

    def _bet(self) -> float:
        """Return the next stake, from the past alone; at worst it loses half."""
        # One made-up number of variance 1/4 keeps the first bets small.
        mean = self._sum / (self.count + 1)
        variance = (self._squares + 0.25) / (self.count + 1)
        return min(max(mean / variance, 0.0), 0.5 / self.bound)


@dataclass(frozen=True)
class RolloutDecision:
    """What to do, and why."""

    verdict: RolloutVerdict
    reasons: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-ready dictionary."""
        return {"verdict": self.verdict.value, "reasons": list(self.reasons)}

    def summary(self) -> str:
        """Return the decision as one line for a log."""
        return f"{self.verdict.value}: {'; '.join(self.reasons)}"


class RolloutWatch:
    """Watches one rollout; feed it what happened, ask it what to do.

    Sessions of the two arms are paired in the order they ended. A decision to stop is final.

    Args:
        rules: When to stop.
    """

    def __init__(self, rules: StopRules | None = None) -> None:
        self.rules = rules or StopRules()
        self.incidents = 0
        self.sessions = {"candidate": 0, "incumbent": 0}
        self._waiting: dict[str, deque[tuple[bool, bool]]] = {
            arm: deque(maxlen=MAX_WAITING) for arm in self.sessions
        }
        margins = {"success": self.rules.success_margin, "errors": self.rules.error_margin}
        self._margins = margins
        self._worse = {name: SequentialTest(1 + margin) for name, margin in margins.items()}
        self._as_good = {name: SequentialTest(1 + margin) for name, margin in margins.items()}
        self._stopped: tuple[str, ...] = ()
        self._kept: set[str] = set()

    def to_dict(self) -> dict[str, Any]:
        """Return everything seen so far, JSON-ready: another process goes on from there."""
        return {
            "incidents": self.incidents,
            "sessions": dict(self.sessions),
            "waiting": {
                arm: [list(pair) for pair in found] for arm, found in self._waiting.items()
            },
            "worse": {name: test.to_dict() for name, test in self._worse.items()},
            "as_good": {name: test.to_dict() for name, test in self._as_good.items()},
            "stopped": list(self._stopped),
            "kept": sorted(self._kept),
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], rules: StopRules) -> RolloutWatch:
        """Return the watch that `to_dict` wrote down; `rules` are the ones it was made with."""
        watch = cls(rules)
        watch.incidents = data["incidents"]
        watch.sessions = dict(data["sessions"])
        for arm, found in data["waiting"].items():
            watch._waiting[arm].extend((bool(pair[0]), bool(pair[1])) for pair in found)
        read = SequentialTest.from_dict
        watch._worse = {name: read(test) for name, test in data["worse"].items()}
        watch._as_good = {name: read(test) for name, test in data["as_good"].items()}
        watch._stopped = tuple(data["stopped"])
        watch._kept = set(data["kept"])
        return watch

    def session(self, *, candidate: bool, success: bool, error: bool) -> RolloutDecision:
        """Take one finished session and return what to do now."""
        arm = "candidate" if candidate else "incumbent"
        self.sessions[arm] += 1
        self._waiting[arm].append((success, error))
        while self._waiting["candidate"] and self._waiting["incumbent"]:
            self._pair(self._waiting["candidate"].popleft(), self._waiting["incumbent"].popleft())
        return self.decide()

    def _pair(self, ours: tuple[bool, bool], theirs: tuple[bool, bool]) -> None:
        # How much worse the candidate was in this pair: less success, more errors.
        losses = {"success": theirs[0] - ours[0], "errors": ours[1] - theirs[1]}
        for name, loss in losses.items():
            margin = self._margins[name]
            self._worse[name].observe(loss - margin)
            self._as_good[name].observe(margin - loss)
            # Two rates are looked at: each gets half of what may go wrong.
            if self._worse[name].rejects(self.rules.alpha / 2) and not self._stopped:
                count = self._worse[name].count
                self._stopped = (f"{name} worse by more than {margin:g} after {count} pairs",)
            if self._as_good[name].rejects(self.rules.alpha / 2):
                self._kept.add(name)

    def incident(self, kind: str) -> RolloutDecision:
        """Take one safety incident of the candidate and return what to do now."""
        self.incidents += 1
        if self.incidents > self.rules.max_incidents:
            self._stopped = self._stopped or (f"safety incident: {kind[:200]}",)
        return self.decide()

    def decide(self) -> RolloutDecision:
        """Return what to do, from what is known."""
        if self._stopped:
            return RolloutDecision(RolloutVerdict.STOP, self._stopped)
        seen = self.sessions["candidate"]
        if self._kept == {"success", "errors"} and seen >= self.rules.min_sessions:
            reason = f"after {seen} sessions neither success nor errors are worse by the margins"
            return RolloutDecision(RolloutVerdict.READY, (reason,))
        return RolloutDecision(RolloutVerdict.GO_ON, (f"{seen} sessions, nothing is certain yet",))

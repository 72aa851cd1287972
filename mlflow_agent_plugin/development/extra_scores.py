"""MLflow scorers over the cases of a suite: judges, or whatever a team has already.

Rules:
- They see what the user said (``inputs``), the last answer (``outputs``) and the scenario's
  expectation (``expectations``); there is no trace, because the cases are not traced.
- What they say stands beside the results, never in them: a judge may say something else tomorrow,
  and signed evidence has to repeat byte for byte.
- A scorer that fails on a case costs that score, not the evaluation; how many failed is a metric.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from statistics import fmean
from typing import TYPE_CHECKING, Any

from mlflow_agent_plugin.development.runner import SuiteRun

if TYPE_CHECKING:
    from mlflow.genai.scorers import Scorer

_WORDS = {"yes": 1.0, "no": 0.0, "true": 1.0, "false": 0.0}


@dataclass(frozen=True)
class ExtraScore:
    """What one scorer said about one case.

    Attributes:
        value: Number, flag or word; None if the scorer failed.
        rationale: Why, in the scorer's words, or why it failed.
    """

    case_id: str
    scorer: str
    value: float | bool | str | None
    rationale: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-ready dictionary."""
        return asdict(self)


def apply_scorers(scorers: Sequence[Scorer], run: SuiteRun) -> list[ExtraScore]:
    """Return what each scorer says about each case."""
    found: list[ExtraScore] = []
    for scenario, case in zip(run.suite.scenarios, run.runs, strict=True):
        for scorer in scorers:
            try:
                said = scorer.run(
                    inputs={"turns": case.result.text.split("\n")},
                    outputs=case.answer,
                    expectations=scenario.expect.model_dump(mode="json", exclude_unset=True),
                    trace=None,
                )
            except Exception as error:  # a judge that is away must not end the evaluation
                why = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
                found.append(ExtraScore(scenario.id, scorer.name, None, why))
                continue
            items = said if isinstance(said, list) else [said]
            found.extend(_score(scenario.id, scorer.name, item) for item in items)
    return found


def mean_scores(scores: Sequence[ExtraScore]) -> dict[str, float]:
    """Return the mean of each scorer's numbers, and how often it failed."""
    metrics: dict[str, float] = {}
    for name in sorted({score.scorer for score in scores}):
        own = [score for score in scores if score.scorer == name]
        numbers = [number for score in own if (number := _number(score.value)) is not None]
        if numbers:
            metrics[f"{name}_mean"] = fmean(numbers)
        metrics[f"{name}_failed"] = float(sum(score.value is None for score in own))
    return metrics


def _score(case_id: str, name: str, item: Any) -> ExtraScore:
    value = getattr(item, "value", item)
    value = getattr(value, "value", value)  # a rating is an enum of words
    why = getattr(item, "rationale", None)
    if getattr(item, "error", None) is not None or not isinstance(value, (bool, int, float, str)):
        return ExtraScore(case_id, name, None, str(getattr(item, "error", None) or why or value))
    return ExtraScore(case_id, name, value, None if why is None else str(why))


def _number(value: Any) -> float | None:
    if isinstance(value, str):
        return _WORDS.get(value.casefold())
    return None if value is None else float(value)

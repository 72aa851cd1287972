"""What the demo's chapters share: its constants, its state, and how numbers are said."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlflow_agent_plugin.interaction.demo.place import Place
from mlflow_agent_plugin.interaction.demo.report import DemoResult, Teller
from mlflow_agent_plugin.interaction.demo.traffic import Answered

if TYPE_CHECKING:
    import pandas as pd

    from mlflow_agent_plugin.development import EvaluationResult


MODEL = "support"
STAGE = "Production"
REVIEWER = "rita"

HELD_BACK = (
    "apple_pay_or_google_pay",
    "automatic_top_up",
    "disposable_card_limits",
    "exchange_charge",
    "exchange_via_app",
    "get_disposable_virtual_card",
    "getting_virtual_card",
    "top_up_limits",
)
"""What customers ask about once the bank has launched virtual cards, wallets and exchange: intents
the first version was not trained on."""

LAUNCH_CASES = 1000
"""Scenarios of the launch suite that version 1 is judged by, drawn at random."""

WHOLE_CASES = 1200
"""Scenarios of the whole suite that version 2 and the incumbent are compared on, case by case."""

PER_DAY = 105
QUIET_DAYS = 2


@dataclass
class Story:
    """What the steps share."""

    place: Place
    workers: int
    teller: Teller
    result: DemoResult
    train: pd.DataFrame | None = None
    test: pd.DataFrame | None = None
    unrelated: dict[str, list[str]] = field(default_factory=dict)
    suites: dict[str, Path] = field(default_factory=dict)
    answered: list[Answered] = field(default_factory=list)
    reason: str = ""
    small: bool = False

    def step(self, name: str) -> Any:
        """Begin a step."""
        return self.teller.step(name)


def trained(report: Mapping[str, Any]) -> str:
    """Say how well a planner was trained."""
    return (
        f"accuracy {report['accuracy']:.3f} [{report['accuracy_low']:.3f},"
        f" {report['accuracy_high']:.3f}] on {report['n_test']:,} test queries"
        f" of {report['n_classes']} intents; {report['cpu_seconds']:.0f} s CPU"
    )


def evaluated_line(story: Story, key: str, evaluated: EvaluationResult) -> str:
    """Keep the metrics of an evaluation under `key` and say them in one line."""
    parts: list[str] = []
    for name, suite in evaluated.suites.items():
        metrics = suite.metrics
        story.result.numbers[key] = {
            "suite": name,
            "run_id": evaluated.run_id,
            **{item: metrics[item].to_dict() for item in ("task_success", "intent_accuracy")
               if item in metrics},
        }  # fmt: skip
        success = metrics["task_success"]
        parts.append(
            f"task success {success.value:.3f} [{success.low:.3f}, {success.high:.3f}]"
            f" on {success.n:,} scenarios"
        )
    return "; ".join(parts)


def rate(story: Story, key: str, metric: str) -> str:
    """Say a kept rate with its 95% interval."""
    found = story.result.numbers[key][metric]
    return f"{found['value']:.3f} [{found['low']:.3f}, {found['high']:.3f}]"


def where_is(stage: str) -> str:
    """Say which version a stage points to."""
    import mlflow

    found = mlflow.MlflowClient().get_latest_versions(MODEL, [stage])
    return f"{stage} is version {found[0].version}" if found else f"{stage} is empty"

"""The planner's card: what it was trained on, with what, and how well it does.

It holds nothing that changes from run to run (no time, no path), so that the same training gives
the same bytes.
"""

from __future__ import annotations

import json
from typing import Any, Literal

from pydantic import Field, ValidationError, model_validator

from mlflow_agent_plugin.entities.statistics import wilson_interval
from mlflow_agent_plugin.errors import PlannerError
from mlflow_agent_plugin.package.manifest import StrictModel


class Accuracy(StrictModel):
    """A share of right answers with its 95% interval (Wilson)."""

    value: float
    low: float
    high: float
    n: int


class PlannerCard(StrictModel):
    """What ``card.json`` says.

    Attributes:
        classes: Intents, sorted.
        n_train: Examples.
        n_features: Columns of the feature matrix.
        seed: Chooses which examples were held back to fit the confidence.
        scale: Factor on the scores before they become shares (an inverse temperature).
        background: Score of "none of these"; None: there were too few examples to fit it.
        sklearn_version: The library the weights were fitted with.
        data: Where the examples come from: ``source``, ``sha256`` and so on, as the trainer says.
        accuracy: By data set: ``held_back`` (from training), ``test``.
        files: SHA-256 of the model's other files.
    """

    format: Literal["mlflow-agents/planner-1"] = "mlflow-agents/planner-1"
    classes: tuple[str, ...] = Field(min_length=2)
    n_train: int = Field(ge=2)
    n_features: int = Field(ge=1)
    seed: int
    scale: float = Field(gt=0, le=1000, allow_inf_nan=False)
    background: float | None = Field(default=None, allow_inf_nan=False)
    sklearn_version: str
    data: dict[str, Any] = Field(default_factory=dict)
    accuracy: dict[str, Accuracy] = Field(default_factory=dict)
    files: dict[str, str] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _classes_are_sorted(self) -> PlannerCard:
        if list(self.classes) != sorted(set(self.classes)):
            raise ValueError("classes must be sorted and differ")
        return self

    def with_accuracy(self, name: str, right: int, n: int) -> PlannerCard:
        """Return the card with the accuracy of `right` of `n` examples of the data set `name`."""
        low, high = wilson_interval(right, n)
        accuracy = Accuracy(value=round(right / n, 4), low=round(low, 4), high=round(high, 4), n=n)
        return self.model_copy(update={"accuracy": {**self.accuracy, name: accuracy}})

    def to_json(self) -> bytes:
        """Return the file's content."""
        value = self.model_dump(mode="json")
        return (json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False) + "\n").encode()

    @classmethod
    def from_json(cls, content: bytes, *, where: str) -> PlannerCard:
        """Read a card.

        Raises:
            PlannerError: It is malformed or of another format.
        """
        try:
            return cls.model_validate_json(content)
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            field = ".".join(str(part) for part in first["loc"])
            message = first["msg"].removeprefix("Value error, ")
            raise PlannerError(
                f"{field}: {message}" if field else message,
                where=where,
                hint="Train the planner again: python -m pipelines.train.",
            ) from error

"""What a call of a chat model takes, and who may have a say in it. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

from mlflow_agent_plugin.package.manifest import ModelSpec
from mlflow_agent_plugin.package.quotas import MICRO, micro_usd


@dataclass(frozen=True)
class ModelUsage:
    """Tokens of one call, counted by the provider or estimated."""

    input_tokens: int = 0
    output_tokens: int = 0

    @property
    def tokens(self) -> int:
        """In and out."""
        return self.input_tokens + self.output_tokens

    def micro_usd(self, spec: ModelSpec) -> int:
        """Return what they cost, in millionths of a dollar; 0 for a model without a price."""
        if spec.price is None:
            return 0
        dollars = (
            self.input_tokens * spec.price.input_usd_per_million_tokens
            + self.output_tokens * spec.price.output_usd_per_million_tokens
        ) / MICRO
        return micro_usd(dollars)


class ModelMeter(Protocol):
    """Is asked before each call of a model, and told after it."""

    def begin(self, spec: ModelSpec, estimate: ModelUsage) -> Any:
        """Reserve what a call may take; what is returned is given to `end`. Raise to refuse it."""
        ...

    def end(self, spec: ModelSpec, reserved: Any, usage: ModelUsage) -> None:
        """Correct a reservation to what the call took."""
        ...

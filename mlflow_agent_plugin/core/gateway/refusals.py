"""What ends a call when a part that has a say in it breaks."""

from __future__ import annotations

import logging
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING

from mlflow_agent_plugin.entities import CallStatus
from mlflow_agent_plugin.errors import AgentError
from mlflow_agent_plugin.trust import CallRefusedError

if TYPE_CHECKING:
    from types import TracebackType

_logger = logging.getLogger(__name__)


class refuse_if_it_breaks(AbstractContextManager[None, "bool | None"]):  # noqa: N801 - reads as a statement
    """Turn an unexpected failure of `part` into a refusal: a broken part is a no.

    Errors the package raises on purpose (the store is away, the lease was lost) end the turn as
    they are.

    Raises:
        CallRefusedError: It failed; the log has the details, which may hold values of the call.
    """

    def __init__(self, part: str) -> None:
        self._part = part

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if isinstance(error, Exception) and not isinstance(error, AgentError):
            _logger.error("%s failed", self._part, exc_info=error)
            raise CallRefusedError(
                CallStatus.FAILED, "failed", f"{self._part} failed with {type(error).__name__}"
            ) from error

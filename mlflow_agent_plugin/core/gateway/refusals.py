"""What ends a call when a part that has a say in it breaks."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from mlflow_agent_plugin.entities import CallStatus
from mlflow_agent_plugin.errors import AgentError
from mlflow_agent_plugin.trust import CallRefusedError

_logger = logging.getLogger(__name__)


@contextmanager
def refuse_if_it_breaks(part: str) -> Iterator[None]:
    """Turn an unexpected failure of `part` into a refusal: a broken part is a no.

    Errors the package raises on purpose (the store is away, the lease was lost) end the turn as
    they are.

    Raises:
        CallRefusedError: It failed; the log has the details, which may hold values of the call.
    """
    try:
        yield
    except AgentError:
        raise
    except Exception as error:
        _logger.exception("%s failed", part)
        raise CallRefusedError(
            CallStatus.FAILED, "failed", f"{part} failed with {type(error).__name__}"
        ) from error

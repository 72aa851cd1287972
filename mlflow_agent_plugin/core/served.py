"""The pyfunc model: what `mlflow.pyfunc.load_model` and `mlflow models serve` call.

Rules:
- An agent that cannot run refuses to load: the runtime opens with the model, not with the first
  request. A process that forks afterwards opens its own (`Store` and the audit see to it).
- Errors leave as MLflow exceptions of one line with the right status; neither the message of the
  user nor a stack trace is in them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from mlflow_agent_plugin.config import Settings
from mlflow_agent_plugin.core.responses import parse_request, response_of, stream_events
from mlflow_agent_plugin.core.runtime import AgentRuntime
from mlflow_agent_plugin.entities import Actor, AgentRequest
from mlflow_agent_plugin.errors import AgentError, RequestError, as_mlflow
from mlflow_agent_plugin.trust import KeyPurpose, KeyStore, actor_from_token, local_actor

if TYPE_CHECKING:
    from mlflow_agent_plugin.package import Bundle


class ServedAgent:
    """A loaded agent behind MLflow's pyfunc interface.

    Args:
        bundle: Verified bundle.
    """

    def __init__(self, bundle: Bundle) -> None:
        self.bundle = bundle
        self._settings = Settings.from_env()
        self.runtime = AgentRuntime.open(bundle, settings=self._settings)

    def close(self) -> None:
        """Close the runtime and its connections."""
        self.runtime.close()

    def get_raw_model(self) -> Bundle:
        """Return the bundle, for `PyFuncModel.get_raw_model`."""
        return self.bundle

    def predict(self, model_input: Any, params: dict[str, Any] | None = None) -> Any:
        """Answer one Responses request, or each row of a data frame of them.

        Returns:
            The Responses response; a list of them for a data frame, however many rows it has.

        Raises:
            MlflowException: The request is wrong, or the agent failed.
        """
        del params
        payloads = _payloads(model_input)
        with _Boundary():
            answers = [response_of(self.runtime.invoke(self._parse(p))) for p in payloads]
        return answers if _is_frame(model_input) else answers[0]

    def predict_stream(
        self, model_input: Any, params: dict[str, Any] | None = None
    ) -> Iterator[dict[str, Any]]:
        """Answer one Responses request as stream events; raises as `predict`."""
        del params
        with _Boundary():
            payloads = _payloads(model_input)
            if len(payloads) != 1:
                raise RequestError("a stream answers exactly one request", where="input")
            yield from stream_events(self.runtime.stream(self._parse(payloads[0])))

    def _parse(self, payload: Any) -> AgentRequest:
        return parse_request(payload, settings=self._settings, actor=self._actor)

    def _actor(self, token: str | None) -> Actor:
        if token is None:
            return local_actor(self._settings)
        trusted = KeyStore(self._settings.key_dir).trusted_keys(KeyPurpose.ACTORS)
        return actor_from_token(token, trusted)


class _Boundary:
    """Turns the package's errors into MLflow's."""

    def __enter__(self) -> None:
        return None

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        if isinstance(error, AgentError):
            raise _client_error(error) from None


def _client_error(error: AgentError) -> Exception:
    from mlflow.exceptions import MlflowException

    shown = as_mlflow(error)

    class AgentException(MlflowException):  # type: ignore[misc] # mlflow is not followed
        """Keeps its own message.

        MLflow's scoring server puts the whole input in front of an error's message; what a user
        wrote does not belong into logs and answers.
        """

        @property
        def message(self) -> str:
            return str(shown.message)

        @message.setter
        def message(self, _text: str) -> None:
            return

    raised = AgentException(shown.message)
    for name, value in vars(shown).items():
        setattr(raised, name, value)
    return raised


def _is_frame(model_input: Any) -> bool:
    return not isinstance(model_input, Mapping) and hasattr(model_input, "to_dict")


def _payloads(model_input: Any) -> list[Any]:
    if not _is_frame(model_input):
        return [model_input]
    from mlflow.models.utils import _convert_llm_ndarray_to_list

    # Schema enforcement and Spark hand over a data frame; absent fields are None or NaN in it.
    rows = model_input.to_dict(orient="records")
    return [
        {
            name: _convert_llm_ndarray_to_list(value)
            for name, value in row.items()
            if value is not None and value == value  # noqa: PLR0124 - NaN is not equal to itself
        }
        for row in rows
    ]

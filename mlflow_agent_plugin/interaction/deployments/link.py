"""HTTP to a front end, with the caller's API key."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from typing import Any

from mlflow.exceptions import MlflowException

URL_VARIABLE = "MLFLOW_AGENTS_FRONT_END"
KEY_VARIABLE = "MLFLOW_AGENTS_API_KEY"
DEFAULT_URL = "http://127.0.0.1:8000"
TIMEOUT_SECONDS = 300

_CODES = {
    400: "INVALID_PARAMETER_VALUE",
    401: "UNAUTHENTICATED",
    403: "PERMISSION_DENIED",
    404: "RESOURCE_DOES_NOT_EXIST",
    409: "RESOURCE_CONFLICT",
    413: "INVALID_PARAMETER_VALUE",
    429: "RESOURCE_EXHAUSTED",
    503: "TEMPORARILY_UNAVAILABLE",
}


class FrontEndLink:
    """Calls one front end.

    Args:
        url: Where it listens.
        key: API key, None where it answers without.
    """

    def __init__(self, url: str, key: str | None) -> None:
        self.url = url.rstrip("/")
        self._headers = {} if key is None else {"Authorization": f"Bearer {key}"}

    @classmethod
    def of(cls, target_uri: str) -> FrontEndLink:
        """Return the link a deployments target names.

        Raises:
            MlflowException: The target names no address.
        """
        rest = target_uri.partition(":")[2]
        if not rest:
            url = os.environ.get(URL_VARIABLE) or DEFAULT_URL
        elif rest.startswith("//"):
            url = f"http:{rest}"
        else:
            url = rest
        if not url.startswith(("http://", "https://")):
            raise MlflowException.invalid_parameter_value(
                f"{target_uri} names no front end; write agents://host:port or agents:https://host"
            )
        return cls(url, os.environ.get(KEY_VARIABLE) or None)

    def call(self, method: str, path: str, body: Any = None) -> Any:
        """Return the JSON answer.

        Raises:
            MlflowException: It is an error, or none came.
        """
        with self._send(method, path, body, stream=False) as answer:
            return answer.json()

    def stream(self, path: str, body: Any) -> Iterator[dict[str, Any]]:
        """Yield the events of a stream; raises as `call`."""
        with self._send("POST", path, body, stream=True) as answer:
            for line in answer.iter_lines(decode_unicode=True):
                if line and line.startswith("data: "):
                    event = json.loads(line.removeprefix("data: "))
                    if "error" in event:
                        raise MlflowException(str(event["error"].get("message", "failed")))
                    yield event

    def _send(self, method: str, path: str, body: Any, *, stream: bool) -> Any:
        import requests

        try:
            answer = requests.request(
                method,
                f"{self.url}{path}",
                json=body,
                headers=self._headers,
                timeout=TIMEOUT_SECONDS,
                stream=stream,
            )
        except requests.RequestException as error:
            raise _failed(503, f"the front end at {self.url} does not answer") from error
        if not answer.ok:
            raise _failed(answer.status_code, _message(answer))
        return answer


def _message(answer: Any) -> str:
    try:
        return str(answer.json()["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return f"the front end answered {answer.status_code}"


def _failed(status: int, message: str) -> MlflowException:
    from mlflow.protos.databricks_pb2 import ErrorCode

    return MlflowException(
        message, error_code=ErrorCode.Value(_CODES.get(status, "INTERNAL_ERROR"))
    )

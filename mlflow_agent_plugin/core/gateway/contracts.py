"""Checks a call against its tool's contract, both ways.

Rules:
- Arguments that canonical JSON cannot spell, or that are too large, fit no contract.
- The message says which side is wrong: the call, or the tool.
- Two validators: a compiled one says whether a value fits, and only if it does not, the slow one
  says why. What either of them refuses is refused.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from mlflow_agent_plugin.entities import CallStatus, ToolCall, canonical_json
from mlflow_agent_plugin.trust import CallRefusedError

if TYPE_CHECKING:
    from mlflow_agent_plugin.package import ToolContract

MAX_CALL_ID_CHARS = 256
"""Longest id of a call; providers give some forty characters."""

MAX_ARGUMENT_BYTES = 256 * 1024
"""Largest canonical JSON of one call's arguments."""


class ContractChecks:
    """The contracts of one agent's usable tools.

    Args:
        contracts: Contract of every usable tool.
    """

    def __init__(self, contracts: Mapping[str, ToolContract]) -> None:
        self._contracts = contracts
        self._inputs = {name: _Schema(contract.input) for name, contract in contracts.items()}
        self._outputs = {name: _Schema(contract.output) for name, contract in contracts.items()}

    def of(self, call: ToolCall) -> ToolContract:
        """Return the contract of the called tool.

        Raises:
            CallRefusedError: There is no such tool, or the call carries no id or a huge one.
        """
        contract = self._contracts.get(call.tool)
        if contract is None:
            known = ", ".join(sorted(self._contracts)) or "none"
            raise _invalid(f"there is no tool {call.tool!r}; tools: {known}")
        if not call.call_id:
            raise _invalid("the call carries no id")
        if len(call.call_id) > MAX_CALL_ID_CHARS:
            raise _invalid(f"the call's id is longer than {MAX_CALL_ID_CHARS} characters")
        return contract

    def check_input(self, call: ToolCall) -> bytes:
        """Check the arguments and return their canonical JSON.

        Raises:
            CallRefusedError: They are not plain JSON, too large, or break the input schema.
        """
        try:
            text = canonical_json(dict(call.arguments))
            problem = self._inputs[call.tool].problem(dict(call.arguments))
        except (ValueError, TypeError, RecursionError) as error:
            raise _invalid(f"the arguments are not plain JSON: {error}") from error
        if len(text) > MAX_ARGUMENT_BYTES:
            raise _invalid(
                f"the arguments take {len(text)} bytes; at most {MAX_ARGUMENT_BYTES} are accepted"
            )
        if problem is not None:
            raise _invalid(f"the call does not fit the input contract of {call.tool!r}: {problem}")
        return text

    def check_output(self, tool: str, output: Mapping[str, Any]) -> None:
        """Check what the tool gave.

        Raises:
            CallRefusedError: It breaks the output schema.
        """
        problem = self._outputs[tool].problem(dict(output))
        if problem is not None:
            raise CallRefusedError(
                CallStatus.FAILED,
                "failed",
                f"the output of {tool!r} breaks the tool's own contract: {problem}",
            )


def _invalid(message: str) -> CallRefusedError:
    return CallRefusedError(CallStatus.INVALID, "invalid", message)


class _Schema:
    """One JSON Schema, draft 2020-12."""

    def __init__(self, schema: Mapping[str, Any]) -> None:
        import jsonschema_rs
        from jsonschema import Draft202012Validator

        self._slow = Draft202012Validator(schema)
        self._fast: Any = None
        # A pattern in Python's own dialect does not compile there: then the slow one decides.
        with suppress(ValueError):
            self._fast = jsonschema_rs.Draft202012Validator(dict(schema))

    def problem(self, value: Any) -> str | None:
        """Return what is wrong with `value`, None if it fits."""
        try:
            return self._problem(value)
        except (ValueError, TypeError, RecursionError):
            return "it is not plain JSON, or nested too deeply to be checked"

    def _problem(self, value: Any) -> str | None:
        if self._fast is not None:
            try:
                fits = self._fast.is_valid(value)
            except ValueError:
                # It knows plain JSON types only; a model's text may be a str of its own kind.
                value = json.loads(json.dumps(value, allow_nan=False))
                fits = self._fast.is_valid(value)
            if fits:
                return None
        from jsonschema.exceptions import best_match

        error = best_match(self._slow.iter_errors(value))
        if error is not None:
            where = ".".join(str(part) for part in error.absolute_path)
            return f"{where}: {error.message[:300]}" if where else str(error.message)[:300]
        if self._fast is None:
            return None
        return str(next(self._fast.iter_errors(value)).message)[:300]

"""Tags of gated models: commands, the registry's own names, and tags deployments act on.

Rules:
- A tag below ``agent.`` is a command or refused; it is never stored as the client sent it.
- The prompt marker is refused: it would make the model vanish from searches.
- Tags the rules guard are set and deleted by reviewers only. All others are MLflow's business.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from mlflow.entities.model_registry.prompt_version import IS_PROMPT_TAG_KEY
from mlflow.utils.validation import _validate_model_version

from mlflow_agent_plugin.entities import utc_now
from mlflow_agent_plugin.errors import AgentError, GateRefusedError, RequestError
from mlflow_agent_plugin.package.slots import fold
from mlflow_agent_plugin.registry.commands import (
    EVIDENCE_KEYS,
    ON_MODEL,
    ON_VERSION,
    Command,
    is_reserved,
    parse_body,
)
from mlflow_agent_plugin.registry.desk import Desk
from mlflow_agent_plugin.registry.gathering import Keys
from mlflow_agent_plugin.registry.monitoring import REPORT_TAG, read_report
from mlflow_agent_plugin.registry.rules import parse_rules
from mlflow_agent_plugin.registry.running import RunningStore, gate_of
from mlflow_agent_plugin.registry.submission import fetch_evidence


class TagStore(RunningStore):
    """A running store whose tags are commands where they are ours."""

    def set_model_version_tag(self, name: str, version: Any, tag: Any) -> None:  # noqa: D102
        def store() -> None:
            super(TagStore, self).set_model_version_tag(name, version, tag)

        def governed(desk: Desk) -> None:
            if not _is_special(tag.key):
                _check_tag(desk, tag.key)
                store()
                return
            number = _validate_model_version(version)
            if not desk.pointers.exists(number):
                store()  # MLflow says that there is no such version
            self._run_on_version(desk, number, tag.key, str(tag.value))

        if tag.key in EVIDENCE_KEYS and self._is_gated(name):
            self._submit(tag.key, name, version, str(tag.value))
        elif tag.key == REPORT_TAG and self._is_gated(name):
            self._report_drift(name, version, str(tag.value), store)
        else:
            self._change_tag("set_model_version_tag", name, tag.key, store, governed)

    def delete_model_version_tag(self, name: str, version: Any, key: str) -> None:  # noqa: D102
        def delete() -> None:
            super(TagStore, self).delete_model_version_tag(name, version, key)

        self._change_tag(
            "delete_model_version_tag",
            name,
            key,
            delete,
            lambda desk: _delete_tag(desk, key, delete),
        )

    def set_registered_model_tag(self, name: str, tag: Any) -> None:  # noqa: D102
        def store() -> None:
            super(TagStore, self).set_registered_model_tag(name, tag)

        def governed(desk: Desk) -> None:
            if _is_special(tag.key):
                self._run_on_model(desk, tag.key, str(tag.value))
            else:
                _check_tag(desk, tag.key)
                store()

        self._change_tag("set_registered_model_tag", name, tag.key, store, governed)

    def delete_registered_model_tag(self, name: str, key: str) -> None:  # noqa: D102
        def delete() -> None:
            super(TagStore, self).delete_registered_model_tag(name, key)

        self._change_tag(
            "delete_registered_model_tag",
            name,
            key,
            delete,
            lambda desk: _delete_tag(desk, key, delete),
        )

    def _change_tag(
        self,
        operation: str,
        name: str,
        key: object,
        ordinary: Callable[[], None],
        governed: Callable[[Desk], None],
    ) -> None:
        """Run a change of a tag: MLflow's own method unless the tag means something to the gate."""
        if not _is_special(key):
            with self._transactions.ordinary():
                if not self._guards_tag(name, key):
                    ordinary()
                    return
        self._change(f"{operation} {str(key)[:100]}", name, ordinary, governed)

    def _guards_tag(self, name: str, key: object) -> bool:
        with self._reading(name) as records:
            return (
                records is not None
                and isinstance(key, str)
                and gate_of(records, name).rules.guards_tag(key)
            )

    def _run_on_version(self, desk: Desk, version: int, key: str, value: str) -> None:
        command = _command(key, ON_VERSION)
        body = parse_body(command, value, ON_VERSION)
        by = desk.acting(body.by)
        if command is Command.REVOKE_EVIDENCE:
            desk.revoke_evidence(version, body.run, by=by, reason=body.reason)
            return
        slot = body.slot()
        if command is Command.REQUEST:
            desk.request(version, slot, by=by, comment=body.comment, applies=body.apply)
        elif command is Command.APPROVE:
            desk.approve(version, slot, by=by, comment=body.comment)
        elif command is Command.COMMENT:
            desk.comment(version, slot, by=by, comment=body.comment)
        elif command is Command.REJECT:
            desk.close(version, slot, "rejected", by=by, reason=body.reason)
        elif command is Command.WITHDRAW:
            desk.close(version, slot, "withdrawn", by=by, reason=body.reason)
        elif command is Command.CHECK:
            desk.show(version, slot)
        elif command is Command.ROLLBACK:
            desk.roll_back(slot, version, by=by, reason=body.reason)
        elif command is Command.EMERGENCY:
            desk.override(slot, version, by=by, reason=body.reason)

    def _run_on_model(self, desk: Desk, key: str, value: str) -> None:
        if key == Command.RULES.value:
            desk.change_rules(
                parse_rules(value, name="agent.rules", error=RequestError), by=desk.caller
            )
            return
        command = _command(key, ON_MODEL)
        body = parse_body(command, value, ON_MODEL)
        slot, by = body.slot(), desk.acting(body.by)
        if command is Command.ROLLBACK:
            desk.roll_back(slot, body.version, by=by, reason=body.reason)
        elif command is Command.RETIRE:
            desk.retire(slot, by=by, reason=body.reason)
        elif command is Command.HISTORY:
            desk.show_history(slot)

    def _report_drift(
        self, name: str, version: Any, run_id: str, store: Callable[[], None]
    ) -> None:
        """Read a drift report before the transaction, record it inside with the tag."""
        number = _validate_model_version(version)
        with self._reading(name) as records:
            gate = None if records is None else gate_of(records, name)
            record = None if records is None or gate is None else records.version(gate, number)
        if record is None:
            store()  # MLflow says what is wrong
            return
        report = read_report(
            run_id,
            name=name,
            version=number,
            agent_digest=record.agent_digest,
            caller=self._caller_or_nobody(),
            now=utc_now(),
            tracking_uri=self._tracking_uri,
        )

        def governed(desk: Desk) -> None:
            _check_tag(desk, REPORT_TAG)
            store()
            desk.report_drift(number, report)

        self._governed(f"set_model_version_tag {REPORT_TAG}", name, governed)

    def _submit(self, key: str, name: str, version: Any, run_id: str) -> None:
        """Verify a run's evidence before the transaction, record it inside."""
        operation = f"set_model_version_tag {key}"
        number = _validate_model_version(version)
        try:
            with self._reading(name) as records:
                gate = None if records is None else gate_of(records, name)
                record = None if records is None or gate is None else records.version(gate, number)
            if record is None:
                raise RequestError(
                    f"version {number} of {name} is not an agent version this registry knows"
                )
            found = fetch_evidence(
                run_id, record.agent_digest, Keys(), tracking_uri=self._tracking_uri
            )
        except AgentError as error:
            raise self._refused(operation, name, error) from error
        self._governed(operation, name, lambda desk: desk.submit(number, found))


def is_prompt_key(key: object) -> bool:
    """Return True if some database might take `key` for MLflow's prompt marker."""
    return isinstance(key, str) and fold(key) == IS_PROMPT_TAG_KEY


def _is_special(key: object) -> bool:
    return is_reserved(key) or is_prompt_key(key)


def _check_tag(desk: Desk, key: str) -> None:
    if desk.gate.rules.guards_tag(key):
        desk.needs_role(desk.caller, desk.gate.rules.reviewer_role, f"set or delete tag {key}")


def _delete_tag(desk: Desk, key: str, delete: Callable[[], None]) -> None:
    if is_reserved(key):
        raise GateRefusedError(f"tag {key} is the registry's own and cannot be deleted")
    _check_tag(desk, key)
    delete()


def _command(key: str, known: Any) -> Command:
    for command in known:
        if key == command.value:
            return Command(command)
    raise GateRefusedError(
        f"tag {key} is the registry's own",
        hint=f"Commands here are: {', '.join(command.value for command in known)}.",
    )

"""MLflow's SQL registry store, with every write that could move a protected slot behind the gate.

Rules:
- A model without a gate goes straight to MLflow's own method: same arguments, same answers.
- A gated model's change runs in one transaction with the gate, the history and the audit.
- A refusal is an `MlflowException` (permission denied) that says what is missing; nothing has
  changed, and one audit event tells of the attempt.
- How each public method of MLflow's store is treated stands in `registry.paths`; a test fails when
  MLflow has one that is not there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, TypeVar
from urllib.parse import urlparse

from mlflow.entities.model_registry.model_version_stages import get_canonical_stage
from mlflow.entities.model_registry.prompt_version import IS_PROMPT_TAG_KEY
from mlflow.store.model_registry.sqlalchemy_workspace_store import WorkspaceAwareSqlAlchemyStore
from mlflow.utils.validation import _validate_model_alias_name, _validate_model_version
from sqlalchemy import select

from mlflow_agent_plugin.errors import (
    AgentError,
    GateRefusedError,
    IntegrityError,
    RequestError,
    as_mlflow,
)
from mlflow_agent_plugin.registry import tables
from mlflow_agent_plugin.registry.commands import (
    ON_MODEL,
    ON_VERSION,
    Command,
    is_reserved,
    parse_body,
)
from mlflow_agent_plugin.registry.content import AgentContent, open_agent
from mlflow_agent_plugin.registry.desk import Desk
from mlflow_agent_plugin.registry.gathering import Keys
from mlflow_agent_plugin.registry.records import HistoryEntry
from mlflow_agent_plugin.registry.report import GateReport
from mlflow_agent_plugin.registry.rules import parse_rules
from mlflow_agent_plugin.registry.running import RunningStore, gate_of
from mlflow_agent_plugin.registry.slots import Slot, fold, twins
from mlflow_agent_plugin.registry.submission import fetch_evidence

T = TypeVar("T")


class _Gated(RunningStore):
    """What both gated stores share; see the module's rules."""

    # --- versions --------------------------------------------------------------------------------

    def create_model_version(  # noqa: D102 - MLflow's contract
        self,
        name: str,
        source: str,
        run_id: str | None = None,
        tags: Iterable[Any] | None = None,
        run_link: str | None = None,
        description: str | None = None,
        local_model_path: str | None = None,
        model_id: str | None = None,
    ) -> Any:
        given = list(tags or [])

        def create(kept: list[Any] | None = None) -> Any:
            return super(_Gated, self).create_model_version(
                name,
                source,
                run_id,
                given if kept is None else kept,
                run_link,
                description,
                local_model_path,
                model_id,
            )

        operation = "create_model_version"
        is_prompt = any(
            tag.key == IS_PROMPT_TAG_KEY and str(tag.value).lower() == "true" for tag in given
        )
        location = None if is_prompt else self._location(source)
        try:
            if location is not None:
                with open_agent(location) as content:
                    if content is not None:
                        self._vault.put(content)
                        return self._governed(
                            operation,
                            name,
                            lambda desk: self._register(desk, source, given, content, create),
                            content=content,
                        )
        except AgentError as error:
            raise self._refused(operation, name, error) from error
        return self._change(operation, name, create, _not_an_agent)

    def _register(
        self,
        desk: Desk,
        source: str,
        given: list[Any],
        content: AgentContent,
        create: Callable[[list[Any]], Any],
    ) -> Any:
        reserved = [tag.key for tag in given if is_reserved(tag.key)]
        # A copy brings the tags the registry wrote on its source; they would be wrong here.
        is_copy = urlparse(source).scheme == "models"
        if (reserved and not is_copy) or any(_is_prompt_key(tag.key) for tag in given):
            raise GateRefusedError(
                f"tag {(reserved or [IS_PROMPT_TAG_KEY])[0]} is the registry's own",
                hint="Register the version without it.",
            )
        name = desk.gate.name
        first = desk.gate.revision == 1 and not self._has_versions(desk)
        if first:
            if self.get_registered_model(name)._is_prompt():  # noqa: SLF001
                raise GateRefusedError(f"{name} is a prompt; register the agent under another name")
            desk.tags.purge(is_reserved)
            desk.adopt(desk.gate.rules.slots())
        created = create([tag for tag in given if not is_reserved(tag.key)])
        desk.register(int(created.version), content, first=first)
        return self.get_model_version(name, created.version)

    def _has_versions(self, desk: Desk) -> bool:
        query = select(tables.versions.c.version).where(
            tables.versions.c.workspace == desk.records.workspace,
            tables.versions.c.name == desk.gate.name,
        )
        return desk.transaction.connection.execute(query).first() is not None

    def transition_model_version_stage(  # noqa: D102
        self,
        name: str,
        version: Any,
        stage: str,
        archive_existing_versions: bool,  # noqa: FBT001
    ) -> Any:
        def move() -> Any:
            return super(_Gated, self).transition_model_version_stage(
                name, version, stage, archive_existing_versions
            )

        def governed(desk: Desk) -> Any:
            number, canonical = _validate_model_version(version), get_canonical_stage(stage)
            target = _stage_slot(canonical)
            if not desk.pointers.exists(number):
                return move()  # MLflow says what is wrong
            if target is not None and desk.protected(target):
                return desk.promote(number, target)
            held = [slot for slot in desk.held_slots(number) if not slot.is_alias]
            if held:
                raise _would_empty(held[0], number, f"moving it to {canonical}")
            if archive_existing_versions and canonical == desk.pointers.stage_of(number):
                return move()
            return super(_Gated, self).transition_model_version_stage(
                name, number, canonical, archive_existing_versions
            )

        return self._change("transition_model_version_stage", name, move, governed)

    def delete_model_version(self, name: str, version: Any) -> None:  # noqa: D102
        def delete() -> None:
            super(_Gated, self).delete_model_version(name, version)

        def governed(desk: Desk) -> None:
            number = _validate_model_version(version)
            held = desk.held_slots(number)
            if held:
                raise _would_empty(held[0], number, "deleting it")
            desk.forget(number)
            delete()

        self._change("delete_model_version", name, delete, governed)

    def get_model_version_download_uri(self, name: str, version: Any) -> Any:  # noqa: D102
        uri = super().get_model_version_download_uri(name, version)  # also: does it exist?
        with self._reading(name) as records:
            if records is None:
                return uri
            gate = gate_of(records, name)
            record = records.version(gate, _validate_model_version(version))
        if record is None:
            return uri
        problem = self._vault.problem(record.content_digest, deep=False)
        if problem is not None:
            raise as_mlflow(
                IntegrityError(
                    problem,
                    where=f"{name} version {version}",
                    hint="Do not serve it; restore the registry's copy from a backup.",
                )
            )
        return self._vault.uri(record.content_digest)

    # --- aliases ---------------------------------------------------------------------------------

    def set_registered_model_alias(self, name: str, alias: str, version: Any) -> None:  # noqa: D102
        def assign() -> None:
            super(_Gated, self).set_registered_model_alias(name, alias, version)

        def governed(desk: Desk) -> None:
            slot = _alias_slot(desk, alias)
            number = _validate_model_version(version)
            if slot is None or not desk.pointers.exists(number):
                assign()
            else:
                desk.promote(number, slot)

        self._change("set_registered_model_alias", name, assign, governed)

    def delete_registered_model_alias(self, name: str, alias: str) -> None:  # noqa: D102
        def delete() -> None:
            super(_Gated, self).delete_registered_model_alias(name, alias)

        def governed(desk: Desk) -> None:
            slot = _alias_slot(desk, alias)
            held = None if slot is None else desk.pointers.of(slot)
            if slot is not None and held is not None:
                raise _would_empty(slot, held, "deleting the alias")
            delete()

        self._change("delete_registered_model_alias", name, delete, governed)

    def get_model_version_by_alias(self, name: str, alias: str) -> Any:  # noqa: D102
        found = super().get_model_version_by_alias(name, alias)
        self._check_pointers(name, [f"@{alias}"])
        return found

    def get_latest_versions(self, name: str, stages: Any = None) -> Any:  # noqa: D102
        found = super().get_latest_versions(name, stages)
        if stages and self._transactions.joined is None:
            self._check_pointers(name, [get_canonical_stage(stage) for stage in stages])
        return found

    # --- models ----------------------------------------------------------------------------------

    def create_registered_model(  # noqa: D102
        self,
        name: str,
        tags: Iterable[Any] | None = None,
        description: str | None = None,
        deployment_job_id: str | None = None,
    ) -> Any:
        given = list(tags or [])
        special = [tag.key for tag in given if is_reserved(tag.key) or _is_prompt_key(tag.key)]
        if special and self._is_gated(name):
            raise self._refused(
                "create_registered_model",
                name,
                GateRefusedError(f"{name} is an agent's name and cannot have tag {special[0]}"),
            )
        return super().create_registered_model(name, given or None, description, deployment_job_id)

    def rename_registered_model(self, name: str, new_name: str) -> Any:  # noqa: D102
        def rename() -> Any:
            return super(_Gated, self).rename_registered_model(name, new_name)

        def governed(_desk: Desk) -> Any:
            raise GateRefusedError(
                f"{name} is gated and keeps its name: whoever loads it by name relies on its gate",
                hint="Register the agent under the new name; its evidence counts there too.",
            )

        if self._is_gated(new_name) and not self._is_gated(name):
            raise self._refused(
                "rename_registered_model",
                new_name,
                GateRefusedError(f"{new_name} is an agent's name; no other model may take it"),
            )
        return self._change("rename_registered_model", name, rename, governed)

    def delete_registered_model(self, name: str) -> None:  # noqa: D102
        def delete() -> None:
            super(_Gated, self).delete_registered_model(name)

        def governed(desk: Desk) -> None:
            for slot in desk.gate.rules.slots():
                version = desk.pointers.of(slot)
                if version is not None:
                    raise _would_empty(slot, version, "deleting the model")
            desk.end_epoch()
            delete()

        self._change("delete_registered_model", name, delete, governed)

    # --- tags ------------------------------------------------------------------------------------

    def set_model_version_tag(self, name: str, version: Any, tag: Any) -> None:  # noqa: D102
        def store() -> None:
            super(_Gated, self).set_model_version_tag(name, version, tag)

        def governed(desk: Desk) -> None:
            if not _is_special(tag.key):
                _check_tag(desk, tag.key)
                store()
                return
            number = _validate_model_version(version)
            if not desk.pointers.exists(number):
                store()  # MLflow says that there is no such version
            self._run_on_version(desk, number, tag.key, str(tag.value))

        if tag.key == Command.EVIDENCE.value and self._is_gated(name):
            self._submit(name, version, str(tag.value))
        else:
            self._change_tag("set_model_version_tag", name, tag.key, store, governed)

    def delete_model_version_tag(self, name: str, version: Any, key: str) -> None:  # noqa: D102
        def delete() -> None:
            super(_Gated, self).delete_model_version_tag(name, version, key)

        self._change_tag(
            "delete_model_version_tag",
            name,
            key,
            delete,
            lambda desk: _delete_tag(desk, key, delete),
        )

    def set_registered_model_tag(self, name: str, tag: Any) -> None:  # noqa: D102
        def store() -> None:
            super(_Gated, self).set_registered_model_tag(name, tag)

        def governed(desk: Desk) -> None:
            if _is_special(tag.key):
                self._run_on_model(desk, tag.key, str(tag.value))
            else:
                _check_tag(desk, tag.key)
                store()

        self._change_tag("set_registered_model_tag", name, tag.key, store, governed)

    def delete_registered_model_tag(self, name: str, key: str) -> None:  # noqa: D102
        def delete() -> None:
            super(_Gated, self).delete_registered_model_tag(name, key)

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
        if _is_special(key) or self._guards_tag(name, key):
            self._change(f"{operation} {str(key)[:100]}", name, ordinary, governed)
        else:
            ordinary()

    def _guards_tag(self, name: str, key: object) -> bool:
        with self._reading(name) as records:
            return (
                records is not None
                and isinstance(key, str)
                and gate_of(records, name).rules.guards_tag(key)
            )

    # --- commands --------------------------------------------------------------------------------

    def _run_on_version(self, desk: Desk, version: int, key: str, value: str) -> None:
        command = _command(key, ON_VERSION)
        body = parse_body(command, value, ON_VERSION)
        slot, by = body.slot(), desk.acting(body.by)
        if command is Command.REQUEST:
            desk.request(version, slot, by=by, comment=body.comment)
        elif command is Command.APPROVE:
            desk.approve(version, slot, by=by, comment=body.comment)
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

    def _submit(self, name: str, version: Any, run_id: str) -> None:
        """Verify an evaluation run's evidence before the transaction, record it inside."""
        operation = f"set_model_version_tag {Command.EVIDENCE.value}"
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

    # --- looking from the same process -----------------------------------------------------------

    def _gate_report(self, name: str, version: Any, to: str) -> GateReport:
        number, slot = _validate_model_version(version), Slot.parse(to)
        self.get_model_version(name, number)
        return self._governed("gate_report", name, lambda desk: desk.examine(slot, number)[0])

    def _slot_history(self, name: str, slot: str | None) -> list[HistoryEntry]:
        with self._reading(name) as records:
            return [] if records is None else records.history(name, slot)


class GatedSqlStore(_Gated):
    """MLflow's SQL registry store behind the gate."""


class GatedWorkspaceStore(_Gated, WorkspaceAwareSqlAlchemyStore):  # type: ignore[misc]  # untyped
    """MLflow's workspace-aware SQL registry store behind the gate."""


def _command(key: str, known: Any) -> Command:
    for command in known:
        if key == command.value:
            return Command(command)
    raise GateRefusedError(
        f"tag {key} is the registry's own",
        hint=f"Commands here are: {', '.join(command.value for command in known)}.",
    )


def _is_special(key: object) -> bool:
    return is_reserved(key) or _is_prompt_key(key)


def _check_tag(desk: Desk, key: str) -> None:
    if desk.gate.rules.guards_tag(key):
        desk.needs_role(desk.caller, desk.gate.rules.reviewer_role, f"set or delete tag {key}")


def _delete_tag(desk: Desk, key: str, delete: Callable[[], None]) -> None:
    if is_reserved(key):
        raise GateRefusedError(f"tag {key} is the registry's own and cannot be deleted")
    _check_tag(desk, key)
    delete()


def _not_an_agent(desk: Desk) -> Any:
    raise GateRefusedError(
        f"{desk.gate.name} is gated: its versions are agents, and this is not a readable one",
        hint="Log the agent with log_agent, or register this model under another name.",
    )


def _would_empty(slot: Slot, version: int, what: str) -> GateRefusedError:
    return GateRefusedError(
        f"{slot} points to version {version}: {what} would change what its consumers load",
        hint="Promote or roll back to another version first, or retire the slot.",
    )


def _stage_slot(canonical: str) -> Slot | None:
    try:
        return Slot.parse(canonical)
    except RequestError:
        return None


def _alias_slot(desk: Desk, alias: str) -> Slot | None:
    """Return the protected slot an alias is; refuse spellings a database might take for one."""
    _validate_model_alias_name(alias)
    for slot in desk.gate.rules.slots():
        if slot.is_alias and slot.name == alias:
            return slot
        if slot.is_alias and twins(slot.name, alias):
            raise GateRefusedError(
                f"alias {alias} is too close to the protected {slot}", hint="Use another name."
            )
    return None


def _is_prompt_key(key: object) -> bool:
    return isinstance(key, str) and fold(key) == IS_PROMPT_TAG_KEY

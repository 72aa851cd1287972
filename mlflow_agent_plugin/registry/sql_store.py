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
from mlflow_agent_plugin.package.slots import Slot, twins
from mlflow_agent_plugin.registry import tables
from mlflow_agent_plugin.registry.commands import (
    is_reserved,
)
from mlflow_agent_plugin.registry.content import AgentContent, open_agent
from mlflow_agent_plugin.registry.desk import Desk
from mlflow_agent_plugin.registry.places import open_tracking
from mlflow_agent_plugin.registry.running import check_spelling, gate_of
from mlflow_agent_plugin.registry.tag_store import TagStore, is_prompt_key

T = TypeVar("T")


class _Gated(TagStore):
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
        if not is_prompt:
            open_tracking(source)
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
        if (reserved and not is_copy) or any(is_prompt_key(tag.key) for tag in given):
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
            with desk.unmoved():
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
            with desk.unmoved():
                delete()

        self._change("delete_model_version", name, delete, governed)

    def get_model_version_download_uri(self, name: str, version: Any) -> Any:  # noqa: D102
        with self._transactions.together():
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
                with desk.unmoved():
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
            with desk.unmoved():
                delete()

        self._change("delete_registered_model_alias", name, delete, governed)

    def get_model_version_by_alias(self, name: str, alias: str) -> Any:  # noqa: D102
        with self._transactions.together():
            found = super().get_model_version_by_alias(name, alias)
            self._check_pointers(name, [f"@{alias}"])
        return found

    def get_latest_versions(self, name: str, stages: Any = None) -> Any:  # noqa: D102
        inside = self._transactions.joined is not None  # of a change that checks by itself
        with self._transactions.together():
            found = super().get_latest_versions(name, stages)
            if stages and not inside:
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
        special = [tag.key for tag in given if is_reserved(tag.key) or is_prompt_key(tag.key)]
        known = self._gated_name(name)
        if known is not None:
            try:
                check_spelling(known, name)
                if special:
                    raise GateRefusedError(
                        f"{name} is an agent's name and cannot have tag {special[0]}"
                    )
            except AgentError as error:
                raise self._refused("create_registered_model", name, error) from error
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


class GatedSqlStore(_Gated):
    """MLflow's SQL registry store behind the gate."""


class GatedWorkspaceStore(_Gated, WorkspaceAwareSqlAlchemyStore):  # type: ignore[misc]  # untyped
    """MLflow's workspace-aware SQL registry store behind the gate."""


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

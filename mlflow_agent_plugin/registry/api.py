"""What people and pipelines do with the registry, through any MLflow client.

    import mlflow_agent_plugin as agents

    agents.request_promotion("support", 3, to="Production", comment="drift of week 46")
    print(agents.gate_report("support", 3, to="Production"))
    agents.approve("support", 3, to="Production")  # the last one needed moves the slot
    agents.rollback("support", to="Production", reason="refunds fail")

A slot is a stage (``Production``, ``Staging``) or an alias written ``@champion``. All of it works
the same with ``MlflowClient(registry_uri="agents+sqlite:///…")`` and over REST: these functions set
the registry's command tags and call MLflow's own methods, nothing else.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from mlflow_agent_plugin.errors import RequestError
from mlflow_agent_plugin.package.slots import Slot
from mlflow_agent_plugin.registry.commands import APPLIED, APPLIED_TAG, Command
from mlflow_agent_plugin.registry.records import HistoryEntry
from mlflow_agent_plugin.registry.report import GateReport

if TYPE_CHECKING:
    from mlflow import MlflowClient


@dataclass(frozen=True)
class ApprovalOutcome:
    """What an approval did beside being on record.

    Attributes:
        applied: It moved the slot.
        why: What happened, or why it did not.
    """

    applied: bool
    why: str

    def __str__(self) -> str:
        return f"approved; {self.why}" if self.applied else f"approved, not applied: {self.why}"


def request_promotion(
    name: str,
    version: int | str,
    *,
    to: str,
    comment: str = "",
    apply: bool = True,
    by: str | None = None,
    client: MlflowClient | None = None,
) -> None:
    """Ask that `to` point to a version.

    Args:
        name: Registered model.
        version: Candidate.
        to: Stage or ``@alias``.
        comment: Why, for the reviewers.
        apply: The approval that completes the request moves `to` at once; else it waits until
            somebody calls `promote`.
        by: Who asks; counts only where nobody logs in and the gate's rules allow unverified names.
        client: MLflow client; default: a new one on MLflow's current registry.

    Raises:
        MlflowException: The slot is not protected, points there already, or an open request for
            the version says otherwise about `apply`.
    """
    body = {"to": _slot(to), "comment": comment, "apply": apply}
    _on_version(client, name, version, Command.REQUEST, body, by)


def approve(
    name: str,
    version: int | str,
    *,
    to: str,
    comment: str = "",
    by: str | None = None,
    client: MlflowClient | None = None,
) -> ApprovalOutcome:
    """Approve the open request; counts for this content, evidence, incumbent and rules only.

    The approval that completes the request moves the slot in the same transaction, unless the
    request asked to wait. If the gate says no at that moment the approval is kept and nothing
    moves: the outcome says why.

    Args and errors as `request_promotion`; also raised when the approval could not count: no open
    request, the author's own, a missing role.
    """
    slot, used = Slot.parse(to), _client(client)
    body = {"to": str(slot), "comment": comment}
    _on_version(used, name, version, Command.APPROVE, body, by)
    told = used.get_model_version(name, str(version)).tags.get(slot.tag_key(APPLIED_TAG), "")
    word, _, why = told.partition(": ")
    return ApprovalOutcome(applied=word == APPLIED, why=why)


def comment(
    name: str,
    version: int | str,
    *,
    to: str,
    comment: str,
    by: str | None = None,
    client: MlflowClient | None = None,
) -> None:
    """Say something about the open request; it decides nothing."""
    _on_version(client, name, version, Command.COMMENT, {"to": _slot(to), "comment": comment}, by)


def reject(
    name: str,
    version: int | str,
    *,
    to: str,
    reason: str,
    by: str | None = None,
    client: MlflowClient | None = None,
) -> None:
    """Reject the open request; the reason is shown to its author."""
    _on_version(client, name, version, Command.REJECT, {"to": _slot(to), "reason": reason}, by)


def withdraw(
    name: str,
    version: int | str,
    *,
    to: str,
    reason: str,
    by: str | None = None,
    client: MlflowClient | None = None,
) -> None:
    """Withdraw the open request: by whoever opened it, or a reviewer."""
    _on_version(client, name, version, Command.WITHDRAW, {"to": _slot(to), "reason": reason}, by)


def promote(name: str, version: int | str, *, to: str, client: MlflowClient | None = None) -> None:
    """Point `to` to a version, by MLflow's own stage transition or alias.

    Raises:
        MlflowException: The gate refuses; the message lists what is missing.
        RequestError: There is no gate before this model.
    """
    slot = Slot.parse(to)
    used = _gated(client, name)
    if slot.is_alias:
        used.set_registered_model_alias(name, slot.name, str(version))
    else:
        used.transition_model_version_stage(
            name, str(version), slot.name, archive_existing_versions=True
        )


def gate_report(
    name: str, version: int | str, *, to: str, client: MlflowClient | None = None
) -> GateReport:
    """Return what the gate says now about a version before `to`, without changing anything.

    Raises:
        MlflowException: The model is not gated, or there is no such version.
        RequestError: The registry is not a gated one.
    """
    slot, used = Slot.parse(to), _client(client)
    store = _own_store(used)
    if store is not None:
        return store._gate_report(name, version, str(slot))  # type: ignore[no-any-return]  # noqa: SLF001
    _on_version(used, name, version, Command.CHECK, {"to": str(slot)}, None)
    tags = used.get_model_version(name, str(version)).tags
    text = tags.get(slot.tag_key("agent.gate_report"))
    if text is None:
        raise RequestError(f"{slot} of {name} is not protected")
    return GateReport.from_dict(json.loads(text))


def rollback(
    name: str,
    *,
    to: str,
    reason: str,
    version: int | str | None = None,
    by: str | None = None,
    client: MlflowClient | None = None,
) -> None:
    """Point `to` back to a version that stood there by right before; no new evaluation.

    Args:
        name: Registered model.
        to: Stage or ``@alias``.
        reason: Kept in the history.
        version: Which; default: the one before.
        by: As in `request_promotion`.
        client: MLflow client.

    Raises:
        MlflowException: The caller is no reviewer, or the version never stood there by right.
    """
    body: dict[str, Any] = {"to": _slot(to), "reason": reason}
    if version is not None:
        body["version"] = int(version)
    _on_model(client, name, Command.ROLLBACK, body, by)


def retire(
    name: str, *, to: str, reason: str, by: str | None = None, client: MlflowClient | None = None
) -> None:
    """Make `to` point to nothing: whoever loads it gets an error. By a reviewer."""
    _on_model(client, name, Command.RETIRE, {"to": _slot(to), "reason": reason}, by)


def emergency_promote(
    name: str,
    version: int | str,
    *,
    to: str,
    reason: str,
    by: str | None = None,
    client: MlflowClient | None = None,
) -> None:
    """Point `to` to a version past the gate's rules, on record, by the emergency role."""
    body = {"to": _slot(to), "reason": reason}
    _on_version(client, name, version, Command.EMERGENCY, body, by)


def set_rules(name: str, gate_yaml: str, *, client: MlflowClient | None = None) -> None:
    """Replace the gate's rules stored with a model; loosening them takes a reviewer."""
    _gated(client, name).set_registered_model_tag(name, Command.RULES.value, gate_yaml)


def submit_evidence(
    name: str, version: int | str, run_id: str, *, client: MlflowClient | None = None
) -> None:
    """Hand an evaluation run's signed evidence to the registry, which verifies it."""
    used = _gated(client, name)
    used.set_model_version_tag(name, str(version), Command.EVIDENCE.value, run_id)


def revoke_evidence(
    name: str,
    version: int | str,
    run_id: str,
    *,
    reason: str,
    by: str | None = None,
    client: MlflowClient | None = None,
) -> None:
    """Let the evidence of a run count no more: at the gate, and for rolling back to what it proved.

    What stands in a slot stays there; whether to roll back is for people to decide.

    Args:
        name: Registered model.
        version: A version the evidence is about; it counts no more for any other either.
        run_id: The evaluation run or load test.
        reason: Shown wherever the evidence was asked for.
        by: As in `request_promotion`; needs the reviewer's role.
        client: MLflow client.
    """
    body = {"run": run_id, "reason": reason}
    _on_version(client, name, version, Command.REVOKE_EVIDENCE, body, by)


def history(
    name: str,
    slot: str | None = None,
    *,
    as_of: datetime | None = None,
    client: MlflowClient | None = None,
) -> list[HistoryEntry]:
    """Return what the slots of a model pointed to, oldest first.

    Args:
        name: Registered model.
        slot: One slot only; needed over REST, where the latest entries that fit a tag are given.
        as_of: Only what had happened by then: the last entry is what the slot pointed to.
        client: MLflow client.

    Raises:
        RequestError: Over REST without a slot.
    """
    used = _client(client)
    wanted = None if slot is None else Slot.parse(slot)
    store = _own_store(used)
    if store is not None:
        found = store._slot_history(name, None if wanted is None else str(wanted))  # noqa: SLF001
    elif wanted is None:
        raise RequestError("over REST, history needs a slot", hint="Give slot='Production'.")
    else:
        _on_model(used, name, Command.HISTORY, {"to": str(wanted)}, None)
        text = used.get_registered_model(name).tags.get(wanted.tag_key("agent.history"))
        if text is None:
            raise RequestError(f"{wanted} of {name} has no history")
        found = [HistoryEntry.from_dict(item) for item in json.loads(text)]
    return [entry for entry in found if as_of is None or entry.at <= as_of]


def _slot(text: str) -> str:
    return str(Slot.parse(text))


def _client(client: MlflowClient | None) -> MlflowClient:
    if client is not None:
        return client
    from mlflow import MlflowClient as Client

    return Client()


def _gated(client: MlflowClient | None, name: str) -> MlflowClient:
    """Return the client to use, if the model is behind a gate; elsewhere a command is just a tag.

    Raises:
        RequestError: It is not.
        MlflowException: There is no such model.
    """
    used = _client(client)
    if "agent.gated" not in used.get_registered_model(name).tags:
        raise RequestError(
            f"{name} is not behind a gate; nothing was changed",
            hint="Use a registry URI that starts with agents+, or a server with one.",
        )
    return used


def _own_store(client: MlflowClient) -> Any:
    """Return the gated store if this process holds it, else None."""
    store: Any = client._get_registry_client().store  # noqa: SLF001 - MLflow has no public way
    return store if hasattr(store, "_gate_report") else None


def _on_version(
    client: MlflowClient | None,
    name: str,
    version: int | str,
    command: Command,
    body: dict[str, Any],
    by: str | None,
) -> None:
    _gated(client, name).set_model_version_tag(name, str(version), command.value, _json(body, by))


def _on_model(
    client: MlflowClient | None,
    name: str,
    command: Command,
    body: dict[str, Any],
    by: str | None,
) -> None:
    _gated(client, name).set_registered_model_tag(name, command.value, _json(body, by))


def _json(body: dict[str, Any], by: str | None) -> str:
    return json.dumps(body if by is None else {**body, "by": by})

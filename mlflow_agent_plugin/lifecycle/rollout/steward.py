"""What a rollout asks of the registry: through its gate, and never around it.

Rules:
- Both slots must be protected: a version takes traffic only with the registry's signed word that it
  may stand in the candidate's slot.
- A stopped rollout empties the candidate's slot, so that nothing else loads the version either.
  Traffic does not wait for that: it went back when the rollout stopped.
- A candidate that proved itself is promoted if the gate passes it. Where something is missing (a
  reviewer's approval, mostly), a promotion request is opened once, and the promotion tried again
  when the gate passes.
- A slot that somebody moved meanwhile ends the rollout: to the candidate as promoted, to anything
  else as stopped. What was being compared is not there any more.
- One process at a time acts (a lease in the store); a registry that does not answer changes
  nothing, and is asked again.
"""

from __future__ import annotations

import logging
import uuid
from typing import TYPE_CHECKING, Any

from mlflow_agent_plugin.entities import Actor
from mlflow_agent_plugin.errors import AgentError, RequestError
from mlflow_agent_plugin.lifecycle.rollout.plan import (
    RegistryStep,
    Rollout,
    RolloutPlan,
)
from mlflow_agent_plugin.store.leases import LeaseTable

if TYPE_CHECKING:
    from mlflow import MlflowClient

    from mlflow_agent_plugin.lifecycle.rollout.book import RolloutBook
    from mlflow_agent_plugin.store import Store

LEASE_SECONDS = 60.0
STEWARD = Actor(user="rollout", tenant="default")

_logger = logging.getLogger(__name__)


def start_rollout(
    model: str,
    plan: RolloutPlan,
    *,
    by: Actor,
    book: RolloutBook,
    client: MlflowClient | None = None,
) -> Rollout:
    """Open a rollout of what stands in the candidate's slot beside what stands in the stable one.

    Args:
        model: Registered model.
        plan: Slots, share and stop rules.
        by: Who answers for it.
        book: Where rollouts are kept.
        client: MLflow client; default: a new one on MLflow's current registry.

    Raises:
        IntegrityError: The registry never said that one of them may stand there.
        RequestError: Both are the same version or slot, or a rollout is open already.
        MlflowException: A slot is empty, or there is no such model.
    """
    from mlflow_agent_plugin.package.slots import Slot
    from mlflow_agent_plugin.registry import check_promotion

    stable, candidate = (Slot.parse(text) for text in (plan.stable_slot, plan.candidate_slot))
    if stable == candidate:
        raise RequestError(f"both slots are {stable}", where="candidate_slot")
    plan = plan.model_copy(update={"stable_slot": str(stable), "candidate_slot": str(candidate)})
    incumbent = check_promotion(model, str(stable), client=client)
    tried = check_promotion(model, str(candidate), client=client)
    if incumbent.content_digest == tried.content_digest:
        raise RequestError(
            f"{stable} and {candidate} hold the same content (version {tried.version})",
            where=model,
            hint=f"Promote the new version to {candidate} first.",
        )
    return book.start(
        model,
        plan,
        incumbent_version=incumbent.version,
        candidate_version=tried.version,
        candidate_digest=tried.agent_digest,
        by=by,
    )


class RolloutSteward:
    """Does what rollouts ask of the registry.

    Args:
        store: The runtime store.
        book: Its rollouts.
        client: MLflow client; default: a new one on MLflow's current registry.
    """

    def __init__(
        self, store: Store, book: RolloutBook, *, client: MlflowClient | None = None
    ) -> None:
        self._leases = LeaseTable(store)
        self._book = book
        self._client = client
        self._name = uuid.uuid4().hex

    def step(self) -> None:
        """Look at every unfinished rollout once; what fails is noted and tried at the next step."""
        for rollout in self._book.unfinished():
            lease = f"rollout:{rollout.rollout_id}"
            if not self._leases.acquire(lease, self._name, LEASE_SECONDS):
                continue
            try:
                self._look(self._book.get(rollout.rollout_id))
            except Exception as error:
                _logger.warning("%s: %s", rollout.rollout_id, error)
                self._book.note(rollout.rollout_id, _first_line(error), done=False, by=STEWARD)
            finally:
                self._leases.release(lease, self._name)

    def _look(self, rollout: Rollout) -> None:
        if rollout.is_open and self._is_moved(rollout):
            return
        if rollout.registry_step is RegistryStep.RETIRE:
            self._retire(rollout)
        elif rollout.registry_step is RegistryStep.PROMOTE and rollout.is_open:
            self._promote(rollout)

    def _is_moved(self, rollout: Rollout) -> bool:
        """End a rollout one of whose slots points elsewhere now; return whether it did."""
        stable = self._version(rollout, rollout.stable_slot)
        if stable == rollout.candidate_version:
            self._book.promoted(
                rollout.rollout_id,
                reason=f"{rollout.stable_slot} points to version {stable}",
                by=STEWARD,
            )
            return True
        for slot, expected, found in (
            (rollout.stable_slot, rollout.incumbent_version, stable),
            (
                rollout.candidate_slot,
                rollout.candidate_version,
                self._version(rollout, rollout.candidate_slot),
            ),
        ):
            if found != expected:
                now = "nothing" if found is None else f"version {found}"
                self._book.stop(
                    rollout.rollout_id,
                    reason=f"{slot} was moved meanwhile: it points to {now}",
                    by=STEWARD,
                )
                return True
        return False

    def _retire(self, rollout: Rollout) -> None:
        from mlflow_agent_plugin.registry import retire

        standing = self._version(rollout, rollout.candidate_slot)
        if standing != rollout.candidate_version:
            note = f"{rollout.candidate_slot} no longer points to the candidate"
        else:
            retire(
                rollout.model,
                to=rollout.candidate_slot,
                reason=f"rollout {rollout.rollout_id} stopped: {rollout.reason}",
                by=rollout.started_by,
                client=self._client,
            )
            note = f"{rollout.candidate_slot} was emptied"
        self._book.note(rollout.rollout_id, note, done=True, by=STEWARD)

    def _promote(self, rollout: Rollout) -> None:
        from mlflow_agent_plugin.registry import gate_report, promote, request_promotion

        where: dict[str, Any] = {"to": rollout.stable_slot, "client": self._client}
        report = gate_report(rollout.model, rollout.candidate_version, **where)
        if report.passed:
            promote(rollout.model, rollout.candidate_version, **where)
            self._book.note(rollout.rollout_id, "promoted", done=True, by=STEWARD)
            self._book.promoted(rollout.rollout_id, reason=rollout.reason, by=STEWARD)
            return
        waits = f"waits for the gate: {report.summary()}"
        if not rollout.registry_note.startswith("waits for the gate"):
            try:
                request_promotion(
                    rollout.model,
                    rollout.candidate_version,
                    comment=f"rollout {rollout.rollout_id}: {rollout.reason}",
                    by=rollout.started_by,
                    **where,
                )
            except Exception as error:
                # Somebody may have asked already: then that request is the one to be answered.
                _logger.info("%s: %s", rollout.rollout_id, error)
        self._book.note(rollout.rollout_id, waits, done=False, by=STEWARD)

    def _version(self, rollout: Rollout, slot: str) -> int | None:
        return slot_version(rollout.model, slot, client=self._client)


def slot_version(model: str, slot: str, *, client: MlflowClient | None = None) -> int | None:
    """Return the version a slot points to, None for nothing.

    Raises:
        MlflowException: The registry does not answer, or there is no such model.
    """
    from mlflow import MlflowClient as Client
    from mlflow.exceptions import MlflowException

    from mlflow_agent_plugin.package.slots import Slot

    used: Any = client or Client()
    wanted = Slot.parse(slot)
    if not wanted.is_alias:
        found = used.get_latest_versions(model, [wanted.name])
        return int(found[0].version) if found else None
    used.get_registered_model(model)
    try:
        return int(used.get_model_version_by_alias(model, wanted.name).version)
    except MlflowException as error:
        if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            return None
        raise


def _first_line(error: Exception) -> str:
    text = error.problem if isinstance(error, AgentError) else str(error)
    lines = text.strip().splitlines()
    return lines[0] if lines else type(error).__name__

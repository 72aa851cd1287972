"""Agents loaded by a stage or alias run only if the registry signed that they stand there.

Rules:
- Before anything of it runs, an agent loaded by a stage or alias is copied to a private folder and
  compared, byte for byte, with the registry's promotion statement: this model, this slot, this
  version, this content, by a key trusted here.
- No statement, another one's, a forged one, a revoked key, other content: it does not load. The
  exception is a slot the registry signed that it does not protect.
- The statement travels in the folder, so that the process that runs the agent (a scoring server, a
  container) checks it again, with its own keys.
- By version number, run or path nothing is claimed and only the bundle's digest is checked, unless
  ``MLFLOW_AGENTS_PROMOTED_ONLY`` asks for a statement everywhere.
- ``MLFLOW_AGENTS_UNSAFE_SKIP_PROMOTION_CHECK`` loads all the same, with a warning and an audit
  event.
- Models that are not agents load as in MLflow. Whether a model is one says the registry too: a
  folder that was changed past it may say anything of itself.
"""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

from mlflow.store.artifact.models_artifact_repo import ModelsArtifactRepository

from mlflow_agent_plugin.config import Settings
from mlflow_agent_plugin.core.copies import new_copy_folder
from mlflow_agent_plugin.errors import AgentError, IntegrityError, RequestError, as_mlflow
from mlflow_agent_plugin.package.model_folder import PROMOTION_FILE, digest_folder
from mlflow_agent_plugin.package.slots import Slot

MLMODEL = "MLmodel"
SLOTS_TAG = "agent.slots"
GATED_TAG = "agent.gated"
_HINT = "Do not serve it; look at the registry's history and audit."


class UnsafeLoadWarning(UserWarning):
    """An agent was loaded although nothing shows that it was promoted."""


class CheckedModelsRepository(ModelsArtifactRepository):  # type: ignore[misc]  # mlflow is untyped
    """MLflow's repository of ``models:/`` URIs, with the check of this module."""

    def download_artifacts(
        self, artifact_path: str, dst_path: str | None = None, lineage_header_info: Any = None
    ) -> str:
        """Download as MLflow does; a whole agent named by a slot is checked first.

        Raises:
            MlflowException: The registry never said that this may stand there.
        """
        slot = None if artifact_path or self.is_logged_model_uri else slot_of(self.artifact_uri)
        if slot is None:
            return str(super().download_artifacts(artifact_path, dst_path, lineage_header_info))
        # A copy of one's own: nobody can change it between the check and the loading.
        target = dst_path or str(new_copy_folder("agent-promoted-"))
        folder = Path(super().download_artifacts(artifact_path, target, lineage_header_info))
        if is_agent(folder) or self._is_gated():
            try:
                self._check(folder, slot)
            except AgentError as error:
                raise as_mlflow(error) from error
        return str(folder)

    def _is_gated(self) -> bool:
        return GATED_TAG in self._client().get_registered_model(self.model_name).tags

    @staticmethod
    def _client() -> Any:
        import mlflow

        # The registry MLflow resolved the name in, whatever it was told (see its own constructor).
        return mlflow.MlflowClient(registry_uri=mlflow.get_registry_uri())

    def _check(self, folder: Path, slot: Slot) -> None:
        client = self._client()
        where = f"{self.model_name} {slot}"
        note = folder / PROMOTION_FILE
        note.unlink(missing_ok=True)
        text = client.get_model_version(self.model_name, self.model_version).tags.get(
            slot.tag_key("agent.promotion")
        )
        try:
            if text is None:
                slots = client.get_registered_model(self.model_name).tags.get(SLOTS_TAG)
                if slots is not None and not _protects(slots, self.model_name, slot):
                    return
                raise IntegrityError(
                    f"no registry ever said that version {self.model_version} may stand there",
                    where=where,
                    hint="Promote it through a registry with a gate (agents+…), or load it by its "
                    "version number.",
                )
            check_content(
                folder, text, name=self.model_name, slot=str(slot), version=self.model_version
            )
        except AgentError as error:
            _unless_unsafe(error, where)
            return
        note.write_text(text, encoding="utf-8")


def check_folder(folder: Path) -> None:
    """Check a model folder before its agent runs: by the statement that came with it, if any.

    Raises:
        AgentError: The statement does not hold, or there is none and the settings ask for one.
    """
    note = folder / PROMOTION_FILE
    try:
        if note.is_file():
            check_content(folder, note.read_text(encoding="utf-8", errors="replace"))
        elif Settings.from_env().promoted_only:
            raise IntegrityError(
                "nothing shows that this was promoted, and MLFLOW_AGENTS_PROMOTED_ONLY asks for it",
                where=str(folder),
                hint="Load it by a protected stage or alias: models:/<name>@<alias>.",
            )
    except AgentError as error:
        _unless_unsafe(error, str(folder))


def check_content(
    folder: Path,
    text: str,
    *,
    name: str | None = None,
    slot: str | None = None,
    version: int | str | None = None,
) -> None:
    """Check that a folder holds what a promotion statement names.

    Raises:
        AgentError: The statement is malformed, forged, or about something else.
    """
    from mlflow_agent_plugin.trust.evidence import verify_promotion

    promotion = verify_promotion(
        _json(text),
        _keys(),
        name=name,
        slot=slot,
        version=None if version is None else int(version),
    )
    found, _ = digest_folder(folder)
    if found != promotion.content_digest:
        raise IntegrityError(
            f"the content is {found[:19]}…, promoted was {promotion.content_digest[:19]}…",
            where=f"{promotion.name} {promotion.slot}",
            hint=_HINT,
        )


def slot_of(uri: str) -> Slot | None:
    """Return the slot a ``models:/`` URI names, None for versions, ``latest`` and model ids."""
    from mlflow.store.artifact.utils.models import _parse_model_uri

    parsed = _parse_model_uri(uri)
    if parsed.alias is not None:
        return Slot(parsed.alias, is_alias=True)
    if parsed.stage is None:
        return None
    try:
        return Slot.parse(parsed.stage)
    except RequestError:
        return None


def is_agent(folder: Path) -> bool:
    """Return True if a model folder says it holds an agent."""
    from mlflow_agent_plugin.package.reading import read_yaml

    path = folder / MLMODEL
    if not path.is_file():
        return False
    try:
        data = read_yaml(path, name=MLMODEL).data
    except AgentError:
        return False  # MLflow says what is wrong with it
    flavors = data.get("flavors") if isinstance(data, dict) else None
    return isinstance(flavors, dict) and "agent" in flavors


def _protects(text: str, name: str, slot: Slot) -> bool:
    from mlflow_agent_plugin.trust.evidence import protected_slots

    return str(slot) in protected_slots(_json(text), _keys(), name=name)


def _keys() -> Any:
    from mlflow_agent_plugin.trust.keys import KeyPurpose, KeyStore

    return KeyStore().trusted_keys(KeyPurpose.AUDIT)


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise IntegrityError("the registry's statement is not JSON", hint=_HINT) from error


def _unless_unsafe(error: AgentError, where: str) -> None:
    """Raise `error`, unless the settings override it: then warn, and audit before anything runs."""
    if not Settings.from_env().unsafe_skip_promotion_check:
        raise error
    from mlflow_agent_plugin.store import Store
    from mlflow_agent_plugin.trust import AuditKind, AuditLog, local_actor

    warnings.warn(
        f"UNSAFE: loaded although {error} (MLFLOW_AGENTS_UNSAFE_SKIP_PROMOTION_CHECK is set)",
        UnsafeLoadWarning,
        stacklevel=2,
    )
    with Store.open() as store:
        AuditLog(store).append(
            AuditKind.UNSAFE_OVERRIDE,
            actor=local_actor(),
            override="promotion check",
            loaded=where,
            problem=str(error)[:2000],
        )

"""Loading by a protected name with proof: what was promoted, by whom, and that this is it.

    promoted = fetch_promoted("support", "Production")
    promoted.folder                      # the model, checked byte for byte; nothing of it was run

Rules:
- The registry signs every change of a slot; the statement stands in a tag of the version. It is
  checked with the keys trusted here (this machine's, or those in ``trusted/audit``).
- The statement has to be about this model, this slot and this version, and the downloaded content
  has to be the content it names. Whatever does not fit refuses to load.
"""

from __future__ import annotations

import json
import tempfile
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlflow_agent_plugin.errors import IntegrityError
from mlflow_agent_plugin.registry.seal import Sealer
from mlflow_agent_plugin.registry.slots import Slot

if TYPE_CHECKING:
    from mlflow import MlflowClient

HISTORY_TABLE = "agent_slot_history"
_STANDING = frozenset({"promoted", "rolled_back", "emergency"})
_HINT = "Do not serve it; look at the registry's history and audit."


@dataclass(frozen=True)
class Promotion:
    """What the registry said when it pointed a slot to a version.

    Attributes:
        kind: promoted, rolled_back or emergency.
        folder: The model folder on this machine, checked; None before `fetch_promoted` made it.
    """

    name: str
    slot: str
    version: int
    kind: str
    content_digest: str
    agent_digest: str
    actor: str
    at: datetime
    folder: Path | None = None


def fetch_promoted(
    name: str,
    slot: str,
    *,
    destination: str | Path | None = None,
    client: MlflowClient | None = None,
) -> Promotion:
    """Download what a protected slot points to and check it against the registry's statement.

    Args:
        name: Registered model.
        slot: Stage or ``@alias``.
        destination: New or empty folder; default: a temporary one.
        client: MLflow client; default: a new one on MLflow's current registry.

    Raises:
        IntegrityError: The statement is missing, forged or about something else, or the content is
            not what it names.
        MlflowException: The slot points to nothing.
    """
    from mlflow_agent_plugin.registry.content import digest_folder
    from mlflow_agent_plugin.registry.places import repository

    used = _client(client)
    wanted = Slot.parse(slot)
    found = check_promotion(name, str(wanted), client=used)
    target = Path(destination) if destination else Path(tempfile.mkdtemp(prefix="agent-promoted-"))
    target.mkdir(parents=True, exist_ok=True)
    repo, path = repository(used.get_model_version_download_uri(name, str(found.version)))
    folder = Path(repo.download_artifacts(path, str(target)))
    digest, _ = digest_folder(folder)
    if digest != found.content_digest:
        raise IntegrityError(
            f"the content is {digest[:19]}…, promoted was {found.content_digest[:19]}…",
            where=f"{name} {wanted}",
            hint=_HINT,
        )
    return Promotion(**{**vars(found), "folder": folder})


def check_promotion(name: str, slot: str, *, client: MlflowClient | None = None) -> Promotion:
    """Check the registry's statement about what `slot` points to; downloads nothing.

    Raises:
        IntegrityError: The statement is missing, forged or about something else.
        MlflowException: The slot points to nothing.
    """
    used, wanted = _client(client), Slot.parse(slot)
    version = _resolve(used, name, wanted)
    text = version.tags.get(wanted.tag_key("agent.promotion"))
    where = f"{name} {wanted}"
    if text is None:
        raise IntegrityError(
            f"the registry never said that version {version.version} may stand there",
            where=where,
            hint=_HINT,
        )
    return check_statement(text, name, str(wanted), int(version.version))


def check_statement(text: str, name: str, slot: str, version: int) -> Promotion:
    """Return the promotion a signed statement is about.

    Raises:
        IntegrityError: It is malformed, forged or about something else.
    """
    where = f"{name} {slot}"
    try:
        row: dict[str, Any] = json.loads(text)
        Sealer().check(HISTORY_TABLE, row)
        promotion = Promotion(
            name=str(row["name"]),
            slot=str(row["slot"]),
            version=int(row["version"]),
            kind=str(row["kind"]),
            content_digest=str(row["content_digest"]),
            agent_digest=str(row["agent_digest"]),
            actor=str(row["actor"]),
            at=datetime.fromisoformat(row["at"]),
        )
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise IntegrityError("the statement is malformed", where=where, hint=_HINT) from error
    if (promotion.name, promotion.slot, promotion.version) != (name, slot, version):
        raise IntegrityError("the statement is about something else", where=where, hint=_HINT)
    if promotion.kind not in _STANDING:
        raise IntegrityError(f"the statement says {promotion.kind}", where=where, hint=_HINT)
    return promotion


def _client(client: MlflowClient | None) -> MlflowClient:
    if client is not None:
        return client
    from mlflow import MlflowClient as Client

    return Client()


def _resolve(client: MlflowClient, name: str, slot: Slot) -> Any:
    from mlflow.exceptions import MlflowException
    from mlflow.protos.databricks_pb2 import RESOURCE_DOES_NOT_EXIST

    if slot.is_alias:
        return client.get_model_version_by_alias(name, slot.name)
    found = client.get_latest_versions(name, [slot.name])
    if not found:
        raise MlflowException(f"{slot} of {name} is empty", error_code=RESOURCE_DOES_NOT_EXIST)
    return found[0]

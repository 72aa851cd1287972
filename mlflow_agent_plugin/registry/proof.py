"""Loading by a protected name with proof: what was promoted, by whom, and that this is it.

    promoted = fetch_promoted("support", "Production")
    promoted.folder                      # the model, checked byte for byte; nothing of it was run

Rules:
- The registry signs every change of a slot (an in-toto statement in a DSSE envelope, see
  `trust.evidence.promotion`); the statement stands in a tag of the version. It is checked with the
  keys trusted here (this machine's, or those in ``trusted/audit``).
- The statement has to be about this model, this slot and this version, and the downloaded content
  has to be the content it names. Whatever does not fit refuses to load.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlflow_agent_plugin.core.copies import new_copy_folder
from mlflow_agent_plugin.errors import EvidenceError, IntegrityError
from mlflow_agent_plugin.package.model_folder import digest_folder
from mlflow_agent_plugin.package.slots import Slot
from mlflow_agent_plugin.trust.evidence import Promotion, verify_promotion
from mlflow_agent_plugin.trust.keys import KeyPurpose, KeyStore

if TYPE_CHECKING:
    from mlflow import MlflowClient

_HINT = "Do not serve it; look at the registry's history and audit."


@dataclass(frozen=True)
class FetchedPromotion(Promotion):
    """A promotion, with the content it is about if that was downloaded.

    Attributes:
        folder: The model folder on this machine, checked; None before `fetch_promoted` made it.
    """

    folder: Path | None = None


def fetch_promoted(
    name: str,
    slot: str,
    *,
    destination: str | Path | None = None,
    client: MlflowClient | None = None,
) -> FetchedPromotion:
    """Download what a protected slot points to and check it against the registry's statement.

    Args:
        name: Registered model.
        slot: Stage or ``@alias``.
        destination: New or empty folder; default: a temporary one, gone when the process ends.
        client: MLflow client; default: a new one on MLflow's current registry.

    Raises:
        IntegrityError: The statement is missing, forged or about something else, or the content is
            not what it names.
        MlflowException: The slot points to nothing.
    """
    from mlflow_agent_plugin.registry.places import repository

    used = _client(client)
    wanted = Slot.parse(slot)
    found = check_promotion(name, str(wanted), client=used)
    target = Path(destination or new_copy_folder("agent-promoted-"))
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
    return FetchedPromotion(**{**vars(found), "folder": folder})


def check_promotion(
    name: str, slot: str, *, client: MlflowClient | None = None
) -> FetchedPromotion:
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


def check_statement(text: str, name: str, slot: str, version: int) -> FetchedPromotion:
    """Return the promotion a signed statement is about.

    Raises:
        IntegrityError: It is malformed, forged or about something else.
    """
    where = f"{name} {slot}"
    try:
        promotion = verify_promotion(
            json.loads(text),
            KeyStore().trusted_keys(KeyPurpose.AUDIT),
            name=name,
            slot=slot,
            version=version,
        )
    except EvidenceError as error:
        raise IntegrityError(error.problem, where=where, hint=error.hint or _HINT) from error
    except (ValueError, RecursionError) as error:
        raise IntegrityError("the statement is not JSON", where=where, hint=_HINT) from error
    return FetchedPromotion(**vars(promotion))


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

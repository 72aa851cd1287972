"""What a model version really holds, read by the registry itself.

Rules:
- A version's source is followed to where the bytes lie (see `registry.places`); what a client says
  about it is not believed.
- The content digest covers every file of the model folder, MLmodel included: MLmodel decides which
  code loads the rest (see `package.model_folder`).
- A model is an agent if MLmodel has the flavor ``agent``. An agent's MLmodel may then hold nothing
  else that could run: only our loader, no other flavor, no extra code path.
- Nothing of the bundle is run.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

from mlflow_agent_plugin.errors import AgentError, IntegrityError
from mlflow_agent_plugin.package.inventory import EXCLUDED, scan
from mlflow_agent_plugin.package.model_folder import FileRecord, digest_folder
from mlflow_agent_plugin.package.reading import read_yaml
from mlflow_agent_plugin.registry.facts import PolicyTestsFact
from mlflow_agent_plugin.registry.places import fetch_file, local_folder, may_read, repository
from mlflow_agent_plugin.registry.rules import GATE_FILE, GateRules, parse_rules

MLMODEL = "MLmodel"
MAX_MLMODEL_BYTES = 5 * 1024**2

_PYFUNC_KEYS = frozenset({"loader_module", "data", "env", "python_version", "streamable"})


@dataclass(frozen=True)
class AgentContent:
    """An agent version as the registry read it.

    Attributes:
        folder: Private copy of the model folder, gone after `open_agent`'s block.
        digest: Of the whole model folder.
        files: All files of it.
        agent_digest: Of the bundle, as evidence names it.
        agent: The agent's name in its manifest.
        rules: The bundle's own gate.yaml, None if it has none.
        contracts: Tool name to contract, as JSON values.
        policy_tests: Outcome of the bundle's policy tests.
    """

    folder: Path
    digest: str
    files: tuple[FileRecord, ...]
    agent_digest: str
    agent: str
    rules: GateRules | None
    contracts: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    policy_tests: PolicyTestsFact = field(default_factory=lambda: PolicyTestsFact(passed=0))


@contextmanager
def open_agent(location: str) -> Iterator[AgentContent | None]:
    """Read the model at `location` into a private folder for the length of the block.

    Args:
        location: Artifact URI of the model folder, already resolved (see `resolve`).

    Yields:
        The agent, or None if the model is not one or there is nothing readable.

    Raises:
        AgentError: It is an agent, but not one that may be registered.
    """
    if not _may_be_agent(location):
        yield None
        return
    with tempfile.TemporaryDirectory(prefix="agent-content-") as scratch:
        folder = Path(scratch) / "model"
        if not _is_agent(location, Path(scratch)):
            yield None
            return
        try:
            _download(location, folder)
            content = read_agent(folder)
        except AgentError as error:
            raise _without_path(error, folder) from error
        yield content


def read_agent(folder: Path) -> AgentContent:
    """Read the agent model in a local folder nobody else writes to.

    Raises:
        AgentError: It is not an agent that may be registered.
    """
    from mlflow_agent_plugin.core.flavor import DATA_DIR, load_verified

    digest, files = digest_folder(folder)
    _check_mlmodel(folder)
    bundle = load_verified(folder)
    gate = folder / DATA_DIR / GATE_FILE
    rules = parse_rules(bundle.read_text(GATE_FILE), name=GATE_FILE) if gate.exists() else None
    return AgentContent(
        folder=folder,
        digest=digest,
        files=files,
        agent_digest=bundle.digest.value,
        agent=bundle.manifest.name,
        rules=rules,
        contracts={
            name: contract.model_dump(mode="json", by_alias=True)
            for name, contract in bundle.contracts.items()
        },
        policy_tests=_run_policy_tests(bundle),
    )


def _without_path(error: AgentError, folder: Path) -> AgentError:
    """Return `error` in terms of the model, not of the private copy that was read."""
    parts = [
        None if text is None else text.replace(f"{folder}/", "").replace(str(folder), "the model")
        for text in (error.problem, error.where, error.hint)
    ]
    return type(error)(parts[0] or "", where=parts[1], hint=parts[2])


def _may_be_agent(location: str) -> bool:
    """Say quickly that an ordinary model on this machine is none: its MLmodel spells no agent."""
    if urlparse(location).scheme not in {"", "file"}:
        return True
    from mlflow.utils.file_utils import local_file_uri_to_path

    try:
        path = Path(local_file_uri_to_path(location)) / MLMODEL
        if path.stat().st_size > MAX_MLMODEL_BYTES:
            return True
        data = path.read_bytes()
    except FileNotFoundError:
        return False
    except (OSError, ValueError):
        return True
    return b"agent" in data or b"\\" in data  # YAML can spell letters with a backslash


def _is_agent(location: str, scratch: Path) -> bool:
    """Say whether the model at `location` has our flavor; what cannot be read has not."""
    if not may_read(location):
        return False
    try:
        found = fetch_file(location, MLMODEL, scratch, max_bytes=MAX_MLMODEL_BYTES)
        if found is None:
            return False
        data = read_yaml(found).data
        return isinstance(data, dict) and "agent" in (data.get("flavors") or {})
    except Exception:
        # An ordinary model in a place this process cannot reach is none of our business.
        return False


def _download(location: str, folder: Path) -> None:
    root = local_folder(location)
    if root is not None:
        for path, entry in scan(root).items():
            target = folder / path
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(entry.location, target, follow_symlinks=False)
        return
    repo, prefix = repository(location)
    folder.mkdir()
    try:
        found = Path(repo.download_artifacts(prefix, str(folder)))
    except Exception as error:
        raise IntegrityError(
            f"the model's files cannot be read ({type(error).__name__}: {error})", where=location
        ) from error
    if found != folder:
        for item in list(found.iterdir()):
            item.rename(folder / item.name)
    for pattern in EXCLUDED:  # by-products are neither digested nor kept
        for item in list(folder.rglob(pattern)):
            shutil.rmtree(item) if item.is_dir() else item.unlink(missing_ok=True)


def _check_mlmodel(folder: Path) -> None:
    from mlflow_agent_plugin.core.flavor import DATA_DIR, FLAVOR, LOADER_MODULE

    data = read_yaml(folder / MLMODEL, name=MLMODEL).data
    flavors = data.get("flavors") if isinstance(data, dict) else None
    hint = "Log the agent with log_agent."
    if not isinstance(flavors, dict) or set(flavors) != {"python_function", FLAVOR}:
        found = ", ".join(flavors) if isinstance(flavors, dict) else "none"
        raise IntegrityError(
            f"an agent has the flavors python_function and {FLAVOR} only, not {found}",
            where=f"{MLMODEL}: flavors",
            hint=hint,
        )
    pyfunc = flavors["python_function"]
    if not isinstance(pyfunc, dict):
        raise IntegrityError("is malformed", where=f"{MLMODEL}: flavors.python_function", hint=hint)
    extra = sorted(set(pyfunc) - _PYFUNC_KEYS)
    if extra or pyfunc.get("loader_module") != LOADER_MODULE or pyfunc.get("data") != DATA_DIR:
        raise IntegrityError(
            f"would load by something else than {LOADER_MODULE}"
            + (f" ({', '.join(extra)})" if extra else ""),
            where=f"{MLMODEL}: flavors.python_function",
            hint=hint,
        )


def _run_policy_tests(bundle: Any) -> PolicyTestsFact:
    from mlflow_agent_plugin.trust.policy import check_policies, run_policy_tests

    try:
        results = run_policy_tests(bundle)
        failed = tuple(str(item.name) for item in results if not item.passed)
        if not failed:
            check_policies(bundle)
    except AgentError as error:
        return PolicyTestsFact(passed=0, error=str(error))
    return PolicyTestsFact(passed=len(results) - len(failed), failed=failed)

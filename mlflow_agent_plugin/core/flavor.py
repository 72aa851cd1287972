"""The `agent` flavor: an agent is logged as one MLflow pyfunc model and loaded only if untouched.

Rules:
- `log_agent` and `save_agent` validate the whole bundle first; a bundle that fails leaves nothing
  behind, neither a run nor a model nor a version. So does one whose tool contracts break those of
  the registered version before without a new major version (see `core.predecessor`).
- A saved model holds exactly the digested files, and MLmodel holds the digest.
- Loading compares both before any code of the bundle runs; a difference refuses to load. By a
  stage or alias it takes the registry's statement too (see `core.promoted`).
- Prompts are registered in MLflow's prompt registry and linked; a prompt whose text is already the
  newest version there gets no new one.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlflow_agent_plugin import __version__
from mlflow_agent_plugin.core.copies import keep_while, new_copy_folder
from mlflow_agent_plugin.core.predecessor import check_contracts
from mlflow_agent_plugin.core.served import ServedAgent
from mlflow_agent_plugin.core.validation import validate_and_draw
from mlflow_agent_plugin.errors import AgentError, BundleError, IntegrityError, as_mlflow
from mlflow_agent_plugin.package import BundleDigest, copy_bundle, load_bundle

if TYPE_CHECKING:
    from mlflow.models.model import Model, ModelInfo

    from mlflow_agent_plugin.package import Bundle

FLAVOR = "agent"
DATA_DIR = "agent"
CONSOLE_TAG = "agent.console"
"""Tag a registry with a review console puts on a version: where the console shows it."""

GRAPH_KEY = "graph"
"""Where MLmodel holds the drawing of the agent's graph."""

LOADER_MODULE = "mlflow_agent_plugin.core.flavor"
TASK = "agent/v1/responses"
INPUT_EXAMPLE = {"input": [{"role": "user", "content": "Hello!"}]}


def log_agent(
    path: str | Path,
    *,
    name: str | None = None,
    registered_model_name: str | None = None,
    run_id: str | None = None,
    tags: Mapping[str, str] | None = None,
    register_prompts: bool = True,
) -> ModelInfo:
    """Validate the bundle at `path` and log it as one MLflow model.

    Args:
        path: The bundle's folder.
        name: Name of the logged model; default: the agent's name.
        registered_model_name: Also create a version of this registered model.
        run_id: Run to log to; default: the active run, or a new one.
        tags: Tags of the logged model.
        register_prompts: Register the prompts in MLflow's prompt registry and link them.

    Returns:
        MLflow's `ModelInfo`; ``registered_model_version`` is set when a version was created.

    Raises:
        BundleError: The bundle is not in order; nothing was logged.
        ContractError: A tool contract breaks the newest registered version's without a new major
            version; nothing was logged.
        MlflowException: MLflow refused, e.g. the registry's rules for this model.
    """
    import mlflow
    from mlflow.models.model import Model

    bundle, graph = validate_and_draw(path)
    if registered_model_name is not None:
        check_contracts(bundle, registered_model_name, fetch=_fetch_to)
    prompts = _register_prompts(bundle) if register_prompts else []
    info = Model.log(
        artifact_path=None,
        name=name or bundle.manifest.name,
        flavor=_this_module(),
        registered_model_name=registered_model_name,
        run_id=run_id,
        metadata={"task": TASK, "agent_digest": bundle.digest.value},
        model_type=FLAVOR,
        params={"agent_digest": bundle.digest.value, "agent": bundle.manifest.name},
        tags=dict(tags or {}),
        prompts=prompts or None,
        bundle=bundle,
        graph=graph,
    )
    if registered_model_name is not None and info.registered_model_version is not None:
        client, number = mlflow.MlflowClient(), str(info.registered_model_version)
        tags = client.get_model_version(registered_model_name, number).tags
        client.update_model_version(
            registered_model_name,
            number,
            description=model_card(bundle, console=tags.get(CONSOLE_TAG)),
        )
    return info


def save_agent(path: str | Path, destination: str | Path) -> None:
    """Validate the bundle at `path` and save it as an MLflow model in a new folder.

    Raises:
        BundleError: The bundle is not in order, or `destination` exists already.
    """
    bundle, graph = validate_and_draw(path)
    save_model(Path(destination), bundle=bundle, graph=graph)


def save_model(
    path: str | Path,
    *,
    bundle: Bundle,
    graph: str = "",
    mlflow_model: Model | None = None,
    **_: Any,
) -> None:
    """Write the MLflow model of a validated bundle to `path` (MLflow's flavor interface).

    Args:
        path: New or empty folder.
        bundle: The agent.
        graph: Its drawing (`core.drawing`), empty for none.
        mlflow_model: What MLflow knows about the model so far.
    """
    import mlflow
    from mlflow import pyfunc
    from mlflow.models.model import MLMODEL_FILE_NAME, Model
    from mlflow.utils.environment import _PythonEnv

    target = Path(path)
    if target.exists() and any(target.iterdir()):
        raise BundleError("already holds files", where=str(target), hint="Give a new folder.")
    model = mlflow_model or Model()
    target.mkdir(parents=True, exist_ok=True)
    try:
        copy_bundle(bundle, target / DATA_DIR)
        requirements = [f"mlflow=={mlflow.__version__}", f"mlflow-agent-plugin=={__version__}"]
        (target / "requirements.txt").write_text("\n".join(requirements) + "\n")
        _PythonEnv.current().to_yaml(str(target / "python_env.yaml"))
        pyfunc.add_to_model(
            model,
            loader_module=LOADER_MODULE,
            data=DATA_DIR,
            python_env="python_env.yaml",
            streamable=True,
        )
        model.add_flavor(
            FLAVOR,
            agent=bundle.manifest.name,
            api_version=bundle.manifest.api_version,
            plugin_version=__version__,
            digest=bundle.digest.to_dict(),
            data=DATA_DIR,
            **({GRAPH_KEY: graph} if graph else {}),
        )
        model.metadata = {**(model.metadata or {}), "task": TASK}
        model.signature = _signature()
        model.save(str(target / MLMODEL_FILE_NAME))
    except BaseException:
        shutil.rmtree(target, ignore_errors=True)
        raise


def load_verified(model_dir: Path) -> Bundle:
    """Return the bundle of a saved model, checked against the digest in its MLmodel; runs no code.

    Raises:
        IntegrityError: The content is not what was logged, or MLmodel is missing.
        BundleError: The content is no bundle.
    """
    from mlflow.models.model import MLMODEL_FILE_NAME, Model

    where = str(model_dir / MLMODEL_FILE_NAME)
    try:
        flavors = Model.load(str(model_dir)).flavors
    except Exception as error:
        raise IntegrityError(
            f"cannot be read ({type(error).__name__})",
            where=where,
            hint="The model is incomplete; log it again.",
        ) from error
    flavor = flavors.get(FLAVOR)
    if not isinstance(flavor, dict):
        raise BundleError("the model is not an agent", where=where, hint="Log it with log_agent.")
    try:
        recorded = BundleDigest.from_dict(flavor["digest"])
    except (AgentError, KeyError, TypeError, ValueError) as error:
        raise IntegrityError("holds no agent digest", where=where) from error
    bundle = load_bundle(model_dir / DATA_DIR)
    if bundle.digest.value != recorded.value:
        raise IntegrityError(
            f"the content has digest {bundle.digest.value}, but {recorded.value} was logged"
            f"{_changed_files(bundle.digest, recorded)}",
            where=str(model_dir / DATA_DIR),
            hint="Do not serve it; log the bundle again or restore the artifacts.",
        )
    return bundle


def _load_pyfunc(path: str, model_config: dict[str, Any] | None = None) -> ServedAgent:
    """Load for MLflow (`mlflow.pyfunc.load_model`, `mlflow models serve`)."""
    del model_config
    from mlflow_agent_plugin.core.promoted import check_folder

    try:
        check_folder(Path(path).parent)
        bundle = load_verified(Path(path).parent)
        served = ServedAgent(bundle)
    except AgentError as error:
        raise as_mlflow(error) from error
    keep_while(bundle, bundle.root)
    return served


def fetch_bundle(model_uri: str, *, destination: str | Path | None = None) -> Bundle:
    """Download an agent and return its verified bundle; runs none of its code.

    Args:
        model_uri: Any MLflow model URI, or a local folder of a saved model.
        destination: Folder to download to; default: a temporary one, gone once nobody holds the
            bundle.

    Raises:
        IntegrityError: The content is not what was logged.
        BundleError: The model is not an agent.
    """
    import mlflow

    if destination is not None:
        Path(destination).mkdir(parents=True, exist_ok=True)
    local = mlflow.artifacts.download_artifacts(
        artifact_uri=model_uri,
        dst_path=str(destination or new_copy_folder()),
    )
    bundle = load_verified(Path(local))
    if destination is None:
        keep_while(bundle, bundle.root)
    return bundle


def _fetch_to(model_uri: str, destination: str) -> Bundle:
    return fetch_bundle(model_uri, destination=destination)


def model_card(bundle: Bundle, *, console: str | None = None) -> str:
    """Return the Markdown description a version of `bundle` gets in the registry.

    Args:
        bundle: The agent.
        console: Path of the version's page in the server's review console, if it has one.
    """
    manifest = bundle.manifest
    usable = set(manifest.usable_tools())
    facts = {
        "Goal": manifest.workflow.goal,
        "Owner": manifest.owner,
        "Risk level": manifest.workflow.risk_level.value,
        "Model": f"{manifest.model.provider} / {manifest.model.name}",
    }
    tools = [
        (f"`{name}`", contract.version, contract.effect.value, contract.risk.value)
        for name, contract in bundle.contracts.items()
        if name in usable
    ]
    digests = [(name, f"`{value[:19]}…`") for name, value in bundle.digest.components.items()]
    blocks = [
        f"# {manifest.name}",
        _one_line(manifest.description),
        f"[Review this version in the console]({console})" if is_console_path(console) else "",
        "\n".join(
            [
                *(f"- **{title}**: {_one_line(text)}" for title, text in facts.items()),
                f"- **Digest**: `{bundle.digest.value}`",
            ]
        ),
    ]
    if tools:
        blocks += ["## Tools", _table(("tool", "contract", "effect", "risk"), tools)]
    blocks += ["## Content", _table(("component", "digest"), digests)]
    # Every block stands alone: without the empty line one table would go on as the next.
    return "\n\n".join(block for block in blocks if block) + "\n"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(c.replace("|", r"\|") for c in row) + " |" for row in lines)


def is_console_path(console: str | None) -> bool:
    """Say whether a server named a page of its own, and nothing that ends a link early."""
    return console is not None and re.fullmatch(r"/[A-Za-z0-9/_.~%-]+", console) is not None


def _one_line(text: str) -> str:
    """Return an author's text so that it starts no heading, list, table or code block."""
    return re.sub(r"^([#>|~`=+*-])", r"\\\1", " ".join(text.split()))


def _register_prompts(bundle: Bundle) -> list[str]:
    import mlflow
    from mlflow.exceptions import MlflowException

    uris: list[str] = []
    for name, prompt in bundle.prompts.items():
        registered = f"{bundle.manifest.name}.{name}"
        try:
            newest = mlflow.genai.load_prompt(f"prompts:/{registered}@latest", allow_missing=True)
        except MlflowException:
            newest = None
        if newest is None or newest.template != prompt.template:
            newest = mlflow.genai.register_prompt(name=registered, template=prompt.template)
        uris.append(newest.uri)
    return uris


def _signature() -> Any:
    # Outputs only: the request's own parser says precisely which field is wrong, where MLflow's
    # schema enforcement would repeat the user's whole message in its error.
    from mlflow.models.signature import ModelSignature
    from mlflow.types.responses import RESPONSES_AGENT_OUTPUT_SCHEMA

    return ModelSignature(outputs=RESPONSES_AGENT_OUTPUT_SCHEMA)


def _changed_files(now: BundleDigest, then: BundleDigest) -> str:
    before = {file.path: file.sha256 for file in then.files}
    after = {file.path: file.sha256 for file in now.files}
    changed = sorted(p for p in before.keys() | after.keys() if before.get(p) != after.get(p))
    return f" (changed: {', '.join(changed[:5])}{' …' if len(changed) > 5 else ''})"


def _this_module() -> Any:
    import sys

    return sys.modules[__name__]

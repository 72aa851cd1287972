"""`run_load`: a load test of a served agent, and an MLflow run with signed evidence of it.

Rules:
- The first request finds out which content is served. If the caller named a model, it has to be
  that one's; every later answer has to come from the same content, or its request has failed.
- The generator is a process of its own. If it ends badly the test has no result.
- A bearer token for the server is read from the environment variable the caller names; it reaches
  neither the command line of the process nor the run.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import IO, Any

from mlflow_agent_plugin.development.load.answers import served_digest
from mlflow_agent_plugin.development.load.profile import LoadProfile, load_profile
from mlflow_agent_plugin.development.load.recording import LoadResult, record_load
from mlflow_agent_plugin.errors import AgentRunError, ConfigError, IntegrityError
from mlflow_agent_plugin.trust.evidence import LoadRequest

PATH = "/invocations"
# Patched before anything of this package is imported: it loads ssl, which cannot be patched later.
GENERATOR = (
    "from gevent import monkey; monkey.patch_all(); "
    "from mlflow_agent_plugin.development.load.generator import main; main()"
)
PROBE_SECONDS = 60.0

LoadProgress = Callable[[Mapping[str, Any]], None]
"""Called about once a second with ``seconds``, ``total``, ``sent``, ``ended``, ``failed``."""


def run_load(
    url: str,
    profile: LoadProfile | str | Path,
    *,
    model_uri: str | None = None,
    path: str = PATH,
    token_variable: str | None = None,
    experiment: str | None = None,
    submit: bool = True,
    progress: LoadProgress | None = None,
) -> LoadResult:
    """Put load on a served agent and log what it bore, with signed evidence.

    Args:
        url: Where the server is, ``http://host:port``.
        profile: A load profile, or its file.
        model_uri: The model that is served there (``models:/support/3``); without it the evidence
            is about whatever content answers.
        path: Where the server takes Responses requests.
        token_variable: Environment variable with a bearer token for the server.
        experiment: Name of the MLflow experiment; default: the current one.
        submit: For a registered version: hand the evidence to the registry.
        progress: Called about once a second.

    Raises:
        ConfigError: Locust is not installed, or the token's variable is not set.
        AgentRunError: The server does not answer, or the generator failed.
        IntegrityError: The server serves other content than `model_uri`.
        SuiteError: The profile is malformed.
    """
    if find_spec("locust") is None:
        raise ConfigError("Locust is not installed", hint="pip install 'mlflow-agent-plugin[load]'")
    plan = profile if isinstance(profile, LoadProfile) else load_profile(profile)
    base = url.rstrip("/")
    if not base.startswith(("http://", "https://")):
        raise ConfigError("is not an http address", where="url", hint="Give http://host:port.")
    headers = _headers(token_variable)
    agent, expected, registered = _expected(model_uri)
    digest, answered_by = _probe(base + path, headers, plan.messages[0])
    if expected is not None and digest != expected:
        raise IntegrityError(
            f"the server serves {digest}, but {model_uri} is {expected}",
            where=url,
            hint="Serve that version, or name the one that is served.",
        )
    order = {
        "url": base,
        "path": path,
        "headers": headers,
        "agent_digest": digest,
        "profile": plan.model_dump(mode="json"),
        "phases": [phase.to_dict() for phase in plan.phases()],
    }
    with tempfile.TemporaryDirectory(prefix="load-") as folder:
        requests = _generate(order, Path(folder) / "requests.jsonl", progress)
    return record_load(
        plan,
        requests,
        agent=agent or answered_by,
        agent_digest=digest,
        url=base,
        registered=registered,
        experiment=experiment,
        submit=submit,
    )


def _headers(token_variable: str | None) -> dict[str, str]:
    if token_variable is None:
        return {}
    token = os.environ.get(token_variable, "")
    if not token:
        raise ConfigError("is not set", where=token_variable, hint="Put the token into it.")
    return {"Authorization": f"Bearer {token}"}


def _expected(model_uri: str | None) -> tuple[str | None, str | None, Any]:
    """Return agent name, digest and registered version of a model."""
    if model_uri is None:
        return None, None, None
    from mlflow import MlflowClient

    from mlflow_agent_plugin.core import fetch_bundle
    from mlflow_agent_plugin.development.recording import registered_version

    registered = registered_version(MlflowClient(), model_uri)
    with tempfile.TemporaryDirectory(prefix="agent-") as folder:
        bundle = fetch_bundle(registered.pinned(model_uri), destination=folder)
        return bundle.manifest.name, bundle.digest.value, registered


def _probe(address: str, headers: Mapping[str, str], text: str) -> tuple[str, str]:
    """Ask once; return the digest and the name of the agent that answered."""
    import requests

    try:
        response = requests.post(
            address,
            json={"input": [{"role": "user", "content": text}]},
            headers=dict(headers),
            timeout=PROBE_SECONDS,
        )
    except requests.RequestException as error:
        raise AgentRunError(
            f"the server does not answer ({type(error).__name__})",
            where=address,
            hint="Start it (mlflow models serve, or mlflow-agents serve) and check the address.",
        ) from error
    digest = served_digest(response.text)
    if response.status_code != 200 or digest is None:
        raise AgentRunError(
            f"answered {response.status_code}, and not as a served agent does",
            where=address,
            hint="Check the path, the token and the server's log.",
        )
    return digest, str(response.json().get("model") or "agent")


def _generate(order: dict[str, Any], out: Path, progress: LoadProgress | None) -> list[LoadRequest]:
    process = subprocess.Popen(
        [sys.executable, "-c", GENERATOR],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
    )
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stderr is not None
    errors: list[str] = []
    reading = threading.Thread(target=_drain, args=(process.stderr, errors), daemon=True)
    reading.start()
    try:
        # The token goes through the pipe: a command line can be read by everybody on the machine.
        process.stdin.write(json.dumps({**order, "out": str(out)}) + "\n")
        process.stdin.close()
        for line in process.stdout:
            if progress is not None and line.startswith("{"):
                progress(json.loads(line))
        code = process.wait()
    except BaseException:
        process.kill()
        process.wait()
        raise
    finally:
        process.stdout.close()
    reading.join(timeout=5)
    if code != 0 or not out.is_file():
        last = errors[-1] if errors else "no message"
        raise AgentRunError(f"the load generator ended with {code}: {last[:300]}")
    return [
        LoadRequest.model_validate_json(line)
        for line in out.read_text(encoding="utf-8").splitlines()
    ]


def _drain(pipe: IO[str], into: list[str]) -> None:
    for line in pipe:
        if line.strip():
            into[:] = [*into[-20:], line.strip()]

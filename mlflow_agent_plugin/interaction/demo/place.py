"""Where the demo lives: its folder, its databases, and the environment of every process it starts.

Rules:
- Nothing outside the folder is written.
- A folder is emptied only if an earlier demo made it (it holds the marker file).
"""

from __future__ import annotations

import os
import shutil
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from mlflow_agent_plugin.errors import ConfigError

MARKER = ".mlflow-agents-demo"

# Where the data comes from has to be the same in every process of the demo.
_DATA_SETTINGS = ("MLFLOW_AGENTS_DATA_DIR", "MLFLOW_AGENTS_DOWNLOAD")


@dataclass(frozen=True)
class Place:
    """The demo's folder and what is where in it.

    Attributes:
        project: Root of the checkout (agents/, pipelines/, evaluations/ are there).
        folder: The demo's own folder, absolute.
    """

    project: Path
    folder: Path

    @property
    def database(self) -> Path:
        """MLflow's database: tracking and registry."""
        return self.folder / "mlflow.db"

    @property
    def tracking_uri(self) -> str:
        """Tracking URI."""
        return f"sqlite:///{self.database}"

    @property
    def registry_uri(self) -> str:
        """Registry URI; the ``agents+`` scheme is the gate."""
        return f"agents+sqlite:///{self.database}"

    @property
    def artifacts(self) -> Path:
        """Artifacts of all experiments."""
        return self.folder / "artifacts"

    @contextmanager
    def output(self, name: str) -> Iterator[None]:
        """Send what this process and its children print to a file of the folder, for a while."""
        sys.stdout.flush()
        sys.stderr.flush()
        saved = [(stream, os.dup(stream)) for stream in (1, 2)]
        with (self.folder / name).open("ab") as log:
            try:
                for stream, _ in saved:
                    os.dup2(log.fileno(), stream)
                yield
            finally:
                for stream, copy in saved:
                    os.dup2(copy, stream)
                    os.close(copy)

    def environment(self) -> dict[str, str]:
        """Return the environment of the demo and of every process it starts."""
        own = {
            "MLFLOW_TRACKING_URI": self.tracking_uri,
            "MLFLOW_REGISTRY_URI": self.registry_uri,
            "MLFLOW_DISABLE_TELEMETRY": "true",
            "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
            "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
            "MLFLOW_AGENTS_STORE_URI": f"sqlite:///{self.folder / 'agents.db'}",
            "MLFLOW_AGENTS_KEY_DIR": str(self.folder / "keys"),
            "MLFLOW_AGENTS_SPOOL_DIR": str(self.folder / "spool"),
            "MLFLOW_AGENTS_ENVIRONMENT": "production",
            "MLFLOW_AGENTS_ACCEPT_EVENT_TIME": "true",
            "DVC_NO_ANALYTICS": "1",
            "PYTHONWARNINGS": "ignore",
            "GIT_PYTHON_REFRESH": "quiet",
        }
        inherited = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith("MLFLOW_") or name in _DATA_SETTINGS
        }
        return {**inherited, **own}


def prepare(folder: Path) -> Place:
    """Return an empty demo folder; an earlier demo's content is removed.

    Raises:
        ConfigError: This is no checkout of the project, or `folder` holds something else.
    """
    project = find_project()
    folder = folder.absolute()
    if folder.exists() and any(folder.iterdir()) and not (folder / MARKER).exists():
        raise ConfigError(
            "holds files that no demo made", where=str(folder), hint="Give an empty folder."
        )
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    (folder / MARKER).write_text("Made by `mlflow-agents demo`; the next one empties it.\n")
    place = Place(project=project, folder=folder)
    place.artifacts.mkdir()
    return place


def find_project() -> Path:
    """Return the checkout this is run in.

    Raises:
        ConfigError: The current folder and its parents are none.
    """
    here = Path.cwd()
    for folder in (here, *here.parents):
        if (folder / "MLproject").exists() and (folder / "agents" / "support").is_dir():
            return folder
    raise ConfigError(
        "the demo needs the project's agents, pipelines and evaluations",
        where=str(here),
        hint="Run it inside a checkout of mlflow-agent-plugin.",
    )


def free_port() -> int:
    """Return a TCP port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])

"""A trial on disk: who tries which version, the version's copy, what was said.

Rules:
- All trials of a machine's user lie below one folder only he can read; each has a random name.
- Whoever began a trial is the only one who sees it.
- A trial that has been quiet for a day is removed when the next one begins.
"""

from __future__ import annotations

import os
import re
import secrets
import shutil
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from mlflow_agent_plugin.errors import ConfigError, SessionNotFoundError
from mlflow_agent_plugin.interaction.trial.talk import MAX_TURNS, Turn

KEPT_SECONDS = 24 * 3600.0
MODEL = "model"
SOCKET = "s"
LOG = "worker.log"
_CARD = "trial.json"
_TURNS = "turns.jsonl"
_ID = re.compile(r"[0-9a-f]{16}")


class Trial(BaseModel):
    """Who tries which version."""

    model_config = ConfigDict(extra="forbid")

    trial_id: str
    user: str
    tenant: str
    model: str
    version: int


@dataclass(frozen=True)
class TrialFolder:
    """The folder of one trial."""

    path: Path

    @classmethod
    def create(cls, trial: Trial, content: Path, *, base: Path | None = None) -> TrialFolder:
        """Make the folder of a trial, with a copy of the version's model folder in it."""
        parent = base or base_folder()
        forget_old(parent)
        made = cls(parent / trial.trial_id)
        made.path.mkdir(mode=0o700)
        shutil.copytree(content, made.path / MODEL)
        (made.path / _CARD).write_text(trial.model_dump_json(), "utf-8")
        return made

    @classmethod
    def find(
        cls, trial_id: str, *, user: str, tenant: str, base: Path | None = None
    ) -> TrialFolder:
        """Return the trial somebody began.

        Raises:
            SessionNotFoundError: There is none of that name that is his.
        """
        found = cls((base or base_folder()) / trial_id)
        if _ID.fullmatch(trial_id):
            try:
                card = found.card()
            except (OSError, ValidationError):
                card = None
            if card is not None and (card.user, card.tenant) == (user, tenant):
                return found
        raise SessionNotFoundError("there is no such trial", hint="Begin a new one.")

    def card(self) -> Trial:
        """Return who tries what."""
        return Trial.model_validate_json((self.path / _CARD).read_bytes())

    @property
    def socket(self) -> Path:
        """Where its process listens."""
        return self.path / SOCKET

    def turns(self) -> list[Turn]:
        """Return what was said so far."""
        try:
            lines = (self.path / _TURNS).read_text("utf-8").splitlines()
        except FileNotFoundError:
            return []
        return [Turn.model_validate_json(line) for line in lines[-MAX_TURNS:]]

    def keep(self, turn: Turn) -> None:
        """Keep a turn."""
        with (self.path / _TURNS).open("a", encoding="utf-8") as file:
            file.write(turn.model_dump_json() + "\n")

    def remove(self) -> None:
        """Remove everything of it."""
        shutil.rmtree(self.path, ignore_errors=True)


def new_trial_id() -> str:
    """Return a name nobody can guess."""
    return secrets.token_hex(8)


def base_folder() -> Path:
    """Return the folder of this user's trials; short, because a socket's path has to be.

    Raises:
        ConfigError: It belongs to somebody else.
    """
    folder = Path(tempfile.gettempdir()) / f"agent-trials-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    found = folder.lstat()
    if folder.is_symlink() or found.st_uid != os.getuid() or found.st_mode & 0o077:
        raise ConfigError("is not this user's alone", where=str(folder), hint="Remove it.")
    return folder


def forget_old(base: Path, *, now: float | None = None) -> None:
    """Remove the trials nobody went on with for a day."""
    moment = time.time() if now is None else now
    for folder in base.iterdir():
        try:
            newest = max(item.stat().st_mtime for item in (folder, *folder.iterdir()))
        except (OSError, ValueError):
            continue
        if _ID.fullmatch(folder.name) and moment - newest > KEPT_SECONDS:
            shutil.rmtree(folder, ignore_errors=True)

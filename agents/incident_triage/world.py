"""The world behind the incident triage agent: catalogue, alerts, logs, deploys, on-call, incidents.

Rules:
- Everything stands in one SQLite database, so that an action approved later, by another process,
  meets the same world.
- A write happens in one transaction, completely or not at all, and at most once per idempotency
  key: the same key again returns the first result; the same key for something else is an error.
- A refusal is a `WorldError` whose text an engineer may read; nothing has changed then.
- One `World` may be used by many threads, and one file by many processes.
"""

from __future__ import annotations

import json
import sqlite3
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from typing import Any

from seed import fill

SETTINGS = frozenset({"path", "seed"})

SCHEMA = """
CREATE TABLE IF NOT EXISTS services (
    name TEXT PRIMARY KEY, owner_team TEXT NOT NULL, tier INTEGER NOT NULL,
    description TEXT NOT NULL, depends_on TEXT NOT NULL, version TEXT NOT NULL,
    instances INTEGER NOT NULL, restarted_at TEXT);
CREATE TABLE IF NOT EXISTS alerts (
    alert_id TEXT PRIMARY KEY, service TEXT NOT NULL REFERENCES services, severity TEXT NOT NULL,
    state TEXT NOT NULL, summary TEXT NOT NULL, since TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS logs (
    line_id INTEGER PRIMARY KEY, service TEXT NOT NULL REFERENCES services, at TEXT NOT NULL,
    level TEXT NOT NULL, message TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS deploys (
    deploy_id TEXT PRIMARY KEY, service TEXT NOT NULL REFERENCES services, version TEXT NOT NULL,
    at TEXT NOT NULL, author TEXT NOT NULL, change TEXT NOT NULL, kind TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS oncall (team TEXT PRIMARY KEY, person TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS incidents (
    incident_id TEXT PRIMARY KEY, title TEXT NOT NULL, status TEXT NOT NULL,
    severity TEXT NOT NULL, service TEXT NOT NULL REFERENCES services);
CREATE TABLE IF NOT EXISTS notes (
    incident_id TEXT NOT NULL REFERENCES incidents, at TEXT NOT NULL, author TEXT NOT NULL,
    text TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS pages (
    page_id TEXT PRIMARY KEY, team TEXT NOT NULL, person TEXT NOT NULL, summary TEXT NOT NULL,
    incident_id TEXT REFERENCES incidents, at TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS effects (
    key TEXT PRIMARY KEY, action TEXT NOT NULL, result TEXT NOT NULL);
"""


class WorldError(ValueError):
    """The world refuses; nothing has changed, and an engineer may read why."""


def open_world(settings: Mapping[str, Any]) -> World:
    """Open the world.

    Args:
        settings: ``path`` of the SQLite file (default ``:memory:``); ``seed`` (default true) fills
            an empty world.

    Raises:
        WorldError: A setting is unknown.
    """
    unknown = sorted(set(settings) - SETTINGS)
    if unknown:
        raise WorldError(f"there is no setting {unknown[0]!r}; there are path and seed")
    world = World(str(settings.get("path", ":memory:")))
    if settings.get("seed", True):
        world.seed()
    return world


class World:
    """One world.

    Args:
        path: SQLite file, or ``:memory:``.
    """

    def __init__(self, path: str) -> None:
        self._lock = threading.RLock()
        self._db = sqlite3.connect(path, check_same_thread=False, isolation_level=None, timeout=10)
        self._db.row_factory = sqlite3.Row
        self._db.execute("PRAGMA foreign_keys = ON")
        self._db.executescript(SCHEMA)

    def close(self) -> None:
        """Close the database."""
        with self._lock:
            self._db.close()

    def seed(self) -> None:
        """Fill the world if it is empty."""
        with self._transaction():
            if self._db.execute("SELECT count(*) FROM services").fetchone()[0] == 0:
                fill(self._db)

    # --- Reads -----------------------------------------------------------------------------------

    def alerts(
        self, *, service: str | None, severity: str | None, state: str
    ) -> list[dict[str, Any]]:
        """Return alerts, the latest first."""
        if service is not None:
            self._service(service)
        return self._rows(
            "SELECT * FROM alerts WHERE (?1 IS NULL OR service = ?1) AND (?2 IS NULL OR"
            " severity = ?2) AND (?3 = 'any' OR state = ?3) ORDER BY since DESC, alert_id",
            (service, severity, state),
        )

    def service(self, name: str) -> dict[str, Any]:
        """Return one service, who is on call for it and its open incidents."""
        row = self._service(name)
        incidents = self._rows(
            "SELECT incident_id, title, status, severity FROM incidents"
            " WHERE service = ? AND status != 'resolved' ORDER BY incident_id",
            (name,),
        )
        person = self._rows("SELECT person FROM oncall WHERE team = ?", (row["owner_team"],))
        return {
            **row,
            "depends_on": json.loads(row["depends_on"]),
            "oncall": person[0]["person"] if person else None,
            "incidents": incidents,
        }

    def logs(
        self, service: str, *, text: str | None, level: str | None, limit: int
    ) -> list[dict[str, Any]]:
        """Return log lines, the latest first."""
        self._service(service)
        return self._rows(
            "SELECT at, level, message FROM logs WHERE service = ?1 AND (?2 IS NULL OR"
            " instr(lower(message), lower(?2)) > 0) AND (?3 IS NULL OR level = ?3)"
            " ORDER BY at DESC, line_id DESC LIMIT ?4",
            (service, text, level, limit),
        )

    def deploys(self, service: str, *, limit: int) -> list[dict[str, Any]]:
        """Return deploys, the latest first."""
        self._service(service)
        return self._rows(
            "SELECT deploy_id, version, at, author, change, kind FROM deploys WHERE service = ?"
            " ORDER BY at DESC, rowid DESC LIMIT ?",
            (service, limit),
        )

    # --- Writes ----------------------------------------------------------------------------------

    def restart(
        self, service: str, owner_team: str, reason: str, *, by: str, at: datetime, key: str
    ) -> dict[str, Any]:
        """Restart a service."""

        def change() -> dict[str, Any]:
            row = self._owned(service, owner_team)
            self._db.execute(
                "UPDATE services SET restarted_at = ? WHERE name = ?", (_spell(at), service)
            )
            self._log(service, at, f"restarted by {by}: {reason}")
            return {"service": service, "instances": row["instances"], "restarted_at": _spell(at)}

        return self._once(key, f"restart {service}", change)

    def roll_back(
        self,
        service: str,
        owner_team: str,
        to_version: str,
        reason: str,
        *,
        by: str,
        at: datetime,
        key: str,
    ) -> dict[str, Any]:
        """Put an earlier version back; the newer one's effects on data are not taken back."""

        def change() -> dict[str, Any]:
            row = self._owned(service, owner_team)
            known = [item["version"] for item in self.deploys(service, limit=1000)]
            if to_version == row["version"]:
                raise WorldError(f"{service} runs {to_version} already.")
            if to_version not in known:
                raise WorldError(
                    f"{service} was never deployed as {to_version}; known: {', '.join(known)}."
                )
            count = self._db.execute("SELECT count(*) FROM deploys").fetchone()[0]
            deploy_id = f"dep-{count + 1:04d}"
            self._db.execute(
                "INSERT INTO deploys VALUES (?, ?, ?, ?, ?, ?, 'rollback')",
                (deploy_id, service, to_version, _spell(at), by, reason),
            )
            self._db.execute(
                "UPDATE services SET version = ? WHERE name = ?", (to_version, service)
            )
            return {
                "service": service,
                "deploy_id": deploy_id,
                "from_version": row["version"],
                "to_version": to_version,
            }

        return self._once(key, f"roll back {service} to {to_version}", change)

    def page(
        self,
        team: str,
        summary: str,
        incident_id: str | None,
        *,
        by: str,
        at: datetime,
        key: str,
    ) -> dict[str, Any]:
        """Page the person on call for a team."""

        def change() -> dict[str, Any]:
            found = self._rows("SELECT person FROM oncall WHERE team = ?", (team,))
            if not found:
                teams = self._rows("SELECT team FROM oncall ORDER BY team", ())
                known = ", ".join(row["team"] for row in teams)
                raise WorldError(f"Nobody is on call for {team}; teams: {known}.")
            if incident_id is not None:
                self._incident(incident_id)
            count = self._db.execute("SELECT count(*) FROM pages").fetchone()[0]
            page_id = f"page-{count + 1:04d}"
            person = found[0]["person"]
            self._db.execute(
                "INSERT INTO pages VALUES (?, ?, ?, ?, ?, ?)",
                (page_id, team, person, f"{summary} (asked by {by})", incident_id, _spell(at)),
            )
            return {"page_id": page_id, "team": team, "person": person}

        return self._once(key, f"page {team}", change)

    def update_incident(
        self,
        incident_id: str,
        note: str,
        *,
        status: str | None,
        severity: str | None,
        by: str,
        at: datetime,
        key: str,
    ) -> dict[str, Any]:
        """Add a note; set status and severity where given."""

        def change() -> dict[str, Any]:
            row = self._incident(incident_id)
            self._db.execute(
                "INSERT INTO notes VALUES (?, ?, ?, ?)", (incident_id, _spell(at), by, note)
            )
            self._db.execute(
                "UPDATE incidents SET status = ?, severity = ? WHERE incident_id = ?",
                (status or row["status"], severity or row["severity"], incident_id),
            )
            notes = self._rows("SELECT count(*) n FROM notes WHERE incident_id = ?", (incident_id,))
            return {
                "incident_id": incident_id,
                "status": status or row["status"],
                "severity": severity or row["severity"],
                "notes": notes[0]["n"],
            }

        return self._once(key, f"update {incident_id}", change)

    # --- Helpers ---------------------------------------------------------------------------------

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        with self._lock:
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield
            except BaseException:
                self._db.execute("ROLLBACK")
                raise
            self._db.execute("COMMIT")

    def _once(self, key: str, action: str, change: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        with self._transaction():
            done = self._rows("SELECT action, result FROM effects WHERE key = ?", (key,))
            if done:
                if done[0]["action"] != action:
                    raise WorldError("This request was already used for something else.")
                return dict(json.loads(done[0]["result"]))
            result = change()
            self._db.execute(
                "INSERT INTO effects VALUES (?, ?, ?)", (key, action, json.dumps(result))
            )
            return result

    def _rows(self, query: str, values: tuple[Any, ...]) -> list[dict[str, Any]]:
        with self._lock:
            return [dict(row) for row in self._db.execute(query, values)]

    def _service(self, name: str) -> dict[str, Any]:
        found = self._rows("SELECT * FROM services WHERE name = ?", (name,))
        if not found:
            known = self._rows("SELECT name FROM services ORDER BY name", ())
            names = ", ".join(row["name"] for row in known)
            raise WorldError(f"There is no service {name}; services: {names}.")
        return found[0]

    def _owned(self, name: str, owner_team: str) -> dict[str, Any]:
        row = self._service(name)
        if row["owner_team"] != owner_team:
            raise WorldError(f"{name} is owned by {row['owner_team']}, not by {owner_team}.")
        return row

    def _incident(self, incident_id: str) -> dict[str, Any]:
        found = self._rows("SELECT * FROM incidents WHERE incident_id = ?", (incident_id,))
        if not found:
            raise WorldError(f"There is no incident {incident_id}.")
        return found[0]

    def _log(self, service: str, at: datetime, message: str) -> None:
        self._db.execute(
            "INSERT INTO logs (service, at, level, message) VALUES (?, ?, 'info', ?)",
            (service, _spell(at), message),
        )


def _spell(at: datetime) -> str:
    return at.strftime("%Y-%m-%dT%H:%M:%SZ")

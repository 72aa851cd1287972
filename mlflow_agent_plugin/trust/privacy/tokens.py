"""Tokens that stand for a session's values: the model sees ``<CARD_1>``, the tool gets the number.

Rules:
- Within a session one value has one token and one token one value, in all workers: the database
  decides. Tokens are numbered per class in order of appearance, so the same conversation has the
  same tokens again.
- A token means nothing in another session.
- Values are stored sealed (`PrivacyKey`) and nowhere else: the conversation's own state holds
  tokens.
- A text that looks like a token but was never given out stays as it is.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Mapping
from threading import Lock
from typing import Any

from sqlalchemy import delete, func, select
from sqlalchemy.dialects.postgresql import insert as postgres_insert
from sqlalchemy.dialects.sqlite import insert as sqlite_insert

from mlflow_agent_plugin.entities import Clock, utc_now
from mlflow_agent_plugin.errors import StoreError
from mlflow_agent_plugin.store.engine import Store
from mlflow_agent_plugin.store.tables import masked_values
from mlflow_agent_plugin.trust.privacy.key import PrivacyKey

TOKEN = re.compile(r"<([A-Z][A-Z0-9_]*)_([1-9]\d{0,5})>")
_REMEMBERED_SESSIONS = 256
_MAX_TRIES = 50


class SessionTokens:
    """The tokens of every session of a store.

    Args:
        store: Where the sealed values are kept.
        key: Seals them.
        clock: Time of their making.
    """

    def __init__(self, store: Store, key: PrivacyKey, *, clock: Clock = utc_now) -> None:
        self._store = store
        self._key = key
        self._clock = clock
        self._lock = Lock()
        self._known: OrderedDict[str, dict[str, str]] = OrderedDict()

    def token(self, session_id: str, data_class: str, value: str) -> str:
        """Return the token of `value` in this session, a new one if it has none.

        Raises:
            StoreError: The store cannot be read or written.
        """
        fingerprint = self._key.fingerprint(value, context=f"{session_id}\0{data_class}")
        table = masked_values.c
        own = (table.session_id == session_id) & (table.fingerprint == fingerprint)
        prefix = f"<{data_class.upper()}_"
        insert = sqlite_insert if self._store.dialect == "sqlite" else postgres_insert
        for _ in range(_MAX_TRIES):
            with self._store.begin() as connection:
                found = connection.scalar(select(table.token).where(own))
                if found is not None:
                    self._learn(session_id, str(found), value)
                    return str(found)
                taken = connection.scalar(
                    select(func.count())
                    .select_from(masked_values)
                    .where(
                        table.session_id == session_id,
                        table.token.startswith(prefix, autoescape=True),
                    )
                )
                token = f"{prefix}{int(taken or 0) + 1}>"
                # On PostgreSQL another worker may take the number meanwhile: then try the next.
                connection.execute(
                    insert(masked_values)
                    .values(
                        session_id=session_id,
                        token=token,
                        fingerprint=fingerprint,
                        sealed=self._key.seal(value, context=f"{session_id}\0{token}"),
                        created_at=self._clock(),
                    )
                    .on_conflict_do_nothing()
                )
        raise StoreError("no token could be given out", where=f"session {session_id}")

    def reveal(self, session_id: str, text: str) -> str:
        """Return `text` with this session's tokens replaced by their values.

        Raises:
            IntegrityError: A value cannot be opened.
            StoreError: The store cannot be read.
        """
        wanted = {match[0] for match in TOKEN.finditer(text)}
        if not wanted:
            return text
        values = self._values(session_id, wanted)
        return TOKEN.sub(lambda match: values.get(match[0], match[0]), text)

    def conceal(self, session_id: str, value: Any) -> Any:
        """Return a JSON value with every known value of the session replaced by its token."""
        known = self._loaded(session_id)
        if not known:
            return value
        longest_first = sorted(known.items(), key=lambda item: (-len(item[1]), item[0]))
        return _concealed(value, longest_first)

    def refresh(self, session_id: str) -> None:
        """Read the session's tokens again: another worker may have run its last turn."""
        self._load(session_id)

    def forget(self, session_id: str) -> int:
        """Delete the values of a session; its tokens stay tokens. Returns how many."""
        with self._lock:
            self._known.pop(session_id, None)
        with self._store.begin() as connection:
            done = connection.execute(
                delete(masked_values).where(masked_values.c.session_id == session_id)
            )
            return int(done.rowcount)

    def _values(self, session_id: str, wanted: set[str]) -> dict[str, str]:
        known = self._loaded(session_id)
        return known if wanted <= known.keys() else self._load(session_id)

    def _loaded(self, session_id: str) -> dict[str, str]:
        with self._lock:
            known = self._known.get(session_id)
        return self._load(session_id) if known is None else known

    def _load(self, session_id: str) -> dict[str, str]:
        table = masked_values.c
        with self._store.read() as connection:
            rows = connection.execute(
                select(table.token, table.sealed).where(table.session_id == session_id)
            ).all()
        found = {
            row.token: self._key.open(row.sealed, context=f"{session_id}\0{row.token}")
            for row in rows
        }
        with self._lock:
            self._known[session_id] = found
            self._known.move_to_end(session_id)
            while len(self._known) > _REMEMBERED_SESSIONS:
                self._known.popitem(last=False)
        return found

    def _learn(self, session_id: str, token: str, value: str) -> None:
        with self._lock:
            # A session that was not read yet is read whole when it is needed.
            if session_id in self._known:
                self._known[session_id] = {**self._known[session_id], token: value}


def _replaced(text: str, value: str, token: str) -> str:
    """Replace `value` where it stands by itself: "Al" is not a part of "Also"."""
    parts: list[str] = []
    done = 0
    start = text.find(value)
    while start != -1:
        end = start + len(value)
        joined = _word(text[start - 1 : start], value[0]) or _word(value[-1], text[end : end + 1])
        if not joined:
            parts += (text[done:start], token)
            done = end
        start = text.find(value, end if not joined else start + 1)
    return "".join(parts) + text[done:]


def _word(left: str, right: str) -> bool:
    return (left.isalnum() or left == "_") and (right.isalnum() or right == "_")


def _concealed(value: Any, known: list[tuple[str, str]]) -> Any:
    if isinstance(value, str):
        for token, text in known:
            if text in value:
                value = _replaced(value, text, token)
        return value
    if isinstance(value, Mapping):
        return {_concealed(k, known): _concealed(part, known) for k, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [_concealed(part, known) for part in value]
    if isinstance(value, int) and not isinstance(value, bool):
        return next((token for token, text in known if text == str(value)), value)
    return value

"""Applies an agent's privacy rules to everything that goes to the model, the user and the records.

Rules:
- On the way to the model a masked value becomes a token of the session (``<CARD_1>``); the tool
  that gets the token as an argument gets the value, and the user sees the value in the answer
  unless a rule for the answer says otherwise.
- Elsewhere a masked value becomes its class (``<CARD>``), a hashed one its class and 16 digits of a
  keyed hash (``<CARD:1f0c…>``), and a blocked text a sentence that names the class.
- A message of the user that must not pass is refused before the model or the session sees it. A
  tool output that must not pass leaves the call executed and its output withheld.
- Whatever fails here (store, key, finder) ends the request or the call: nothing passes unfiltered.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from mlflow_agent_plugin.entities import Clock, PrivacyPlace, utc_now
from mlflow_agent_plugin.errors import RequestError
from mlflow_agent_plugin.trust.privacy.key import PrivacyKey
from mlflow_agent_plugin.trust.privacy.rules import rules_of
from mlflow_agent_plugin.trust.privacy.texts import BlockedTextError, EntityFinder, RuledText
from mlflow_agent_plugin.trust.privacy.tokens import SessionTokens

if TYPE_CHECKING:
    from pathlib import Path

    from mlflow_agent_plugin.package import Manifest
    from mlflow_agent_plugin.store.engine import Store
    from mlflow_agent_plugin.trust.call import GovernedCall
    from mlflow_agent_plugin.trust.privacy.texts import Replace

WITHHELD = "I cannot show this answer: it holds data that must not leave ({classes})."


class RuledPrivacyFilter:
    """The `PrivacyFilter` of one agent.

    Args:
        manifest: The agent's manifest, for its rules.
        tokens: The session's tokens.
        key: Makes the hashes.
        finder: Finds the manifest's Presidio entity types; None if it names none.
    """

    def __init__(
        self,
        manifest: Manifest,
        *,
        tokens: SessionTokens,
        key: PrivacyKey,
        finder: EntityFinder | None = None,
    ) -> None:
        self._tokens = tokens
        self._key = key
        self._at = {
            place: RuledText(rules, mask=_by_class, digest=self._hash, finder=finder)
            for place, rules in rules_of(manifest).items()
        }

    def user_text(self, text: str, *, session_id: str) -> str:
        """Return what the model may see of a user's message; the session's turn begins with it.

        Raises:
            RequestError: A rule blocks it.
        """
        self._tokens.refresh(session_id)
        try:
            return self._at[PrivacyPlace.INPUT].text(text, mask=self._token(session_id))
        except BlockedTextError as blocked:
            raise RequestError(
                f"the message holds data this agent must not be given ({blocked})",
                where="input",
                hint="Send it again without that.",
            ) from None

    def arguments(self, governed: GovernedCall) -> Mapping[str, Any]:
        """Return the arguments with true values for the session's tokens."""
        revealed: Mapping[str, Any] = self._reveal(
            governed.call.session_id, governed.call.arguments
        )
        return revealed

    def output(self, governed: GovernedCall, output: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return what the model may see of a tool's output; a blocked one is withheld whole."""
        session_id = governed.call.session_id
        ruled = self._at[PrivacyPlace.TOOL_OUTPUT]
        try:
            # A tool that repeats a value the model knows by its token does not give it away.
            hidden = self._tokens.conceal(session_id, output)
            filtered: Mapping[str, Any] = ruled.value(hidden, mask=self._token(session_id))
        except BlockedTextError as blocked:
            return {"withheld": f"the output holds data that must not pass ({blocked})"}
        return filtered

    def told(self, text: str, *, session_id: str) -> str:
        """Return what the model may see of a message about a call; a blocked one is withheld."""
        hidden: str = self._tokens.conceal(session_id, text)
        try:
            ruled = self._at[PrivacyPlace.TOOL_OUTPUT]
            return ruled.text(hidden, mask=self._token(session_id))
        except BlockedTextError as blocked:
            return f"(withheld: {blocked})"

    def retrieved(self, text: str, *, session_id: str) -> str:
        """Return what the model may see of a passage; a blocked one is withheld."""
        try:
            mask = self._token(session_id) if session_id else None
            return self._at[PrivacyPlace.RETRIEVED].text(text, mask=mask)
        except BlockedTextError as blocked:
            return f"(withheld: {blocked})"

    def answer(self, text: str, *, session_id: str) -> str:
        """Return what the user may see of the agent's answer."""
        revealed = self._tokens.reveal(session_id, text)
        try:
            return self._at[PrivacyPlace.ANSWER].text(revealed)
        except BlockedTextError as blocked:
            return WITHHELD.format(classes=blocked)

    @property
    def answers_stream(self) -> bool:
        """Whether no rule can change an answer, so that it may be streamed as it is made."""
        return self._at[PrivacyPlace.ANSWER].idle

    @property
    def screens_passages(self) -> bool:
        """Whether a rule can change a passage."""
        return not self._at[PrivacyPlace.RETRIEVED].idle

    def recorded(self, place: PrivacyPlace, value: Any) -> Any:
        """Return a JSON value as trace or audit may hold it; a blocked text becomes its classes."""
        return _blocked_as_text(self._at[place], value)

    def _reveal(self, session_id: str, value: Any) -> Any:
        if isinstance(value, str):
            return self._tokens.reveal(session_id, value) if "<" in value else value
        if isinstance(value, Mapping):
            parts = {
                self._reveal(session_id, key): self._reveal(session_id, part)
                for key, part in value.items()
            }
            return value if parts == value else parts
        if isinstance(value, list):
            items = [self._reveal(session_id, part) for part in value]
            return value if items == value else items
        return value

    def _token(self, session_id: str) -> Replace:
        def token(data_class: str, value: str) -> str:
            return self._tokens.token(session_id, data_class, value)

        return token

    def _hash(self, data_class: str, value: str) -> str:
        fingerprint = self._key.fingerprint(value, context=data_class)
        return f"<{data_class.upper()}:{fingerprint[:16]}>"


def _by_class(data_class: str, _value: str) -> str:
    return f"<{data_class.upper()}>"


def _blocked_as_text(ruled: RuledText, value: Any) -> Any:
    if isinstance(value, Mapping):
        return {
            _blocked_as_text(ruled, key): _blocked_as_text(ruled, part)
            for key, part in value.items()
        }
    if isinstance(value, (list, tuple)):
        return [_blocked_as_text(ruled, part) for part in value]
    try:
        return ruled.value(value)
    except BlockedTextError as blocked:
        return f"(withheld: {blocked})"


def open_privacy(
    manifest: Manifest, *, store: Store, key_dir: str | Path, clock: Clock = utc_now
) -> RuledPrivacyFilter:
    """Return the filter of one agent.

    Args:
        manifest: Its rules.
        store: Where the session's values are kept, sealed.
        key_dir: Folder of ``privacy.key``.
        clock: Source of time.

    Raises:
        ConfigError: Presidio is not installed, or cannot find what the manifest asks for.
    """
    finder: EntityFinder | None = None
    if manifest.privacy.presidio is not None:
        from mlflow_agent_plugin.trust.privacy.presidio import (  # noqa: PLC0415 - heavy
            PresidioFinder,
        )

        finder = PresidioFinder(manifest.privacy.presidio)
    key = PrivacyKey(key_dir)
    return RuledPrivacyFilter(
        manifest, tokens=SessionTokens(store, key, clock=clock), key=key, finder=finder
    )

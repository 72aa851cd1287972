"""Checks a request before anything of it is kept."""

from __future__ import annotations

import uuid

from mlflow_agent_plugin.entities import AgentRequest
from mlflow_agent_plugin.errors import RequestError, SessionNotFoundError

MAX_SESSION_ID_CHARS = 200


def check_request(request: AgentRequest, *, max_chars: int) -> str:
    """Return the session id of a request that can be taken; a new one if it names none.

    Raises:
        RequestError: The message is empty, too long or not valid text, or the id is no name.
        SessionNotFoundError: It resumes a session without naming one.
    """
    text = request.text
    if not request.resume and not text.strip():
        raise RequestError("the message is empty", where="input", hint="Send some text.")
    if len(text) > max_chars:
        raise RequestError(
            f"the message has {len(text)} characters; at most {max_chars} are accepted",
            where="input",
            hint="Shorten it, or raise MLFLOW_AGENTS_MAX_MESSAGE_CHARS.",
        )
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise RequestError("the message is not valid Unicode", where="input") from error
    session_id = request.session_id
    if session_id is None:
        if request.resume:
            raise SessionNotFoundError(
                "an approval response needs its conversation",
                where="context.conversation_id",
            )
        return uuid.uuid4().hex
    if not session_id.isprintable() or not 0 < len(session_id) <= MAX_SESSION_ID_CHARS:
        raise RequestError(
            f"is not 1 to {MAX_SESSION_ID_CHARS} printable characters",
            where="context.conversation_id",
        )
    return session_id

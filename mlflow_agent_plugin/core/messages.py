"""Tool results as messages, and the labels by which their texts are trusted later.

Rules:
- A message keeps beside its label which fields of its output are records and what the tool was
  told by untrusted arguments, so that nothing has to be decided again when it is read back.
- Only the runtime (what the user wrote) and the gateway (what a tool returned) write the label. A
  human or tool message of a bundle's own making has none and counts as untrusted: a hand-over note
  must not pass a tool's words off as the user's.
- What a part of the agent with messages of its own read in this turn counts too: a note it hands
  over in any other kind of message launders nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from mlflow_agent_plugin.core.provenance import (
    SeenTexts,
    Text,
    TextReader,
    VouchedText,
    plain_texts,
)
from mlflow_agent_plugin.entities import CallStatus, Provenance, ToolCallRecord, json_encoder

if TYPE_CHECKING:
    from langchain_core.messages import HumanMessage, ToolMessage

    from mlflow_agent_plugin.package import ToolContract

LABEL_KEY = "mlflow_agents"
"""Key in a tool message's `additional_kwargs` under which the gateway keeps its own label."""

# A member's value is looked up by a function: too dear for every message at every call.
_USER, _TRUSTED, _UNTRUSTED, _MODEL = (
    label.value
    for label in (
        Provenance.USER,
        Provenance.TRUSTED,
        Provenance.UNTRUSTED,
        Provenance.MODEL,
    )
)
_spell_content = json_encoder(ensure_ascii=False)
_NEVER_RAN = (CallStatus.DENIED, CallStatus.REJECTED, CallStatus.INVALID)


def seen_texts(
    state: Any, reader: TextReader | None = None, told: Sequence[ToolMessage] = ()
) -> SeenTexts | None:
    """Return every text of a graph's messages by who wrote it, None if there are no messages.

    Args:
        state: Of the graph.
        reader: Remembers what was read for the same turn's earlier calls.
        told: What models of the agent were told of the turn's calls so far. Those that the state
            knows nothing of count as well; those it waits for do not, its model has not seen them.
    """
    from langchain_core.messages.human import HumanMessage
    from langchain_core.messages.tool import ToolMessage

    messages = state.get("messages") if isinstance(state, Mapping) else None
    if messages is None:
        messages = getattr(state, "messages", None)
    if messages is None and isinstance(state, list):
        messages = state
    if messages is None:
        return None
    reader = reader or TextReader()
    if told:
        known = _known_calls(messages)
        messages = [*(one for one in told if one.tool_call_id not in known), *messages]
    user: list[Text] = []
    trusted: list[VouchedText] = []
    untrusted: list[Text] = []
    records: list[VouchedText] = []
    values: list[Text] = []
    for message in messages:
        # Asked first what most are: to look through the classes of LangChain's models is dear.
        kind = type(message)
        if kind is not ToolMessage and kind is not HumanMessage:
            if not isinstance(message, (HumanMessage, ToolMessage)):
                continue
            kind = ToolMessage if isinstance(message, ToolMessage) else HumanMessage
        ours = message.additional_kwargs.get(LABEL_KEY, {})
        label = ours.get("label")
        content = message.content
        if kind is HumanMessage:
            said = reader.text(content if type(content) is str else str(message.text))
            (user if label == _USER else untrusted).append(said)
            continue
        if "told" in ours:
            values += [reader.text(text) for text in ours["told"]]
        if label == _TRUSTED:
            trusted.append(VouchedText(reader.output(content, None)[0], len(values)))
        elif label != _MODEL:
            texts, minted = reader.output(content, ours.get("trusted_fields", []))
            untrusted.append(texts)
            records += [VouchedText(text, len(values)) for text in minted]
    return SeenTexts(user, trusted, untrusted, records, values)


def _known_calls(messages: Sequence[Any]) -> set[str]:
    """Return the ids of all calls that messages make or answer."""
    from langchain_core.messages.human import HumanMessage
    from langchain_core.messages.tool import ToolMessage

    known: set[str] = set()
    for message in messages:
        # Most messages, told apart without asking them for fields they do not have.
        kind = type(message)
        if kind is ToolMessage:
            known.add(message.tool_call_id)
        elif kind is not HumanMessage:
            known.update(_call_ids(message))
    return known


def _call_ids(message: Any) -> list[str]:
    """Return the ids of the calls a message makes or answers."""
    answered = getattr(message, "tool_call_id", None)
    if answered is not None:
        return [answered]
    return [str(call.get("id")) for call in getattr(message, "tool_calls", None) or ()]


def user_message(text: str, *, message_id: str) -> HumanMessage:
    """Return what the user wrote, labelled as theirs."""
    from langchain_core.messages import HumanMessage

    return HumanMessage(
        content=text,
        id=message_id,
        additional_kwargs={LABEL_KEY: {"label": _USER}},
    )


def tool_message(
    record: ToolCallRecord,
    *,
    contract: ToolContract | None = None,
    origins: Mapping[str, str] | None = None,
) -> ToolMessage:
    """Return what the model is told about a call: the output, or ``{"error": {kind, message}}``.

    Args:
        record: What became of the call.
        contract: The tool's contract; None if the call was refused before it was known.
        origins: Provenance of each argument; None if it was not derived.
    """
    from langchain_core.messages.tool import ToolMessage

    untrusted = contract is not None and contract.untrusted_output
    label = _UNTRUSTED if untrusted else _TRUSTED
    if record.error is None:
        output = record.output
        if record.edited and isinstance(output, dict):
            # The model asked for something else: this must not look like the answer to that.
            output = {"edited_by_reviewer": dict(record.edited), **output}
        content = _spell_content(output)
    else:
        kind, _, message = record.error.partition(": ")
        error: dict[str, Any] = {"kind": kind, "message": message}
        if record.retry_after_seconds is not None:
            error["retry_after_seconds"] = record.retry_after_seconds
        content = _spell_content({"error": error})
        # an error may quote the call, so it vouches for nothing
        label = _MODEL if label == _TRUSTED else label
    ours: dict[str, Any] = {"label": label, "status": record.status.value}
    told = [] if record.status in _NEVER_RAN else _told(record.arguments, origins)
    if told:
        ours["told"] = told
    if contract is not None and contract.trusted_fields and record.error is None:
        ours["trusted_fields"] = list(contract.trusted_fields)
    return ToolMessage(
        content=content,
        name=record.tool,
        tool_call_id=record.call_id,
        status="success" if record.error is None else "error",
        additional_kwargs={LABEL_KEY: ours},
    )


def _told(arguments: Mapping[str, Any], origins: Mapping[str, str] | None) -> list[str]:
    """Return the values of arguments that neither the user nor a trusted tool vouches for."""
    return [
        text
        for name, value in arguments.items()
        if origins is None or origins.get(name) not in {_USER, _TRUSTED}
        for text in plain_texts(value)
    ]

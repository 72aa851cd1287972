"""One request's story as a notebook shows it; every value is escaped."""

from __future__ import annotations

import json
from collections.abc import Mapping
from html import escape
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mlflow_agent_plugin.trust.audit.request import CallStory, RequestStory

_COLOURS = {
    "allow": "#1a7f37",
    "executed": "#1a7f37",
    "deny": "#b42318",
    "denied": "#b42318",
    "failed": "#b42318",
    "rejected": "#b42318",
    "in_doubt": "#b42318",
    "needs_approval": "#9a6700",
}


def story_html(story: RequestStory) -> str:
    """Return the story as an HTML fragment."""
    actor = story.actor
    roles = ", ".join(actor.get("roles") or ()) or "no role"
    known = "verified" if actor.get("verified") else "not verified"
    facts = (
        ("who", f"{actor.get('user')}@{actor.get('tenant')} ({roles}; {known})"),
        ("which agent", f"{story.agent} {story.agent_digest}"),
        ("which policies", ", ".join(story.policies) or "none"),
        ("what data", ", ".join(story.data_classes) or "no class on record"),
        ("when", f"{story.received_at}, answered {story.answered_at or 'never'}"),
        ("outcome", story.outcome or "unknown"),
        *((f"went on in {name}", outcome or "") for name, outcome in story.continued_in.items()),
    )
    listed = "".join(f"<li><b>{escape(k)}</b>: {escape(str(text))}</li>" for k, text in facts)
    calls = "".join(_call(call) for call in story.calls) or "<p>It called no tool.</p>"
    events = "".join(
        f"<tr><td>{escape(event.ts)}</td><td>{escape(event.kind)}</td>"
        f"<td><code>{escape(event.hash[:19])}</code></td></tr>"
        for event in story.events
    )
    return (
        f"<p><b>request {escape(story.request_id)}</b></p><ul>{listed}</ul>{calls}"
        f"<details><summary>{len(story.events)} events</summary><table>{events}</table></details>"
    )


def _call(call: CallStory) -> str:
    end = call.status or ("begun, no end on record" if call.started else "not begun")
    steps = [
        f"{_mark(str(decision.get('value')))} by "
        f"{escape(', '.join(decision.get('policy_ids') or ()) or 'no policy')}: "
        f"<code>{escape(_plain(decision.get('arguments')))}</code>"
        for decision in call.decisions
    ]
    steps += [_answer(answer) for answer in call.answers]
    steps.append(_mark(end) + ("" if call.error is None else f": {escape(call.error)}"))
    listed = "".join(f"<li>{step}</li>" for step in steps)
    return f"<p><code>{escape(call.tool)}</code></p><ol>{listed}</ol>"


def _answer(answer: Mapping[str, Any]) -> str:
    said = answer.get("vote") or ", ".join(answer.get("edited") or ())
    reason = f": {answer['reason']}" if answer.get("reason") else ""
    return escape(f"{answer['by']} {answer['what']} {said}{reason}")


def _mark(word: str) -> str:
    return f"<b style='color:{_COLOURS.get(word, 'inherit')}'>{escape(word)}</b>"


def _plain(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, default=str)

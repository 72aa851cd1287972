"""The version in service: conversations, a week of traffic, and what drift says of it."""

from __future__ import annotations

from textwrap import shorten
from typing import TYPE_CHECKING, Any

from mlflow_agent_plugin.entities import Actor
from mlflow_agent_plugin.errors import AgentRunError
from mlflow_agent_plugin.interaction.demo.serving import Client, served, text_of
from mlflow_agent_plugin.interaction.demo.story import (
    HELD_BACK,
    MODEL,
    PER_DAY,
    QUIET_DAYS,
    STAGE,
    Story,
)
from mlflow_agent_plugin.interaction.demo.traffic import OUT_OF_SCOPE, Answered, plan_week, send

if TYPE_CHECKING:
    import pandas as pd


def serve(story: Story) -> None:
    """Serve the version, talk to it, send a week of traffic."""
    assert story.train is not None
    assert story.test is not None
    customers = [f"customer-{number:04d}" for number in range(7 * PER_DAY)]
    resources = {"path": str(story.place.folder / "bank.db"), "customers": customers}
    with story.step("Start `mlflow models serve` in a process of its own") as step:
        server = served(story.place, f"models:/{MODEL}/{STAGE}", resources=resources)
        client = server.__enter__()
        step.result = client.url
    try:
        with story.step("Talk to it over HTTP") as step:
            step.result = _talk(story, client)
        with story.step(f"Send a week of traffic, shifted from day {QUIET_DAYS + 1} on") as step:
            week = plan_week(
                _rows(story.test, without=HELD_BACK),
                _rows(story.train, only=HELD_BACK),
                story.unrelated["traffic"],
                per_day=PER_DAY,
                quiet_days=QUIET_DAYS,
                seed=7,
                customers=customers,
            )
            story.answered = send(client, week, token=_token, session="week")
            step.result = _traffic(story.answered)
    finally:
        server.__exit__(None, None, None)


def _rows(
    frame: pd.DataFrame, *, only: tuple[str, ...] = (), without: tuple[str, ...] = ()
) -> list[tuple[str, str]]:
    chosen = frame["category"].isin(only) if only else ~frame["category"].isin(without)
    return list(frame[chosen][["text", "category"]].itertuples(index=False, name=None))


def _token(actor: Actor) -> str:
    from mlflow_agent_plugin.config import Settings
    from mlflow_agent_plugin.trust import KeyStore, issue_token

    return issue_token(actor, KeyStore(Settings.from_env().key_dir).signing_key(), 3600)


def _talk(story: Story, client: Client) -> str:
    from mlflow_agent_plugin.config import Settings
    from mlflow_agent_plugin.store import Store
    from mlflow_agent_plugin.trust import ApprovalQueue, KeyPurpose, KeyStore, actor_from_token

    amira = _token(Actor("amira", roles=frozenset({"customer"})))
    chen = _token(Actor("chen", roles=frozenset({"customer"})))
    dora = _token(Actor("dora", roles=frozenset({"customer"})))
    otto = _token(Actor("otto", roles=frozenset({"operations"})))
    lines: list[str] = []

    def note(said: str, response: dict[str, Any]) -> dict[str, Any]:
        custom: dict[str, Any] = response["custom_outputs"]
        calls = ", ".join(f"{c['tool']} {c['status']}" for c in custom["calls"]) or "no call"
        answer = shorten(text_of(response), 90, placeholder=" …")
        lines.append(f"“{said}” → {custom['outcome']} ({calls}): {answer}")
        return custom

    def ask(said: str, session_id: str, token: str) -> dict[str, Any]:
        return note(said, client.ask(said, session_id=session_id, token=token))

    ask("My card was stolen", "talk-1", amira)
    # worded so that a planner trained on the project's own small set understands it too
    denied = ask("I found my card again, how do I put it back into the app?", "talk-2", dora)
    if "denied" not in [call["status"] for call in denied["calls"]]:
        raise AgentRunError(f"unfreezing a card reported as misused was not denied: {lines[-1]}")
    ask("please close my account", "talk-3", chen)
    waiting = ask("yes", "talk-3", chen)
    if waiting["outcome"] != "waiting_approval":
        raise AgentRunError(f"closing an account did not wait for an approval: {lines[-1]}")
    approval_id = waiting["approvals"][0]["approval_id"]
    with Store.open() as store:
        keys = KeyStore(Settings.from_env().key_dir).trusted_keys(KeyPurpose.ACTORS)
        reviewer = actor_from_token(otto, keys)
        ApprovalQueue(store).approve(approval_id, reviewer, "balance checked")
    done = note("(otto approves)", client.resume(approval_id, session_id="talk-3", token=chen))
    if done["outcome"] != "acted":
        raise AgentRunError(f"the approved call did not run: {lines[-1]}")
    story.result.numbers["conversation"] = lines
    return "\n".join(lines)


def _traffic(answered: list[Answered]) -> str:
    new = [item for item in answered if item.query.intent in HELD_BACK]
    other = [item for item in answered if item.query.intent == OUT_OF_SCOPE]
    failed = sum(item.outcome == "failed" for item in answered)
    return (
        f"{len(answered):,} requests: {len(new):,} about the new products,"
        f" {len(other)} out of scope, {failed} failed"
    )


def _deliver() -> None:
    """Hand over the traces that still wait on disk: the server has ended, nobody else will."""
    from mlflow import get_tracking_uri

    from mlflow_agent_plugin.config import Settings
    from mlflow_agent_plugin.observability.spool import MlflowReceiver, drain_now, open_queue

    uri = get_tracking_uri()
    drain_now(open_queue(Settings.from_env(), uri), MlflowReceiver(uri), wait_seconds=60)


def watch(story: Story) -> None:
    """Build the monitoring table and judge drift day by day."""
    import mlflow

    import mlflow_agent_plugin as agents
    from mlflow_agent_plugin.observability import log_drift
    from mlflow_agent_plugin.observability.drift import check_windows

    folder = story.place.folder
    with story.step("Build the monitoring table from the traces") as step:
        _deliver()
        experiment = mlflow.get_experiment_by_name("support-traffic")
        assert experiment is not None
        table = agents.monitoring_table([experiment.experiment_id], path=folder / "monitoring")
        step.result = table.summary()
    with story.step("Compare it with version 1's reference by Evidently, day by day") as step:
        rows = table.to_pandas()
        rows = rows[rows["session_id"].str.startswith("week-")]
        verdicts = check_windows(
            f"models:/{MODEL}/1",
            rows,
            hours=24,
            engine="plain",
            report_dir=folder / "drift",
        )
        first = next((n for n, verdict in enumerate(verdicts, 1) if verdict.drifted), None)
        if first is None:
            raise AgentRunError("the shifted week was not recognised as drift")
        # the last day may hold too few sessions to say anything
        latest = next(verdict for verdict in reversed(verdicts) if verdict.drifted)
        run_id = log_drift(latest, model_name=MODEL, version="1")
        story.result.numbers["drift"] = {
            "confirmed_on_day": first,
            "shifted_from_day": QUIET_DAYS + 1,
            "days": [verdict.drifted for verdict in verdicts],
            "run_id": str(run_id),
        }
        story.reason = latest.summary()
        step.result = f"confirmed on day {first}: {story.reason}"

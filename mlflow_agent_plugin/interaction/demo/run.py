"""The demo's story, step by step."""

from __future__ import annotations

import logging
import os
import shutil
import sys
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlflow_agent_plugin.entities import Actor
from mlflow_agent_plugin.errors import AgentRunError
from mlflow_agent_plugin.interaction.demo.place import Place, prepare
from mlflow_agent_plugin.interaction.demo.report import DemoResult, Step, Teller
from mlflow_agent_plugin.interaction.demo.serving import Client, served, text_of
from mlflow_agent_plugin.interaction.demo.traffic import OUT_OF_SCOPE, Answered, plan_week, send

if TYPE_CHECKING:
    import pandas as pd

    from mlflow_agent_plugin.development import EvaluationResult

MODEL = "support"
STAGE = "Production"
REVIEWER = "rita"

HELD_BACK = (
    "apple_pay_or_google_pay",
    "automatic_top_up",
    "disposable_card_limits",
    "exchange_charge",
    "exchange_via_app",
    "get_disposable_virtual_card",
    "getting_virtual_card",
    "top_up_limits",
)
"""What customers ask about once the bank has launched virtual cards, wallets and exchange: intents
the first version was not trained on."""

LAUNCH_CASES = 1000
"""Scenarios of the launch suite that version 1 is judged by, drawn at random."""

WHOLE_CASES = 1200
"""Scenarios of the whole suite that version 2 and the incumbent are compared on, case by case."""

PER_DAY = 105
QUIET_DAYS = 2


@dataclass
class _Story:
    """What the steps share."""

    place: Place
    workers: int
    teller: Teller
    result: DemoResult
    train: pd.DataFrame | None = None
    test: pd.DataFrame | None = None
    unrelated: dict[str, list[str]] = field(default_factory=dict)
    suites: dict[str, Path] = field(default_factory=dict)
    answered: list[Answered] = field(default_factory=list)
    reason: str = ""
    small: bool = False

    def step(self, name: str) -> Any:
        return self.teller.step(name)


def run_demo(folder: Path, *, workers: int = 2, quiet: bool = False) -> DemoResult:
    """Run the whole loop in `folder` and return what was measured.

    Args:
        folder: Is emptied if an earlier demo made it, and then holds everything the demo makes.
        workers: Processes that evaluate.
        quiet: Print nothing.

    Raises:
        ConfigError: This is no checkout, or `folder` holds something else.
        AgentError: A step failed; the message says which part and why.
    """
    place = prepare(folder)
    result = DemoResult()
    story = _Story(place, workers, Teller(result, quiet=quiet), result)
    with _environment(place):
        for chapter in (_prepare, _first_version, _promote_first, _serve, _watch, _improve, _back):
            chapter(story)
    _numbers(story)
    server = (
        f"  {Path(sys.executable).parent / 'mlflow'} server --port 5000"
        f" --backend-store-uri {place.tracking_uri} --registry-store-uri {place.registry_uri}"
        f" --default-artifact-root {place.artifacts}"
    )
    result.look = [
        "Look at it:",
        server,
        f"  open http://127.0.0.1:5000/#/models/{MODEL}    drift report: {place.folder}/drift",
    ]
    result.ok = True
    result.save(place.folder / "result.json")
    story.teller.table()
    return result


# --- chapter 1: data, planner, suite -------------------------------------------------------------


def _prepare(story: _Story) -> None:
    from pipelines.data import find_banking77, load_banking77, load_clinc_oos

    with story.step("Find real customer queries") as step:
        source = find_banking77()
        story.train, story.test = load_banking77("train", source), load_banking77("test", source)
        unrelated = load_clinc_oos("val")
        story.unrelated = {
            "traffic": load_clinc_oos("train")["text"].tolist(),
            "suite": unrelated["text"].tolist(),
        }
        step.result = source.statement
        story.small = source.name == "small_set"
        if story.small:
            step.result += (
                " A planner trained on so little understands less: the demo's gate asks for 0.65"
                " instead of 0.80 task success."
            )
        story.result.numbers["data"] = source.statement
    with story.step("Train the planner of version 1 without 8 of the intents") as step:
        report = _train(story.place.folder / "planner-1", exclude=HELD_BACK)
        step.result = _trained(report)
        story.result.numbers["planner_1"] = report
    with story.step("Make the suites from the test queries") as step:
        step.result = _make_suites(story)


def _train(out: Path, *, exclude: tuple[str, ...] = ()) -> dict[str, Any]:
    from pipelines.train import train

    return train(out=out, exclude_intents=exclude).to_dict()


def _trained(report: Mapping[str, Any]) -> str:
    return (
        f"accuracy {report['accuracy']:.3f} [{report['accuracy_low']:.3f},"
        f" {report['accuracy_high']:.3f}] on {report['n_test']:,} test queries"
        f" of {report['n_classes']} intents; {report['cpu_seconds']:.0f} s CPU"
    )


def _make_suites(story: _Story) -> str:
    from evaluations.support.build_suite import SuiteBuilder, write_suite

    assert story.test is not None
    builder = SuiteBuilder.for_agent(story.place.project / "agents" / "support")
    rows = list(story.test[["text", "category"]].itertuples(index=False, name=None))
    scenarios = builder.in_scope(rows)
    unrelated = builder.out_of_scope(story.unrelated["suite"])
    new = [f"intent:{name}" for name in HELD_BACK]
    launch = [item for item in scenarios if not set(new) & set(item.tags)]
    later = [item for item in scenarios if set(new) & set(item.tags)]
    folder = story.place.folder / "suites"
    for name, chosen in {
        "launch": launch + unrelated,
        "whole": scenarios + unrelated,
        "later": later,
    }.items():
        # The gate asks for the suite "support-workflow": what it holds grows with the product.
        suite = "support-later" if name == "later" else "support-workflow"
        story.suites[name] = folder / name
        write_suite(chosen, story.suites[name], name=suite)
    return (
        f"launch: {len(launch) + len(unrelated):,} scenarios;"
        f" whole: {len(scenarios) + len(unrelated):,};"
        f" later traffic: {len(later):,}"
    )


# --- chapter 2: the first version ----------------------------------------------------------------


def _first_version(story: _Story) -> None:
    import mlflow_agent_plugin as agents

    with story.step("Log and register version 1") as step:
        bundle = _pack(story, "planner-1", "bundle-1")
        info = agents.log_agent(bundle, registered_model_name=MODEL)
        digest = agents.load_bundle(bundle).digest.value
        step.result = f"version {info.registered_model_version}, {digest[:19]}…"
    with story.step("Try to promote it without evidence") as step:
        step.result = _refused(story, 1)
    with story.step("Evaluate it on the launch suite") as step:
        evaluated = agents.evaluate(
            f"models:/{MODEL}/1",
            suites=[story.suites["launch"]],
            workers=story.workers,
            limit=LAUNCH_CASES,
            progress=False,
        )
        step.result = _evaluated(story, "v1_launch", evaluated)


def _pack(story: _Story, planner: str, name: str) -> Path:
    target = story.place.folder / name
    shutil.copytree(
        story.place.project / "agents" / MODEL,
        target,
        ignore=shutil.ignore_patterns("__pycache__", "planner"),
    )
    shutil.copytree(story.place.folder / planner, target / "model" / "planner")
    if story.small:
        gate = target / "gate.yaml"
        gate.write_text(gate.read_text().replace("minimum: 0.80", "minimum: 0.65"))
    return target


def _refused(story: _Story, version: int) -> str:
    from mlflow.exceptions import MlflowException

    import mlflow_agent_plugin as agents

    try:
        agents.promote(MODEL, version, to=STAGE)
    except MlflowException as error:
        story.result.numbers.setdefault("refusals", []).append(str(error))
        return "refused: " + " ".join(str(error).split())
    raise AgentRunError(f"version {version} was promoted although the gate should refuse it")


def _evaluated(story: _Story, key: str, evaluated: EvaluationResult) -> str:
    parts: list[str] = []
    for name, suite in evaluated.suites.items():
        metrics = suite.metrics
        story.result.numbers[key] = {
            "suite": name,
            "run_id": evaluated.run_id,
            **{item: metrics[item].to_dict() for item in ("task_success", "intent_accuracy")
               if item in metrics},
        }  # fmt: skip
        success = metrics["task_success"]
        parts.append(
            f"task success {success.value:.3f} [{success.low:.3f}, {success.high:.3f}]"
            f" on {success.n:,} scenarios"
        )
    return "; ".join(parts)


def _promote_first(story: _Story) -> None:
    import mlflow_agent_plugin as agents

    with story.step("Try to promote it without an approval") as step:
        step.result = _refused(story, 1)
    with story.step(f"Request, approve and promote it to {STAGE}") as step:
        agents.request_promotion(MODEL, 1, to=STAGE, comment="first version")
        agents.approve(MODEL, 1, to=STAGE, comment="evidence read", by=REVIEWER)
        agents.promote(MODEL, 1, to=STAGE)
        step.result = f"approved by {REVIEWER}; {_where(STAGE)}"


def _where(stage: str) -> str:
    import mlflow

    found = mlflow.MlflowClient().get_latest_versions(MODEL, [stage])
    return f"{stage} is version {found[0].version}" if found else f"{stage} is empty"


# --- chapter 3: serve ----------------------------------------------------------------------------


def _serve(story: _Story) -> None:
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


def _talk(story: _Story, client: Client) -> str:
    from mlflow_agent_plugin.store import Store
    from mlflow_agent_plugin.trust import ApprovalQueue

    amira = _token(Actor("amira", roles=frozenset({"customer"})))
    chen = _token(Actor("chen", roles=frozenset({"customer"})))
    dora = _token(Actor("dora", roles=frozenset({"customer"})))
    otto = Actor("otto", roles=frozenset({"operations"}))
    lines: list[str] = []

    def note(said: str, response: dict[str, Any]) -> dict[str, Any]:
        custom: dict[str, Any] = response["custom_outputs"]
        calls = ", ".join(f"{c['tool']} {c['status']}" for c in custom["calls"]) or "no call"
        answer = " ".join(text_of(response).split())
        lines.append(f"“{said}” → {custom['outcome']} ({calls}): {answer[:90]}")
        return custom

    def ask(said: str, session_id: str, token: str) -> dict[str, Any]:
        return note(said, client.ask(said, session_id=session_id, token=token))

    ask("My card was stolen", "talk-1", amira)
    denied = ask("I found my card, please unfreeze it", "talk-2", dora)
    if "denied" not in [call["status"] for call in denied["calls"]]:
        raise AgentRunError("a card reported as misused could be unfrozen")
    ask("please close my account", "talk-3", chen)
    waiting = ask("yes", "talk-3", chen)
    if waiting["outcome"] != "waiting_approval":
        raise AgentRunError("closing an account did not wait for an approval")
    approval_id = waiting["approvals"][0]["approval_id"]
    with Store.open() as store:
        ApprovalQueue(store).approve(approval_id, otto, "balance checked")
    done = note("(otto approves)", client.resume(approval_id, session_id="talk-3", token=chen))
    if done["outcome"] != "acted":
        raise AgentRunError("the approved call did not run")
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


# --- chapter 4: watch ----------------------------------------------------------------------------


def _watch(story: _Story) -> None:
    import mlflow

    import mlflow_agent_plugin as agents
    from mlflow_agent_plugin.observability import log_drift
    from mlflow_agent_plugin.observability.drift import check_windows

    folder = story.place.folder
    with story.step("Build the monitoring table from the traces") as step:
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
        run_id = log_drift(verdicts[-1], model_name=MODEL, version="1")
        first = next((n for n, verdict in enumerate(verdicts, 1) if verdict.drifted), None)
        if first is None:
            raise AgentRunError("the shifted week was not recognised as drift")
        story.result.numbers["drift"] = {
            "confirmed_on_day": first,
            "shifted_from_day": QUIET_DAYS + 1,
            "days": [verdict.drifted for verdict in verdicts],
            "run_id": str(run_id),
        }
        story.reason = verdicts[-1].summary()
        step.result = f"confirmed on day {first}: {story.reason}"


# --- chapter 5: retrain and compare --------------------------------------------------------------


def _improve(story: _Story) -> None:
    import mlflow_agent_plugin as agents

    with story.step("Colleagues label what the agent did not know") as step:
        step.result = _label(story)
    with story.step("Retrain: `mlflow run -e retrain`, which is `dvc repro`") as step:
        step.result = _retrain(story)
    with story.step("Version 1 and 2 on later queries about the new products") as step:
        results = {}
        for version in (1, 2):
            results[version] = agents.evaluate(
                f"models:/{MODEL}/{version}",
                suites=[story.suites["later"]],
                workers=story.workers,
                progress=False,
                submit=False,
            )
            _evaluated(story, f"v{version}_later", results[version])
        step.result = "; ".join(
            f"version {v}: " + _rate(story, f"v{v}_later", "task_success") for v in (1, 2)
        )
    with story.step(f"Approve and promote version 2 to {STAGE}") as step:
        agents.approve(MODEL, 2, to=STAGE, comment="better where it was weak", by=REVIEWER)
        agents.promote(MODEL, 2, to=STAGE)
        step.result = _where(STAGE)


def _label(story: _Story) -> str:
    import mlflow
    from mlflow.entities import AssessmentSource, AssessmentSourceType

    from mlflow_agent_plugin.lifecycle.labels import LABEL_ASSESSMENT

    source = AssessmentSource(source_type=AssessmentSourceType.HUMAN, source_id="annotators")
    count = 0
    for item in story.answered:
        if item.query.intent in (*HELD_BACK, OUT_OF_SCOPE) and item.trace_id is not None:
            mlflow.log_expectation(
                trace_id=item.trace_id,
                name=LABEL_ASSESSMENT,
                value=item.query.intent,
                source=source,
            )
            count += 1
    return f"{count} requests labelled on their traces"


def _retrain(story: _Story) -> str:
    import mlflow

    import mlflow_agent_plugin as agents
    from mlflow_agent_plugin.lifecycle import collect_labels

    experiment = mlflow.get_experiment_by_name("support-traffic")
    assert experiment is not None
    with story.place.output("retrain.log"):
        done = agents.retrain(
            story.reason,
            project=story.place.project,
            workspace=story.place.folder / "retrain",
            model_name=MODEL,
            to=STAGE,
            labels=collect_labels([experiment.experiment_id]),
            suites=[story.suites["whole"]],
            exclude_intents=HELD_BACK,
            parameters={
                "agent": story.place.folder / "bundle-1",
                "workers": story.workers,
                "holdout_share": 0,
                "limit": WHOLE_CASES,
            },
        )
    report = done.details["train"]
    story.result.numbers["planner_2"] = report
    story.result.numbers["retrain"] = done.to_dict()
    story.result.numbers["v2_whole"] = done.evaluation["suites"]["support-workflow"]
    sample = story.result.numbers["v2_whole"]["task_success"]["n"]
    return (
        f"{_trained(report)}; version {done.version} waits for {done.to}: task success"
        f" {_rate(story, 'v2_whole', 'task_success')} on {sample:,} scenarios of the whole suite"
    )


def _rate(story: _Story, key: str, metric: str) -> str:
    found = story.result.numbers[key][metric]
    return f"{found['value']:.3f} [{found['low']:.3f}, {found['high']:.3f}]"


# --- chapter 6: back and forward -----------------------------------------------------------------


def _back(story: _Story) -> None:
    import mlflow_agent_plugin as agents

    with story.step("Roll back") as step:
        agents.rollback(MODEL, to=STAGE, reason="demonstration", by=REVIEWER)
        step.result = _where(STAGE)
    with story.step("And forward again") as step:
        agents.rollback(MODEL, to=STAGE, version=2, reason="demonstration over", by=REVIEWER)
        step.result = _where(STAGE)
    with story.step("Verify the audit") as step:
        step.result = _verify(step)


def _verify(_step: Step) -> str:
    from mlflow_agent_plugin.store import Store
    from mlflow_agent_plugin.trust import verify_audit

    with Store.open() as store:
        found = verify_audit(store)
    if not found.ok:
        raise AgentRunError(f"the audit does not verify: {found.problems[:3]}")
    return f"{found.events:,} events, every hash and signature fits"


def _numbers(story: _Story) -> None:
    numbers = story.result.numbers
    before, after = (numbers[f"v{v}_later"]["task_success"]["value"] for v in (1, 2))
    numbers["later_task_success"] = {"before": before, "after": after}


@contextmanager
def _environment(place: Place) -> Iterator[None]:
    """Run the block in the demo's environment, quietly, with the project importable."""
    before, during = dict(os.environ), place.environment()
    path = list(sys.path)
    os.environ.clear()
    os.environ.update(during)
    sys.path.insert(0, str(place.project))
    for name in ("mlflow", "alembic", "httpx"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore")
    try:
        import mlflow

        mlflow.set_tracking_uri(place.tracking_uri)
        mlflow.set_registry_uri(place.registry_uri)
        _experiments(place, mlflow)
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)
        sys.path[:] = path


def _experiments(place: Place, mlflow: Any) -> None:
    # Artifacts of every experiment stay in the demo's folder.
    for name in ("support", "support-traffic", "drift", "retraining"):
        mlflow.create_experiment(name, artifact_location=(place.artifacts / name).as_uri())
    mlflow.set_experiment("support")

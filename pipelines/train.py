"""Trains an agent's local planner: ``python -m pipelines.train --agent agents/support``.

Rules:
- No text of the test split is trained on: a training row whose words are those of a test row is
  removed, and the report says how many were.
- The planner is written only when everything went well; the one before stays until then.
- The same data and seed give the same files.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mlflow_agent_plugin.entities import sha256_of_json
from mlflow_agent_plugin.entities.statistics import wilson_interval
from mlflow_agent_plugin.errors import AgentError, ConfigError, DataError
from mlflow_agent_plugin.foundation.planner.words import fold
from pipelines.data import DataSource, find_banking77, read_labelled

if TYPE_CHECKING:
    import pandas as pd

    from mlflow_agent_plugin.foundation import TrainedPlanner


@dataclass(frozen=True)
class TrainReport:
    """What a training did.

    Attributes:
        data: One sentence on the source of the data.
        out: Where the planner is.
        n_train: Examples trained on.
        n_classes: Intents.
        removed_test_rows: Training rows left out because they are in the test split.
        n_test: Test rows of trained intents; 0 without a test split.
        accuracy: Share of those that were understood, with its 95% interval (Wilson); None without.
        held_back_accuracy: The same on training examples held back to fit the confidence.
        cpu_seconds: CPU time of the training alone.
    """

    data: str
    out: str
    n_train: int
    n_classes: int
    removed_test_rows: int
    n_test: int
    accuracy: float | None
    accuracy_low: float | None
    accuracy_high: float | None
    held_back_accuracy: float | None
    cpu_seconds: float

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-ready dictionary."""
        return dict(self.__dict__)

    def rows(self) -> list[tuple[str, str]]:
        """Return the report as label and value, for a table."""
        rows = [
            ("data", self.data.removeprefix("Data: ").rstrip(".")),
            ("training examples", f"{self.n_train:,}"),
            ("left out as in the test split", f"{self.removed_test_rows:,}"),
            ("intents", str(self.n_classes)),
        ]
        if self.held_back_accuracy is not None:
            rows.append(("accuracy, held back from training", f"{self.held_back_accuracy:.3f}"))
        if self.accuracy is not None:
            interval = f"[{self.accuracy_low:.3f}, {self.accuracy_high:.3f}]"
            rows.append((f"accuracy, test ({self.n_test:,})", f"{self.accuracy:.3f} {interval}"))
        rows += [("CPU seconds", f"{self.cpu_seconds:.1f}"), ("planner", self.out)]
        return rows


def train(
    *,
    out: Path,
    data: Path | None = None,
    test: Path | None = None,
    extra: Sequence[Path] = (),
    exclude_intents: Sequence[str] = (),
    seed: int = 0,
) -> TrainReport:
    """Train a planner and write it to `out`.

    Args:
        out: Folder of the planner.
        data: CSV file, or a folder with train.csv and perhaps test.csv; default: BANKING77, or the
            project's small set where it cannot be had.
        test: CSV file to test on; default: the test split of the data.
        extra: CSV files with more labelled examples; the label ``out_of_scope`` is allowed.
        exclude_intents: Intents of the data to leave out.
        seed: See `train_planner`.

    Raises:
        DataError: A file is missing or malformed, or an excluded intent is not in the data.
        PlannerError: Too little is left to train on, or `out` cannot be written.
    """
    import pandas as pd

    from mlflow_agent_plugin.foundation import train_planner

    examples, testing, source = _load(data, test)
    unknown = sorted(set(exclude_intents) - set(examples["category"]))
    if unknown:
        close = get_close_matches(unknown[0], sorted(set(examples["category"])), n=1)
        raise DataError(
            f"the data have no intent {unknown[0]!r}",
            where="--exclude-intents",
            hint=f"Did you mean {close[0]}?" if close else None,
        )
    examples = examples[~examples["category"].isin(exclude_intents)]
    added = [read_labelled(path) for path in extra]
    examples = pd.concat([examples, *added], ignore_index=True)
    n_before = len(examples)
    if testing is not None:
        tested = set(testing["text"].map(_normalise))
        examples = examples[~examples["text"].map(_normalise).isin(tested)]
    provenance = {
        **source,
        "rows_sha256": sha256_of_json(examples[["text", "category"]].to_numpy().tolist()),
        "excluded_intents": sorted(exclude_intents),
        "extra": [
            {"name": path.name, "rows": len(frame)}
            for path, frame in zip(extra, added, strict=True)
        ],
        "removed_test_rows": n_before - len(examples),
    }
    statement = provenance.pop("statement")
    started = time.process_time()
    planner = train_planner(
        examples["text"].tolist(), examples["category"].tolist(), seed=seed, data=provenance
    )
    cpu_seconds = time.process_time() - started
    planner, n_test, right = _test(planner, testing)
    planner.save(out)
    low, high = wilson_interval(right, n_test)
    held_back = planner.card.accuracy.get("held_back")
    return TrainReport(
        data=statement,
        out=str(out),
        n_train=planner.card.n_train,
        n_classes=len(planner.classes),
        removed_test_rows=n_before - len(examples),
        n_test=n_test,
        accuracy=right / n_test if n_test else None,
        accuracy_low=low if n_test else None,
        accuracy_high=high if n_test else None,
        held_back_accuracy=None if held_back is None else held_back.value,
        cpu_seconds=round(cpu_seconds, 2),
    )


def _normalise(text: str) -> str:
    return " ".join(fold(text))


def _load(
    data: Path | None, test: Path | None
) -> tuple[pd.DataFrame, pd.DataFrame | None, dict[str, Any]]:
    if data is None:
        source: DataSource = find_banking77()
        examples = read_labelled(source.folder / "train.csv")
        tests = read_labelled(test or source.folder / "test.csv")
        return examples, tests, {**source.to_dict(), "statement": source.statement}
    train_file = data / "train.csv" if data.is_dir() else data
    examples = read_labelled(train_file)
    beside = data / "test.csv" if data.is_dir() else None
    if test is None and beside is not None and beside.is_file():
        test = beside
    testing = None if test is None else read_labelled(test)
    return examples, testing, {"name": data.name, "statement": f"Data: {train_file}."}


def _test(planner: TrainedPlanner, testing: pd.DataFrame | None) -> tuple[TrainedPlanner, int, int]:
    """Return the planner with its test accuracy on the card, how many were tested and right."""
    from dataclasses import replace

    if testing is None:
        return planner, 0, 0
    known = testing[testing["category"].isin(planner.classes)]
    if known.empty:
        return planner, 0, 0
    said = [label for label, _ in planner.predict(known["text"].tolist())]
    right = sum(a == b for a, b in zip(said, known["category"], strict=True))
    card = planner.card.with_accuracy("test", right, len(known))
    return replace(planner, card=card), len(known), right


def planner_dir(agent: Path) -> Path:
    """Return where the planner of the agent in the folder `agent` belongs.

    Raises:
        ConfigError: The agent does not use a local planner.
        ManifestError: There is no readable manifest.
    """
    from mlflow_agent_plugin.foundation.models import LOCAL, PLANNER_DIR
    from mlflow_agent_plugin.package import read_manifest

    manifest, _ = read_manifest(agent)
    for spec in (manifest.model, *manifest.model.fallbacks):
        if spec.provider == LOCAL and spec.path is not None:
            return agent / spec.path / PLANNER_DIR
    raise ConfigError(
        "the agent has no local planner",
        where=f"{agent}/agent.yaml: model",
        hint="Only provider: local is trained.",
    )


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--agent", type=click.Path(path_type=Path), help="Folder of the agent.")
@click.option("--out", type=click.Path(path_type=Path), help="Folder of the planner.")
@click.option(
    "--data",
    type=click.Path(path_type=Path),
    help="CSV file (text,category), or folder with train.csv and test.csv; default: BANKING77.",
)
@click.option("--test", type=click.Path(path_type=Path), help="CSV file to test on.")
@click.option(
    "--extra",
    type=click.Path(path_type=Path),
    multiple=True,
    help="CSV file with more examples; may be given several times.",
)
@click.option("--exclude-intents", default="", help="Intents to leave out, separated by commas.")
@click.option("--seed", type=int, default=0, show_default=True)
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
def main(  # noqa: D417 - the options' own help describes them
    *,
    agent: Path | None,
    out: Path | None,
    data: Path | None,
    test: Path | None,
    extra: tuple[Path, ...],
    exclude_intents: str,
    seed: int,
    as_json: bool,
) -> None:
    """Train an agent's local planner."""
    try:
        if out is None:
            if agent is None:
                raise ConfigError("give --agent or --out")
            out = planner_dir(agent)
        report = train(
            out=out,
            data=data,
            test=test,
            extra=extra,
            exclude_intents=[name.strip() for name in exclude_intents.split(",") if name.strip()],
            seed=seed,
        )
    except AgentError as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(2)
    if as_json:
        click.echo(json.dumps(report.to_dict(), sort_keys=True))
        return
    width = max(len(label) for label, _ in report.rows())
    for label, value in report.rows():
        click.echo(f"{label:<{width}}  {value}")


if __name__ == "__main__":
    main()

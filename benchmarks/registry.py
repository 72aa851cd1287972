"""What the gate costs: ordinary models beside MLflow's own store, decisions as a registry grows.

    python benchmarks/registry.py [--rounds 300] [--versions 10 1000 100000] [--json FILE]

Both stores run in this process on sqlite databases of their own; the calls take turns, so that
whatever else the machine does meets both. Numbers are CPU milliseconds (median); the ratio is of
medians over all calls a client makes on an ordinary model. Limits: ratio at most 1.05, decision at
most 50 ms at 100,000 versions.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
RATIO_LIMIT = 1.05
DECISION_LIMIT_MS = 50.0


def main() -> int:
    """Measure, print, return 1 if a limit is broken."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=300)
    parser.add_argument("--versions", type=int, nargs="*", default=[10, 1000, 100_000])
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="registry-benchmark-") as folder:
        place = Path(folder)
        os.environ.update(
            MLFLOW_TRACKING_URI=f"sqlite:///{place}/mlflow.db",
            MLFLOW_AGENTS_KEY_DIR=str(place / "keys"),
            MLFLOW_AGENTS_STORE_URI=f"sqlite:///{place}/agents.db",
            MLFLOW_AGENTS_ACTOR="bob",
            MLFLOW_DISABLE_TELEMETRY="true",
        )
        sys.path[:0] = [str(ROOT), str(ROOT / "tests"), str(ROOT / "benchmarks")]
        calls = ordinary(place, args.rounds)
        decisions = {str(count): decision(place, count) for count in args.versions}
    total = {kind: sum(call[kind] for call in calls.values()) for kind in ("stock_ms", "gated_ms")}
    result = {
        "ordinary": calls,
        "ordinary_ratio": total["gated_ms"] / total["stock_ms"],
        "decision_ms": decisions,
        "load_average": os.getloadavg()[0],
    }
    for name, call in calls.items():
        print(
            f"{name:<32} stock {call['stock_ms']:7.3f} ms  gated {call['gated_ms']:7.3f} ms"
            f"  {call['gated_ms'] / call['stock_ms']:.2f}x"
        )
    print(f"{'all of them':<32} {result['ordinary_ratio']:.3f}x")
    for count, found in decisions.items():
        print(f"decision at {count} versions: p50 {found['p50']:.1f} ms, p95 {found['p95']:.1f} ms")
    if args.json is not None:
        args.json.write_text(json.dumps(result, indent=2) + "\n")
    worst = max((found["p50"] for found in decisions.values()), default=0.0)
    return int(result["ordinary_ratio"] > RATIO_LIMIT or worst > DECISION_LIMIT_MS)


def ordinary(place: Path, rounds: int) -> dict[str, dict[str, float]]:
    """Return the median cost of each call on both stores."""
    from mlflow.store.model_registry.sqlalchemy_store import SqlAlchemyStore

    from mlflow_agent_plugin.registry.gated_store import make_store

    stores = {
        "stock_ms": SqlAlchemyStore(f"sqlite:///{place}/stock.db"),
        "gated_ms": make_store(f"agents+sqlite:///{place}/gated.db"),
    }
    for store in stores.values():
        store.create_registered_model("m")
        for number in range(20):
            store.create_model_version("m", f"{place}/{number}")
        store.set_registered_model_alias("m", "champion", "1")
        store.transition_model_version_stage("m", "1", "Production", False)
    times: dict[str, dict[str, list[float]]] = {
        name: {kind: [] for kind in stores} for name in CALLS
    }
    for number in range(rounds):
        for name, call in CALLS.items():
            order = list(stores.items())
            for kind, store in order if number % 2 else order[::-1]:
                start = time.process_time()
                call(store, number)
                times[name][kind].append((time.process_time() - start) * 1000)
    return {
        name: {kind: statistics.median(values) for kind, values in found.items()}
        for name, found in times.items()
    }


def _tag(number: int) -> Any:
    from mlflow.entities.model_registry import ModelVersionTag

    return ModelVersionTag("round", str(number))


CALLS: dict[str, Callable[[Any, int], Any]] = {
    "get_registered_model": lambda s, _n: s.get_registered_model("m"),
    "get_model_version": lambda s, _n: s.get_model_version("m", "3"),
    "get_model_version_by_alias": lambda s, _n: s.get_model_version_by_alias("m", "champion"),
    "get_latest_versions": lambda s, _n: s.get_latest_versions("m", ["Production"]),
    "get_model_version_download_uri": lambda s, _n: s.get_model_version_download_uri("m", "3"),
    "search_registered_models": lambda s, _n: s.search_registered_models("name = 'm'"),
    "search_model_versions": lambda s, _n: s.search_model_versions("name = 'm'"),
    "set_model_version_tag": lambda s, n: s.set_model_version_tag("m", "2", _tag(n)),
    "set_registered_model_alias": lambda s, n: s.set_registered_model_alias(
        "m", "challenger", str(2 + n % 2)
    ),
    "transition_model_version_stage": lambda s, n: s.transition_model_version_stage(
        "m", "4", ("Staging", "Archived")[n % 2], False
    ),
    "create_model_version": lambda s, n: s.create_model_version("m", f"/nowhere/{n}"),
    "create_registered_model": lambda s, n: s.create_registered_model(f"m{n}"),
}


def decision(place: Path, versions: int) -> dict[str, float]:
    """Return p50 and p95 of a gate decision with that many versions and ten times the evidence."""
    from gate_decision import measure

    folder = place / f"decision-{versions}"
    folder.mkdir()
    times = measure(folder, versions, min(10 * versions, 100_000), 40)
    return {"p50": statistics.median(times), "p95": sorted(times)[int(len(times) * 0.95)]}


if __name__ == "__main__":
    sys.exit(main())

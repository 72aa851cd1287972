"""Run MLflow's own tests on its registry store and on the gated one, and compare what passes.

    python tests/mlflow_suite/compare.py [--json FILE] CHECKOUT [PATH or pytest option ...]

CHECKOUT is a checkout of MLflow (its ``tests`` folder is copied and used, its code is not: the
installed MLflow is tested). Names on the internet that cannot be resolved here get a public address,
in both runs: MLflow looks up a webhook's host when it is registered. Set ``MLFLOW_TRACKING_URI`` to a PostgreSQL URL to run the store's tests there. Exits 1
if a test has another outcome on the gated store than on MLflow's.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path
from xml.etree import ElementTree as ET

ROOT = Path(__file__).resolve().parents[2]
PATHS = (
    "tests/store/model_registry/test_sqlalchemy_store.py",
    "tests/store/model_registry/test_sqlalchemy_workspace_store.py",
    "tests/store/model_registry/test_rest_store.py",
    "tests/store/model_registry/test_rest_store_webhooks.py",
    "tests/store/model_registry/test_rest_store_workspace.py",
    "tests/tracking/test_model_registry.py",
    "tests/tracking/_model_registry",
    "tests/webhooks",
    "tests/genai/prompts",
    "tests/server/test_handlers.py",
    # asks model providers over the network
    "--deselect=tests/server/test_handlers.py::test_list_models_all_providers",
)


def run(checkout: Path, wanted: list[str], *, gated: bool) -> dict[str, str]:
    """Run the tests; return each test's outcome by its name."""
    with tempfile.TemporaryDirectory(prefix="mlflow-tests-") as scratch:
        report = Path(scratch) / "report.xml"
        # Beside MLflow's own code pytest would import that instead of what is installed.
        shutil.copytree(checkout / "tests", f"{scratch}/tests")
        shutil.copy(checkout / "pyproject.toml", scratch)
        command = [
            sys.executable, "-m", "pytest", "-q", "-p", "mlflow_suite.offline", "-p", "no:cacheprovider", "-p", "no:xdist",
            f"--junitxml={report}",
            *(("-p", "mlflow_suite.gated") if gated else ()), *wanted,
        ]  # fmt: skip
        environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")]),
            "MLFLOW_DISABLE_TELEMETRY": "true",
            "MLFLOW_AGENTS_KEY_DIR": f"{scratch}/keys",
            "MLFLOW_AGENTS_STORE_URI": f"sqlite:///{scratch}/agents.db",
            "MLFLOW_AGENTS_REGISTRY_CONTENT": f"file://{scratch}/content",
        }
        print("$", " ".join(command), flush=True)
        subprocess.run(command, cwd=scratch, env=environment, check=False)
        return {
            f"{case.get('classname')}::{case.get('name')}": next(
                (child.tag for child in case if child.tag in {"failure", "error", "skipped"}),
                "passed",
            )
            for case in ET.parse(report).iter("testcase")  # noqa: S314 - pytest's own
        }


def main() -> int:
    """Run both, print the counts and every difference."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkout", type=Path)
    parser.add_argument("--json", type=Path)
    parser.add_argument("arguments", nargs=argparse.REMAINDER)
    arguments = parser.parse_args()
    wanted = arguments.arguments or list(PATHS)
    from importlib.metadata import version

    stock = run(arguments.checkout, wanted, gated=False)
    gated = run(arguments.checkout, wanted, gated=True)
    differences = {
        name: [stock.get(name, "absent"), gated.get(name, "absent")]
        for name in sorted(stock.keys() | gated.keys())
        if stock.get(name) != gated.get(name)
    }
    result = {
        "mlflow": version("mlflow"),
        "stock": dict(Counter(stock.values())),
        "gated": dict(Counter(gated.values())),
        "differences": differences,
    }
    print(json.dumps(result, indent=2))
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(result, indent=2) + "\n")
    return 1 if differences or not stock else 0


if __name__ == "__main__":
    sys.exit(main())

"""A bundle larger than the memory it may take goes through registry, S3 and loading."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from helpers.scale import scaled

pytestmark = pytest.mark.integration

MEGABYTES = scaled(128, 1024)
BOUND_MEGABYTES = 112  # S3 transfers hold 10 parts of 8 MB each

# A process of its own: the peak of this one counts what every test before took.
WORK = """
import resource, sys
from pathlib import Path

import mlflow

from helpers.registry_world import World
from mlflow_agent_plugin.core.models_repository import make_repository
from mlflow.store.artifact import artifact_repository_registry as repositories

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

def edit(root):
    with (root / "knowledge.bin").open("wb") as file:
        for number in range(int(sys.argv[3])):
            file.write(number.to_bytes(4, "big") * (1 << 18))

folder, registry = Path(sys.argv[1]), sys.argv[2]
mlflow.set_registry_uri(registry)
world = World(folder, registry)
world.promoted("small", "@champion")
mlflow.pyfunc.load_model("models:/shelf@champion")
before = peak()
version = world.register("large", edit=edit)
world.ready(version, "@champion")
from mlflow_agent_plugin.registry import promote
promote("shelf", version, to="@champion", client=world.client)
loaded = mlflow.pyfunc.load_model("models:/shelf@champion")
assert loaded.predict({"input": [{"role": "user", "content": "hi"}]})
print(peak() - before)
"""


def test_a_large_bundle_is_registered_promoted_and_loaded_in_bounded_memory(
    tmp_path, s3_bucket, s3_server
):
    tests = Path(__file__).parents[1]
    run = subprocess.run(
        [sys.executable, "-c", WORK, str(tmp_path), f"agents+sqlite:///{tmp_path}/mlflow.db",
         str(MEGABYTES)],
        capture_output=True, text=True, timeout=600,
        env={**os.environ, "PYTHONPATH": f"{tests.parent}{os.pathsep}{tests}",
             "MLFLOW_AGENTS_ACTOR": "bob",
             "MLFLOW_AGENTS_REGISTRY_CONTENT": f"s3://{s3_bucket}/agents"},
    )  # fmt: skip
    assert run.returncode == 0, run.stderr[-3000:]
    grown = float(run.stdout.split()[-1])
    assert grown < BOUND_MEGABYTES, f"{grown:.0f} MB more for a bundle of {MEGABYTES} MB"
    stored = s3_server.client().list_objects_v2(Bucket=s3_bucket)["Contents"]
    assert max(item["Size"] for item in stored) == MEGABYTES << 20

"""One pipeline at a time."""

import os
import subprocess
import sys
import threading

import pytest

from mlflow_agent_plugin.errors import PipelineError
from mlflow_agent_plugin.lifecycle.lease import pipeline_lease

HOLD = (
    "import sys\n"
    "from mlflow_agent_plugin.lifecycle.lease import pipeline_lease\n"
    "with pipeline_lease(sys.argv[1], purpose='hold'):\n"
    "    print('held', flush=True)\n"
    "    sys.stdin.read()\n"
)


def test_a_second_holder_is_refused_at_once_and_told_who_holds_it(tmp_path):
    with pipeline_lease(tmp_path / "w", purpose="first"):
        with (
            pytest.raises(PipelineError, match=f"process {os.getpid()}"),
            pipeline_lease(tmp_path / "w", purpose="second"),
        ):
            raise AssertionError
        with pipeline_lease(tmp_path / "other", purpose="elsewhere"):
            pass
        with pipeline_lease(tmp_path / "w", purpose="another lease", name="trigger"):
            pass
    with pipeline_lease(tmp_path / "w", purpose="third"):
        pass
    assert not list((tmp_path / "w").glob("*.json"))


def test_an_error_in_the_block_frees_the_lease(tmp_path):
    with pytest.raises(ValueError, match="broken"), pipeline_lease(tmp_path, purpose="a"):
        raise ValueError("broken")
    with pipeline_lease(tmp_path, purpose="b"):
        pass


def test_of_many_threads_at_once_one_holds_it(tmp_path):
    start, held, refused = threading.Barrier(8), [], []
    done = threading.Event()

    def work():
        start.wait()
        try:
            with pipeline_lease(tmp_path, purpose="thread"):
                held.append(1)
                done.wait(10)
        except PipelineError:
            refused.append(1)
            if len(refused) == 7:
                done.set()

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(held), len(refused)) == (1, 7)


def test_another_process_is_refused_until_the_holder_is_killed(tmp_path):
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert holder.stdout.readline() == "held\n"
        with (
            pytest.raises(PipelineError, match=f"process {holder.pid} on"),
            pipeline_lease(tmp_path, purpose="me"),
        ):
            raise AssertionError
    finally:
        holder.kill()
        holder.wait()
        holder.stdin.close()
        holder.stdout.close()
    with pipeline_lease(tmp_path, purpose="me"):
        pass

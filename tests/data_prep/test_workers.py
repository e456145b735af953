import os
import signal
import time

import pytest

from data_prep.workers import Outcome, map_in_processes


def behave(task):
    """Does what the task's name says."""
    if task == "raise":
        raise RuntimeError("as told")
    if task == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    if task == "hang":
        time.sleep(60)
    if task == "slow":
        time.sleep(0.3)
    return Outcome(result=task)


@pytest.mark.filterwarnings("ignore")
def test_each_failure_costs_its_own_task_only_and_order_is_kept():
    tasks = ["slow", "a", "raise", "b", "die", "c", "hang", "d"]
    outcomes = list(map_in_processes(behave, tasks, num_workers=2, timeout_secs=4))
    assert [outcome.result or outcome.reason for outcome in outcomes] == [
        "slow",
        "a",
        "unexpected_error",
        "b",
        "crashed",
        "c",
        "timeout",
        "d",
    ]
    assert outcomes[2].detail == "RuntimeError: as told"

import os
import signal
import tempfile
import time

import numpy as np
import pytest
import threadpoolctl

from data_prep.workers import Limits, Outcome, map_groups

LIMITS = Limits(timeout_secs=4)


def behave(tasks):
    """Does what each task's name says."""
    for task in tasks:
        if task == "raise":
            raise RuntimeError("as told")
        if task == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        if task == "hang":
            time.sleep(60)
        if task == "keep":
            task = tempfile.mkstemp()[1]
        if task == "slow":
            time.sleep(0.3)
        if task == "grow":
            np.ones(2**30, np.uint8)
        if task == "threads":
            task = [pool["num_threads"] for pool in threadpoolctl.threadpool_info()]
        yield Outcome(result=task)


def outcomes_of(groups, *, num_workers=2, limits=LIMITS):
    return list(map_groups(behave, groups, num_workers=num_workers, limits=limits))


@pytest.mark.filterwarnings("ignore")
def test_each_failure_costs_its_own_item_only_and_order_is_kept():
    groups = [["slow", "a"], ["raise", "b", "die"], ["c"], [], ["hang", "d"], ["e"]]
    outcomes = outcomes_of(groups)
    assert [outcome.result or outcome.reason for outcome in outcomes] == [
        "slow",
        "a",
        "unexpected_error",
        "b",
        "crashed",
        "c",
        "timeout",
        "d",
        "e",
    ]
    assert outcomes[2].detail == "RuntimeError: as told"


def test_matrix_products_in_a_worker_use_one_thread(monkeypatch):
    monkeypatch.setenv("OPENBLAS_NUM_THREADS", "2")
    (outcome,) = outcomes_of([["threads"]])
    assert outcome.result and set(outcome.result) == {1}


@pytest.mark.parametrize("last", ["die", "hang", "a"])
def test_temporary_files_of_a_worker_end_with_it(last):
    kept, _ = outcomes_of([["keep", last]])
    assert os.path.isabs(kept.result) and not os.path.exists(kept.result)


def test_an_item_that_wants_too_much_memory_costs_its_own_item_only():
    limits = Limits(timeout_secs=20, memory_mib=700)
    outcomes = outcomes_of([["a", "grow", "b"]], num_workers=1, limits=limits)
    assert [outcome.result or outcome.reason for outcome in outcomes] == [
        "a",
        "out_of_memory",
        "b",
    ]
    assert outcomes[1].detail == "more than 700 MiB"


def test_a_consumer_that_takes_its_time_is_no_timeout():
    groups = [[f"{g}{i}" for i in range(8)] for g in range(8)]
    found = []
    limits = Limits(timeout_secs=1.0)
    for outcome in map_groups(behave, groups, num_workers=2, limits=limits):
        if not found:
            time.sleep(1.5)
        found.append(outcome.result)
    assert found == [item for group in groups for item in group]


def test_no_groups_give_no_outcomes():
    assert outcomes_of([]) == []

import errno
import gc
import json
import os
import pickle
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time

import numpy as np
import pytest
import threadpoolctl
from test_answers import answer, header

from data_prep import worker
from data_prep.answers import Form, Outcome, Packed
from data_prep.worker import Limits
from data_prep.worker_processes import PoolSettings, map_groups
from xdc_tf.runtime import signals

pytestmark = pytest.mark.once

LIMITS = Limits(timeout_secs=3)


def behave(tasks):
    """Does what each task's name says."""
    for task in tasks:
        if task == "raise":
            raise RuntimeError("as told")
        if task == "die":
            os.abort()
        if task == "be killed":
            os.kill(os.getpid(), signal.SIGKILL)
        if task.startswith("first time "):
            *_, what, marker = task.split(" ")
            if not os.path.exists(marker):
                open(marker, "x").close()
                if what == "hang":
                    time.sleep(60)
                if what == "EIO":
                    raise OSError(errno.EIO, "storage")
                os.kill(os.getpid(), getattr(signal, what))
        if task == "full":
            raise OSError(errno.ENOSPC, "No space left on device", "/tmp/x")
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


def pack(result):
    return Packed({}, [json.dumps(result).encode()])


def unpack(values, data):
    assert values == {}
    return json.loads(bytes(data))


FORM = Form(pack, unpack)


def outcomes_of(groups, *, function=behave, num_workers=2, limits=LIMITS):
    return list(
        map_groups(function, groups, form=FORM, pool=PoolSettings(num_workers, limits))
    )


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


@pytest.mark.slow
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
    limits = Limits(timeout_secs=4)
    for outcome in map_groups(behave, groups, form=FORM, pool=PoolSettings(2, limits)):
        if not found:
            time.sleep(4.5)
        found.append(outcome.result)
    assert found == [item for group in groups for item in group]


def test_no_groups_give_no_outcomes():
    assert outcomes_of([]) == []


@pytest.mark.parametrize("what", ["SIGKILL", "SIGHUP", "EIO", "hang"])
def test_what_may_not_be_the_items_fault_is_tried_again(tmp_path, what):
    groups = [["a", f"first time {what} {tmp_path / 'x'}", "b"], ["slow"], ["c"]]
    limits = Limits(timeout_secs=3 if what == "hang" else 60)
    outcomes = outcomes_of(groups, limits=limits)
    assert not any(outcome.reason for outcome in outcomes)
    assert [outcome.result for outcome in outcomes] == [
        item for group in groups for item in group
    ]
    assert (tmp_path / "x").exists()


def test_processes_that_cannot_start_are_no_fault_of_the_items(monkeypatch):
    monkeypatch.setenv("PYTHONHOME", "/nowhere")
    (outcome,) = outcomes_of([["a"]], num_workers=1)
    assert outcome.reason == "killed"
    assert outcome.detail == "process ended with 1 before it began"


def test_what_fails_twice_says_what_of_the_machine_it_was():
    outcomes = outcomes_of([["a", "be killed", "b", "full", "c"]])
    assert [outcome.result or outcome.reason for outcome in outcomes] == [
        *("a", "killed", "b", "io_error", "c")
    ]
    assert outcomes[1].detail == "process ended from outside by signal 9"
    assert "No space left on device" in outcomes[3].detail


def count_those_in_work(tasks):
    """The first time that item 1 is in work, kills its process."""
    folder, number = tasks[0].rsplit("/", 1)
    mine = os.path.join(folder, f"in work {os.getpid()}")
    open(mine, "x").close()
    if number == "1" and "killed" not in os.listdir(folder):
        open(os.path.join(folder, "killed"), "x").close()
        os.remove(mine)
        os.kill(os.getpid(), signal.SIGKILL)
    most = 0
    deadline = time.monotonic() + (10 if number in "34" else 0.5)
    while time.monotonic() < deadline and most < 2:
        most = max(most, sum(name.startswith("in") for name in os.listdir(folder)))
    time.sleep(0.1)  # so that others see this one too
    os.remove(mine)
    yield Outcome(most)


def test_what_is_tried_again_is_alone_in_work(tmp_path):
    groups = [[f"{tmp_path}/{number}"] for number in range(1, 5)]
    outcomes = outcomes_of(groups, function=count_those_in_work, limits=Limits(60))
    assert outcomes[0].result == 1
    assert [outcome.result for outcome in outcomes[2:]] == [2, 2]


class Payload:
    """Touches a file if it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (self.path, "x")


HOSTILE = {
    "random bytes": bytes(range(256)) * 300,
    "2^62 bytes": struct.pack("<4sIQ", b"xdca", 2, 1 << 62) + b"{}",
    "cut off": answer(header(), b"1" * 100)[:-1],
}


def answer_by_hand(tasks):
    """Writes bytes to the connection, as a process that was taken over can."""
    for task in tasks:
        if task in HOSTILE or task.startswith("/"):
            payload = HOSTILE.get(task) or pickle.dumps(Payload(task))
            if task.startswith("/"):  # as multiprocessing sends it, and alone
                payload = struct.pack("!i", len(payload)) + payload + payload
            connections = [
                thing for thing in gc.get_objects() if isinstance(thing, socket.socket)
            ]
            for connection in connections:
                try:
                    os.write(connection.fileno(), payload)
                    connection.shutdown(socket.SHUT_RDWR)
                except OSError:
                    pass
            time.sleep(60)
        yield Outcome(task)


def test_answers_of_another_form_run_nothing_and_cost_their_item_alone(tmp_path):
    pickle.loads(pickle.dumps(Payload(str(tmp_path / "ran")))).close()
    (tmp_path / "ran").unlink()  # which shows that the payload works
    groups = [["a", name, "b"] for name in (*HOSTILE, f"{tmp_path}/ran")]
    outcomes = outcomes_of(groups, function=answer_by_hand, limits=Limits(60))
    assert [outcome.result or outcome.reason for outcome in outcomes] == [
        *("a", "crashed", "b") * 4
    ]
    assert "not of the declared form" in outcomes[1].detail
    assert "not of the declared form" in outcomes[4].detail
    assert not list(tmp_path.iterdir())


def stop_in_the_middle(tasks):
    for task in tasks:
        if task == "half":
            (connection,) = (
                thing for thing in gc.get_objects() if isinstance(thing, socket.socket)
            )
            connection.sendall(answer(header(), b"1" * 100)[:-1])
            time.sleep(60)
        yield Outcome(task)


@pytest.mark.slow
def test_an_answer_that_never_ends_is_a_timeout():
    outcomes = outcomes_of([["half", "a"]], function=stop_in_the_middle)
    assert [outcome.result or outcome.reason for outcome in outcomes] == [
        "timeout",
        "a",
    ]


def send_much(tasks):
    yield from (Outcome("x" * 20_000_000) for _ in tasks)


def test_long_answers_arrive_whole():
    outcomes = outcomes_of([["a"], ["b"], ["c"]], function=send_much, limits=Limits(60))
    assert [len(outcome.result) for outcome in outcomes] == [20_000_000] * 3


KILLED_WHILE_DECODING = """
import os, sys, tempfile, time
sys.path[:0] = sys.argv[1:3]
import test_workers
if __name__ == "__main__":
    list(test_workers.outcomes_of([[sys.argv[3]]], function=test_workers.keep_and_hang))
"""


def keep_and_hang(tasks):
    name = tempfile.mkstemp()[1]
    with open(tasks[0] + ".partial", "w") as file:
        file.write(f"{os.getpid()} {name}")
    os.rename(tasks[0] + ".partial", tasks[0])
    while True:  # never gives way, as a decoder
        sum(range(1000))


@pytest.fixture
def killed_with_its_worker(tmp_path, request):
    """Kills a main process while its worker is at work; its temporary directory."""
    (tmp_path / "tmp").mkdir()
    root = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    program = tmp_path / "program.py"
    program.write_text(KILLED_WHILE_DECODING)
    process = subprocess.Popen(
        [sys.executable, program, root, os.path.dirname(__file__), tmp_path / "told"],
        env=os.environ | {"TMPDIR": str(tmp_path / "tmp")},
        start_new_session=True,
    )
    wait_for((tmp_path / "told").exists)
    worker, name = (tmp_path / "told").read_text().split()
    assert os.path.exists(name)
    if request.param == "alone":
        process.kill()
    else:
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    wait_for(lambda: not os.path.exists(f"/proc/{worker}"))
    return tmp_path / "tmp"


def wait_for(condition):
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.parametrize("killed_with_its_worker", ["alone"], indirect=True)
def test_a_worker_ends_with_the_main_process_and_so_do_its_files(
    killed_with_its_worker,
):
    assert list(killed_with_its_worker.iterdir()) == []


@pytest.mark.parametrize("killed_with_its_worker", ["together"], indirect=True)
def test_the_next_call_removes_what_killed_workers_left(
    killed_with_its_worker, monkeypatch
):
    (left,) = killed_with_its_worker.iterdir()
    (killed_with_its_worker / "xdc-worker-file").write_text("of somebody else")
    (killed_with_its_worker / "xdc-worker-link").symlink_to(killed_with_its_worker)
    monkeypatch.setattr(tempfile, "tempdir", str(killed_with_its_worker))
    assert outcomes_of([["a"]])[0].result == "a"
    names = sorted(path.name for path in killed_with_its_worker.iterdir())
    assert names == ["xdc-worker-file", "xdc-worker-link"]


def test_directories_of_workers_at_work_are_left_to_them(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    mine = map_groups(
        behave, [["keep"], ["a"]], form=FORM, pool=PoolSettings(1, LIMITS)
    )
    kept = next(mine).result
    assert os.path.exists(kept)
    outcomes_of([["a"]])
    assert os.path.exists(kept)
    mine.close()
    assert not os.path.exists(kept)


@pytest.mark.parametrize(
    "place",
    [
        "data_prep.worker.fcntl.flock",  # of the new directory
        "data_prep.worker.answers.Receiver",  # when the process runs
        "data_prep.worker.Worker.start",
        "data_prep.worker.Worker.stop",
        "data_prep.worker.shutil.rmtree",
    ],
)
def test_a_signal_while_workers_start_or_stop_leaves_no_directory(
    tmp_path, monkeypatch, place
):
    with monkeypatch.context() as patch:

        def be_interrupted(*arguments, **options):
            patch.undo()
            raise signals.Stopped("SIGTERM")

        patch.setattr(place, be_interrupted)
        directory = tempfile.tempdir
        tempfile.tempdir = str(tmp_path)
        try:
            with pytest.raises(signals.Stopped):
                outcomes_of([["a"], ["b"]])
        finally:
            tempfile.tempdir = directory
    assert list(tmp_path.iterdir()) == []


def test_a_directory_that_another_process_removes_meanwhile_is_no_error(
    monkeypatch, tmp_path
):
    (tmp_path / "xdc-worker-gone").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    look = os.lstat

    def remove_first(path):
        os.rmdir(path)
        return look(path)

    monkeypatch.setattr(os, "lstat", remove_first)
    worker.remove_abandoned()
    assert not list(tmp_path.iterdir())
